"""One layer that reads normalised tokens (von Oswald et al. 2212.07677, appendix: LayerNorm and other switches).

    python -m experiments.run --config=configs/layer_norm.py

The settings of one_layer, five seeds; about ten minutes on two CPU cores. As published, a layer of its own reads tokens
as they are, and only a recurrent one normalises before its first application: model.shared is True. Expected: .260,
the loss of the best gradient step on standardised tokens.

Variants: `normalised` divides keys and queries by the sums of their entries instead; `heads` has four linear heads;
`smoke`.
"""

from icl_gd.lab import Claim, Eval, Experiment, GradientDescent, Network, Regression, Train, claim, smoke

VARIANTS = ("normalised", "heads", "smoke")
WHY_STANDARD = (
    "LayerNorm takes a token's mean and length, and the size of its label with them. The best gradient step on what is "
    "left has 1.26 times the loss of one on the tokens, and every seed is as good as that: VO.LN.standardised"
)
WHY_CONSTANT = (
    "the learning rate is constant, and one of its steps moves four heads together: with train.schedule=cosine every "
    "seed ends at .9999"
)
WHY_SUMS = (
    "sums of keys and queries change their sign from token to token, and near zero scores have no bound (training "
    "losses up to 12 in a mean over 100 steps): no seed finds better than predicting zero"
)


def beside_one_step(name: str, loss: float, cosine: float, why: str, why_cosine: str) -> tuple[Claim, ...]:
    """What the paper says of one layer, asked of others than plain ones."""
    return (
        claim(f"VO.{name}.free", "at least 4 of 5 seeds are free",
              metric="seeds_trapped", source="VO, published code", at_most=1, note=why),
        claim(f"VO.{name}.loss", "every free seed is nearly as good as one gradient step (loss ratio)",
              metric="loss_ratio_gd_untrapped", source="VO, other switches", at_most=loss, reduce="max", note=why),
        claim(f"VO.{name}.cosine", "every free seed's sensitivities point where gradient descent's do",
              metric="sensitivity_cosine_gd_untrapped", source="VO, other switches", at_least=cosine, reduce="min",
              note=why_cosine),
    )  # fmt: skip


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
            *beside_one_step("LN", 1.05, 0.95, WHY_STANDARD, WHY_STANDARD),
            claim("VO.LN.standardised",
                  "every seed is as good as a gradient step on standardised tokens (worst loss ratio)",
                  metric="loss_ratio_gd_standardised", source="found here", at_most=1.01, reduce="max"),
            claim("VO.LN.standardised_cosine", "and points where it does (worst sensitivity cosine)",
                  metric="sensitivity_cosine_gd_standardised", source="found here", at_least=0.99, reduce="min"),
        ),
    )  # fmt: skip
    plain = {"model.layer_norm": False, "model.shared": False}
    if variant == "normalised":
        analyses, claims = ("alignment", "shifts"), beside_one_step("SN", 1.05, 0.95, WHY_SUMS, WHY_SUMS)
        return experiment.change(plain | {"model.sum_normalised": True, "analyses": analyses, "claims": claims})
    if variant == "heads":
        return experiment.change(plain | {
            "model.n_heads": 4,
            "eval.prompts": 2**20,
            "analyses": ("alignment", "weights", "shifts"),
            "claims": (
                *beside_one_step("H4", 1.01, 0.999, "", WHY_CONSTANT),
                claim("VO.H4.gauge", "all heads together are the construction, up to gauge (worst distance)",
                      metric="gauge_distance_gd_untrapped", source="VO, other switches", at_most=0.1, reduce="max"),
            ),
        })  # fmt: skip
    if variant == "smoke":
        return smoke(experiment)
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
