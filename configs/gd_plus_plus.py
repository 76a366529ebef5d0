"""GD++: why it beats gradient descent, and whether trained layers run it (von Oswald et al. 2212.07677, appendix A.10).

    python -m experiments.run --config=configs/gd_plus_plus.py

Three recurrent layers, five seeds, d = n = 10, 5,000 steps of batch 2048; about eight minutes on two cores. GD++ takes,
beside each gradient step on the labels, a step on the inputs that flattens the spectrum of their covariance S.
Expected: the trained layers do the same to S, layer by layer, and leave the same share of the error along its
eigenvectors.

Variants: `smoke`.
"""

from icl_gd.lab import Experiment, claim, smoke
from icl_gd.lab.presets import deep

VARIANTS = ("smoke",)
WHY_SHORT = (
    "the mean over seeds is 1.049. From step 2,700 on the loss of the curves goes up and down between .079 and .085: "
    "the learning rate is constant, and where the last step falls decides"
)


def get_config(variant: str = "") -> Experiment:
    experiment = deep(
        n_layers=3,
        shared=True,
        analyses=("alignment", "layer_map", "curvature", "interpolation", "by_steps"),
        claims=(
            claim("VO.A10.construction",
                  "GD++ can be built for up to ten steps and three outputs (largest error, float64)",
                  metric="construction_error_float64", source="VO, appendix A.10", at_most=1e-12),
            claim("VO.A10.free", "at least 4 of 5 seeds are free",
                  metric="seeds_trapped", source="VO, published code", at_most=1),
            claim("VO.A10.falls",
                  "the median condition number falls after each trained layer but the last (whose inputs nobody reads)",
                  metric="condition_number_falls_untrapped", source="VO, appendix A.10", at_least=1.0, reduce="min"),
            claim("VO.A10.condition", "its log is that of the best GD++ (worst relative deviation)",
                  metric="condition_number_deviation_untrapped", source="VO, appendix A.10", at_most=0.1, reduce="max"),
            claim("VO.A10.transform", "layers transform inputs by I - gamma S (least share of an update explained)",
                  metric="input_transform_explained_untrapped", source="VO, appendix A.10", at_least=0.95,
                  reduce="min"),
            claim("VO.A10.loss", "trained layers come near the best GD++ (worst loss ratio)",
                  metric="loss_ratio_gd_plus_plus_untrapped", source="VO Fig. 3", at_most=1.05, reduce="max",
                  note=WHY_SHORT),
            claim("VO.A10.cosine", "sensitivities of free seeds are those of the best GD++ (worst cosine)",
                  metric="sensitivity_cosine_gd_plus_plus_untrapped", source="VO Fig. 3", at_least=0.995, reduce="min"),
            claim("VO.A10.map",
                  "every layer of every free seed is nearest to its own step of GD++ (least share of layers)",
                  metric="map_peaks_gd_plus_plus_untrapped", source="found here", at_least=1.0, reduce="min"),
            claim("VO.A10.interpolated",
                  "the mean of trained and built weights is nearly as good as the better of both (worst ratio)",
                  metric="interpolation_ratio_untrapped", source="VO Fig. 3", at_most=1.05, reduce="max"),
            claim("VO.A10.steps",
                  "two steps of GD++ are better than ten of gradient descent with one step size, whose risk is the "
                  "target",
                  metric="loss_by_steps_gd_plus_plus[2]", source="found here", at_most=0.0827,
                  note="two are better than four (.118), three than ten"),
        ),
    )  # fmt: skip
    if variant == "smoke":
        return smoke(experiment)
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
