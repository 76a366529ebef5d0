"""ReLU networks in context (Garg et al. 2208.01066, Figure 5): a GPT-2 beside a network trained on every prompt.

    python -m experiments.run --config=configs/garg_relu_network.py:tiny

Labels are those of a network with one hidden layer of 100, its weights drawn anew in every prompt. Beside the trained
model a network of that form is trained on each prefix, by 100 steps of Adam, and least squares finds its linear part.
Expected of `tiny`: the error of the network trained on each prefix, .42 of the variance in the mean over lengths.

Variants: `tiny` (64 wide, 3 layers, 2 heads) has eight inputs, 25 points and a curriculum, under an hour on two CPU
cores; `small` (128, 6, 4) and `standard` (256, 12, 8) are published, with 20 inputs, 101 points, half a million steps
and the curriculum: for an accelerator. Without a variant it is `standard`. `smoke` takes seconds.
"""

from icl_gd.lab import Experiment, PrefixLearners, claim
from icl_gd.lab.presets import function_class, untrained

MARGIN = (
    "by little: paired over prompts the standard error is .0015; with up to ten examples the model is better, by .02, "
    "with 23 and 24 the network is, by .016"
)
VARIANTS = ("tiny", "small", "standard", "smoke")


def get_config(variant: str = "") -> Experiment:
    beside = PrefixLearners(baselines=("least_squares", "nearest_3", "network"))
    experiment = function_class("relu_network", variant, VARIANTS, n_context=100, reference=beside)
    if variant == "smoke":
        return experiment.change({"task.n_context": 10, "eval.prompts": 16})
    name = variant or "standard"
    claims = (
        claim(f"GA.relu.{name}.network", "over all lengths the error is no larger than that of a network of the "
              "same form trained on each prefix (mean excess, worst seed)",
              metric="excess_over_network", source="GA Fig. 5c", at_most=0.0, reduce="max",
              note=MARGIN if name == "tiny" else ""),
        claim(f"GA.relu.{name}.least_squares", "and with more examples than inputs smaller than that of least "
              "squares, from three more on (largest excess at one length, worst seed)",
              metric="excess_over_least_squares_above", source="GA Fig. 5c", at_most=0.0, reduce="max",
              note="asked of the mean over all lengths before the run, which says nothing: that of least squares "
              "is infinite where there are as many examples as inputs"),
        untrained(f"GA.relu.{name}"),
    )  # fmt: skip
    return experiment.change({"claims": claims})
