"""A layer trained for one application, applied up to 50 times (von Oswald et al. 2212.07677, roll-out).

    python -m experiments.run --config=configs/iterated_layer.py

Five seeds trained as in one_layer, then rolled out, its updates damped by .75, against gradient descent with .75 of
the step size; about two minutes on two CPU cores. Undamped, both diverge: the step tuned for one application is too
long for many. The damped one still is on about one prompt in ten thousand, and the mean is infinite where such a prompt
is met: so claims are about medians over prompts, and about how many diverge. Variants: `smoke`.
"""

from icl_gd.lab import Experiment, GradientDescent, Network, Regression, Train, claim, smoke

VARIANTS = ("smoke",)
WHY_BEHIND = (
    "it grows with the applications, above 1.1 in three of five seeds, in the worst from 24 on: a column of W_KQ reads "
    "the query's label slot, which is zero in the one application that is trained, so nothing trains that column; with "
    "zeros in it the worst ratio is 1.03"
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
            claim("VO.roll.seeds", "at least 4 of 5 seeds are free",
                  metric="seeds_trapped", source="VO, published code", at_most=1),
            claim("VO.roll.free",
                  "damped roll-outs of free seeds follow gradient descent with the same damping over all fifty "
                  "applications (worst ratio of median losses over prompts)",
                  metric="rollout_median_ratio_untrapped", source="VO, roll-out of one layer", at_most=1.1,
                  reduce="max", note=WHY_BEHIND),
            claim("VO.roll.rare",
                  "damped roll-outs of free seeds diverge on hardly more prompts than gradient descent with the same "
                  "damping: the share of prompts that after fifty applications have more than a hundred times the mean "
                  "loss of predicting zero is larger by one in a thousand at most (worst difference)",
                  metric="rollout_diverging_excess_untrapped", source="found here", at_most=0.001, reduce="max"),
            claim("VO.roll.improves",
                  "fifty damped applications are better than the undamped one that free seeds were trained for (median "
                  "loss over prompts after fifty, over that after one; worst seed)",
                  metric="rollout_median_fall_untrapped", source="VO, roll-out of one layer", at_most=1.0,
                  reduce="max"),
        ),
    )  # fmt: skip
    if variant == "smoke":
        return smoke(experiment)
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
