"""One linear-self-attention layer against one step of gradient descent (von Oswald et al. 2212.07677, Figure 2).

    python -m experiments.run --config=configs/one_layer.py

Ten seeds, d = n = 10, x ~ U(-1/2, 1/2), 5,000 steps of batch 2048; about two minutes on two CPU cores. Members share
each step's batch, so they differ in their initial weights alone. Expected: loss 0.2062 for one gradient step and within
1 % of that for every seed that is not trapped. A few seeds in a hundred are trapped for thousands of steps.

Variants: `converged` decays the learning rate; `trapped` trains 128 seeds to count and show the trapped ones; `smoke`.
"""

from icl_gd.lab.config.defaults import base_config, smoke

VARIANTS = ("converged", "trapped", "smoke")

O2 = "closed form: best single gradient step, d = n = 10"


def get_config(variant: str = ""):
    config = base_config()
    config.train.share_batches = True
    config.claims = (
        {"id": "VO.F2.loss_gd", "statement": "one gradient step at its best step size reaches the closed-form risk",
         "source": O2, "metric": "loss_gd", "relation": "within", "target": 0.206229, "tolerance": 0.001},
        {"id": "VO.F2.step_size", "statement": "the best step size is the closed form's",
         "source": O2, "metric": "step_size_gd", "relation": "within", "target": 0.606061, "tolerance": 0.006},
        {"id": "VO.F2.loss", "statement": "every free seed is as good as one gradient step (loss ratio)",
         "source": "VO Fig. 2", "metric": "loss_ratio_gd_untrapped", "reduce": "max", "relation": "at_most",
         "target": 1.01},
        {"id": "VO.F2.cosine", "statement": "every free seed's sensitivities point where gradient descent's do",
         "source": "VO Fig. 2", "metric": "sensitivity_cosine_gd_untrapped", "reduce": "min", "relation": "at_least",
         "target": 0.999},
        {"id": "VO.F2.prediction", "statement": "every free seed predicts what gradient descent predicts",
         "source": "VO Fig. 2", "metric": "prediction_difference_gd_untrapped", "reduce": "max",
         "relation": "at_most", "target": 0.03},
        {"id": "VO.F2.untrained", "statement": "untrained layers have not learned it (their best sensitivity cosine)",
         "source": "control", "metric": "sensitivity_cosine_gd_untrained", "reduce": "max", "relation": "at_most",
         "target": 0.5},
        {"id": "VO.F2.untrained_loss", "statement": "untrained layers predict nothing (their best loss)",
         "source": "control", "metric": "loss_untrained", "reduce": "min", "relation": "at_least", "target": 0.4},
        {"id": "VO.F2.wrong_step", "statement": "half the step size, which the cosine cannot tell, predicts otherwise",
         "source": "control", "metric": "prediction_difference_gd_wrong_step", "relation": "at_least", "target": 0.2},
        {"id": "VO.P1", "statement": "the construction is gradient descent (largest error, float32)",
         "source": "VO Proposition 1", "metric": "construction_error", "relation": "at_most", "target": 1e-5},
        {"id": "VO.F2.free", "statement": "at least 8 of 10 seeds are free", "source": "VO, published code",
         "metric": "seeds_trapped", "relation": "at_most", "target": 2},
        *({"id": f"VO.F2.shift_{alpha}", "statement": f"the construction at input scale {alpha} meets the closed form",
           "source": "closed form: risk under input scale", "metric": f"loss_by_input_scale_construction[{alpha}]",
           "relation": "within", "target": target, "tolerance": 0.02 * target}
          for alpha, target in ((0.5, 0.08115), (1.25, 0.42627), (1.5, 1.20384), (2.0, 8.40067))),
        {"id": "VO.F2.shift_trained", "statement": "free seeds follow gradient descent over input scales .5 to 2 "
         "(worst deviation of their loss)", "source": "VO Fig. 2",
         "metric": "input_scale_deviation_untrapped", "reduce": "max", "relation": "at_most", "target": 0.05},
        {"id": "VO.F2.interpolated", "statement": "the mean of trained and constructed weights is as good as both",
         "source": "VO Fig. 2", "metric": "interpolation_ratio_untrapped", "reduce": "max", "relation": "at_most",
         "target": 1.01},
    )  # fmt: skip
    if variant == "converged":
        config.train.schedule = "cosine"
        config.train.steps = 16_000
        config.claims = (
            {"id": "VO.F2c.free", "statement": "at least 8 of 10 seeds are free", "source": "VO, published code",
             "metric": "seeds_trapped", "relation": "at_most", "target": 2},
            {"id": "VO.F2c.loss", "statement": "every free seed's loss is gradient descent's (ratio)",
             "source": "VO Fig. 2", "metric": "loss_ratio_gd_untrapped", "reduce": "max", "relation": "at_most",
             "target": 1.001},
            {"id": "VO.F2c.sensitivity", "statement": "every free seed's sensitivities are gradient descent's",
             "source": "VO Fig. 2", "metric": "sensitivity_difference_gd_untrapped", "reduce": "max",
             "relation": "at_most", "target": 0.02},
            {"id": "VO.F2c.gauge", "statement": "every free seed's weights are the construction's, up to gauge",
             "source": "VO Proposition 1", "metric": "gauge_distance_gd_untrapped", "reduce": "max",
             "relation": "at_most", "target": 0.01},
        )  # fmt: skip
    elif variant == "trapped":
        config.seeds = 128
        config.eval.prompts = 2**16
        config.claims = (
            {"id": "VO.trap.some", "statement": "some seeds of 128 are trapped", "source": "VO, published code",
             "metric": "seeds_trapped", "relation": "at_least", "target": 1},
            {"id": "VO.trap.few", "statement": "and few: at most eight", "source": "VO, published code",
             "metric": "seeds_trapped", "relation": "at_most", "target": 8},
            *({"id": f"VO.trap.loss_{which}", "statement": f"trapped seeds sit on one plateau ({said} loss ratio)",
               "source": "VO, published code", "metric": "loss_ratio_gd_trapped", "reduce": which,
               "relation": "within", "target": 1.9, "tolerance": 0.05}
              for which, said in (("min", "least"), ("max", "largest"))),
            {"id": "VO.trap.roles", "statement": "their key and value have exchanged roles (least share)",
             "source": "VO, published code", "metric": "share_exchanged_trapped", "reduce": "min",
             "relation": "at_least", "target": 0.9},
            {"id": "VO.trap.rank", "statement": "which leaves one direction of ten (largest participation ratio)",
             "source": "VO, published code", "metric": "participation_ratio_trapped", "reduce": "max",
             "relation": "at_most", "target": 1.1},
            {"id": "VO.trap.free", "statement": "the others go the direct way (least share)",
             "source": "VO Proposition 1", "metric": "share_direct_untrapped", "reduce": "min",
             "relation": "at_least", "target": 0.99},
        )  # fmt: skip
    elif variant == "smoke":
        smoke(config)
    elif variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return config
