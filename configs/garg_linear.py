"""Linear functions in context (Garg et al. 2208.01066, Figures 2 to 4): a GPT-2 beside least squares, at every length.

    python -m experiments.run --config=configs/garg_linear.py:toy

A causal Transformer is trained to predict every label of a prompt from the examples before it, then asked for its error
after each number of examples, on prompts like those of training and on others, beside least squares, averaging and
nearest neighbours. Expected of `toy`: the error of least squares up to three examples, .04 after ten.

Variants: `toy` has five inputs, 11 points and the size `tiny`, 50,000 steps, a quarter of an hour on two CPU cores;
`tiny` (64 wide, 3 layers, 2 heads) has eight inputs, 25 points and a curriculum, under an hour there; `small` (128,
6, 4) and `standard` (256, 12, 8) are published, with 20 inputs, 41 points, half a million steps of batch 64, and the
curriculum, for an accelerator; `sizes` sweeps over widths and steps of the toy; `smoke` takes seconds. Without a
variant it is `standard`.
"""

import math

from icl_gd.lab import Experiment, PrefixLearners, claim
from icl_gd.lab.presets import function_class, untrained

VARIANTS = ("toy", "sizes", "tiny", "small", "standard", "smoke")
SMALL = (5, 10, 50_000)  # inputs, examples and steps of the toy
FAMILIES = (
    *("standard", "random_quadrants", "opposite_quadrants", "orthogonal_query", "repeated_query", "half_subspace"),
    *("skewed", "noisy", "inputs_third", "inputs_half", "inputs_double", "inputs_triple"),
    *("labels_third", "labels_half", "labels_double", "labels_triple"),
)
WHY_QUADRANTS = (
    "such inputs are ill-conditioned (their second moment, I (1 - 2/pi) + 2/pi on all pairs, has condition number "
    "{:.1f} at d = {}), and it is on ill-conditioned contexts that this model falls short of least squares, "
    "as around k = d"
).format
WHY_NARROW = (
    "five inputs ask for less width than was thought: a quarter of it costs little once training is long (.38 against "
    ".35 after 20,000 steps) and much while it is short (.74 against .39 after 6,000)"
)


def like_least_squares(prefix: str, d: int, n: int) -> tuple:
    """What the paper says of d inputs and n examples, on prompts like those of training and on others."""
    condition = 1 + d * (2 / math.pi) / (1 - 2 / math.pi)
    at = lambda family, k, role="trained": f"normalised_error_{family}_{role}[{k}]"
    return (
        claim(f"{prefix}.end", "after all examples functions are known (mean over seeds)",
              metric=at("standard", n), source="GA Fig. 2", at_most=0.05),
        claim(f"{prefix}.below", "with fewer examples than inputs, but for the last of them, the error is that of "
              "least squares (largest excess, worst seed)",
              metric="excess_over_least_squares_below", source="GA Fig. 2", at_most=0.05, reduce="max"),
        claim(f"{prefix}.least_squares", f"which is 1 - k/d (here of k = {d // 2})",
              metric=at("standard", d // 2, "least_squares"), source="closed form", within=(1 - (d // 2) / d, 0.05)),
        *(claim(f"{prefix}.sensitivity_{name}",
                f"predictions change with the query as those of {words} (cosine of sensitivities)",
                metric=f"sensitivity_cosine_{to}_trained[{k}]", source="GA Fig. 3", at_least=0.95)
          for name, to, k, words in (
              ("below", "least_squares", d // 2, "least squares do, with fewer examples than inputs"),
              ("end", "function", n, "the function does, after all examples"))),
        untrained(prefix),
        claim(f"{prefix}.quadrants", "inputs in one quadrant, the query anywhere: known all the same",
              metric=at("random_quadrants", n), source="GA Fig. 4", at_most=0.1,
              note=WHY_QUADRANTS(condition, d) if prefix in ("GA.toy", "GA.tiny") else ""),
        claim(f"{prefix}.orthogonal", "of a query orthogonal to all inputs nothing is known, as of least squares",
              metric=at("orthogonal_query", d // 2), source="GA Fig. 4", within=(1.0, 0.15)),
        claim(f"{prefix}.repeated", "of a query that is one of the inputs nearly all is known",
              metric=at("repeated_query", d // 2), source="GA Fig. 4", at_most=0.2),
        claim(f"{prefix}.half", "inputs in a random subspace of half the dimensions: known",
              metric=at("half_subspace", n), source="GA Fig. 4", at_most=0.1),
        claim(f"{prefix}.skewed", "inputs of a skewed covariance: nearly",
              metric=at("skewed", n), source="GA Fig. 4", at_most=0.2),
        *(claim(f"{prefix}.labels_{name}", f"labels at {name} their scale: known",
                metric=at(f"labels_{name}", n), source="GA Fig. 4", at_most=0.1)
          for name in ("half", "double")),
        claim(f"{prefix}.noisy_least_squares",
              "with noise, least squares is worst at as many examples as inputs (where the median error is largest)",
              metric="peak_of_least_squares_noisy", source="GA Fig. 4", within=(float(d), 0.0)),
        claim(f"{prefix}.noisy", "and the model is not: there it is better than always zero",
              metric=at("noisy", d), source="GA Fig. 4", at_most=1.0),
    )  # fmt: skip


def falls() -> tuple:
    """What width and steps give."""
    at = "normalised_error[model.d_embed={},train.steps={}]".format
    return (
        claim("GA.sizes.largest",
              "the widest model, trained longest, comes near least squares, .273 (mean over lengths and seeds)",
              metric=at(64, 20_000), source="GA Fig. 6", at_most=0.4),
        claim("GA.sizes.short", "a tenth of its steps leave it far",
              metric=at(64, 2000), source="GA Fig. 6", at_least=0.5),
        claim("GA.sizes.narrow", "and so does a quarter of its width",
              metric=at(16, 20_000), source="GA Fig. 6", at_least=0.5, note=WHY_NARROW),
    )  # fmt: skip


def get_config(variant: str = "") -> Experiment:
    if variant == "sizes":
        beside = PrefixLearners(baselines=("least_squares",))
        toy = function_class("linear", "toy", VARIANTS, small=SMALL, reference=beside, seeds=3)
        return toy.change({"train.steps": (2000, 6000, 20_000), "model.d_embed": (16, 32, 64), "claims": falls()})
    experiment = function_class(
        "linear",
        variant,
        VARIANTS,
        small=(8, 24, 60_000) if variant == "tiny" else SMALL,
        reference=PrefixLearners(suite=FAMILIES, baselines=("least_squares", "averaging", "nearest_3")),
    )
    if variant == "smoke":
        return experiment.change({"eval.suite_values": 3})
    d, n = experiment["task.d_input"], experiment["task.n_context"]
    return experiment.change({"claims": like_least_squares(f"GA.{variant or 'standard'}", d, n)})
