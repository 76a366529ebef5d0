"""Five layers with weights of their own against GD and GD++ (von Oswald et al. 2212.07677, Figure 3 and appendix A.10).

    python -m experiments.run --config=configs/five_layers.py

Five seeds, d = n = 10, 50,000 steps of batch 2048; about two hours on two cores. Expected: as good as the recurrent
layers of `five_layers_recurrent`, or better. They are compared with GD++ of one pair of rates a layer, as the published
code learns it in 30,000 steps, and at its best.

Activations are not clipped. Variants: `faithful` clips them to [-10, 10], as published; `smoke`.
"""

from experiments.defaults import about_tails, base_config, deep, smoke

VARIANTS = ("faithful", "smoke")


def get_config(variant: str = ""):
    config = deep(base_config(), n_layers=5, shared=False)
    config.train.log_every = 500
    config.train.checkpoint_every = 1000
    config.analyses += ("tails",)
    config.claims = (
        {"id": "VO.S5.loss", "statement": "trained layers are as good as recurrent ones were asked to be (mean over "
         "free seeds)", "source": "VO Fig. 3", "metric": "loss_trained_untrapped", "relation": "at_most",
         "target": 0.069},
        {"id": "VO.S5.free", "statement": "at least 4 of 5 seeds are free", "source": "VO, published code",
         "metric": "seeds_trapped", "relation": "at_most", "target": 1},
        {"id": "VO.S5.cosine_published", "statement": "sensitivities of free seeds are those of GD++ with a pair a "
         "layer as the published code finds it (worst cosine)", "source": "VO Fig. 3",
         "metric": "sensitivity_cosine_gd_plus_plus_published_untrapped", "reduce": "min", "relation": "at_least",
         "target": 0.995},
        {"id": "VO.S5.cosine_best", "statement": "and those of its best pairs (worst cosine)", "source": "found here",
         "metric": "sensitivity_cosine_gd_plus_plus_free_steps_untrapped", "reduce": "min", "relation": "at_least",
         "target": 0.995},
        {"id": "VO.S5.cosine_gd", "statement": "and clearly not those of GD (best cosine)", "source": "VO Fig. 3",
         "metric": "sensitivity_cosine_gd_untrapped", "reduce": "max", "relation": "at_most", "target": 0.98},
        {"id": "VO.S5.short", "statement": "the trained model reaches what its own form can do: the best pairs (worst "
         "ratio of losses on prompts where neither diverges)", "source": "found here",
         "metric": "loss_bounded_ratio_gd_plus_plus_free_steps_untrapped", "reduce": "max", "relation": "at_most",
         "target": 1.05},
        *about_tails("VO.S5"),
        {"id": "VO.S5.condition", "statement": "the median condition number falls after each layer but the last",
         "source": "VO, appendix A.10", "metric": "condition_number_falls_untrapped", "reduce": "min",
         "relation": "at_least", "target": 1.0},
    )  # fmt: skip
    if variant == "faithful":
        config.model.clip = 10.0
        config.analyses = tuple(name for name in config.analyses if name != "interpolation")
        unexplained = ({key: claim[key] for key in claim if key != "note"} for claim in config.claims)
        config.claims = tuple({**claim, "id": claim["id"].replace("S5", "S5f")} for claim in unexplained)
    elif variant == "smoke":
        smoke(config)
    elif variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return config
