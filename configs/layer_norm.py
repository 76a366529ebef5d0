"""One layer that reads normalised tokens (von Oswald et al. 2212.07677, appendix: LayerNorm and other switches).

    python -m experiments.run --config=configs/layer_norm.py

The settings of one_layer, five seeds; about ten minutes on two CPU cores. As published, a layer of its own reads tokens
as they are, and only a recurrent one normalises before its first application: model.shared is True. Expected: .260,
the loss of the best gradient step on standardised tokens.

Variants: `normalised` divides keys and queries by the sums of their entries instead; `heads` has four linear heads;
`smoke`.
"""

from icl_gd.lab.config.defaults import base_config, smoke

VARIANTS = ("normalised", "heads", "smoke")
WHY_STANDARD = (
    "LayerNorm takes a token's mean and length, and the size of its label with them. The best gradient step on what is "
    "left has 1.26 times the loss of one on the tokens, and every seed is as good as that: VO.LN.standardised"
)
WHY_CONSTANT = (
    "the learning rate is constant, and one of its steps moves four heads together: with train.schedule=cosine every "
    "seed ends at .9999"
)
WHY_SUMS = (
    "sums of keys and queries change their sign from token to token, and near zero scores have no bound (training "
    "losses up to 12 in a mean over 100 steps): no seed finds better than predicting zero"
)


def get_config(variant: str = ""):
    if variant not in ("", *VARIANTS):
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    config = base_config()
    config.seeds = 5
    config.train.share_batches = True
    config.eval.prompts = 2**17
    config.analyses = ("alignment", "shifts")
    name, loss, cosine, why = {
        "": ("LN", 1.05, 0.95, {"note": WHY_STANDARD}),
        "smoke": ("LN", 1.05, 0.95, {}),
        "normalised": ("SN", 1.05, 0.95, {"note": WHY_SUMS}),
        "heads": ("H4", 1.01, 0.999, {}),
    }[variant]
    why_cosine = {"note": WHY_CONSTANT} if variant == "heads" else why
    config.claims = (
        {"id": f"VO.{name}.free", "statement": "at least 4 of 5 seeds are free", "source": "VO, published code",
         "metric": "seeds_trapped", "relation": "at_most", "target": 1} | why,
        {"id": f"VO.{name}.loss", "statement": "every free seed is nearly as good as one gradient step (loss ratio)",
         "source": "VO, other switches", "metric": "loss_ratio_gd_untrapped", "reduce": "max", "relation": "at_most",
         "target": loss} | why,
        {"id": f"VO.{name}.cosine", "statement": "every free seed's sensitivities point where gradient descent's do",
         "source": "VO, other switches", "metric": "sensitivity_cosine_gd_untrapped", "reduce": "min",
         "relation": "at_least", "target": cosine} | why_cosine,
    )  # fmt: skip
    if variant == "normalised":
        config.model.normalised = True
    elif variant == "heads":
        config.model.n_heads = 4
        config.eval.prompts = 2**20
        config.analyses = ("alignment", "weights", "shifts")
        config.claims += (
            {"id": "VO.H4.gauge", "statement": "all heads together are the construction, up to gauge (worst distance)",
             "source": "VO, other switches", "metric": "gauge_distance_gd_untrapped", "reduce": "max",
             "relation": "at_most", "target": 0.1},
        )  # fmt: skip
    else:
        config.model.layer_norm = True
        config.model.shared = True
        config.analyses += ("standardised_tokens",)
        config.claims += (
            {"id": "VO.LN.standardised", "statement": "every seed is as good as a gradient step on standardised tokens "
             "(worst loss ratio)", "source": "found here", "metric": "loss_ratio_gd_standardised", "reduce": "max",
             "relation": "at_most", "target": 1.01},
            {"id": "VO.LN.standardised_cosine", "statement": "and points where it does (worst sensitivity cosine)",
             "source": "found here", "metric": "sensitivity_cosine_gd_standardised", "reduce": "min",
             "relation": "at_least", "target": 0.99},
        )  # fmt: skip
    return smoke(config) if variant == "smoke" else config
