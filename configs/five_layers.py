"""Five layers with weights of their own against GD and GD++ (von Oswald et al. 2212.07677, Figure 3 and appendix A.10).

    python -m experiments.run --config=configs/five_layers.py

Five seeds, d = n = 10, 50,000 steps of batch 2048; an hour and a half on two cores. They are compared with GD++ of one
pair of rates a layer, as the published code learns it in 30,000 steps, and at its best. Expected: losses, on prompts
where nothing diverges, of .0225 for the published pairs, .0116 for the best, and between .008 and .018 for the trained
layers, which in most seeds do better than any GD++.

Activations are not clipped. Variants: `faithful` clips them to [-10, 10], as published; `smoke`.
"""

from icl_gd.lab.config.defaults import about_tails, base_config, deep, smoke

VARIANTS = ("faithful", "smoke")
WHY_INFINITE = (
    "nothing bounds activations: on two to six prompts in a million trained layers diverge, which is all of the mean. "
    "VO.S5.bounded_trained is that of the others"
)
WHY_BEYOND = (
    "the published way of learning the pairs has not converged in 30,000 steps (.0225, best .0116); trained layers go "
    "beyond it, four of five seeds beyond the best pairs too"
)
WHY_ONE_SEED = "one seed of five ends at .0182; the other four are better than the best pairs, by 17 to 31 %"
WHY_NOT_BEST = f"{WHY_ONE_SEED}, and have cosines of .996 to .998"
WHY_RISES = (
    "it falls over two layers (trained 819, 195, 61; GD++ 819, 273, 96), and then rises: there the layers change "
    "inputs by what is no polynomial in their covariance, of which one explains .12 to .88 of the update"
)
WHY_NO_MAP = (
    "the first two layers are nearest to the first two steps, the last to the last; between them predictions of the "
    "best pairs are off by 5 to 55, and those of trained layers are not"
)
WHY_NOT_BETWEEN = "of weights halfway between both the mean over prompts is infinite, in every seed"


def get_config(variant: str = ""):
    config = deep(base_config(), n_layers=5, shared=False)
    config.train.log_every = 500
    config.train.checkpoint_every = 1000
    config.analyses += ("tails",)
    config.claims = (
        {"id": "VO.S5.loss", "statement": "trained layers are as good as recurrent ones were asked to be (mean over "
         "free seeds)", "source": "VO Fig. 3", "metric": "loss_trained_untrapped", "relation": "at_most",
         "target": 0.069, "note": WHY_INFINITE},
        {"id": "VO.S5.bounded_trained", "statement": "and, on prompts on which they do not diverge, as those were "
         "found to be (mean over free seeds)", "source": "five_layers_recurrent",
         "metric": "loss_bounded_trained_untrapped", "relation": "at_most", "target": 0.0576},
        {"id": "VO.S5.free", "statement": "at least 4 of 5 seeds are free", "source": "VO, published code",
         "metric": "seeds_trapped", "relation": "at_most", "target": 1},
        {"id": "VO.S5.cosine_published", "statement": "sensitivities of free seeds are those of GD++ with a pair a "
         "layer as the published code finds it (worst cosine)", "source": "VO Fig. 3",
         "metric": "sensitivity_cosine_gd_plus_plus_published_untrapped", "reduce": "min", "relation": "at_least",
         "target": 0.995, "note": WHY_BEYOND},
        {"id": "VO.S5.cosine_best", "statement": "and those of its best pairs (worst cosine)", "source": "found here",
         "metric": "sensitivity_cosine_gd_plus_plus_free_steps_untrapped", "reduce": "min", "relation": "at_least",
         "target": 0.995, "note": WHY_NOT_BEST},
        {"id": "VO.S5.cosine_gd", "statement": "and clearly not those of GD (best cosine)", "source": "VO Fig. 3",
         "metric": "sensitivity_cosine_gd_untrapped", "reduce": "max", "relation": "at_most", "target": 0.98},
        {"id": "VO.S5.short", "statement": "the trained model reaches what its own form can do: the best pairs (worst "
         "ratio of mean losses, each on the prompts on which it does not diverge)", "source": "found here",
         "metric": "loss_bounded_ratio_gd_plus_plus_free_steps_untrapped", "reduce": "max", "relation": "at_most",
         "target": 1.05, "note": WHY_ONE_SEED},
        {"id": "VO.S5.map", "statement": "every layer of every free seed is nearest to its own step of the best pairs "
         "(least share of layers)", "source": "found here",
         "metric": "map_peaks_gd_plus_plus_free_steps_untrapped", "reduce": "min", "relation": "at_least",
         "target": 1.0, "note": WHY_NO_MAP},
        {"id": "VO.S5.interpolated", "statement": "the mean of trained and built weights is nearly as good as the "
         "better of both (worst ratio)", "source": "VO Fig. 3", "metric": "interpolation_ratio_untrapped",
         "reduce": "max", "relation": "at_most", "target": 1.05, "note": WHY_NOT_BETWEEN},
        *about_tails("VO.S5"),
        {"id": "VO.S5.condition", "statement": "the median condition number falls after each layer but the last",
         "source": "VO, appendix A.10", "metric": "condition_number_falls_untrapped", "reduce": "min",
         "relation": "at_least", "target": 1.0, "note": WHY_RISES},
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
