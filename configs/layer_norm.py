"""Does one layer with LayerNorm implement a gradient step (von Oswald et al. 2212.07677, appendix: variants)?

    python -m experiments.run --config=configs/layer_norm.py

The settings are those of one_layer, with five seeds. The published code applies LayerNorm only in recurrent networks,
before the first application. The config therefore sets model.shared=True. A run takes about ten minutes on two CPU
cores. Expected: a loss of 0.260, that of the best gradient step on standardised tokens.

Variants: `normalised` divides keys and queries by the sums of their entries instead of applying LayerNorm; `heads` has
four linear heads without LayerNorm; `smoke`.
"""

from icl_gd.lab import Claim, Eval, Experiment, GradientDescent, Network, Regression, Train, claim, smoke

VARIANTS = ("normalised", "heads", "smoke")
MODELS = {
    "LN": "one layer with LayerNorm",
    "SN": "one layer with sum-normalised keys and queries",
    "H4": "one layer of four heads",
}
WHY_STANDARD = (
    "LayerNorm removes the mean and the norm of each token, and so also the scale of its label. The "
    "best gradient step on standardised tokens has 1.26 times the loss of the best step on the "
    "original tokens, and every seed is as good as the step on standardised tokens (VO.LN.standardised)."
)
WHY_CONSTANT = (
    "The learning rate is constant, and one training step moves four heads together. With "
    "train.schedule=cosine every seed ends at 0.9999."
)
WHY_SUMS = (
    "The sums of keys and queries change sign from token to token, and scores are "
    "unbounded where a sum is near zero (training losses of up to 12, averaged over 100 "
    "steps). No seed has a lower loss than predicting zero."
)


def compared_with_one_step(name: str, loss: float, cosine: float, why: str, why_cosine: str) -> tuple[Claim, ...]:
    """The paper's claims about one layer, tested for a variant of the architecture.

    Args:
      name: a key of `MODELS`.
      loss: largest accepted loss ratio to one gradient step.
      cosine: smallest accepted sensitivity cosine to one gradient step.
      why: note of the claims about trapped seeds and loss.
      why_cosine: note of the claim about the cosine.

    Returns:
      Three claims.
    """
    model = MODELS[name]
    return (
        claim(
            f"VO.{name}.free",
            f"{model}: at most 1 of 5 seeds is trapped (number of trapped seeds)",
            metric="seeds_trapped",
            source="VO, published code",
            at_most=1,
            note=why,
        ),
        claim(
            f"VO.{name}.loss",
            f"{model}: every free seed is nearly as good as one gradient step (largest loss ratio)",
            metric="loss_ratio_gd_untrapped",
            source="VO, architecture variants",
            at_most=loss,
            reduce="max",
            note=why,
        ),
        claim(
            f"VO.{name}.cosine",
            f"{model}: every free seed's sensitivities are aligned with those of one gradient step (smallest cosine)",
            metric="sensitivity_cosine_gd_untrapped",
            source="VO, architecture variants",
            at_least=cosine,
            reduce="min",
            note=why_cosine,
        ),
    )


def get_config(variant: str = "") -> Experiment:
    experiment = Experiment(
        task=Regression(),
        model=Network(layer_norm=True, shared=True),
        train=Train(share_batches=True),
        eval=Eval(prompts=2**17),
        reference=GradientDescent(),
        seeds=5,
        analyses=("alignment", "shifts", "standardised_tokens"),
        claims=(
            *compared_with_one_step("LN", 1.05, 0.95, WHY_STANDARD, WHY_STANDARD),
            claim(
                "VO.LN.standardised",
                "one layer with LayerNorm: every seed is as good as a gradient step on standardised "
                "tokens (largest loss ratio)",
                metric="loss_ratio_gd_standardised",
                source="this project",
                at_most=1.01,
                reduce="max",
            ),
            claim(
                "VO.LN.standardised_cosine",
                "one layer with LayerNorm: every seed's sensitivities are those of a gradient step on "
                "standardised tokens (smallest cosine)",
                metric="sensitivity_cosine_gd_standardised",
                source="this project",
                at_least=0.99,
                reduce="min",
            ),
        ),
    )
    plain = {"model.layer_norm": False, "model.shared": False}
    if variant == "normalised":
        analyses, claims = ("alignment", "shifts"), compared_with_one_step("SN", 1.05, 0.95, WHY_SUMS, WHY_SUMS)
        return experiment.change(plain | {"model.sum_normalised": True, "analyses": analyses, "claims": claims})
    if variant == "heads":
        return experiment.change(
            plain
            | {
                "model.n_heads": 4,
                "eval.prompts": 2**20,
                "analyses": ("alignment", "weights", "shifts"),
                "claims": (
                    *compared_with_one_step("H4", 1.01, 0.999, "", WHY_CONSTANT),
                    claim(
                        "VO.H4.gauge",
                        "one layer of four heads: the sum of all heads is the construction, up to gauge "
                        "(largest relative distance over free seeds)",
                        metric="gauge_distance_gd_untrapped",
                        source="VO, architecture variants",
                        at_most=0.1,
                        reduce="max",
                    ),
                ),
            }
        )
    if variant == "smoke":
        return smoke(experiment)
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
