"""Which heads and which paths does a learned gradient step need, and does it break or rescale without one of them?

    python -m experiments.run --config=configs/heads.py

One layer of 1, 2 or 4 softmax heads is trained with the settings of softmax_heads (von Oswald et al. 2212.07677), five
seeds each, about seven minutes on two CPU cores. Then one head at a time is ablated. A head *rescales* the prediction
if one fitted factor restores the intact predictions (R^2 of at least 0.9); otherwise its ablation *breaks* the step.
Predicted: linear heads rescale. Softmax heads break, because the W_PV of other heads cancel the mean of the labels that
each of them adds. If a head keeps its mean pattern, it loses only its part of the step, and rescales. Found: linear
heads break, too, because each adds more than its part of the step, and this cancels. Without the part of W_KQ that
cancels, all of this is as predicted.

Variants: `linear` has 1, 2 or 4 heads of linear attention; `two_layers` has the settings of two_layers, cuts the update
of the inputs or of the labels in one layer or in all, and compares the losses with those of the constructed GD++ with
the same cuts, in a quarter of an hour; `five_layers` does the same with the settings of five_layers_recurrent; `smoke`.

Except for claims whose notes say otherwise, all targets were set before the run. Known by then were the results of the
configs with the same settings, and the losses of the constructed GD++ with every cut.
"""

from collections.abc import Mapping

from icl_gd.lab import Claim, Eval, Experiment, GradientDescent, Network, Regression, Train, claim, smoke
from icl_gd.lab.presets import deep

VARIANTS = ("linear", "two_layers", "five_layers", "smoke")
ADDS_UP = "a layer is the sum of its heads"
BUILT = "constructions/gd_plus_plus.py"


ADDED = "Added after the first run, as the reason why {} fails."
WHY_COMMON = (
    "A layer determines only the sum of its heads' W_PV W_KQ. Each trained head has another part of W_KQ, which "
    "cancels in this sum (as in VO.SM.sum), and which is left without the other head. Without this part, heads only "
    "rescale (HEADS.{})."
)
WHY_NOT_A_MULTIPLE = (
    "Heads are no multiples of one step. Each also adds a term that is quadratic in the labels (its W_KQ maps labels "
    "to keys; a quarter to a half of the size of the prediction) and an anisotropic one. They cancel, because only the "
    "sum of W_PV W_KQ over heads is determined. Without them, heads only rescale (HEADS.linear.without_common)."
)


OWN_RATES = (
    "The trained layers have other rates than the best ones: a step size of about 26 instead of 31, and a gamma of "
    "1.95 instead of 2.04. So they contract inputs and residuals less in each step, and later updates matter less. "
    "With these rates, GD++ has their losses (CUT5.own)."
)
AMPLIFIED = (
    " The first layer is an exception: inputs that are not contracted amplify small weights between x slots and y "
    "slots, which are below one percent of the others. Without these weights, seed 0 has a loss of 0.17 instead of 2.1 "
    "with the update of all inputs cut, and of 0.81 instead of 2.6 with that of the context's inputs cut."
)


def at(metric: str, heads: int) -> str:
    """The name of a metric of the layers with this number of heads."""
    return f"{metric}_by_n_heads[{heads}]"


# The patterns of softmax heads sum to one, so each head adds its W_PV times the mean label of the context. This mean
# has nothing to do with the query. The W_PV of all heads must sum to zero, and those that are left do not.
SOFTMAX = (
    claim(
        "HEADS.two.needed",
        "two softmax heads: both are needed (smallest number of heads whose ablation raises the loss by 1 %)",
        metric=at("heads_needed", 2),
        source="VO, softmax heads",
        at_least=2,
        reduce="min",
    ),
    claim(
        "HEADS.two.breaks",
        "two softmax heads: setting either head to zero breaks the step (smallest number of such heads)",
        metric=at("heads_that_break_zero", 2),
        source="this project",
        at_least=2,
        reduce="min",
    ),
    claim(
        "HEADS.two.mean",
        "two softmax heads: setting either head to its mean over prompts breaks the step (smallest number of heads)",
        metric=at("heads_that_break_mean", 2),  # the mean label of a prompt has mean zero over prompts
        source="this project",
        at_least=2,
        reduce="min",
    ),
    claim(
        "HEADS.two.loss",
        "two softmax heads: the best multiple of what is left without one head is no gradient step (smallest loss "
        "ratio to the intact layer, for the head with the larger one)",
        metric=at("rescaled_ratio_zero", 2),
        source="one softmax head has at least 1.3 times the loss of a gradient step (softmax_heads)",
        at_least=1.2,
        reduce="min",
    ),
    claim(
        "HEADS.two.pattern",
        "two softmax heads: giving a head its mean pattern only rescales the step (largest number of heads that break)",
        metric=at("heads_that_break_pattern", 2),
        source="this project",
        at_most=0,
        reduce="max",
        note=WHY_COMMON.format("two.without_common"),
    ),
    claim(
        "HEADS.two.half",
        "two softmax heads: each takes half of the step (factor that restores it with the mean pattern in one head, "
        "mean over heads)",
        metric=at("rescale_factor_pattern", 2),  # opposite heads, as in the first-order expansion
        source="this project",
        within=(2.0, 0.2),
        note=WHY_COMMON.format("two.without_common"),
    ),
    claim(
        "HEADS.two.cancels",
        "two softmax heads: much of what a head adds is cancelled by the other (smallest sum of root mean squares of "
        "the heads' parts, relative to that of the prediction)",
        metric=at("head_cancellation", 2),
        source="this project",
        at_least=1.5,
        reduce="min",
    ),
    claim(
        "HEADS.four.needed",
        "four softmax heads: all are needed (smallest number of heads whose ablation raises the loss by 1 %)",
        metric=at("heads_needed", 4),  # Adam lets all heads grow equally fast from small weights
        source="this project",
        at_least=4,
        reduce="min",
    ),
    claim(
        "HEADS.four.loss",
        "four softmax heads: without the head that matters most, no multiple of the prediction is a gradient step "
        "(smallest loss ratio to the intact layer)",
        metric=at("rescaled_ratio_zero", 4),
        source="this project",
        at_least=1.1,
        reduce="min",
    ),
    claim(
        "HEADS.four.pattern",
        "four softmax heads: giving a head its mean pattern only rescales the step (largest number that break)",
        metric=at("heads_that_break_pattern", 4),
        source="this project",
        at_most=0,
        reduce="max",
        note=WHY_COMMON.format("four.without_common"),
    ),
    claim(
        "HEADS.two.without_common",
        "two softmax heads: without the part of their W_KQ that cancels, giving a head its mean pattern only rescales "
        "the step (smallest R^2)",
        metric=at("rescaled_r2_pattern_without_common", 2),
        source="first order in the scores",
        at_least=0.98,
        reduce="min",
        note=ADDED.format("HEADS.two.pattern"),
    ),
    claim(
        "HEADS.two.half_without_common",
        "two softmax heads: without the part of their W_KQ that cancels, each takes half of the step (factor that "
        "restores it with the mean pattern in one head, mean over heads)",
        metric=at("rescale_factor_pattern_without_common", 2),
        source="first order in the scores",
        within=(2.0, 0.05),
        note=ADDED.format("HEADS.two.half"),
    ),
    claim(
        "HEADS.four.without_common",
        "four softmax heads: without the part of their W_KQ that cancels, giving a head its mean pattern only rescales "
        "the step (smallest R^2)",
        metric=at("rescaled_r2_pattern_without_common", 4),
        source="first order in the scores",
        at_least=0.98,
        reduce="min",
        note=ADDED.format("HEADS.four.pattern"),
    ),
    claim(
        "HEADS.softmax.sum",
        "four softmax heads: the prediction without a head is the prediction minus the part that attribution assigns "
        "to it (largest difference, relative to the largest part)",
        metric=at("ablation_attribution_error", 4),
        source=ADDS_UP,
        at_most=1e-4,
        reduce="max",
    ),
    claim(
        "HEADS.untrained",
        "two untrained softmax heads: giving a head its mean pattern changes nothing (factor that restores the "
        "prediction, mean over heads)",
        metric=at("rescale_factor_pattern_untrained", 2),  # their patterns are uniform
        source="control",
        within=(1.0, 0.05),
    ),
)
# All heads grow from small weights along the same gradient, so each ends as a multiple of the same step.
LINEAR = (
    claim(
        "HEADS.linear.rescales",
        "four linear heads: setting any head to zero only rescales the step (largest number of heads that break)",
        metric=at("heads_that_break_zero", 4),
        source="this project",
        at_most=0,
        reduce="max",
        note=WHY_NOT_A_MULTIPLE,
    ),
    claim(
        "HEADS.linear.r2",
        "four linear heads: one factor restores the step without any head (smallest R^2)",
        metric=at("rescaled_r2_zero", 4),
        source="this project",
        at_least=0.95,
        reduce="min",
        note=WHY_NOT_A_MULTIPLE,
    ),
    claim(
        "HEADS.linear.loss",
        "four linear heads: after rescaling, three of them are nearly as good as all (largest loss ratio)",
        metric=at("rescaled_ratio_zero", 4),
        source="this project",
        at_most=1.05,
        reduce="max",
        note=WHY_NOT_A_MULTIPLE,
    ),
    claim(
        "HEADS.linear.closed",
        "four linear heads: the loss without a head is that of the best step, shortened by the head's share (largest "
        "difference of loss ratios)",
        metric=at("rescaled_loss_error", 4),
        source="closed form for a shortened step",
        at_most=0.05,
        reduce="max",
        note=WHY_NOT_A_MULTIPLE,
    ),
    claim(
        "HEADS.linear.resampled",
        "four linear heads: with a head's output from another prompt, R^2 is that of a shortened step with independent "
        "noise (largest difference)",
        metric=at("resampled_r2_error", 4),
        source="closed form for a shortened step",
        at_most=0.03,
        reduce="max",
        note=WHY_NOT_A_MULTIPLE,
    ),
    claim(
        "HEADS.linear.spread",
        "four linear heads: no head takes most of the step (largest loss ratio without one head)",
        metric=at("ablated_ratio_zero", 4),  # 1.25 is a share of one half
        source="this project",
        at_most=1.25,
        reduce="max",
        note=WHY_NOT_A_MULTIPLE,
    ),
    claim(
        "HEADS.linear.together",
        "four linear heads: their parts do not cancel (largest sum of root mean squares of the heads' parts, relative "
        "to that of the prediction)",
        metric=at("head_cancellation", 4),
        source="this project",
        at_most=1.1,
        reduce="max",
        note=WHY_NOT_A_MULTIPLE,
    ),
    claim(
        "HEADS.linear.without_common",
        "four linear heads: without the part of their W_KQ that cancels, setting any head to zero only rescales the "
        "step (smallest R^2)",
        metric=at("rescaled_r2_zero_without_common", 4),
        source=ADDS_UP,
        at_least=0.99,
        reduce="min",
        note=ADDED.format("HEADS.linear.r2"),
    ),
    claim(
        "HEADS.linear.sum",
        "four linear heads: the prediction without a head is the prediction minus the part that attribution assigns to "
        "it (largest difference, relative to the largest part)",
        metric=at("ablation_attribution_error", 4),
        source=ADDS_UP,
        at_most=1e-4,
        reduce="max",
    ),
    claim(
        "HEADS.linear.untrained",
        "four untrained linear heads do not add multiples of one step: without one of them, no factor restores the "
        "prediction (largest R^2 of the head with the smallest)",
        metric=at("rescaled_r2_zero_untrained", 4),
        source="control",
        at_most=0.9,
        reduce="max",
    ),
)


def cut_claims(
    prefix: str,
    layers: str,
    deviation: float,
    input_all: float,
    label_all: float,
    why: Mapping[str, str] | None = None,
) -> tuple[Claim, ...]:
    """Claims about layers in which a path of GD++ is cut.

    Args:
      prefix: of the ids.
      layers: the number of layers, in words.
      deviation: accepted relative deviation of a loss from that of the construction with the same cut.
      why: why the deviation is larger, by path. Default: it is not.
      input_all, label_all: lower bounds of the loss relative to predicting zero, with a path cut in all layers.

    Returns:
      The claims.
    """
    at_construction = {
        "input": "the update of all inputs",
        "context_input": "the update of the inputs of the context",
        "query_input": "the update of the query's input",
        "label": "the update of the labels",
    }
    return (
        *(
            claim(
                f"{prefix}.{path}",
                f"{layers} layers: with {what} cut in any one layer, the loss is that of GD++ with the same cut "
                "(largest relative deviation over layers and seeds)",
                metric=f"cut_deviation_{path}",
                source=BUILT,
                at_most=deviation,
                reduce="max",
                note=(why or {}).get(path, ""),
            )
            for path, what in at_construction.items()
        ),
        claim(
            f"{prefix}.gd",
            f"{layers} layers: with the update of all inputs cut in all layers, no seed is better than gradient "
            "descent with the best shared step size (smallest loss ratio)",
            metric="cut_ratio_gd_input_all",
            source="GD++ without this path is gradient descent",
            at_least=1.0,
            reduce="min",
        ),
        claim(
            f"{prefix}.input_zero",
            f"{layers} layers: with the update of all inputs cut in all layers, every seed is worse than predicting "
            "zero (smallest loss ratio)",
            metric="cut_ratio_zero_input_all",
            source="the step size of GD++ is too large for gradient descent",
            at_least=input_all,
            reduce="min",
        ),
        claim(
            f"{prefix}.label_zero",
            f"{layers} layers: with the update of the labels cut in all layers, every seed is worse than predicting "
            "zero (smallest loss ratio)",
            metric="cut_ratio_zero_label_all",
            source="without residuals, steps overshoot",
            at_least=label_all,
            reduce="min",
        ),
        claim(
            f"{prefix}.symmetric",
            f"{layers} layers: in the last layer but one, cutting the update of the context's inputs is as bad as "
            "cutting that of the query (largest relative difference of losses)",
            metric="cut_asymmetry",
            source="symmetry of the second moment of the inputs",
            at_most=0.1,
            reduce="max",
        ),
        claim(
            f"{prefix}.unread",
            f"{layers} layers: cuts in the last layer change nothing (largest relative change of the loss)",
            metric="cut_unread_error",
            source="nothing reads these updates",
            at_most=1e-6,
            reduce="max",
        ),
        claim(
            f"{prefix}.untrained",
            f"{layers} untrained layers: no cut changes the loss (largest relative change)",
            metric="cut_effect_untrained",
            source="control",
            at_most=0.01,
            reduce="max",
        ),
        claim(
            f"{prefix}.built",
            f"{layers} constructed layers of GD++ are gradient descent if the update of all inputs is cut (largest "
            "error relative to the largest prediction, float32)",
            metric="cut_construction_error",
            source=BUILT,
            at_most=1e-4,
        ),
    )


def get_config(variant: str = "") -> Experiment:
    experiment = Experiment(
        task=Regression(),
        model=Network(attention="softmax"),
        train=Train(share_batches=True),
        eval=Eval(prompts=2**18),
        reference=GradientDescent(),
        seeds=5,
        analyses=("alignment", "head_ablation"),
        sweep={"model.n_heads": (1, 2, 4)},
        claims=SOFTMAX,
    )
    layers = {"two_layers": 2, "five_layers": 5}
    if variant in layers:
        claims = {
            # The construction has 4.9 and 2.7 times the loss of predicting zero.
            "two_layers": (
                *cut_claims("CUT2", "two", deviation=0.15, input_all=2.0, label_all=1.5),
                claim(
                    "CUT2.one_side",
                    "two layers: with the update of the context's inputs cut in all layers, every seed is better than "
                    "predicting zero (largest loss ratio)",
                    metric="cut_ratio_zero_context_input_all",
                    source=BUILT,
                    at_most=0.95,
                    reduce="max",
                ),
            ),
            # The construction has more than 90 and 30 times the loss of predicting zero.
            "five_layers": (
                *cut_claims(
                    "CUT5",
                    "five",
                    deviation=0.3,
                    input_all=10.0,
                    label_all=10.0,
                    why={path: OWN_RATES for path in ("query_input", "label")}
                    | {path: OWN_RATES + AMPLIFIED for path in ("input", "context_input")},
                ),
                *(
                    claim(
                        f"CUT5.order.{path}",
                        f"five layers: cutting the update of the {what} in one layer after the other orders the layers "
                        "by their losses as in GD++ (smallest share of ranks with the same layer)",
                        metric=f"cut_order_{path}",
                        source=BUILT,
                        at_least=1.0,
                        reduce="min",
                        note=OWN_RATES,
                    )
                    for path, what in (("input", "inputs"), ("label", "labels"))
                ),
                *(
                    claim(
                        f"CUT5.own.{path}",
                        f"five layers: with the update of the {what} cut in any one layer, the loss is that of GD++ "
                        "with the rates of the weights and the same cut (largest relative deviation)",
                        metric=f"cut_own_deviation_{path}",
                        source=BUILT,
                        at_most=0.1,
                        reduce="max",
                        note=ADDED.format(f"CUT5.{path}"),
                    )
                    for path, what in (("query_input", "query's input"), ("label", "labels"))
                ),
            ),
        }
        return deep(
            n_layers=layers[variant], shared=True, analyses=("alignment", "update_paths"), claims=claims[variant]
        )
    if variant == "linear":
        return experiment.change({"model.attention": "linear", "claims": LINEAR})
    if variant == "smoke":
        return smoke(experiment, {"model.n_heads": 2})
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
