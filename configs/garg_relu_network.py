"""ReLU networks in context (Garg et al. 2208.01066, Figure 5): is a GPT-2 as good as a network trained on every prompt?

    python -m experiments.run --config=configs/garg_relu_network.py:tiny

Labels are the outputs of a network with one hidden layer of width 100, whose weights are drawn anew for every prompt.
The trained model is compared with a network of the same form, trained on each prefix by 100 steps of Adam, and with
least squares, which can only learn the linear part. Expected for `tiny`: the normalised error of this network, 0.42
averaged over prompt lengths. The default variant is `standard`.

Variants: `tiny` (width 64, 3 layers, 2 heads) has 8 inputs, 25 points per prompt and a curriculum, and takes under an
hour on two CPU cores; `small` (width 128, 6 layers, 4 heads) has the published settings (20 inputs, 101 points, half a
million steps, curriculum) and needs an accelerator; `standard` (width 256, 12 layers, 8 heads) has the task, steps and
curriculum of `small`; `smoke` takes seconds.
"""

from icl_gd.lab import Experiment, PrefixLearners, claim
from icl_gd.lab.presets import function_class, untrained

MARGIN = (
    "The margin is small: paired over prompts, its standard error is 0.0015. With up to "
    "ten examples the model is better, by 0.02; with 23 and 24 the network is better, by "
    "0.016."
)
VARIANTS = ("tiny", "small", "standard", "smoke")


def get_config(variant: str = "") -> Experiment:
    reference = PrefixLearners(baselines=("least_squares", "nearest_3", "network"))
    experiment = function_class("relu_network", variant, VARIANTS, n_context=100, reference=reference)
    if variant == "smoke":
        return experiment.change({"task.n_context": 10, "eval.prompts": 16})
    name = variant or "standard"
    claims = (
        claim(
            f"GA.relu.{name}.network",
            "the trained model's error is at most that of a network of the same form trained on "
            "each prefix (excess, mean over lengths, largest over seeds)",
            metric="excess_over_network",
            source="GA Fig. 5c",
            at_most=0.0,
            reduce="max",
            note=MARGIN if name == "tiny" else "",
        ),
        claim(
            f"GA.relu.{name}.least_squares",
            "with at least two more examples than inputs, the trained model's error is below that "
            "of least squares (largest excess at one length, largest over seeds)",
            metric="excess_over_least_squares_above",
            source="GA Fig. 5c",
            at_most=0.0,
            reduce="max",
            note="Before the run, the claim was about the mean over all lengths. That is no test: the error of "
            "least squares is infinite at as many examples as inputs.",
        ),
        untrained(f"GA.relu.{name}"),
    )
    return experiment.change({"claims": claims})
