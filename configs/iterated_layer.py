"""Does a layer trained for one application follow gradient descent for 50 (von Oswald et al. 2212.07677, roll-out)?

    python -m experiments.run --config=configs/iterated_layer.py

Five seeds are trained as in one_layer. The layer is then applied up to 50 times with its updates multiplied by 0.75
(damping), and compared with gradient descent with 0.75 of the step size. A run takes about two minutes on two CPU
cores. Without damping both diverge, because the step size tuned for one application is too large for many. The damped
step is still too large on about one prompt in ten thousand, and one such prompt can make the mean loss infinite. So the
claims are about medians over prompts, and about the share of prompts on which the iteration diverges.

Variants: `smoke`.
"""

from icl_gd.lab import Experiment, GradientDescent, Network, Regression, Train, claim, smoke

VARIANTS = ("smoke",)
WHY_BEHIND = (
    "The ratio grows with the applications and exceeds 1.1 in three of five seeds, in the "
    "worst from application 24 on. One column of W_KQ acts on the query's label slot, "
    "which is zero in the one application that is trained, so this column is not trained. "
    "With zeros in it the largest ratio is 1.03."
)


def get_config(variant: str = "") -> Experiment:
    experiment = Experiment(
        task=Regression(),
        model=Network(),
        train=Train(share_batches=True),
        reference=GradientDescent(),
        seeds=5,
        analyses=("rollout",),
        claims=(
            claim(
                "VO.roll.seeds",
                "at most 1 of 5 seeds is trapped (number of trapped seeds)",
                metric="seeds_trapped",
                source="VO, published code",
                at_most=1,
            ),
            claim(
                "VO.roll.free",
                "over fifty damped applications, free seeds follow gradient descent with the same "
                "damping (largest ratio of median losses over prompts)",
                metric="rollout_median_ratio_untrapped",
                source="VO, roll-out of one layer",
                at_most=1.1,
                reduce="max",
                note=WHY_BEHIND,
            ),
            claim(
                "VO.roll.rare",
                "after fifty damped applications, free seeds diverge on hardly more prompts than "
                "damped gradient descent does (largest difference of shares; a prompt diverges above "
                "100 times the mean loss of predicting zero)",
                metric="rollout_diverging_excess_untrapped",
                source="this project",
                at_most=0.001,
                reduce="max",
            ),
            claim(
                "VO.roll.improves",
                "fifty damped applications of free seeds are better than the single undamped one that "
                "they were trained for (largest ratio of median losses over prompts)",
                metric="rollout_median_fall_untrapped",
                source="VO, roll-out of one layer",
                at_most=1.0,
                reduce="max",
            ),
        ),
    )
    if variant == "smoke":
        return smoke(experiment)
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
