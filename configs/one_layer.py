"""Does one linear self-attention layer learn one step of gradient descent (von Oswald et al. 2212.07677, Figure 2)?

    python -m experiments.run --config=configs/one_layer.py

Ten seeds are trained with d = n = 10 and x ~ U(-1/2, 1/2) for 5,000 steps of batch 2048. All members use the same
batch in each step, so they differ only in their initial weights. A run takes about two minutes on two CPU cores.
Expected: a loss of 0.2062 for one gradient step, and for every seed that is not trapped a loss at most 1 % higher. A
few seeds in a hundred are trapped on a plateau for thousands of steps.

Variants: `converged` decays the learning rate; `trapped` trains 128 seeds to count and analyse the trapped ones;
`smoke`.
"""

from icl_gd.lab import Experiment, GradientDescent, Network, Regression, Train, claim, smoke

VARIANTS = ("converged", "trapped", "smoke")

CLOSED_FORM = "closed form: best single gradient step, d = n = 10"

CONVERGED = (
    claim(
        "VO.F2c.free",
        "at most 2 of 10 seeds are trapped (number of trapped seeds)",
        metric="seeds_trapped",
        source="VO, published code",
        at_most=2,
    ),
    claim(
        "VO.F2c.loss",
        "after convergence, every free seed has the loss of one gradient step (largest ratio)",
        metric="loss_ratio_gd_untrapped",
        source="VO Fig. 2",
        at_most=1.001,
        reduce="max",
    ),
    claim(
        "VO.F2c.sensitivity",
        "after convergence, every free seed's sensitivities are those of one gradient step (largest mean distance)",
        metric="sensitivity_difference_gd_untrapped",
        source="VO Fig. 2",
        at_most=0.02,
        reduce="max",
    ),
    claim(
        "VO.F2c.gauge",
        "after convergence, every free seed's weights are those of the construction, up to "
        "gauge (largest relative distance)",
        metric="gauge_distance_gd_untrapped",
        source="VO Proposition 1",
        at_most=0.01,
        reduce="max",
    ),
)

TRAPPED = (
    claim(
        "VO.trap.some",
        "at least one of 128 seeds is trapped (number of trapped seeds)",
        metric="seeds_trapped",
        source="VO, published code",
        at_least=1,
    ),
    claim(
        "VO.trap.few",
        "at most eight of 128 seeds are trapped (number of trapped seeds)",
        metric="seeds_trapped",
        source="VO, published code",
        at_most=8,
    ),
    *(
        claim(
            f"VO.trap.loss_{which}",
            f"all trapped seeds are on one plateau, at 1.9 times the loss of one gradient step ({word} loss ratio)",
            metric="loss_ratio_gd_trapped",
            source="VO, published code",
            within=(1.9, 0.05),
            reduce=which,
        )
        for which, word in (("min", "smallest"), ("max", "largest"))
    ),
    claim(
        "VO.trap.roles",
        "in every trapped seed keys and values have exchanged roles: labels are keys, inputs "
        "are values (smallest share of the exchanged path)",
        metric="share_exchanged_trapped",
        source="VO, published code",
        at_least=0.9,
        reduce="min",
    ),
    claim(
        "VO.trap.rank",
        "the matrix of every trapped seed has effective rank 1 out of 10 (largest participation ratio)",
        metric="participation_ratio_trapped",
        source="VO, published code",
        at_most=1.1,
        reduce="max",
    ),
    claim(
        "VO.trap.free",
        "every free seed uses the direct path of gradient descent: inputs are keys, labels are "
        "values (smallest share of that path)",
        metric="share_direct_untrapped",
        source="VO Proposition 1",
        at_least=0.99,
        reduce="min",
    ),
)


def get_config(variant: str = "") -> Experiment:
    experiment = Experiment(
        task=Regression(),
        model=Network(),
        train=Train(share_batches=True),
        reference=GradientDescent(),
        analyses=("alignment", "weights", "interpolation", "shifts"),
        claims=(
            claim(
                "VO.F2.loss_gd",
                "one gradient step with the best step size has the closed-form loss",
                metric="loss_gd",
                source=CLOSED_FORM,
                within=(0.206229, 0.001),
            ),
            claim(
                "VO.F2.step_size",
                "the best step size of one gradient step is that of the closed form (step size over n)",
                metric="step_size_gd",
                source=CLOSED_FORM,
                within=(0.606061, 0.006),
            ),
            claim(
                "VO.F2.loss",
                "every free seed is as good as one gradient step (largest loss ratio)",
                metric="loss_ratio_gd_untrapped",
                source="VO Fig. 2",
                at_most=1.01,
                reduce="max",
            ),
            claim(
                "VO.F2.cosine",
                "every free seed's sensitivities are aligned with those of one gradient step (smallest cosine)",
                metric="sensitivity_cosine_gd_untrapped",
                source="VO Fig. 2",
                at_least=0.999,
                reduce="min",
            ),
            claim(
                "VO.F2.prediction",
                "every free seed's predictions are those of one gradient step (largest mean absolute difference)",
                metric="prediction_difference_gd_untrapped",
                source="VO Fig. 2",
                at_most=0.03,
                reduce="max",
            ),
            claim(
                "VO.F2.untrained",
                "the sensitivities of untrained layers are not aligned with those of one gradient step "
                "(largest cosine)",
                metric="sensitivity_cosine_gd_untrained",
                source="control",
                at_most=0.5,
                reduce="max",
            ),
            claim(
                "VO.F2.untrained_loss",
                "untrained layers predict no better than zero (smallest loss)",
                metric="loss_untrained",
                source="control",
                at_least=0.4,
                reduce="min",
            ),
            claim(
                "VO.F2.wrong_step",
                "a gradient step of half the size, which has the same sensitivity cosine, makes "
                "different predictions (mean absolute difference)",
                metric="prediction_difference_gd_wrong_step",
                source="control",
                at_least=0.2,
            ),
            claim(
                "VO.P1",
                "the constructed layer computes one gradient step (largest error relative to the "
                "largest prediction, float32)",
                metric="construction_error",
                source="VO Proposition 1",
                at_most=1e-5,
            ),
            claim(
                "VO.F2.free",
                "at most 2 of 10 seeds are trapped (number of trapped seeds)",
                metric="seeds_trapped",
                source="VO, published code",
                at_most=2,
            ),
            *(
                claim(
                    f"VO.F2.shift_{alpha}",
                    f"at input scale {alpha}, the constructed layer has the closed-form loss",
                    metric=f"loss_by_input_scale_construction[{alpha}]",
                    source="closed form: risk under input scale",
                    within=(target, 0.02 * target),
                )
                for alpha, target in ((0.5, 0.08115), (1.25, 0.42627), (1.5, 1.20384), (2.0, 8.40067))
            ),
            claim(
                "VO.F2.shift_trained",
                "at input scales 0.5 to 2, free seeds have the loss of gradient descent (largest relative deviation)",
                metric="input_scale_deviation_untrapped",
                source="VO Fig. 2",
                at_most=0.05,
                reduce="max",
            ),
            claim(
                "VO.F2.interpolated",
                "the mean of trained and constructed weights is as good as the better of the two "
                "(largest loss ratio over free seeds)",
                metric="interpolation_ratio_untrapped",
                source="VO Fig. 2",
                at_most=1.01,
                reduce="max",
            ),
        ),
    )
    if variant == "converged":
        return experiment.change({"train.schedule": "cosine", "train.steps": 16_000, "claims": CONVERGED})
    if variant == "trapped":
        return experiment.change({"seeds": 128, "eval.prompts": 2**16, "claims": TRAPPED})
    if variant == "smoke":
        return smoke(experiment)
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
