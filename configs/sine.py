"""Sine waves in context: a perceptron and one linear-attention layer against gradient descent on deep features.

    python -m experiments.run --config=configs/sine.py

von Oswald et al. 2212.07677, the section on non-linear regression. x ~ U(-5, 5), ten examples of amplitude * sin(x +
phase) with two free parameters. Tokens (x, y) are embedded in 40 dimensions, a perceptron 40 -> 160 -> 40 (GELU, skip)
acts on each, then one layer. Beside it the same perceptron is meta-learned with one gradient step on its output head.

Both take 20,000 steps, five seeds each. Published batches are of 2048 prompts; these are of 256, eight times faster on
two CPU cores: TIME there. Expected: EXPECTED

Variants: `faithful` is the published setting, amplitude and phase from one key, batches of 2048, one seed; `smoke`.
"""

from experiments.defaults import base_config, smoke

VARIANTS = ("faithful", "smoke")


def get_config(variant: str = ""):
    config = base_config()
    config.recipe = "sine"
    config.seeds = 5
    config.analyses = ()
    config.task.name = "sine"
    config.task.d_input = 1
    config.model.d_embed = 40
    config.model.mlp_width = 160
    config.train.steps = 20_000
    config.train.batch_size = 256
    config.train.clip = 100.0
    config.train.share_batches = True
    config.train.log_every = 200
    config.eval.prompts = 2**17
    config.eval.curve_prompts = 2048
    if variant == "faithful":
        config.seeds = 1
        config.task.faithful = True
        config.train.batch_size = 2048
    elif variant == "smoke":
        smoke(config)
    elif variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return config
