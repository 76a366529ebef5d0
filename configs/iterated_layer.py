"""A layer trained for one application, applied up to 50 times (von Oswald et al. 2212.07677, roll-out).

    python -m experiments.run --config=configs/iterated_layer.py

Five seeds trained as in one_layer, then rolled out, its updates damped by .75, against gradient descent with .75 of
the step size; about two minutes on two CPU cores. Undamped, both diverge: the step tuned for one application is too
long for many. Variants: `smoke`.
"""

from icl_gd.lab import Experiment, GradientDescent, Network, Regression, Train, claim, smoke

VARIANTS = ("smoke",)


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
            claim("VO.roll.free", "rolled-out free seeds follow damped gradient descent (worst loss ratio)",
                  metric="rollout_ratio_untrapped", source="VO, roll-out of one layer", at_most=1.1, reduce="max"),
            claim("VO.roll.improves", "fifty damped applications beat one (loss after the last)",
                  metric="rollout_loss_final_untrapped", source="VO, roll-out of one layer", at_most=0.2062,
                  reduce="max"),
        ),
    )  # fmt: skip
    if variant == "smoke":
        return smoke(experiment)
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
