"""Sparse linear functions in context (Garg et al. 2208.01066, Figure 5): a GPT-2 beside least squares and the Lasso.

    python -m experiments.run --config=configs/garg_sparse.py:tiny

Three of the weights are not zero. Who knows that needs fewer examples than least squares: the Lasso does, and so, the
paper finds, does a Transformer that was trained on such functions. Expected of `tiny`: .47 of the variance after four
examples, where least squares has .5, and in the mean .03 above the best Lasso.

Variants: `tiny` (64 wide, 3 layers, 2 heads) has eight inputs, 25 points and a curriculum, under an hour on two CPU
cores; `small` (128, 6, 4) and `standard` (256, 12, 8) are published, with 20 inputs, 41 points, half a million steps
and the curriculum: for an accelerator. Without a variant it is `standard`. `smoke` takes seconds.
"""

from icl_gd.lab import Experiment, PrefixLearners, claim
from icl_gd.lab.presets import function_class, untrained

VARIANTS = ("tiny", "small", "standard", "smoke")
WHY_AROUND = (
    "with 3, 4 and 5 examples it is below (.595, .469, .343 against .618, .526, .389 on the same prompts); around as "
    "many examples as inputs this size falls short of least squares, which is exact there, as it does for linear "
    "functions that are not sparse"
)


def get_config(variant: str = "") -> Experiment:
    beside = PrefixLearners(baselines=("least_squares", "averaging", "nearest_3", "lasso"))
    experiment = function_class("sparse", variant, VARIANTS, reference=beside)
    if variant == "smoke":
        return experiment
    name, d = variant or "standard", experiment["task.d_input"]
    k = 3 * d // 4
    claims = (
        claim(f"GA.sparse.{name}.least_squares", f"with fewer examples than inputs ({k} of {d}) the error is below "
              f"that of least squares, {1 - k / d:g} (mean over seeds)",
              metric=f"normalised_error_standard_trained[{k}]", source="GA Fig. 5a", at_most=0.9 * (1 - k / d),
              note=WHY_AROUND if name == "tiny" else ""),
        claim(f"GA.sparse.{name}.half", f"and with half as many ({d // 2}), where it is {1 - (d // 2) / d:g}",
              metric=f"normalised_error_standard_trained[{d // 2}]", source="GA Fig. 5a", at_most=1 - (d // 2) / d,
              note="added after the first run of `tiny`, whose claim above asks for more" if name == "tiny" else ""),
        claim(f"GA.sparse.{name}.lasso",
              "at every length it is near the Lasso with the best of five penalties (mean excess, worst seed)",
              metric="excess_over_best_lasso", source="GA Fig. 5a", at_most=0.05, reduce="max"),
        claim(f"GA.sparse.{name}.gain", "and over all lengths below least squares (mean excess, worst seed)",
              metric="excess_over_least_squares", source="GA Fig. 5a", at_most=0.0, reduce="max",
              note=WHY_AROUND if name == "tiny" else ""),
        untrained(f"GA.sparse.{name}"),
    )  # fmt: skip
    return experiment.change({"claims": claims})
