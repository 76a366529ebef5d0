"""The dual model on demonstrations it has not seen: a gap that falls as 1/sqrt(N) (Ren & Liu 2310.13220, section 3).

    python -m experiments.run --config=configs/generalisation_gap.py

One trained layer of two softmax heads. The dual model of each makes its step on N = 8 to 1,024 demonstrations of a
prompt; its mean loss on them is compared with that on N fresh ones of the same function. Half a minute on two CPU
cores. Found: the difference falls faster than the bound, and like it without what a demonstration adds to its own loss.
Variants: `smoke`.
"""

from icl_gd.lab import Experiment, claim, smoke
from icl_gd.lab.presets import dual_models

VARIANTS = ("smoke",)

WHY_STEEP = (
    "the bound is an upper one: on its own demonstrations the loss holds K(k_i, k_i)/D of each, which falls as 1/N and "
    "is most of the difference while N is small; without it the slope is that of GG.others"
)


def get_config(variant: str = "") -> Experiment:
    experiment = dual_models(
        analyses=("generalisation_gap",),
        claims=(
            claim("GG.slope",
                  "the gap falls as one over the root of N, as the bound does (slope in logarithms, mean over seeds)",
                  metric="generalisation_gap_slope", source="RL Theorem 3.2", within=(-0.5, 0.1), note=WHY_STEEP),
            claim("GG.others",
                  "without what a demonstration adds to its own loss it does (slope; added after the first run)",
                  metric="generalisation_gap_others_slope", source="found here", within=(-0.5, 0.1)),
        ),
    )  # fmt: skip
    return smoke(experiment) if variant == "smoke" else experiment
