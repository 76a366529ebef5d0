"""Five recurrent layers against GD and GD++ (von Oswald et al. 2212.07677, Figure 3 and appendix A.10).

    python -m experiments.run --config=configs/five_layers_recurrent.py

Five seeds, one set of weights applied five times, d = n = 10, 5,000 steps of batch 2048; about a quarter of an hour on
two cores. Expected: losses .1084 for five gradient steps of one best size, .0789 for five of their own, .0517 for GD++
with one best pair, which the published way of learning it finds too, .0576 for the trained layers, and for GD++ with
one best pair a layer .0115 on the prompts of the curves and no finite number on many more.

Activations are not clipped. Variants: `faithful` clips activations, and those of the learners beside them, to [-10,
10], as published, which costs 17 % (.0676, the published loss); `smoke`.
"""

from icl_gd.lab.config.defaults import BOUND, OPTIMA, about_tails, base_config, deep, smoke

VARIANTS = ("faithful", "smoke")
WHY_INFINITE = (
    "nothing bounds activations: each step cubes the inputs, so that a rare prompt with an eigenvalue beyond those the "
    "rates were found on diverges, and is all of the mean. Nine in a million do; on all others it is .0116"
)
WHY_NOT_PUBLISHED = (
    "there activations are clipped to [-10, 10], here they are not; under that clip it is .0641 (VO.L5f), and its best "
    "pair another: 19.7 and 1.37, here 31.0 and 2.04"
)
WHY_SHORT = "trained layers end 10 to 14 % above it, flat since step 4,000 at a constant learning rate"
WHY_NOT_THE_FOURTH = (
    "four of five layers are. Steps of the one pair over- and undershoot in turn; the fourth layer (cosine .88 to its "
    "own step) undershoots less, and is nearer to the fifth step (.99). By predictions the third is nearest to it too"
)


def as_published() -> tuple:
    """What the published code gives on its seed 0, of layers that are clipped as there."""
    return (
        {"id": "VO.L5f.loss", "statement": "clipped as published, trained layers have the published loss (mean)",
         "source": "VO, published code", "metric": "loss_trained", "relation": "within", "target": 0.0676,
         "tolerance": 0.001},
        {"id": "VO.L5f.clip", "statement": "which is what the clip costs: without it it is .0576", "source":
         "five_layers_recurrent", "metric": "loss_trained", "relation": "at_least", "target": 0.0634},
        {"id": "VO.L5f.cosine_gd", "statement": "their sensitivities have the published cosine to those of GD (mean)",
         "source": "VO, published code", "metric": "sensitivity_cosine_gd", "relation": "within", "target": 0.973,
         "tolerance": 0.005},
        {"id": "VO.L5f.cosine_published", "statement": "and to those of GD++ as published (mean)", "source":
         "VO, published code", "metric": "sensitivity_cosine_gd_plus_plus_published", "relation": "within",
         "target": 0.9966, "tolerance": 0.002},
        {"id": "VO.L5f.gd_plus_plus_published", "statement": "GD++ as the published code finds it", "source":
         "VO, published code", "metric": "loss_gd_plus_plus_published", "relation": "within", "target": 0.0654,
         "tolerance": 0.003},
        {"id": "VO.L5f.short", "statement": "which is the best pair under the clip, too; trained layers reach it "
         "(worst loss ratio)", "source": "found here", "metric": "loss_ratio_gd_plus_plus", "reduce": "max", "relation":
         "at_most", "target": 1.05, "note": "they end 5.1 to 5.3 % above it, at a constant learning rate"},
        {"id": "VO.L5f.condition", "statement": "the median condition number falls after each layer but the last",
         "source": "VO, appendix A.10", "metric": "condition_number_falls", "reduce": "min", "relation": "at_least",
         "target": 1.0},
    )  # fmt: skip


def get_config(variant: str = ""):
    config = deep(base_config(), n_layers=5, shared=True)
    config.analyses += ("tails",)
    config.claims = (
        {"id": "VO.L5.gd", "statement": "five gradient steps of one size, at their best", "source": OPTIMA,
         "metric": "loss_gd", "relation": "within", "target": 0.1087, "tolerance": 0.001087},
        {"id": "VO.L5.gd_free", "statement": "five gradient steps of five sizes, at their best", "source": OPTIMA,
         "metric": "loss_gd_free_steps", "relation": "within", "target": 0.0790, "tolerance": 0.00079},
        {"id": "VO.L5.gd_plus_plus", "statement": "GD++ with one pair of rates, at its best", "source": OPTIMA,
         "metric": "loss_gd_plus_plus", "relation": "within", "target": 0.0517, "tolerance": 0.000517},
        {"id": "VO.L5.gd_plus_plus_free", "statement": "GD++ with one pair a layer, at its best", "source": BOUND,
         "metric": "loss_gd_plus_plus_free_steps", "relation": "at_most", "target": 0.0215, "note": WHY_INFINITE},
        {"id": "VO.L5.gd_plus_plus_published", "statement": "GD++ as the published code finds it", "source":
         "VO, published code", "metric": "loss_gd_plus_plus_published", "relation": "within", "target": 0.0654,
         "tolerance": 0.003, "note": WHY_NOT_PUBLISHED},
        {"id": "VO.L5.loss", "statement": "trained layers are as good as those of the published code (mean over free "
         "seeds)", "source": "VO Fig. 3", "metric": "loss_trained_untrapped", "relation": "at_most", "target": 0.069},
        {"id": "VO.L5.free", "statement": "at least 4 of 5 seeds are free", "source": "VO, published code",
         "metric": "seeds_trapped", "relation": "at_most", "target": 1},
        {"id": "VO.L5.cosine_published", "statement": "sensitivities of free seeds are those of the published GD++ "
         "(worst cosine)", "source": "VO Fig. 3", "metric": "sensitivity_cosine_gd_plus_plus_published_untrapped",
         "reduce": "min", "relation": "at_least", "target": 0.995},
        {"id": "VO.L5.cosine_best", "statement": "and those of the best GD++ (worst cosine)", "source": "found here",
         "metric": "sensitivity_cosine_gd_plus_plus_untrapped", "reduce": "min", "relation": "at_least",
         "target": 0.995, "note": "one test twice: the published way finds the best pair here"},
        {"id": "VO.L5.cosine_gd", "statement": "and clearly not those of GD (best cosine)", "source": "VO Fig. 3",
         "metric": "sensitivity_cosine_gd_untrapped", "reduce": "max", "relation": "at_most", "target": 0.98},
        {"id": "VO.L5.short", "statement": "the trained model reaches what its own form can do: the best shared pair "
         "(worst loss ratio)", "source": "found here", "metric": "loss_ratio_gd_plus_plus_untrapped", "reduce": "max",
         "relation": "at_most", "target": 1.05, "note": WHY_SHORT},
        {"id": "VO.L5.map", "statement": "every layer of every free seed is nearest to its own step of the published "
         "GD++ (least share of layers)", "source": "found here",
         "metric": "map_peaks_gd_plus_plus_published_untrapped", "reduce": "min", "relation": "at_least",
         "target": 1.0, "note": WHY_NOT_THE_FOURTH},
        *about_tails("VO.L5"),
        {"id": "VO.L5.condition", "statement": "the median condition number falls after each layer but the last",
         "source": "VO, appendix A.10", "metric": "condition_number_falls_untrapped", "reduce": "min",
         "relation": "at_least", "target": 1.0},
        {"id": "VO.L5.construction", "statement": "the construction is GD++ (largest error, float32)",
         "source": "VO, appendix A.10", "metric": "construction_error", "relation": "at_most", "target": 1e-4},
    )  # fmt: skip
    if variant == "faithful":
        config.model.clip = 10.0
        config.analyses = tuple(name for name in config.analyses if name != "interpolation")
        config.claims = as_published()
    elif variant == "smoke":
        smoke(config)
    elif variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return config
