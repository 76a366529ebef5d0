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

from icl_gd.lab.config.defaults import function_class, untrained
from icl_gd.lab.config.sweeps import sweep

VARIANTS = ("toy", "sizes", "tiny", "small", "standard", "smoke")
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
        {"id": f"{prefix}.end", "statement": "after all examples functions are known (mean over seeds)", "source":
         "GA Fig. 2", "metric": at("standard", n), "relation": "at_most", "target": 0.05},
        {"id": f"{prefix}.below", "statement": "with fewer examples than inputs, but for the last of them, the error "
         "is that of least squares (largest excess, worst seed)", "source": "GA Fig. 2",
         "metric": "excess_over_least_squares_below", "reduce": "max", "relation": "at_most", "target": 0.05},
        {"id": f"{prefix}.least_squares", "statement": f"which is 1 - k/d (here of k = {d // 2})", "source":
         "closed form", "metric": at("standard", d // 2, "least_squares"), "relation": "within",
         "target": 1 - (d // 2) / d, "tolerance": 0.05},
        *({"id": f"{prefix}.sensitivity_{name}", "statement": f"predictions change with the query as those of {words} "
           f"(cosine of sensitivities)", "source": "GA Fig. 3", "metric":
           f"sensitivity_cosine_{to}_trained[{k}]", "relation": "at_least", "target": 0.95}
          for name, to, k, words in (
              ("below", "least_squares", d // 2, "least squares do, with fewer examples than inputs"),
              ("end", "function", n, "the function does, after all examples"))),
        untrained(prefix),
        {"id": f"{prefix}.quadrants", "statement": "inputs in one quadrant, the query anywhere: known all the same",
         "source": "GA Fig. 4", "metric": at("random_quadrants", n), "relation": "at_most", "target": 0.1,
         "note": WHY_QUADRANTS(condition, d) if prefix in ("GA.toy", "GA.tiny") else ""},
        {"id": f"{prefix}.orthogonal", "statement": "of a query orthogonal to all inputs nothing is known, as of least "
         "squares", "source": "GA Fig. 4", "metric": at("orthogonal_query", d // 2), "relation": "within",
         "target": 1.0, "tolerance": 0.15},
        {"id": f"{prefix}.repeated", "statement": "of a query that is one of the inputs nearly all is known", "source":
         "GA Fig. 4", "metric": at("repeated_query", d // 2), "relation": "at_most", "target": 0.2},
        {"id": f"{prefix}.half", "statement": "inputs in a random subspace of half the dimensions: known", "source":
         "GA Fig. 4", "metric": at("half_subspace", n), "relation": "at_most", "target": 0.1},
        {"id": f"{prefix}.skewed", "statement": "inputs of a skewed covariance: nearly", "source": "GA Fig. 4",
         "metric": at("skewed", n), "relation": "at_most", "target": 0.2},
        *({"id": f"{prefix}.labels_{name}", "statement": f"labels at {name} their scale: known",
           "source": "GA Fig. 4", "metric": at(f"labels_{name}", n), "relation": "at_most", "target": 0.1}
          for name in ("half", "double")),
        {"id": f"{prefix}.noisy_least_squares", "statement": "with noise, least squares is worst at as many examples "
         "as inputs (where the median error is largest)", "source": "GA Fig. 4", "metric":
         "peak_of_least_squares_noisy", "relation": "within", "target": float(d), "tolerance": 0.0},
        {"id": f"{prefix}.noisy", "statement": "and the model is not: there it is better than always zero", "source":
         "GA Fig. 4", "metric": at("noisy", d), "relation": "at_most", "target": 1.0},
    )  # fmt: skip


def falls() -> tuple:
    """What width and steps give."""
    at = "normalised_error[model.d_embed={},train.steps={}]".format
    return (
        {"id": "GA.sizes.largest", "statement": "the widest model, trained longest, comes near least squares, .273 "
         "(mean over lengths and seeds)", "source": "GA Fig. 6", "metric": at(64, 20_000), "relation": "at_most",
         "target": 0.4},
        {"id": "GA.sizes.short", "statement": "a tenth of its steps leave it far", "source": "GA Fig. 6",
         "metric": at(64, 2000), "relation": "at_least", "target": 0.5},
        {"id": "GA.sizes.narrow", "statement": "and so does a quarter of its width", "source": "GA Fig. 6",
         "metric": at(16, 20_000), "relation": "at_least", "target": 0.5, "note": WHY_NARROW},
    )  # fmt: skip


def get_config(variant: str = ""):
    small = (8, 24, 60_000) if variant == "tiny" else (5, 10, 50_000)
    config = function_class("linear", "toy" if variant == "sizes" else variant, VARIANTS, small=small)
    config.eval.families = FAMILIES
    config.eval.baselines = ("least_squares", "averaging", "nearest_3")
    if variant == "smoke":
        config.eval.suite_values = 3
    elif variant == "sizes":
        config.seeds = 3
        sweep(config.train, steps=(2000, 6000, 20_000))
        sweep(config.model, d_embed=(16, 32, 64))
        config.eval.families, config.eval.baselines = ("standard",), ("least_squares",)
        config.claims = falls()
    else:
        d, n = config.task.d_input, config.task.n_context
        config.claims = like_least_squares(f"GA.{variant or 'standard'}", d, n)
    return config
