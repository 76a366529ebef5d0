"""Sparse linear functions in context (Garg et al. 2208.01066, Figure 5): a GPT-2 beside least squares and the Lasso.

    python -m experiments.run --config=configs/garg_sparse.py:tiny

Three of the weights are not zero. Who knows that needs fewer examples than least squares: the Lasso does, and so, the
paper finds, does a Transformer that was trained on such functions. Expected of `tiny`: .47 of the variance after four
examples, where least squares has .5, and in the mean .03 above the best Lasso.

Variants: `tiny` (64 wide, 3 layers, 2 heads) has eight inputs, 25 points and a curriculum, under an hour on two CPU
cores; `small` (128, 6, 4) and `standard` (256, 12, 8) are published, with 20 inputs, 41 points, half a million steps
and the curriculum: for an accelerator. Without a variant it is `standard`. `smoke` takes seconds.
"""

from icl_gd.lab.config.defaults import function_class, untrained

VARIANTS = ("tiny", "small", "standard", "smoke")
WHY_AROUND = (
    "with 3, 4 and 5 examples it is below (.595, .469, .343 against .618, .526, .389 on the same prompts); around as "
    "many examples as inputs this size falls short of least squares, which is exact there, as it does for linear "
    "functions that are not sparse"
)


def get_config(variant: str = ""):
    config = function_class("sparse", variant, VARIANTS)
    config.eval.baselines = ("least_squares", "averaging", "nearest_3", "lasso")
    if variant != "smoke":
        name, d = variant or "standard", config.task.d_input
        k = 3 * d // 4
        config.claims = (
            {"id": f"GA.sparse.{name}.least_squares", "statement": f"with fewer examples than inputs ({k} of {d}) the "
             f"error is below that of least squares, {1 - k / d:g} (mean over seeds)", "source": "GA Fig. 5a",
             "metric": f"normalised_error_standard_trained[{k}]", "relation": "at_most", "target": 0.9 * (1 - k / d),
             "note": WHY_AROUND if name == "tiny" else ""},
            {"id": f"GA.sparse.{name}.half", "statement": f"and with half as many ({d // 2}), where it is "
             f"{1 - (d // 2) / d:g}", "source": "GA Fig. 5a", "metric": f"normalised_error_standard_trained[{d // 2}]",
             "relation": "at_most", "target": 1 - (d // 2) / d, "note":
             "added after the first run of `tiny`, whose claim above asks for more" if name == "tiny" else ""},
            {"id": f"GA.sparse.{name}.lasso", "statement": "at every length it is near the Lasso with the best of five "
             "penalties (mean excess, worst seed)", "source": "GA Fig. 5a", "metric": "excess_over_best_lasso",
             "reduce": "max", "relation": "at_most", "target": 0.05},
            {"id": f"GA.sparse.{name}.gain", "statement": "and over all lengths below least squares (mean excess, "
             "worst seed)", "source": "GA Fig. 5a", "metric": "excess_over_least_squares", "reduce": "max", "relation":
             "at_most", "target": 0.0, "note": WHY_AROUND if name == "tiny" else ""},
            untrained(f"GA.sparse.{name}"),
        )  # fmt: skip
    return config
