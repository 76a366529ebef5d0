"""Does the generalisation gap of the dual model fall as 1/sqrt(N) (Ren & Liu 2310.13220, section 3)?

    python -m experiments.run --config=configs/generalisation_gap.py

One layer of two softmax heads is trained. The dual model of each head takes one gradient step on N = 8 to 1,024
demonstrations of a prompt. The gap is the difference between the mean loss of the dual model on these demonstrations
and on N fresh demonstrations of the same function. A run takes half a minute on two CPU cores. Result: the gap falls as
N^-0.84, faster than the bound. Without the part that each demonstration adds to its own loss, it falls as N^-0.53,
close to the bound.

Variants: `smoke`.
"""

from icl_gd.lab import Experiment, claim, smoke
from icl_gd.lab.presets import dual_models

VARIANTS = ("smoke",)

WHY_STEEP = (
    "The bound is an upper bound. The loss on the dual model's own demonstrations contains a term "
    "K(k_i, k_i)/D for each of them. It falls as 1/N and is most of the gap while N is small. Without "
    "this term the slope is that of GG.others."
)


def get_config(variant: str = "") -> Experiment:
    experiment = dual_models(
        analyses=("generalisation_gap",),
        claims=(
            claim(
                "GG.slope",
                "the generalisation gap of the dual models falls as 1/sqrt(N), like its bound (log-log "
                "slope, mean over seeds)",
                metric="generalisation_gap_slope",
                source="RL Theorem 3.2",
                within=(-0.5, 0.1),
                note=WHY_STEEP,
            ),
            claim(
                "GG.others",
                "without the part that each demonstration adds to its own loss, the gap falls as "
                "1/sqrt(N) (log-log slope, mean over seeds; added after the first run)",
                metric="generalisation_gap_others_slope",
                source="this project",
                within=(-0.5, 0.1),
            ),
        ),
    )
    if variant == "smoke":
        return smoke(experiment)
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
