"""Two recurrent layers against GD and GD++ (von Oswald et al. 2212.07677, Figure 3).

    python -m experiments.run --config=configs/two_layers.py

Five seeds, one set of weights applied twice, d = n = 10, 5,000 steps of batch 2048; about ten minutes on two cores.
Expected: losses .1567 for two gradient steps of one best size, .1414 for two of their own, .1106 for GD++ with one best
pair, and at most .1145 for the trained layers, whose sensitivities are those of GD++ and not those of GD.

Variants: `heads` has four heads a layer; `layer_norm` normalises what attention reads; `normalised` divides keys and
queries by their sums; `smoke`.
"""

from icl_gd.lab import Claim, Experiment, claim, smoke
from icl_gd.lab.presets import OPTIMA, deep

VARIANTS = ("heads", "layer_norm", "normalised", "smoke")
WHY = {
    "heads": "with four heads every seed is better than GD++ with its best pair (.1060 to .1073, GD++ .1105), so they "
    "do more than it does",
    "layer_norm": "LayerNorm takes a token's mean and length, and the size of its label with them, before each layer: "
    "all seeds end within 1e-4 of .1912, flat since step 600, better than GD++ on tokens standardised once "
    "(VO.L2.layer_norm.standardised)",
    "normalised": "as with one layer (VO.SN): sums of keys and queries change their sign from token to token, and near "
    "zero scores have no bound; no seed finds better than predicting zero",
}


def beside_gd_plus_plus(variant: str) -> tuple[Claim, ...]:
    """What the paper says of two layers, asked of others than plain ones."""
    prefix, why = f"VO.L2.{variant}", WHY[variant]
    unless_heads = "" if variant == "heads" else why
    return (
        claim(f"{prefix}.free", "at least 4 of 5 seeds are free",
              metric="seeds_trapped", source="VO, published code", at_most=1, note=unless_heads),
        claim(f"{prefix}.loss", "trained layers come near GD++ (mean over all seeds)",
              metric="loss_trained", source="VO, other switches", at_most=0.1145, note=unless_heads),
        claim(f"{prefix}.cosine", "sensitivities of all seeds are those of GD++ (worst cosine)",
              metric="sensitivity_cosine_gd_plus_plus", source="VO, other switches", at_least=0.997, reduce="min",
              note=why),
        claim(f"{prefix}.cosine_gd", "and clearly not those of GD (best cosine)",
              metric="sensitivity_cosine_gd", source="VO, other switches", at_most=0.97, reduce="max"),
    )  # fmt: skip


def get_config(variant: str = "") -> Experiment:
    experiment = deep(
        n_layers=2,
        shared=True,
        claims=(
            claim("VO.L2.gd", "two gradient steps of one size, at their best",
                  metric="loss_gd", source=OPTIMA, within=(0.1567, 0.001567)),
            claim("VO.L2.gd_free", "two gradient steps of two sizes, at their best",
                  metric="loss_gd_free_steps", source=OPTIMA, within=(0.1414, 0.001414)),
            claim("VO.L2.gd_plus_plus", "GD++ with one pair of rates, at its best",
                  metric="loss_gd_plus_plus", source=OPTIMA, within=(0.1106, 0.001106)),
            claim("VO.L2.loss", "trained layers come near GD++ (mean over free seeds)",
                  metric="loss_trained_untrapped", source="VO Fig. 3", at_most=0.1145),
            claim("VO.L2.free", "at least 4 of 5 seeds are free",
                  metric="seeds_trapped", source="VO, published code", at_most=1),
            claim("VO.L2.cosine", "sensitivities of free seeds are those of GD++ (worst cosine)",
                  metric="sensitivity_cosine_gd_plus_plus_untrapped", source="VO Fig. 3", at_least=0.997, reduce="min"),
            claim("VO.L2.cosine_gd", "and clearly not those of GD (best cosine)",
                  metric="sensitivity_cosine_gd_untrapped", source="VO Fig. 3", at_most=0.97, reduce="max"),
            claim("VO.L2.untrained", "untrained layers have not learned it (their best cosine)",
                  metric="sensitivity_cosine_gd_plus_plus_untrained", source="control", at_most=0.5, reduce="max"),
            claim("VO.L2.map",
                  "every layer of every free seed is nearest to its own step of GD++ (least share of layers)",
                  metric="map_peaks_gd_plus_plus_untrapped", source="found here", at_least=1.0, reduce="min"),
            claim("VO.L2.interpolated",
                  "the mean of trained and built weights is nearly as good as the better of both (worst ratio)",
                  metric="interpolation_ratio_untrapped", source="VO Fig. 3", at_most=1.05, reduce="max"),
            claim("VO.L2.condition",
                  "after the first layer the context is conditioned as by GD++ (worst relative deviation of the log "
                  "of its median condition number)",
                  metric="condition_number_deviation_untrapped", source="VO, appendix A.10", at_most=0.1, reduce="max"),
            claim("VO.L2.transform",
                  "the first layer transforms inputs by I - gamma S (least share of its update explained)",
                  metric="input_transform_explained_untrapped", source="VO, appendix A.10", at_least=0.95,
                  reduce="min"),
            claim("VO.L2.construction", "the construction is GD++ (largest error, float32)",
                  metric="construction_error", source="VO, appendix A.10", at_most=1e-5),
        ),
    )  # fmt: skip
    if variant == "heads":
        analyses, claims = ("alignment", "layer_map", "curvature", "shifts"), beside_gd_plus_plus(variant)
        return experiment.change({"model.n_heads": 4, "analyses": analyses, "claims": claims})
    if variant == "layer_norm":
        return experiment.change({
            "model.layer_norm": True,
            "analyses": ("alignment", "layer_map", "shifts", "standardised_tokens"),
            "claims": (
                *beside_gd_plus_plus(variant),
                claim("VO.L2.layer_norm.standardised",
                      "every seed is as good as GD++ with its best pair on standardised tokens (worst loss ratio)",
                      metric="loss_ratio_gd_plus_plus_standardised", source="found here", at_most=1.05, reduce="max"),
            ),
        })  # fmt: skip
    if variant == "normalised":
        analyses, claims = ("alignment", "layer_map", "shifts"), beside_gd_plus_plus(variant)
        return experiment.change({"model.sum_normalised": True, "analyses": analyses, "claims": claims})
    if variant == "smoke":
        return smoke(experiment)
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
