"""A layer trained for one application, applied up to 50 times (von Oswald et al. 2212.07677, roll-out).

    python -m experiments.run --config=configs/iterated_layer.py

Five seeds trained as in one_layer, then rolled out, its updates damped by .75, against gradient descent with .75 of
the step size; about two minutes on two CPU cores. Undamped, both diverge: the step tuned for one application is too
long for many. Variants: `smoke`.
"""

from icl_gd.lab.config.defaults import base_config, smoke

VARIANTS = ("smoke",)


def get_config(variant: str = ""):
    config = base_config()
    config.seeds = 5
    config.train.share_batches = True
    config.analyses = ("rollout",)
    config.claims = (
        {"id": "VO.roll.seeds", "statement": "at least 4 of 5 seeds are free", "source": "VO, published code",
         "metric": "seeds_trapped", "relation": "at_most", "target": 1},
        {"id": "VO.roll.free", "statement": "rolled-out free seeds follow damped gradient descent (worst loss ratio)",
         "source": "VO, roll-out of one layer", "metric": "rollout_ratio_untrapped", "reduce": "max",
         "relation": "at_most", "target": 1.1},
        {"id": "VO.roll.improves", "statement": "fifty damped applications beat one (loss after the last)",
         "source": "VO, roll-out of one layer", "metric": "rollout_loss_final_untrapped", "reduce": "max",
         "relation": "at_most", "target": 0.2062},
    )  # fmt: skip
    if variant == "smoke":
        smoke(config)
    elif variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return config
