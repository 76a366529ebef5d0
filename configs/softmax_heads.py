"""How many softmax heads make a gradient step (von Oswald et al. 2212.07677, appendix on softmax self-attention).

    python -m experiments.run --config=configs/softmax_heads.py

One layer of 1, 2 and 4 softmax heads at the settings of one_layer (as published: 5,000 steps, rate 1e-3, clip 1e-3),
five seeds each, one number of heads after another; about six minutes on two CPU cores. Expected: one head ends at .29
with cosine .72, or is stuck above .4 (four seeds of five), two heads reach .219 and .96. A pattern sums to one, so what
two heads can do is a gradient step on a context with its mean removed, whose loss is 1.06 times that of a plain one:
they come within 1 % of it.

Variants: `two` shows two heads' circuits, alone and together, and their shifts; `mixed` learns how much of its pattern
is softmax; `smoke`.
"""

from icl_gd.lab import Eval, Experiment, GradientDescent, Network, Regression, Train, claim, smoke

VARIANTS = ("two", "mixed", "smoke")
WHY_NOT_THE_SUM = (
    "what both heads' W_KQ have in common cancels with their W_PV, of opposite sign, so the sum is free to first "
    "order, and nothing makes it a multiple of the identity. The products W_PV W_KQ, which the function determines, "
    "are what adds up"
)
WHY_SHORT = (
    "what their W_KQ have in common is free to first order in the scores, not to second; seeds that have "
    "more of it miss narrowly what VO.SM.without_common shows all to reach"
)


def get_config(variant: str = "") -> Experiment:
    at = lambda name, heads: f"{name}_by_n_heads[{heads}]"
    experiment = Experiment(
        task=Regression(),
        model=Network(attention="softmax"),
        train=Train(share_batches=True),
        eval=Eval(prompts=2**18),
        reference=GradientDescent(),
        seeds=5,
        analyses=("alignment", "softmax"),
        sweep={"model.n_heads": (1, 2, 4)},
        claims=(
            claim("VO.SM.one", "one softmax head falls short of a gradient step (best loss ratio)",
                  metric=at("loss_ratio_gd", 1), source="VO, softmax heads", at_least=1.3, reduce="min"),
            claim("VO.SM.one_cosine", "and of its direction (best sensitivity cosine)",
                  metric=at("sensitivity_cosine_gd", 1), source="VO, softmax heads", at_most=0.8, reduce="max"),
            claim("VO.SM.two_cosine", "two heads align with a gradient step (worst sensitivity cosine)",
                  metric=at("sensitivity_cosine_gd", 2), source="VO, softmax heads", at_least=0.95, reduce="min"),
            claim("VO.SM.two", "and are nearly as good (worst loss ratio)",
                  metric=at("loss_ratio_gd", 2), source="VO, softmax heads", at_most=1.1, reduce="max"),
            claim("VO.SM.centred", "two heads are as good as a step on a centred context (worst ratio)",
                  metric=at("loss_ratio_gd_centred", 2), source="found here", at_most=1.03, reduce="max"),
            claim("VO.SM.centred_cosine", "and point where it does (worst sensitivity cosine)",
                  metric=at("sensitivity_cosine_gd_centred", 2), source="found here", at_least=0.99, reduce="min",
                  note=WHY_SHORT),
            claim("VO.SM.without_common",
                  "which they all do without what their W_KQ have in common (worst sensitivity cosine)",
                  metric=at("sensitivity_cosine_gd_centred_without_common", 2), source="found here", at_least=0.999,
                  reduce="min"),
            claim("VO.SM.four", "four heads are as good as the centred step too (worst loss ratio)",
                  metric=at("loss_ratio_gd_centred", 4), source="VO, softmax heads", at_most=1.03, reduce="max"),
            claim("VO.SM.cancel", "the heads' W_PV cancel the mean pattern (largest share left)",
                  metric=at("mean_pattern_left", 2), source="found here", at_most=0.05, reduce="max"),
            claim("VO.SM.products", "their products sum to the linear solution, a multiple of the identity (largest "
                  "relative distance to one)",
                  metric=at("product_anisotropy", 2), source="VO, softmax heads", at_most=0.05, reduce="max"),
            claim("VO.SM.sum", "so does the sum of their W_KQ by itself (largest relative distance)",
                  metric=at("summed_W_KQ_anisotropy", 2), source="VO, softmax heads", at_most=0.1, reduce="max",
                  note=WHY_NOT_THE_SUM),
        ),
    )  # fmt: skip
    if variant == "two":
        return experiment.change({
            "model.n_heads": 2,
            "analyses": ("alignment", "softmax", "shifts"),
            "claims": (
                claim("VO.SM2.noise", "two heads follow gradient descent at 0 to 8 corrupted labels of 10 (worst "
                      "deviation of their loss)",
                      metric="corrupted_labels_deviation_untrapped", source="VO, corrupted labels", at_most=0.1,
                      reduce="max"),
                claim("VO.SM2.longer", "four times the context helps two heads: they take means (worst loss)",
                      metric="loss_by_context_length_trained[4.0]", source="found here", at_most=0.15, reduce="max"),
            ),
        })  # fmt: skip
    if variant == "mixed":
        return experiment.change({
            "model.n_heads": 1,
            "model.attention": "mixed",
            "analyses": ("alignment", "shifts"),
            "claims": (
                claim("VO.MIX.share", "a layer that may choose becomes linear (largest softmax share)",
                      metric="softmax_share_untrapped", source="VO, learned mix", at_most=0.05, reduce="max"),
                claim("VO.MIX.loss", "and as good as a gradient step (worst loss ratio)",
                      metric="loss_ratio_gd_untrapped", source="VO, learned mix", at_most=1.01, reduce="max"),
                claim("VO.MIX.cosine", "and points where it does (worst sensitivity cosine)",
                      metric="sensitivity_cosine_gd_untrapped", source="VO, learned mix", at_least=0.999, reduce="min"),
                claim("VO.MIX.free", "at least 4 of 5 seeds are free",
                      metric="seeds_trapped", source="VO, published code", at_most=1),
            ),
        })  # fmt: skip
    if variant == "smoke":
        return smoke(experiment, {"model.n_heads": 2})
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
