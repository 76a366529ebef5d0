"""Decision trees in context (Garg et al. 2208.01066, Figure 5): is a GPT-2 better than trees grown on every prompt?

    python -m experiments.run --config=configs/garg_decision_tree.py:tiny

Labels are the outputs of a full tree of depth 4 whose nodes test the signs of inputs. The trained model is compared
with greedy trees that are grown on each prefix (to depth 4, or until leaves are pure), and with boosted trees. Both are
grown outside JAX, by scikit-learn and xgboost (pip install 'icl-gd[baselines]'). Expected for `tiny`: a normalised
error of 0.64, averaged over prompt lengths; boosted trees have 1.05. The default variant is `standard`.

Variants: `tiny` (width 64, 3 layers, 2 heads) has 8 inputs, 51 points per prompt and a curriculum, and takes an hour
and a half on two CPU cores; `small` (width 128, 6 layers, 4 heads) has the published settings (20 inputs, 101 points,
half a million steps, curriculum) and needs an accelerator; `standard` (width 256, 12 layers, 8 heads) has the task,
steps and curriculum of `small`; `smoke` takes seconds.
"""

from icl_gd.lab import Experiment, PrefixLearners, claim
from icl_gd.lab.presets import function_class, untrained

VARIANTS = ("tiny", "small", "standard", "smoke")


def get_config(variant: str = "") -> Experiment:
    reference = PrefixLearners(baselines=("least_squares", "nearest_3", "tree_4", "tree", "xgboost"))
    experiment = function_class(
        "decision_tree", variant, VARIANTS, n_context=100, small=(8, 50, 60_000), reference=reference
    )
    if variant == "smoke":
        return experiment.change({"task.n_context": 10, "eval.baselines": ("least_squares", "tree_4")})
    name = variant or "standard"
    claims = (
        *(
            claim(
                f"GA.tree.{name}.{learner}",
                f"the trained model has a smaller error than {words} (excess, mean over lengths, largest over seeds)",
                metric=f"excess_over_{learner}",
                source="GA Fig. 5b",
                at_most=0.0,
                reduce="max",
            )
            for learner, words in (
                ("tree_4", "a greedy tree of depth 4"),
                ("tree", "a greedy tree with pure leaves"),
                ("xgboost", "boosted trees"),
            )
        ),
        untrained(f"GA.tree.{name}"),
    )
    return experiment.change({"claims": claims})
