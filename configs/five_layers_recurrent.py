"""Five recurrent layers against GD and GD++ (von Oswald et al. 2212.07677, Figure 3 and appendix A.10).

    python -m experiments.run --config=configs/five_layers_recurrent.py

Five seeds, one set of weights applied five times, d = n = 10, 5,000 steps of batch 2048; about a quarter of an hour on
two cores. Expected: losses .1084 for five gradient steps of one best size, .0789 for five of their own, .0517 for GD++
with one best pair, which the published way of learning it finds too, .0576 for the trained layers, and for GD++ with
one best pair a layer .0115 on the prompts of the curves and no finite number on many more.

Activations are not clipped. Variants: `faithful` clips activations, and those of the learners beside them, to [-10,
10], as published, which costs 17 % (.0676, the published loss); `smoke`.
"""

from icl_gd.lab import Experiment, claim, smoke
from icl_gd.lab.presets import BOUND, OPTIMA, about_tails, deep

VARIANTS = ("faithful", "smoke")
WHY_INFINITE = (
    "nothing bounds activations: each step cubes the inputs, so that a rare prompt with an eigenvalue beyond those the "
    "rates were found on diverges, and is all of the mean. Nine in a million do; on all others it is .0116"
)
WHY_NOT_PUBLISHED = (
    "there activations are clipped to [-10, 10], here they are not; under that clip it is .0641 (VO.L5f), and its best "
    "pair another: 19.7 and 1.37, here 31.0 and 2.04"
)
WHY_SHORT = "trained layers end 10 to 14 % above it, flat since step 4,000 at a constant learning rate"
WHY_NOT_THE_FOURTH = (
    "four of five layers are. Steps of the one pair over- and undershoot in turn; the fourth layer (cosine .88 to its "
    "own step) undershoots less, and is nearer to the fifth step (.99). By predictions the third is nearest to it too"
)

# What the published code gives on its seed 0, of layers that are clipped as there.
AS_PUBLISHED = (
    claim("VO.L5f.loss", "clipped as published, trained layers have the published loss (mean)",
          metric="loss_trained", source="VO, published code", within=(0.0676, 0.001)),
    claim("VO.L5f.clip", "which is what the clip costs: without it it is .0576",
          metric="loss_trained", source="five_layers_recurrent", at_least=0.0634),
    claim("VO.L5f.cosine_gd", "their sensitivities have the published cosine to those of GD (mean)",
          metric="sensitivity_cosine_gd", source="VO, published code", within=(0.973, 0.005)),
    claim("VO.L5f.cosine_published", "and to those of GD++ as published (mean)",
          metric="sensitivity_cosine_gd_plus_plus_published", source="VO, published code", within=(0.9966, 0.002)),
    claim("VO.L5f.gd_plus_plus_published", "GD++ as the published code finds it",
          metric="loss_gd_plus_plus_published", source="VO, published code", within=(0.0654, 0.003)),
    claim("VO.L5f.short", "which is the best pair under the clip, too; trained layers reach it (worst loss ratio)",
          metric="loss_ratio_gd_plus_plus", source="found here", at_most=1.05, reduce="max",
          note="they end 5.1 to 5.3 % above it, at a constant learning rate"),
    claim("VO.L5f.condition", "the median condition number falls after each layer but the last",
          metric="condition_number_falls", source="VO, appendix A.10", at_least=1.0, reduce="min"),
)  # fmt: skip


def get_config(variant: str = "") -> Experiment:
    experiment = deep(
        n_layers=5,
        shared=True,
        analyses=("alignment", "layer_map", "curvature", "interpolation", "shifts", "tails"),
        claims=(
            claim("VO.L5.gd", "five gradient steps of one size, at their best",
                  metric="loss_gd", source=OPTIMA, within=(0.1087, 0.001087)),
            claim("VO.L5.gd_free", "five gradient steps of five sizes, at their best",
                  metric="loss_gd_free_steps", source=OPTIMA, within=(0.0790, 0.00079)),
            claim("VO.L5.gd_plus_plus", "GD++ with one pair of rates, at its best",
                  metric="loss_gd_plus_plus", source=OPTIMA, within=(0.0517, 0.000517)),
            claim("VO.L5.gd_plus_plus_free", "GD++ with one pair a layer, at its best",
                  metric="loss_gd_plus_plus_free_steps", source=BOUND, at_most=0.0215, note=WHY_INFINITE),
            claim("VO.L5.gd_plus_plus_published", "GD++ as the published code finds it",
                  metric="loss_gd_plus_plus_published", source="VO, published code", within=(0.0654, 0.003),
                  note=WHY_NOT_PUBLISHED),
            claim("VO.L5.loss", "trained layers are as good as those of the published code (mean over free seeds)",
                  metric="loss_trained_untrapped", source="VO Fig. 3", at_most=0.069),
            claim("VO.L5.free", "at least 4 of 5 seeds are free",
                  metric="seeds_trapped", source="VO, published code", at_most=1),
            claim("VO.L5.cosine_published",
                  "sensitivities of free seeds are those of the published GD++ (worst cosine)",
                  metric="sensitivity_cosine_gd_plus_plus_published_untrapped", source="VO Fig. 3", at_least=0.995,
                  reduce="min"),
            claim("VO.L5.cosine_best", "and those of the best GD++ (worst cosine)",
                  metric="sensitivity_cosine_gd_plus_plus_untrapped", source="found here", at_least=0.995, reduce="min",
                  note="one test twice: the published way finds the best pair here"),
            claim("VO.L5.cosine_gd", "and clearly not those of GD (best cosine)",
                  metric="sensitivity_cosine_gd_untrapped", source="VO Fig. 3", at_most=0.98, reduce="max"),
            claim("VO.L5.short",
                  "the trained model reaches what its own form can do: the best shared pair (worst loss ratio)",
                  metric="loss_ratio_gd_plus_plus_untrapped", source="found here", at_most=1.05, reduce="max",
                  note=WHY_SHORT),
            claim("VO.L5.map",
                  "every layer of every free seed is nearest to its own step of the published GD++ (least share of "
                  "layers)",
                  metric="map_peaks_gd_plus_plus_published_untrapped", source="found here", at_least=1.0, reduce="min",
                  note=WHY_NOT_THE_FOURTH),
            *about_tails("VO.L5"),
            claim("VO.L5.condition", "the median condition number falls after each layer but the last",
                  metric="condition_number_falls_untrapped", source="VO, appendix A.10", at_least=1.0, reduce="min"),
            claim("VO.L5.construction", "the construction is GD++ (largest error, float32)",
                  metric="construction_error", source="VO, appendix A.10", at_most=1e-4),
        ),
    )  # fmt: skip
    if variant == "faithful":
        analyses = ("alignment", "layer_map", "curvature", "shifts", "tails")
        return experiment.change({"model.clip": 10.0, "analyses": analyses, "claims": AS_PUBLISHED})
    if variant == "smoke":
        return smoke(experiment)
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
