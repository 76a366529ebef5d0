"""One layer that reads normalised tokens (von Oswald et al. 2212.07677, appendix: LayerNorm and other switches).

    python -m experiments.run --config=configs/layer_norm.py

The settings of one_layer, five seeds; about two minutes on two CPU cores. As published, a layer of its own reads tokens
as they are, and only a recurrent one normalises before its first application: model.shared is True.

Variants: `normalised` divides keys and queries by the sums of their entries instead; `heads` has four linear heads;
`smoke`.
"""

from experiments.defaults import base_config, smoke

VARIANTS = ("normalised", "heads", "smoke")


def get_config(variant: str = ""):
    if variant not in ("", *VARIANTS):
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    config = base_config()
    config.seeds = 5
    config.train.share_batches = True
    config.eval.prompts = 2**17
    config.analyses = ("alignment", "shifts")
    name, loss, cosine = {"": ("LN", 1.05, 0.95), "smoke": ("LN", 1.05, 0.95), "normalised": ("SN", 1.05, 0.95),
                          "heads": ("H4", 1.01, 0.999)}[variant]  # fmt: skip
    config.claims = (
        {"id": f"VO.{name}.free", "statement": "at least 4 of 5 seeds are free", "source": "VO, published code",
         "metric": "seeds_trapped", "relation": "at_most", "target": 1},
        {"id": f"VO.{name}.loss", "statement": "every free seed is nearly as good as one gradient step (loss ratio)",
         "source": "VO, other switches", "metric": "loss_ratio_gd_untrapped", "reduce": "max", "relation": "at_most",
         "target": loss},
        {"id": f"VO.{name}.cosine", "statement": "every free seed's sensitivities point where gradient descent's do",
         "source": "VO, other switches", "metric": "sensitivity_cosine_gd_untrapped", "reduce": "min",
         "relation": "at_least", "target": cosine},
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
    return smoke(config) if variant == "smoke" else config
