"""Decision trees in context (Garg et al. 2208.01066, Figure 5): a GPT-2 beside trees that are grown on every prompt.

    python -m experiments.run --config=configs/garg_decision_tree.py:tiny

Labels are those of a full tree of depth 4 that asks for the signs of inputs. Beside the trained model trees are grown
greedily on each prefix, to depth 4 or until leaves are pure, and boosted: with scikit-learn and xgboost, on the host
(pip install 'icl-gd[baselines]'). Expected of `tiny`: .64 of the variance in the mean over lengths, where boosted trees
have 1.05.

Variants: `tiny` (64 wide, 3 layers, 2 heads) has eight inputs, 51 points and a curriculum, an hour and a half on two
CPU cores; `small` (128, 6, 4) and `standard` (256, 12, 8) are published, with 20 inputs, 101 points, half a million
steps and the curriculum: for an accelerator. Without a variant it is `standard`. `smoke` takes seconds.
"""

from icl_gd.lab import Experiment, PrefixLearners, claim
from icl_gd.lab.presets import function_class, untrained

VARIANTS = ("tiny", "small", "standard", "smoke")


def get_config(variant: str = "") -> Experiment:
    beside = PrefixLearners(baselines=("least_squares", "nearest_3", "tree_4", "tree", "xgboost"))
    experiment = function_class(
        "decision_tree", variant, VARIANTS, n_context=100, small=(8, 50, 60_000), reference=beside
    )
    if variant == "smoke":
        return experiment.change({"task.n_context": 10, "eval.baselines": ("least_squares", "tree_4")})
    name = variant or "standard"
    claims = (
        *(claim(f"GA.tree.{name}.{learner}",
                f"over all lengths the error is smaller than that of {words} (mean excess, worst seed)",
                metric=f"excess_over_{learner}", source="GA Fig. 5b", at_most=0.0, reduce="max")
          for learner, words in (("tree_4", "a greedy tree of depth 4"), ("tree", "a greedy tree"),
                                 ("xgboost", "boosted trees"))),
        untrained(f"GA.tree.{name}"),
    )  # fmt: skip
    return experiment.change({"claims": claims})
