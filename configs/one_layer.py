"""One linear-self-attention layer against one step of gradient descent (von Oswald et al. 2212.07677, Figure 2).

    python -m experiments.run --config=configs/one_layer.py

Ten seeds, d = n = 10, x ~ U(-1/2, 1/2), 5,000 steps of batch 2048; about two minutes on two CPU cores. Members share
each step's batch, so they differ in their initial weights alone. Expected: loss 0.2062 for one gradient step and within
1 % of that for every seed that is not trapped. A few seeds in a hundred are trapped for thousands of steps.

Variants: `converged` decays the learning rate; `trapped` trains 128 seeds to count and show the trapped ones; `smoke`.
"""

from icl_gd.lab import Experiment, GradientDescent, Network, Regression, Train, claim, smoke

VARIANTS = ("converged", "trapped", "smoke")

O2 = "closed form: best single gradient step, d = n = 10"

CONVERGED = (
    claim("VO.F2c.free", "at least 8 of 10 seeds are free",
          metric="seeds_trapped", source="VO, published code", at_most=2),
    claim("VO.F2c.loss", "every free seed's loss is gradient descent's (ratio)",
          metric="loss_ratio_gd_untrapped", source="VO Fig. 2", at_most=1.001, reduce="max"),
    claim("VO.F2c.sensitivity", "every free seed's sensitivities are gradient descent's",
          metric="sensitivity_difference_gd_untrapped", source="VO Fig. 2", at_most=0.02, reduce="max"),
    claim("VO.F2c.gauge", "every free seed's weights are the construction's, up to gauge",
          metric="gauge_distance_gd_untrapped", source="VO Proposition 1", at_most=0.01, reduce="max"),
)  # fmt: skip

TRAPPED = (
    claim("VO.trap.some", "some seeds of 128 are trapped",
          metric="seeds_trapped", source="VO, published code", at_least=1),
    claim("VO.trap.few", "and few: at most eight",
          metric="seeds_trapped", source="VO, published code", at_most=8),
    *(claim(f"VO.trap.loss_{which}", f"trapped seeds sit on one plateau ({said} loss ratio)",
            metric="loss_ratio_gd_trapped", source="VO, published code", within=(1.9, 0.05), reduce=which)
      for which, said in (("min", "least"), ("max", "largest"))),
    claim("VO.trap.roles", "their key and value have exchanged roles (least share)",
          metric="share_exchanged_trapped", source="VO, published code", at_least=0.9, reduce="min"),
    claim("VO.trap.rank", "which leaves one direction of ten (largest participation ratio)",
          metric="participation_ratio_trapped", source="VO, published code", at_most=1.1, reduce="max"),
    claim("VO.trap.free", "the others go the direct way (least share)",
          metric="share_direct_untrapped", source="VO Proposition 1", at_least=0.99, reduce="min"),
)  # fmt: skip


def get_config(variant: str = "") -> Experiment:
    experiment = Experiment(
        task=Regression(),
        model=Network(),
        train=Train(share_batches=True),
        reference=GradientDescent(),
        analyses=("alignment", "weights", "interpolation", "shifts"),
        claims=(
            claim("VO.F2.loss_gd", "one gradient step at its best step size reaches the closed-form risk",
                  metric="loss_gd", source=O2, within=(0.206229, 0.001)),
            claim("VO.F2.step_size", "the best step size is the closed form's",
                  metric="step_size_gd", source=O2, within=(0.606061, 0.006)),
            claim("VO.F2.loss", "every free seed is as good as one gradient step (loss ratio)",
                  metric="loss_ratio_gd_untrapped", source="VO Fig. 2", at_most=1.01, reduce="max"),
            claim("VO.F2.cosine", "every free seed's sensitivities point where gradient descent's do",
                  metric="sensitivity_cosine_gd_untrapped", source="VO Fig. 2", at_least=0.999, reduce="min"),
            claim("VO.F2.prediction", "every free seed predicts what gradient descent predicts",
                  metric="prediction_difference_gd_untrapped", source="VO Fig. 2", at_most=0.03, reduce="max"),
            claim("VO.F2.untrained", "untrained layers have not learned it (their best sensitivity cosine)",
                  metric="sensitivity_cosine_gd_untrained", source="control", at_most=0.5, reduce="max"),
            claim("VO.F2.untrained_loss", "untrained layers predict nothing (their best loss)",
                  metric="loss_untrained", source="control", at_least=0.4, reduce="min"),
            claim("VO.F2.wrong_step", "half the step size, which the cosine cannot tell, predicts otherwise",
                  metric="prediction_difference_gd_wrong_step", source="control", at_least=0.2),
            claim("VO.P1", "the construction is gradient descent (largest error, float32)",
                  metric="construction_error", source="VO Proposition 1", at_most=1e-5),
            claim("VO.F2.free", "at least 8 of 10 seeds are free",
                  metric="seeds_trapped", source="VO, published code", at_most=2),
            *(claim(f"VO.F2.shift_{alpha}", f"the construction at input scale {alpha} meets the closed form",
                    metric=f"loss_by_input_scale_construction[{alpha}]", source="closed form: risk under input scale",
                    within=(target, 0.02 * target))
              for alpha, target in ((0.5, 0.08115), (1.25, 0.42627), (1.5, 1.20384), (2.0, 8.40067))),
            claim("VO.F2.shift_trained",
                  "free seeds follow gradient descent over input scales .5 to 2 (worst deviation of their loss)",
                  metric="input_scale_deviation_untrapped", source="VO Fig. 2", at_most=0.05, reduce="max"),
            claim("VO.F2.interpolated", "the mean of trained and constructed weights is as good as both",
                  metric="interpolation_ratio_untrapped", source="VO Fig. 2", at_most=1.01, reduce="max"),
        ),
    )  # fmt: skip
    if variant == "converged":
        return experiment.change({"train.schedule": "cosine", "train.steps": 16_000, "claims": CONVERGED})
    if variant == "trapped":
        return experiment.change({"seeds": 128, "eval.prompts": 2**16, "claims": TRAPPED})
    if variant == "smoke":
        return smoke(experiment)
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
