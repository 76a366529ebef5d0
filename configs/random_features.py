"""Random features in place of the kernel of softmax: how many does its dual model take (Ren & Liu 2310.13220)?

    python -m experiments.run --config=configs/random_features.py

One trained layer of two softmax heads, its keys and queries as they are, and scaled until the longest of a prompt has
length one. Patterns and outputs are computed with 16 to 4,096 positive random features, standard or hyperbolic, of
independent or orthogonal directions, and compared with the exact ones. Half a minute on two CPU cores. Expected: of
short ones errors fall as one over the root of the number. Variants: `smoke`.
"""

from icl_gd.lab import Experiment, claim
from icl_gd.lab.presets import dual_models, smoke

VARIANTS = ("smoke",)
WHY_LONG = (
    "some are twice as long: the variance of a feature's product grows like exp(|k + q|^2), so that means over this "
    "many may not be in the regime of the root; scaled, they are. That more features would show it was not tried"
)


def get_config(variant: str = "") -> Experiment:
    claims = (
        claim("RF.slope", "with keys and queries scaled until the longest has length one, the mean error of attention "
              "falls as one over the root of the number of features (slope in logarithms, mean over seeds; added after "
              "a first run at the trained length, RF.slope_trained)",
              metric="random_features_slope", source="RL section 3; Choromanski et al.", within=(-0.5, 0.05)),
        claim("RF.slope_hyperbolic", "and so with hyperbolic features (likewise added)",
              metric="random_features_slope_hyperbolic", source="Choromanski et al.", within=(-0.5, 0.05)),
        claim("RF.slope_trained",
              "and with keys and queries as long as they were trained (as it was set before any run)",
              metric="random_features_slope_trained", source="RL section 3", within=(-0.5, 0.05), note=WHY_LONG),
        claim("RF.orthogonal", "orthogonal directions do better than independent ones at equal number (mean ratio of "
              "errors, worst seed)",
              metric="orthogonal_to_independent", source="Choromanski et al.", at_most=1.0, reduce="max"),
        claim("RF.orthogonal_hyperbolic", "and of hyperbolic features too",
              metric="orthogonal_to_independent_hyperbolic", source="Choromanski et al.", at_most=1.0, reduce="max"),
    )  # fmt: skip
    experiment = dual_models(analyses=("random_features",), claims=claims)
    if variant == "smoke":
        return smoke(experiment)
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
