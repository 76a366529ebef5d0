"""Decision trees in context (Garg et al. 2208.01066, Figure 5): a GPT-2 beside trees that are grown on every prompt.

    python -m experiments.run --config=configs/garg_decision_tree.py:tiny

Labels are those of a full tree of depth 4 that asks for the signs of inputs. Beside the trained model trees are grown
greedily on each prefix, to depth 4 or until leaves are pure, and boosted: with scikit-learn and xgboost, on the host
(pip install 'icl-gd[baselines]').

Variants: `tiny` (64 wide, 3 layers, 2 heads) has eight inputs and 51 points, under an hour on two CPU cores; `small`
(128, 6, 4) and `standard` (256, 12, 8) are published, with 20 inputs, 101 points, half a million steps and the
curriculum: for an accelerator. Without a variant it is `standard`. `smoke` takes seconds.
"""

from experiments.defaults import base_config, gpt2, on_two_cores, smoke

VARIANTS = ("tiny", "small", "standard", "smoke")


def get_config(variant: str = ""):
    if variant and variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    config = gpt2(base_config(), "tiny" if variant == "smoke" else variant or "standard")
    config.task.name = "decision_tree"
    config.task.n_context = 100
    config.train.active_points = (26, 5, 2000)
    config.eval.families = ("standard",)
    config.eval.baselines = ("least_squares", "nearest_3", "tree_4", "tree", "xgboost")
    if variant in ("tiny", "smoke"):
        on_two_cores(config, 8, 50, 60_000)
    if variant == "smoke":
        smoke(config)
        config.task.n_context, config.eval.baselines = 10, ("least_squares", "tree_4")
    return config
