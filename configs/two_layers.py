"""Do two recurrent layers implement GD or GD++ (von Oswald et al. 2212.07677, Figure 3)?

    python -m experiments.run --config=configs/two_layers.py

One set of weights is applied twice. Five seeds are trained with d = n = 10 for 5,000 steps of batch 2048, which takes
about ten minutes on two CPU cores. Expected losses: 0.1567 for two gradient steps with the best shared step size,
0.1414 with the best step size per step, 0.1106 for GD++ with the best shared pair of rates, and at most 0.1145 for the
trained layers. The input sensitivities of the trained layers should match those of GD++ and not those of GD.

Variants: `heads` has four heads per layer; `layer_norm` applies LayerNorm to the input of attention; `normalised`
divides keys and queries by the sums of their entries; `smoke`.
"""

from icl_gd.lab import Claim, Experiment, claim, smoke
from icl_gd.lab.presets import OPTIMA, deep

VARIANTS = ("heads", "layer_norm", "normalised", "smoke")
WHY = {
    "heads": "With four heads every seed has a lower loss than GD++ with the best pair of rates (0.1060 to 0.1073; "
    "GD++ 0.1105), so the layers do more than GD++.",
    "layer_norm": "Before each layer LayerNorm removes the mean and the norm of each token, and so also the scale of "
    "its label. The losses of all seeds end within 1e-4 of 0.1912 and have not changed since step 600. This is better "
    "than GD++ on tokens that are standardised once (VO.L2.layer_norm.standardised).",
    "normalised": "As with one layer (VO.SN), the sums of keys and queries change sign from token to token, and scores "
    "are unbounded where a sum is near zero. No seed has a lower loss than predicting zero.",
}
MODELS = {
    "heads": "two layers of four heads",
    "layer_norm": "two layers with LayerNorm",
    "normalised": "two layers with sum-normalised keys and queries",
}


def compared_with_gd_plus_plus(variant: str) -> tuple[Claim, ...]:
    """The paper's claims about two layers, tested for a variant of the architecture."""
    prefix, model, why = f"VO.L2.{variant}", MODELS[variant], WHY[variant]
    note_unless_heads = "" if variant == "heads" else why
    return (
        claim(
            f"{prefix}.free",
            f"{model}: at most 1 of 5 seeds is trapped (number of trapped seeds)",
            metric="seeds_trapped",
            source="VO, published code",
            at_most=1,
            note=note_unless_heads,
        ),
        claim(
            f"{prefix}.loss",
            f"{model}: trained layers are nearly as good as the best GD++ (mean loss over all seeds)",
            metric="loss_trained",
            source="VO, architecture variants",
            at_most=0.1145,
            note=note_unless_heads,
        ),
        claim(
            f"{prefix}.cosine",
            f"{model}: the sensitivities of all seeds are those of the best GD++ (smallest cosine)",
            metric="sensitivity_cosine_gd_plus_plus",
            source="VO, architecture variants",
            at_least=0.997,
            reduce="min",
            note=why,
        ),
        claim(
            f"{prefix}.cosine_gd",
            f"{model}: the sensitivities of all seeds differ clearly from those of gradient descent (largest cosine)",
            metric="sensitivity_cosine_gd",
            source="VO, architecture variants",
            at_most=0.97,
            reduce="max",
        ),
    )


def get_config(variant: str = "") -> Experiment:
    experiment = deep(
        n_layers=2,
        shared=True,
        claims=(
            claim(
                "VO.L2.gd",
                "the loss of two gradient steps with the fitted shared step size equals the optimal loss, computed on "
                "2^17 prompts",
                metric="loss_gd",
                source=OPTIMA,
                within=(0.1567, 0.001567),
            ),
            claim(
                "VO.L2.gd_free",
                "the loss of two gradient steps with the fitted step size per step equals the optimal loss, computed "
                "on 2^17 prompts",
                metric="loss_gd_free_steps",
                source=OPTIMA,
                within=(0.1414, 0.001414),
            ),
            claim(
                "VO.L2.gd_plus_plus",
                "the loss of two steps of GD++ with the fitted shared pair of rates equals the optimal loss, computed "
                "on 2^17 prompts",
                metric="loss_gd_plus_plus",
                source=OPTIMA,
                within=(0.1106, 0.001106),
            ),
            claim(
                "VO.L2.loss",
                "two recurrent layers are nearly as good as the best GD++ (mean loss over free seeds)",
                metric="loss_trained_untrapped",
                source="VO Fig. 3",
                at_most=0.1145,
            ),
            claim(
                "VO.L2.free",
                "at most 1 of 5 seeds is trapped (number of trapped seeds)",
                metric="seeds_trapped",
                source="VO, published code",
                at_most=1,
            ),
            claim(
                "VO.L2.cosine",
                "the sensitivities of free seeds are those of the best GD++ (smallest cosine)",
                metric="sensitivity_cosine_gd_plus_plus_untrapped",
                source="VO Fig. 3",
                at_least=0.997,
                reduce="min",
            ),
            claim(
                "VO.L2.cosine_gd",
                "the sensitivities of free seeds differ clearly from those of gradient descent (largest cosine)",
                metric="sensitivity_cosine_gd_untrapped",
                source="VO Fig. 3",
                at_most=0.97,
                reduce="max",
            ),
            claim(
                "VO.L2.untrained",
                "the sensitivities of untrained layers are not aligned with those of the best GD++ (largest cosine)",
                metric="sensitivity_cosine_gd_plus_plus_untrained",
                source="control",
                at_most=0.5,
                reduce="max",
            ),
            claim(
                "VO.L2.map",
                "in every free seed, layer l is closer to step l of the best GD++ than to any other step "
                "(smallest share of such layers)",
                metric="map_peaks_gd_plus_plus_untrapped",
                source="this project",
                at_least=1.0,
                reduce="min",
            ),
            claim(
                "VO.L2.interpolated",
                "the mean of trained and constructed weights is nearly as good as the better of the "
                "two (largest loss ratio over free seeds)",
                metric="interpolation_ratio_untrapped",
                source="VO Fig. 3",
                at_most=1.05,
                reduce="max",
            ),
            claim(
                "VO.L2.condition",
                "after the first layer, the log of the median condition number of the context inputs equals that of "
                "the best GD++ (largest relative deviation over free seeds)",
                metric="condition_number_deviation_untrapped",
                source="VO, appendix A.10",
                at_most=0.1,
                reduce="max",
            ),
            claim(
                "VO.L2.transform",
                "in every free seed, the first layer multiplies inputs by I - gamma S, with S the second moment of "
                "the context inputs (smallest share of the update that this explains)",
                metric="input_transform_explained_untrapped",
                source="VO, appendix A.10",
                at_least=0.95,
                reduce="min",
            ),
            claim(
                "VO.L2.construction",
                "the constructed layers compute GD++ (largest error relative to the largest prediction, float32)",
                metric="construction_error",
                source="VO, appendix A.10",
                at_most=1e-5,
            ),
        ),
    )
    if variant == "heads":
        analyses, claims = ("alignment", "layer_map", "curvature", "shifts"), compared_with_gd_plus_plus(variant)
        return experiment.change({"model.n_heads": 4, "analyses": analyses, "claims": claims})
    if variant == "layer_norm":
        return experiment.change(
            {
                "model.layer_norm": True,
                "analyses": ("alignment", "layer_map", "shifts", "standardised_tokens"),
                "claims": (
                    *compared_with_gd_plus_plus(variant),
                    claim(
                        "VO.L2.layer_norm.standardised",
                        "two layers with LayerNorm: every seed is as good as GD++ with the best pair of rates "
                        "on standardised tokens (largest loss ratio)",
                        metric="loss_ratio_gd_plus_plus_standardised",
                        source="this project",
                        at_most=1.05,
                        reduce="max",
                    ),
                ),
            }
        )
    if variant == "normalised":
        analyses, claims = ("alignment", "layer_map", "shifts"), compared_with_gd_plus_plus(variant)
        return experiment.change({"model.sum_normalised": True, "analyses": analyses, "claims": claims})
    if variant == "smoke":
        return smoke(experiment)
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
