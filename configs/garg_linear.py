"""Linear functions in context (Garg et al. 2208.01066, Figures 2 to 4): a GPT-2 beside least squares, at every length.

    python -m experiments.run --config=configs/garg_linear.py:toy

A causal Transformer is trained to predict every label of a prompt from the examples before it, then asked for its error
after each number of examples, on prompts like those of training and on others, beside least squares, averaging and
nearest neighbours.

Variants, by what they take: `toy` has five inputs, 11 points and the size `tiny`, 40,000 steps, less than 15 minutes on
two CPU cores; `tiny` (64 wide, 3 layers, 2 heads) has eight inputs and 25 points, under an hour there. `small` (128, 6,
4) and `standard` (256, 12, 8) are published, with 20 inputs, 41 points, half a million steps of batch 64, and the
curriculum: for an accelerator. Without a variant it is `standard`. `smoke` takes seconds.
"""

from experiments.defaults import base_config, gpt2, on_two_cores, smoke

VARIANTS = ("toy", "tiny", "small", "standard", "smoke")
PAPER = "GA Fig. 2"
FAMILIES = (
    *("standard", "random_quadrants", "opposite_quadrants", "orthogonal_query", "repeated_query", "half_subspace"),
    *("skewed", "noisy", "inputs_third", "inputs_half", "inputs_double", "inputs_triple"),
    *("labels_third", "labels_half", "labels_double", "labels_triple"),
)


def get_config(variant: str = ""):
    if variant and variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    config = gpt2(base_config(), "tiny" if variant in ("toy", "smoke") else variant or "standard")
    config.task.name = "linear"
    config.eval.families = FAMILIES
    config.eval.baselines = ("least_squares", "averaging", "nearest_3")
    if variant == "tiny":
        on_two_cores(config, 8, 24, 60_000)
    elif variant in ("toy", "smoke"):
        on_two_cores(config, 5, 10, 40_000)
    if variant == "smoke":
        smoke(config)
        config.eval.suite_values = 3
    return config
