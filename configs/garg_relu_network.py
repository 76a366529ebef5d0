"""ReLU networks in context (Garg et al. 2208.01066, Figure 5): a GPT-2 beside a network trained on every prompt.

    python -m experiments.run --config=configs/garg_relu_network.py:tiny

Labels are those of a network with one hidden layer of 100, its weights drawn anew in every prompt. Beside the trained
model a network of that form is trained on each prefix, by 100 steps of Adam, and least squares finds its linear part.
Expected of `tiny`: the error of the network trained on each prefix, .42 of the variance in the mean over lengths.

Variants: `tiny` (64 wide, 3 layers, 2 heads) has eight inputs, 25 points and a curriculum, under an hour on two CPU
cores; `small` (128, 6, 4) and `standard` (256, 12, 8) are published, with 20 inputs, 101 points, half a million steps
and the curriculum: for an accelerator. Without a variant it is `standard`. `smoke` takes seconds.
"""

from icl_gd.lab.config.defaults import function_class, untrained

MARGIN = (
    "by little: paired over prompts the standard error is .0015; with up to ten examples the model is better, by .02, "
    "with 23 and 24 the network is, by .016"
)
VARIANTS = ("tiny", "small", "standard", "smoke")


def get_config(variant: str = ""):
    config = function_class("relu_network", variant, VARIANTS, n_context=100)
    config.eval.baselines = ("least_squares", "nearest_3", "network")
    if variant == "smoke":
        config.task.n_context, config.eval.prompts = 10, 16
    else:
        name = variant or "standard"
        config.claims = (
            {"id": f"GA.relu.{name}.network", "statement": "over all lengths the error is no larger than that of a "
             "network of the same form trained on each prefix (mean excess, worst seed)", "source": "GA Fig. 5c",
             "metric": "excess_over_network", "reduce": "max", "relation": "at_most", "target": 0.0, "note": MARGIN if
             name == "tiny" else ""},
            {"id": f"GA.relu.{name}.least_squares", "statement": "and with more examples than inputs smaller than that "
             "of least squares, from three more on (largest excess at one length, worst seed)", "source": "GA Fig. 5c",
             "metric": "excess_over_least_squares_above", "reduce": "max", "relation": "at_most", "target": 0.0,
             "note": "asked of the mean over all lengths before the run, which says nothing: that of least squares is "
             "infinite where there are as many examples as inputs"},
            untrained(f"GA.relu.{name}"),
        )  # fmt: skip
    return config
