"""How much does one layer depend on the paper's learning rate and gradient clip (von Oswald et al. 2212.07677)?

    python -m experiments.run --config=configs/learning_rate_sweep.py

The sweep has five learning rates from a tenth to ten times the paper's 1e-3, and two clips of the gradient norm: the
paper's 1e-3 and 1. Each of the ten combinations has four seeds; all forty members form one population. Training for
3,000 steps takes about a minute on two CPU cores. Expected: the final loss is within 1 % of that of the best gradient
step for every learning rate except 1e-4.

Variants: `smoke`.
"""

from icl_gd.lab import Eval, Experiment, GradientDescent, Network, Regression, Train, claim, smoke

VARIANTS = ("smoke",)
RATES, CLIPS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), (1e-3, 1.0)
AT = "[train.learning_rate={},train.clip={}]"
RATIO = "loss_ratio_optimal"
WHY_SLOW = (
    "Training is slow, not stuck: the loss falls below that of predicting zero after some "
    "1,000 steps and is still falling at the end."
)


def get_config(variant: str = "") -> Experiment:
    experiment = Experiment(
        task=Regression(),
        model=Network(),
        train=Train(steps=3000, share_batches=True),
        eval=Eval(prompts=2**18),
        reference=GradientDescent(),
        seeds=4,
        analyses=("alignment",),
        sweep={"train.learning_rate": RATES, "train.clip": CLIPS},
        claims=(
            claim(
                "LR.paper",
                "at the paper's learning rate and clip, every seed is within 1 % of the best gradient "
                "step (largest loss ratio)",
                metric=RATIO + AT.format(1e-3, 1e-3),
                source="VO, published code",
                at_most=1.01,
                reduce="max",
            ),
            claim(
                "LR.wide_clip",
                "at the paper's learning rate and a clip a thousand times wider, every seed is within "
                "1 % of the best gradient step, because Adam undoes the scale (largest loss ratio)",
                metric=RATIO + AT.format(1e-3, 1.0),
                source="this project",
                at_most=1.01,
                reduce="max",
            ),
            claim(
                "LR.slow",
                "at a tenth of the paper's learning rate, no seed learns anything in 3,000 steps "
                "(smallest loss ratio to the best gradient step)",
                metric=RATIO + AT.format(1e-4, 1e-3),
                source="this project",
                at_least=1.5,
                reduce="min",
                note=WHY_SLOW,
            ),
            claim(
                "LR.fast",
                "at ten times the paper's learning rate with the paper's clip, every seed is within 5 "
                "% of the best gradient step (largest loss ratio)",
                metric=RATIO + AT.format(1e-2, 1e-3),
                source="this project",
                at_most=1.05,
                reduce="max",
            ),
            claim(
                "LR.fast_wide",
                "at ten times the paper's learning rate with a clip a thousand times wider, every seed "
                "is within 5 % of the best gradient step (largest loss ratio)",
                metric=RATIO + AT.format(1e-2, 1.0),
                source="this project",
                at_most=1.05,
                reduce="max",
            ),
            *(
                claim(
                    f"LR.stable_{clip:g}",
                    f"at ten times the paper's learning rate with clip {clip:g}, no seed diverges (number "
                    "of diverged seeds)",
                    metric="seeds_diverged" + AT.format(1e-2, clip),
                    source="this project",
                    at_most=0,
                )
                for clip in CLIPS
            ),
        ),
    )
    if variant == "smoke":
        return smoke(experiment, {"train.learning_rate": (1e-3, 1e-2)})
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
