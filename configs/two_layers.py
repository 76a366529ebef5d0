"""Two recurrent layers against GD and GD++ (von Oswald et al. 2212.07677, Figure 3).

    python -m experiments.run --config=configs/two_layers.py

Five seeds, one set of weights applied twice, d = n = 10, 5,000 steps of batch 2048; about ten minutes on two cores.
Expected: losses .1567 for two gradient steps of one best size, .1414 for two of their own, .1106 for GD++ with one best
pair, and at most .1145 for the trained layers, whose sensitivities are those of GD++ and not those of GD.

Variants: `heads` has four heads a layer; `layer_norm` normalises what attention reads; `normalised` divides keys and
queries by their sums; `smoke`.
"""

from icl_gd.lab.config.defaults import OPTIMA, base_config, deep, smoke

VARIANTS = ("heads", "layer_norm", "normalised", "smoke")
WHY = {
    "heads": "with four heads every seed is better than GD++ with its best pair (.1060 to .1073, GD++ .1105), so they "
    "do more than it does",
    "layer_norm": "LayerNorm takes a token's mean and length, and the size of its label with them, before each layer: "
    "all seeds end within 1e-4 of .1912, flat since step 600, better than GD++ on tokens standardised once "
    "(VO.L2.layer_norm.standardised)",
    "normalised": "as with one layer (VO.SN): sums of keys and queries change their sign from token to token, and near "
    "zero scores have no bound; no seed finds better than predicting zero",
}


def beside_gd_plus_plus(variant: str) -> tuple:
    """What the paper says of two layers, asked of others than plain ones."""
    prefix, why = f"VO.L2.{variant}", {"note": WHY[variant]}
    unless_heads = {} if variant == "heads" else why
    return (
        {"id": f"{prefix}.free", "statement": "at least 4 of 5 seeds are free", "source": "VO, published code",
         "metric": "seeds_trapped", "relation": "at_most", "target": 1} | unless_heads,
        {"id": f"{prefix}.loss", "statement": "trained layers come near GD++ (mean over all seeds)", "source":
         "VO, other switches", "metric": "loss_trained", "relation": "at_most", "target": 0.1145} | unless_heads,
        {"id": f"{prefix}.cosine", "statement": "sensitivities of all seeds are those of GD++ (worst cosine)",
         "source": "VO, other switches", "metric": "sensitivity_cosine_gd_plus_plus", "reduce": "min",
         "relation": "at_least", "target": 0.997} | why,
        {"id": f"{prefix}.cosine_gd", "statement": "and clearly not those of GD (best cosine)", "source":
         "VO, other switches", "metric": "sensitivity_cosine_gd", "reduce": "max", "relation": "at_most",
         "target": 0.97},
    )  # fmt: skip


def get_config(variant: str = ""):
    config = deep(base_config(), n_layers=2, shared=True)
    config.claims = (
        {"id": "VO.L2.gd", "statement": "two gradient steps of one size, at their best", "source": OPTIMA,
         "metric": "loss_gd", "relation": "within", "target": 0.1567, "tolerance": 0.001567},
        {"id": "VO.L2.gd_free", "statement": "two gradient steps of two sizes, at their best", "source": OPTIMA,
         "metric": "loss_gd_free_steps", "relation": "within", "target": 0.1414, "tolerance": 0.001414},
        {"id": "VO.L2.gd_plus_plus", "statement": "GD++ with one pair of rates, at its best", "source": OPTIMA,
         "metric": "loss_gd_plus_plus", "relation": "within", "target": 0.1106, "tolerance": 0.001106},
        {"id": "VO.L2.loss", "statement": "trained layers come near GD++ (mean over free seeds)",
         "source": "VO Fig. 3", "metric": "loss_trained_untrapped", "relation": "at_most", "target": 0.1145},
        {"id": "VO.L2.free", "statement": "at least 4 of 5 seeds are free", "source": "VO, published code",
         "metric": "seeds_trapped", "relation": "at_most", "target": 1},
        {"id": "VO.L2.cosine", "statement": "sensitivities of free seeds are those of GD++ (worst cosine)",
         "source": "VO Fig. 3", "metric": "sensitivity_cosine_gd_plus_plus_untrapped", "reduce": "min",
         "relation": "at_least", "target": 0.997},
        {"id": "VO.L2.cosine_gd", "statement": "and clearly not those of GD (best cosine)", "source": "VO Fig. 3",
         "metric": "sensitivity_cosine_gd_untrapped", "reduce": "max", "relation": "at_most", "target": 0.97},
        {"id": "VO.L2.untrained", "statement": "untrained layers have not learned it (their best cosine)",
         "source": "control", "metric": "sensitivity_cosine_gd_plus_plus_untrained", "reduce": "max",
         "relation": "at_most", "target": 0.5},
        {"id": "VO.L2.map", "statement": "every layer of every free seed is nearest to its own step of GD++ "
         "(least share of layers)", "source": "found here", "metric": "map_peaks_gd_plus_plus_untrapped",
         "reduce": "min", "relation": "at_least", "target": 1.0},
        {"id": "VO.L2.interpolated", "statement": "the mean of trained and built weights is nearly as good as the "
         "better of both (worst ratio)", "source": "VO Fig. 3", "metric": "interpolation_ratio_untrapped",
         "reduce": "max", "relation": "at_most", "target": 1.05},
        {"id": "VO.L2.condition", "statement": "after the first layer the context is conditioned as by GD++ (worst "
         "relative deviation of the log of its median condition number)", "source": "VO, appendix A.10",
         "metric": "condition_number_deviation_untrapped", "reduce": "max", "relation": "at_most", "target": 0.1},
        {"id": "VO.L2.transform", "statement": "the first layer transforms inputs by I - gamma S (least share of its "
         "update explained)", "source": "VO, appendix A.10", "metric": "input_transform_explained_untrapped",
         "reduce": "min", "relation": "at_least", "target": 0.95},
        {"id": "VO.L2.construction", "statement": "the construction is GD++ (largest error, float32)",
         "source": "VO, appendix A.10", "metric": "construction_error", "relation": "at_most", "target": 1e-5},
    )  # fmt: skip
    if variant == "smoke":
        smoke(config)
    elif variant in VARIANTS:
        without = ("interpolation",) if variant == "heads" else ("interpolation", "curvature")
        config.analyses = tuple(name for name in config.analyses if name not in without)
        if variant == "heads":
            config.model.n_heads = 4
        else:
            config.model[variant] = True
        config.claims = beside_gd_plus_plus(variant)
        if variant == "layer_norm":
            config.analyses += ("standardised_tokens",)
            config.claims += (
                {"id": "VO.L2.layer_norm.standardised", "statement": "every seed is as good as GD++ with its best pair "
                 "on standardised tokens (worst loss ratio)", "source": "found here", "metric":
                 "loss_ratio_gd_plus_plus_standardised", "reduce": "max", "relation": "at_most", "target": 1.05},
            )  # fmt: skip
    elif variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return config
