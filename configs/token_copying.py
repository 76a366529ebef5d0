"""Tokens that hold x and y apart: a first layer learns to copy, then a second learns the gradient step
(von Oswald et al. 2212.07677, section 4 and its appendix on token construction; normal_token_construct.ipynb).

    python -m experiments.run --config=configs/token_copying.py

Five seeds, tokens x_1, y_1, x_2, ..., x_query with ten sinusoidal dimensions for their place, softmax attention in the
first of two layers, d = n = 10, 10,000 steps of batch 2048; half an hour on two CPU cores. Members share each step's
batch, so they differ in their initial weights alone. Expected: the loss stays for thousands of steps where predicting
zero is, then falls to about 1.04 times that of one gradient step on the same prompts; just before it falls, the first
layer's output comes to depend on the next token more than on the others.

Variants: `converged` trains 30,000 steps with a decaying learning rate; `smoke`.
"""

from experiments.defaults import base_config, smoke

VARIANTS = ("converged", "smoke")

PAPER = "VO, separate tokens"


def get_config(variant: str = ""):
    config = base_config()
    config.seeds = 5
    config.analyses = ("alignment", "copying")
    config.model.layout = "interleaved"
    config.model.n_layers = 2
    config.model.attention = "softmax,linear"
    config.model.init_scale = 0.02
    config.reference.steps = 1  # the first layer merges tokens, and takes none
    config.train.steps = 10_000
    config.train.clip = 10.0
    config.train.share_batches = True
    config.train.checkpoint_every = 500
    config.eval.prompts = 2**17
    config.claims = ()
    if variant == "converged":
        config.train.steps = 30_000
        config.train.schedule = "cosine"
    elif variant == "smoke":
        smoke(config)
    elif variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return config
