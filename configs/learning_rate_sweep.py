"""One layer over learning rates and gradient clips: how much hangs on the paper's (von Oswald et al. 2212.07677)?

    python -m experiments.run --config=configs/learning_rate_sweep.py

Five learning rates around the paper's 1e-3, times its clip of the gradient's norm, 1e-3, and one a thousand times
wider: ten combinations of four seeds, forty members of one population, 3,000 steps, about a minute on two CPU cores.
Expected: every rate but a tenth of the paper's is within 1 % of the best step by then. Variants: `smoke`.
"""

from icl_gd.lab.config.defaults import base_config, smoke
from icl_gd.lab.config.sweeps import sweep

VARIANTS = ("smoke",)
RATES, CLIPS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), (1e-3, 1.0)
AT = "[train.learning_rate={},train.clip={}]"


def get_config(variant: str = ""):
    config = base_config()
    sweep(config.train, learning_rate=RATES, clip=CLIPS)
    config.seeds = 4
    config.train.steps = 3000
    config.train.share_batches = True
    config.eval.prompts = 2**18
    config.analyses = ("alignment",)
    ratio, source = "loss_ratio_optimal", "VO, published code"
    config.claims = (
        {"id": "LR.paper", "statement": "at the paper's rate and clip every seed is within 1 % of the best step",
         "source": source, "metric": ratio + AT.format(1e-3, 1e-3), "reduce": "max",
         "relation": "at_most", "target": 1.01},
        {"id": "LR.wide_clip", "statement": "and so it is with a clip a thousand times wider: Adam undoes the scale",
         "source": "found here", "metric": ratio + AT.format(1e-3, 1.0), "reduce": "max",
         "relation": "at_most", "target": 1.01},
        {"id": "LR.slow", "statement": "a tenth of the rate learns nothing in 3,000 steps (its best loss ratio)",
         "source": "found here", "metric": ratio + AT.format(1e-4, 1e-3), "reduce": "min",
         "relation": "at_least", "target": 1.5,
         "note": "it is late, not stuck: the loss leaves that of always zero after some 1,000 steps, and still falls "
         "at the end"},
        {"id": "LR.fast", "statement": "ten times the rate stays within 5 %, clipped as in the paper",
         "source": "found here", "metric": ratio + AT.format(1e-2, 1e-3), "reduce": "max",
         "relation": "at_most", "target": 1.05},
        {"id": "LR.fast_wide", "statement": "and with the wider clip", "source": "found here",
         "metric": ratio + AT.format(1e-2, 1.0), "reduce": "max", "relation": "at_most", "target": 1.05},
        *({"id": f"LR.stable_{clip:g}", "statement": f"no seed diverges at ten times the rate, clip {clip:g}",
           "source": "found here", "metric": "seeds_diverged" + AT.format(1e-2, clip), "relation": "at_most",
           "target": 0} for clip in CLIPS),
    )  # fmt: skip
    if variant == "smoke":
        smoke(config)
        sweep(config.train, learning_rate=(1e-3, 1e-2))
    elif variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return config
