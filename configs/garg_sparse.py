"""Sparse linear functions in context (Garg et al. 2208.01066, Figure 5): a GPT-2 beside least squares and the Lasso.

    python -m experiments.run --config=configs/garg_sparse.py:tiny

Three of the weights are not zero. Who knows that needs fewer examples than least squares: the Lasso does, and so, the
paper finds, does a Transformer that was trained on such functions.

Variants: `tiny` (64 wide, 3 layers, 2 heads) has eight inputs and 25 points, under an hour on two CPU cores; `small`
(128, 6, 4) and `standard` (256, 12, 8) are published, with 20 inputs, 41 points, half a million steps and the
curriculum: for an accelerator. Without a variant it is `standard`. `smoke` takes seconds.
"""

from experiments.defaults import base_config, gpt2, on_two_cores, smoke

VARIANTS = ("tiny", "small", "standard", "smoke")


def get_config(variant: str = ""):
    if variant and variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    config = gpt2(base_config(), "tiny" if variant == "smoke" else variant or "standard")
    config.task.name = "sparse"
    config.eval.families = ("standard",)
    config.eval.baselines = ("least_squares", "averaging", "nearest_3", "lasso")
    if variant in ("tiny", "smoke"):
        on_two_cores(config, 8, 24, 60_000)
    if variant == "smoke":
        smoke(config)
    return config
