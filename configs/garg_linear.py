"""Linear functions in context (Garg et al. 2208.01066, Figures 2 to 4): is a GPT-2 as good as least squares?

    python -m experiments.run --config=configs/garg_linear.py:toy

A causal Transformer is trained to predict every label of a prompt from the examples before it. Its in-context learning
curve is then measured on prompts of the training distribution and of other distributions, and compared with least
squares, averaging and nearest neighbours. Expected for `toy`: with up to three examples the error of least squares, and
after ten examples a normalised error of 0.04. The default variant is `standard`.

Variants: `toy` has the model of `tiny`, 5 inputs, 11 points per prompt and 50,000 steps, and takes a quarter of an hour
on two CPU cores; `tiny` (width 64, 3 layers, 2 heads) has 8 inputs, 25 points per prompt and a curriculum, and takes
under an hour on two CPU cores; `small` (width 128, 6 layers, 4 heads) has the published settings (20 inputs, 41 points,
half a million steps of batch 64, curriculum) and needs an accelerator; `standard` (width 256, 12 layers, 8 heads) has
the task, steps and curriculum of `small`; `sizes` sweeps over the width and the steps of `toy`; `smoke` takes seconds.
"""

import math

from icl_gd.lab import Experiment, PrefixLearners, claim
from icl_gd.lab.presets import function_class, untrained

VARIANTS = ("toy", "sizes", "tiny", "small", "standard", "smoke")
TOY = (5, 10, 50_000)  # inputs, examples and steps
SUITE = (
    *("standard", "random_quadrants", "opposite_quadrants", "orthogonal_query", "repeated_query", "half_subspace"),
    *("skewed", "noisy", "inputs_third", "inputs_half", "inputs_double", "inputs_triple"),
    *("labels_third", "labels_half", "labels_double", "labels_triple"),
)
WHY_NARROW = (
    "Five inputs need less width than expected. A quarter of the width costs little after "
    "long training (0.38 against 0.35 after 20,000 steps) and much after short training "
    "(0.74 against 0.39 after 6,000)."
)


def why_quadrants(d: int) -> str:
    """Explains the failure of small models on inputs in one quadrant."""
    condition = 1 + d * (2 / math.pi) / (1 - 2 / math.pi)
    return (
        "Such inputs are ill-conditioned: their second moment, I (1 - 2/pi) plus 2/pi in every entry, has condition "
        f"number {condition:.1f} at d = {d}. On ill-conditioned contexts this model falls short of least squares, as "
        "it does around k = d."
    )


def at(distribution: str, k: int, role: str = "trained") -> str:
    """The name of the metric for a learner's normalised error after k examples of a prompt distribution."""
    return f"normalised_error_{distribution}_{role}[{k}]"


def like_least_squares(prefix: str, d: int, n: int) -> tuple:
    """The paper's claims for d inputs and n examples, on the training distribution and on other distributions."""
    half = d // 2
    below = (
        f"with {half} examples of {d} inputs, the model's predictions change with the query as those of least "
        "squares (cosine of sensitivities)"
    )
    end = (
        f"after all {n} examples, the model's predictions change with the query as the function does "
        "(cosine of sensitivities)"
    )
    return (
        claim(
            f"{prefix}.end",
            f"after all {n} examples the function is learned (normalised error, mean over seeds)",
            metric=at("standard", n),
            source="GA Fig. 2",
            at_most=0.05,
        ),
        claim(
            f"{prefix}.below",
            f"with 0 to {d - 2} examples of {d} inputs, the trained model has the error of least "
            "squares (largest excess at one length, largest over seeds)",
            metric="excess_over_least_squares_below",
            source="GA Fig. 2",
            at_most=0.05,
            reduce="max",
        ),
        claim(
            f"{prefix}.least_squares",
            f"least squares has a normalised error of 1 - k/d after k = {half} examples of d = {d} inputs",
            metric=at("standard", half, "least_squares"),
            source="closed form",
            within=(1 - half / d, 0.05),
        ),
        *(
            claim(
                f"{prefix}.sensitivity_{name}",
                statement,
                metric=f"sensitivity_cosine_{to}_trained[{k}]",
                source="GA Fig. 3",
                at_least=0.95,
            )
            for name, to, k, statement in (("below", "least_squares", half, below), ("end", "function", n, end))
        ),
        untrained(prefix),
        claim(
            f"{prefix}.quadrants",
            "with inputs in one quadrant and the query in any, the function is learned (normalised "
            f"error after {n} examples)",
            metric=at("random_quadrants", n),
            source="GA Fig. 4",
            at_most=0.1,
            note=why_quadrants(d) if prefix in ("GA.toy", "GA.tiny") else "",
        ),
        claim(
            f"{prefix}.orthogonal",
            "for a query orthogonal to all inputs the model is no better than predicting zero, "
            f"like least squares (normalised error after {half} examples)",
            metric=at("orthogonal_query", half),
            source="GA Fig. 4",
            within=(1.0, 0.15),
        ),
        claim(
            f"{prefix}.repeated",
            "for a query that repeats one of the inputs, most of the label is predicted "
            f"(normalised error after {half} examples)",
            metric=at("repeated_query", half),
            source="GA Fig. 4",
            at_most=0.2,
        ),
        claim(
            f"{prefix}.half",
            "with inputs in a random subspace of half the dimensions, the function is learned "
            f"(normalised error after {n} examples)",
            metric=at("half_subspace", n),
            source="GA Fig. 4",
            at_most=0.1,
        ),
        claim(
            f"{prefix}.skewed",
            f"with inputs of a skewed covariance, the function is nearly learned (normalised error after {n} examples)",
            metric=at("skewed", n),
            source="GA Fig. 4",
            at_most=0.2,
        ),
        *(
            claim(
                f"{prefix}.labels_{name}",
                f"with labels at {name} their scale, the function is learned (normalised error after {n} examples)",
                metric=at(f"labels_{name}", n),
                source="GA Fig. 4",
                at_most=0.1,
            )
            for name in ("half", "double")
        ),
        claim(
            f"{prefix}.noisy_least_squares",
            "with label noise, the median error of least squares is largest at as many examples as "
            "inputs (number of examples)",
            metric="peak_of_least_squares_noisy",
            source="GA Fig. 4",
            within=(float(d), 0.0),
        ),
        claim(
            f"{prefix}.noisy",
            "with label noise, the model is better than predicting zero at as many examples as "
            f"inputs (normalised error after {d} examples)",
            metric=at("noisy", d),
            source="GA Fig. 4",
            at_most=1.0,
        ),
    )


def about_sizes() -> tuple:
    """Claims about the width of the model and the number of training steps."""

    def error(width: int, steps: int) -> str:
        return f"normalised_error[model.d_embed={width},train.steps={steps}]"

    return (
        claim(
            "GA.sizes.largest",
            "width 64 trained for 20,000 steps is near least squares, which has 0.273 (normalised "
            "error, mean over lengths and seeds)",
            metric=error(64, 20_000),
            source="GA Fig. 6",
            at_most=0.4,
        ),
        claim(
            "GA.sizes.short",
            "width 64 trained for only 2,000 steps is far from least squares, which has 0.273 "
            "(normalised error, mean over lengths and seeds)",
            metric=error(64, 2000),
            source="GA Fig. 6",
            at_least=0.5,
        ),
        claim(
            "GA.sizes.narrow",
            "width 16 trained for 20,000 steps is far from least squares, which has 0.273 "
            "(normalised error, mean over lengths and seeds)",
            metric=error(16, 20_000),
            source="GA Fig. 6",
            at_least=0.5,
            note=WHY_NARROW,
        ),
    )


def get_config(variant: str = "") -> Experiment:
    if variant == "sizes":
        reference = PrefixLearners(baselines=("least_squares",))
        toy = function_class("linear", "toy", VARIANTS, small=TOY, reference=reference, seeds=3)
        return toy.change({"train.steps": (2000, 6000, 20_000), "model.d_embed": (16, 32, 64), "claims": about_sizes()})
    experiment = function_class(
        "linear",
        variant,
        VARIANTS,
        small=(8, 24, 60_000) if variant == "tiny" else TOY,
        reference=PrefixLearners(suite=SUITE, baselines=("least_squares", "averaging", "nearest_3")),
    )
    if variant == "smoke":
        return experiment.change({"eval.suite_values": 3})
    d, n = experiment["task.d_input"], experiment["task.n_context"]
    return experiment.change({"claims": like_least_squares(f"GA.{variant or 'standard'}", d, n)})
