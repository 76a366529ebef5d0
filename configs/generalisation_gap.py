"""The dual model on demonstrations it has not seen: a gap that falls as 1/sqrt(N) (Ren & Liu 2310.13220, section 3).

    python -m experiments.run --config=configs/generalisation_gap.py

One trained layer of two softmax heads. The dual model of each makes its step on N = 8 to 1,024 demonstrations of a
prompt; its mean loss on them is compared with that on N fresh ones of the same function. Half a minute on two CPU
cores. Found: the difference falls faster than the bound, and like it without what a demonstration adds to its own loss.
Variants: `smoke`.
"""

from icl_gd.lab.config.defaults import base_config, dual_models, smoke

VARIANTS = ("smoke",)


WHY_STEEP = (
    "the bound is an upper one: on its own demonstrations the loss holds K(k_i, k_i)/D of each, which falls as 1/N and "
    "is most of the difference while N is small; without it the slope is that of GG.others"
)


def get_config(variant: str = ""):
    config = dual_models(base_config())
    config.analyses = ("generalisation_gap",)
    config.claims = (
        {"id": "GG.slope", "statement": "the gap falls as one over the root of N, as the bound does (slope in "
         "logarithms, mean over seeds)", "source": "RL Theorem 3.2", "metric": "generalisation_gap_slope", "relation":
         "within", "target": -0.5, "tolerance": 0.1, "note": WHY_STEEP},
        {"id": "GG.others", "statement": "without what a demonstration adds to its own loss it does (slope; added "
         "after the first run)", "source": "found here", "metric": "generalisation_gap_others_slope", "relation":
         "within", "target": -0.5, "tolerance": 0.1},
    )  # fmt: skip
    return smoke(config) if variant == "smoke" else config
