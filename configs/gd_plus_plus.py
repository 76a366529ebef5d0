"""Why is GD++ better than gradient descent, and do trained layers run it (von Oswald et al. 2212.07677, appendix A.10)?

    python -m experiments.run --config=configs/gd_plus_plus.py

Three recurrent layers are trained with five seeds and d = n = 10, for 5,000 steps of batch 2048. A run takes about
eight minutes on two CPU cores. At every gradient step, GD++ also transforms the inputs, which flattens the spectrum of
their covariance S. Expected: after each trained layer, S has the same spectrum as after the corresponding step of GD++,
and the same share of the error remains along each eigenvector of S.

Variants: `smoke`.
"""

from icl_gd.lab import Experiment, claim, smoke
from icl_gd.lab.presets import deep

VARIANTS = ("smoke",)
WHY_SHORT = (
    "The mean over seeds is 1.049. The learning rate is constant, and from step 2,700 on "
    "the loss on the prompts of the curves varies between 0.079 and 0.085, so the result "
    "depends on the last step."
)


def get_config(variant: str = "") -> Experiment:
    experiment = deep(
        n_layers=3,
        shared=True,
        analyses=("alignment", "layer_map", "curvature", "interpolation", "by_steps"),
        claims=(
            claim(
                "VO.A10.construction",
                "constructed layers compute GD++ of one to ten steps with one to three outputs "
                "(largest error relative to the largest prediction, float64)",
                metric="construction_error_float64",
                source="VO, appendix A.10",
                at_most=1e-12,
            ),
            claim(
                "VO.A10.free",
                "at most 1 of 5 seeds is trapped (number of trapped seeds)",
                metric="seeds_trapped",
                source="VO, published code",
                at_most=1,
            ),
            claim(
                "VO.A10.falls",
                "in every free seed the median condition number of the inputs' covariance falls after "
                "each layer but the last (1 if it does)",
                metric="condition_number_falls_untrapped",
                source="VO, appendix A.10",
                at_least=1.0,
                reduce="min",
            ),
            claim(
                "VO.A10.condition",
                "after each layer but the last, the log of the median condition number of the context inputs equals "
                "that of the best GD++ (largest relative deviation over free seeds)",
                metric="condition_number_deviation_untrapped",
                source="VO, appendix A.10",
                at_most=0.1,
                reduce="max",
            ),
            claim(
                "VO.A10.transform",
                "in every free seed, the layers multiply inputs by I - gamma S, with S the second moment of the "
                "context inputs (smallest share of an update that this explains)",
                metric="input_transform_explained_untrapped",
                source="VO, appendix A.10",
                at_least=0.95,
                reduce="min",
            ),
            claim(
                "VO.A10.loss",
                "free seeds are nearly as good as the best GD++ (largest loss ratio)",
                metric="loss_ratio_gd_plus_plus_untrapped",
                source="VO Fig. 3",
                at_most=1.05,
                reduce="max",
                note=WHY_SHORT,
            ),
            claim(
                "VO.A10.cosine",
                "the sensitivities of free seeds are those of the best GD++ (smallest cosine)",
                metric="sensitivity_cosine_gd_plus_plus_untrapped",
                source="VO Fig. 3",
                at_least=0.995,
                reduce="min",
            ),
            claim(
                "VO.A10.map",
                "in every free seed, layer l is closer to step l of the best GD++ than to any other step "
                "(smallest share of such layers)",
                metric="map_peaks_gd_plus_plus_untrapped",
                source="this project",
                at_least=1.0,
                reduce="min",
            ),
            claim(
                "VO.A10.interpolated",
                "the mean of trained and constructed weights is nearly as good as the better of the "
                "two (largest loss ratio over free seeds)",
                metric="interpolation_ratio_untrapped",
                source="VO Fig. 3",
                at_most=1.05,
                reduce="max",
            ),
            claim(
                "VO.A10.steps",
                "two steps of GD++ are better than ten of gradient descent with the best shared step "
                "size (loss of GD++; the target is that of gradient descent)",
                metric="loss_by_steps_gd_plus_plus[2]",
                source="this project",
                at_most=0.0827,
                note="Two steps of GD++ are better than four of gradient descent (0.118); three are better than ten.",
            ),
        ),
    )
    if variant == "smoke":
        return smoke(experiment)
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
