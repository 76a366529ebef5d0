"""Random features in place of the kernel of softmax: how many does its dual model take (Ren & Liu 2310.13220)?

    python -m experiments.run --config=configs/random_features.py

One trained layer of two softmax heads, its keys and queries as they are, and scaled until the longest of a prompt has
length one. Patterns and outputs are computed with 16 to 4,096 positive random features, standard or hyperbolic, of
independent or orthogonal directions, and compared with the exact ones. Half a minute on two CPU cores. Expected: of
short ones errors fall as one over the root of the number. Variants: `smoke`.
"""

from icl_gd.lab.config.defaults import base_config, dual_models, smoke

VARIANTS = ("smoke",)


WHY_LONG = (
    "some are twice as long: the variance of a feature's product grows like exp(|k + q|^2), so that means over this "
    "many may not be in the regime of the root; scaled, they are. That more features would show it was not tried"
)


def get_config(variant: str = ""):
    config = dual_models(base_config())
    config.analyses = ("random_features",)
    config.claims = (
        {"id": "RF.slope", "statement": "with keys and queries scaled until the longest has length one, the mean error "
         "of attention falls as one over the root of the number of features (slope in logarithms, mean over seeds; "
         "added after a first run at the trained length, RF.slope_trained)", "source":
         "RL section 3; Choromanski et al.", "metric": "random_features_slope", "relation": "within",
         "target": -0.5, "tolerance": 0.05},
        {"id": "RF.slope_hyperbolic", "statement": "and so with hyperbolic features (likewise added)", "source":
         "Choromanski et al.", "metric": "random_features_slope_hyperbolic", "relation": "within", "target": -0.5,
         "tolerance": 0.05},
        {"id": "RF.slope_trained", "statement": "and with keys and queries as long as they were trained (as it was "
         "set before any run)", "source": "RL section 3", "metric": "random_features_slope_trained", "relation":
         "within", "target": -0.5, "tolerance": 0.05, "note": WHY_LONG},
        {"id": "RF.orthogonal", "statement": "orthogonal directions do better than independent ones at equal number "
         "(mean ratio of errors, worst seed)", "source": "Choromanski et al.", "metric": "orthogonal_to_independent",
         "reduce": "max", "relation": "at_most", "target": 1.0},
        {"id": "RF.orthogonal_hyperbolic", "statement": "and of hyperbolic features too", "source":
         "Choromanski et al.", "metric": "orthogonal_to_independent_hyperbolic", "reduce": "max", "relation":
         "at_most", "target": 1.0},
    )  # fmt: skip
    return smoke(config) if variant == "smoke" else config
