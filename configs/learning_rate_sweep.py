"""One layer over learning rates and gradient clips: how much hangs on the paper's (von Oswald et al. 2212.07677)?

    python -m experiments.run --config=configs/learning_rate_sweep.py

Five learning rates around the paper's 1e-3, times its clip of the gradient's norm, 1e-3, and one a thousand times
wider: ten combinations of four seeds, forty members of one population, 3,000 steps, about a minute on two CPU cores.
Expected: every rate but a tenth of the paper's is within 1 % of the best step by then. Variants: `smoke`.
"""

from icl_gd.lab import Eval, Experiment, GradientDescent, Network, Regression, Train, claim, smoke

VARIANTS = ("smoke",)
RATES, CLIPS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), (1e-3, 1.0)
AT = "[train.learning_rate={},train.clip={}]"
RATIO = "loss_ratio_optimal"
WHY_SLOW = (
    "it is late, not stuck: the loss leaves that of always zero after some 1,000 steps, and still falls at the end"
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
            claim("LR.paper", "at the paper's rate and clip every seed is within 1 % of the best step",
                  metric=RATIO + AT.format(1e-3, 1e-3), source="VO, published code", at_most=1.01, reduce="max"),
            claim("LR.wide_clip", "and so it is with a clip a thousand times wider: Adam undoes the scale",
                  metric=RATIO + AT.format(1e-3, 1.0), source="found here", at_most=1.01, reduce="max"),
            claim("LR.slow", "a tenth of the rate learns nothing in 3,000 steps (its best loss ratio)",
                  metric=RATIO + AT.format(1e-4, 1e-3), source="found here", at_least=1.5, reduce="min",
                  note=WHY_SLOW),
            claim("LR.fast", "ten times the rate stays within 5 %, clipped as in the paper",
                  metric=RATIO + AT.format(1e-2, 1e-3), source="found here", at_most=1.05, reduce="max"),
            claim("LR.fast_wide", "and with the wider clip",
                  metric=RATIO + AT.format(1e-2, 1.0), source="found here", at_most=1.05, reduce="max"),
            *(claim(f"LR.stable_{clip:g}", f"no seed diverges at ten times the rate, clip {clip:g}",
                    metric="seeds_diverged" + AT.format(1e-2, clip), source="found here", at_most=0)
              for clip in CLIPS),
        ),
    )  # fmt: skip
    if variant == "smoke":
        return smoke(experiment, {"train.learning_rate": (1e-3, 1e-2)})
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
