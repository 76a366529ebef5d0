"""ReLU networks in context (Garg et al. 2208.01066, Figure 5): a GPT-2 beside a network trained on every prompt.

    python -m experiments.run --config=configs/garg_relu_network.py:tiny

Labels are those of a network with one hidden layer of 100, its weights drawn anew in every prompt. Beside the trained
model a network of that form is trained on each prefix, by 100 steps of Adam, and least squares finds its linear part.

Variants: `tiny` (64 wide, 3 layers, 2 heads) has eight inputs and 25 points, under an hour on two CPU cores; `small`
(128, 6, 4) and `standard` (256, 12, 8) are published, with 20 inputs, 101 points, half a million steps and the
curriculum: for an accelerator. Without a variant it is `standard`. `smoke` takes seconds.
"""

from experiments.defaults import base_config, gpt2, on_two_cores, smoke

VARIANTS = ("tiny", "small", "standard", "smoke")


def get_config(variant: str = ""):
    if variant and variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    config = gpt2(base_config(), "tiny" if variant == "smoke" else variant or "standard")
    config.task.name = "relu_network"
    config.task.n_context = 100
    config.train.active_points = (26, 5, 2000)
    config.eval.families = ("standard",)
    config.eval.baselines = ("least_squares", "nearest_3", "network")
    if variant in ("tiny", "smoke"):
        on_two_cores(config, 8, 24, 60_000)
    if variant == "smoke":
        smoke(config)
        config.task.n_context, config.eval.prompts = 10, 16
    return config
