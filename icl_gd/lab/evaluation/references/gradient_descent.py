"""The reference for linear regression: gradient descent and, for deep linear networks, the variants of GD++."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Annotated, Any, ClassVar

import jax
import numpy as np
from jax.tree_util import Partial

from icl_gd import analysis, learners, models
from icl_gd.lab.config.errors import reject
from icl_gd.lab.config.experiment import Experiment
from icl_gd.lab.config.parts import Regression
from icl_gd.lab.config.questions import Reference
from icl_gd.lab.config.resources import FIT_FLOATS
from icl_gd.lab.evaluation.measured import (
    DIVERGES,
    GROUPS,
    Evaluation,
    Losses,
    PreparedReference,
    Records,
    Setting,
    clip_losses,
    construction_error,
    corruption,
    free_members,
    losses_of_learner,
    losses_of_members,
    merge_losses,
    noise_to_weight,
)
from icl_gd.lab.evaluation.reference_learners import ReferenceLearners, reference_learners
from icl_gd.lab.reporting.results import curves_by_step
from icl_gd.programs import quick_jit
from icl_gd.schema import OneOf, Size, check
from icl_gd.tasks import INPUT_DISTRIBUTIONS
from icl_gd.types import Array, Predictor, Prompt

LEARNERS = ("gd", "gd_plus_plus", "gd_plus_plus_free_steps", "gd_plus_plus_published")


@dataclass(frozen=True)
class GradientDescent(Reference):
    """Gradient descent with fitted step sizes and, for deep networks, GD++ with fitted rates.

    Attributes:
      learner: learner that the constructed weights implement; with a variant of GD++, all deep learners are fitted.
      steps: steps of every learner; None: one per layer.
      published_steps: steps of Adam that learn the rates of gd_plus_plus_published.
    """

    name: ClassVar[str] = "gradient_descent"
    tasks: ClassVar[tuple[type, ...]] = (Regression,)
    records: ClassVar[tuple[str, ...]] = (
        *("loss_trained", "loss_untrained", "loss_zero", "loss_ols", "loss_ridge", "loss_construction"),
        *("loss_interpolated", "loss_optimal", "loss_ratio_optimal", "step_size_gd", "construction_error"),
        *(f"loss{ratio}_{name}" for ratio in ("", "_ratio") for name in (*LEARNERS, "gd_free_steps")),
        # Measured during training, for any choice of analyses.
        *("sensitivity_cosine_*_by_step", "sensitivity_difference_*_by_step", "prediction_difference_*_by_step"),
        "softmax_share*",
        "training_loss",
    )
    learner: Annotated[str, OneOf(LEARNERS)] = "gd"
    steps: Size | None = None
    published_steps: Size = 1000

    def __post_init__(self):
        check(self)

    def check(self, experiment: Experiment) -> None:
        network, corrupted = experiment.network, experiment.eval_task.corrupted_labels
        if network.causal:
            reject(
                "model.style",
                experiment.model.name,
                "reference.name=gradient_descent needs von_oswald, whose attention is not causal",
            )
        if self.learner != "gd" and network.n_layers == 1:
            reject("reference.learner", self.learner, "GD++ needs model.n_layers of at least 2; use gd for one layer")
        if corrupted and ((self.steps or network.n_layers) > 1 or self.learner != "gd"):
            reject(
                "task.corrupted_labels",
                corrupted,
                "rates of several steps and of GD++ are fitted for uncorrupted labels only; use 0, or "
                "reference.learner=gd and reference.steps=1",
            )

    def prepare(self, setting: Setting) -> "PreparedGradientDescent":
        task, network = setting.task, setting.network
        n_fit = min(setting.n_prompts, 2**18, FIT_FLOATS // ((task.n_context + 1) * network.d_token))
        fitted = reference_learners(
            task, network, setting.key_fit, n_fit, self.learner, self.steps, self.published_steps
        )
        return PreparedGradientDescent(
            **{field.name: getattr(fitted, field.name) for field in fields(fitted)}, setting=setting
        )


@dataclass(frozen=True)
class PreparedGradientDescent(ReferenceLearners, PreparedReference):
    """The fitted learners, compared with a population."""

    setting: Setting

    @cached_property
    def _watch(self) -> Callable[[Any], dict[str, Array]]:
        """The compiled metrics of all members. The responses of the learners are computed once."""
        network, layout, prompts = self.setting.network, self.setting.layout, self.setting.prompts
        learned = self.responses(prompts)

        def metrics_of(params: Any, prompts: Prompt, learned: Mapping[str, analysis.Response]) -> dict[str, Array]:
            by_layer = models.softmax_share(params)  # only layers that learn a mixture of softmax and linear attention
            shares = {
                f"softmax_share_{layer}" if len(by_layer) > 1 else "softmax_share": share
                for layer, share in by_layer.items()
            }
            return _aligned(models.fastest_predictor(network, params, layout), prompts, learned) | shares

        # Prompts and responses are arguments, because the compiler would spend seconds on folding constants.
        compiled = quick_jit(
            lambda params, *fixed: analysis.over_members(lambda member: metrics_of(member, *fixed), params)
        )
        return lambda params: compiled(params, prompts, learned)

    def watch(self, params: Any) -> dict[str, np.ndarray]:
        """Loss and alignment to every learner, `[member]` each."""
        return jax.tree.map(np.asarray, self._watch(params))

    def evaluate(self, evaluation: Evaluation) -> Records:
        """Records of final losses, with trapped members marked. All losses but `loss_ols` are on the same prompts."""
        task, trained = evaluation.task, evaluation.trained
        losses_of = {
            "loss_trained": losses_of_members(trained.predictor(trained.params)),
            "loss_untrained": losses_of_members(trained.predictor(evaluation.untrained)),
            "loss_construction": losses_of_learner(self.construction),
            "loss_zero": losses_of_learner(learners.predict_zero),
        }
        if task.noise_std > 0:
            losses_of["loss_ridge"] = losses_of_learner(learners.ridge(noise_to_weight(task)))
        if evaluation.has_analysis("interpolation"):
            losses_of["loss_interpolated"] = losses_of_members(
                evaluation.predictor_of_circuits(evaluation.interpolated)
            )
        beyond = DIVERGES * float(losses_of_learner(learners.predict_zero)(evaluation.prompts).mean())
        every = Partial(_all_losses, merge_losses(losses_of), self.losses, beyond)
        risks = analysis.streamed_risks(every, task.sample, evaluation.key, evaluation.n_prompts)
        # Least squares needs a singular-value decomposition per prompt. So its loss is measured on the prompts of
        # curves, which are a hundred times fewer.
        risks["loss_ols"] = analysis.Risk.of(losses_of_learner(learners.ols)(evaluation.prompts))

        optimal = _optimal_loss(evaluation)
        # The baseline for trapped members. For deep networks it is GD++ as published: they do not reach the best GD++.
        # If rare prompts on which that GD++ diverges dominate its mean loss, the baseline is gradient descent.
        baseline = min(risks[name].mean for name in ("loss_gd", "loss_gd_plus_plus_published") if name in risks)
        baseline = baseline if optimal is None else optimal
        records = Records(free_members(risks.pop("clipped").mean, baseline), np.asarray(trained.diverged_at) >= 0)
        records.add_risks(risks)
        for name in self.rates:
            over = GROUPS if name == "gd" else GROUPS[:2]
            records.add(f"loss_ratio_{name}", risks["loss_trained"].mean / risks[f"loss_{name}"].mean, over=over)
        records.add("steps_skipped", trained.skipped, 0.0, over=GROUPS[:1])
        records.arrays["n_layers"], records.arrays["constructed"] = trained.config.n_layers, self.constructed
        records.arrays["rates"] = {name: [leaf.tolist() for leaf in rates] for name, rates in self.rates.items()}
        records.add_one("step_size_gd", self.step_size / task.n_context)
        records.add_one(
            "construction_error",
            construction_error(self.construction, self.learner(self.constructed), evaluation.prompts),
        )
        if optimal is not None:
            records.add_one("loss_optimal", optimal, 0.0)
            records.add("loss_ratio_optimal", risks["loss_trained"].mean / optimal)
        on_curves = self.losses(evaluation.prompts) | {
            "loss_zero": losses_of_learner(learners.predict_zero)(evaluation.prompts)
        }
        records.arrays |= {f"{name}_on_curve_prompts": float(values.mean()) for name, values in on_curves.items()}
        return records

    def over_training(self, evaluation: Evaluation, records: Records) -> None:
        """Adds curves over the untrapped members, and the losses of each trapped member."""
        seed = evaluation.experiment.seed
        if not records.is_free.any():
            records.arrays["none_free"] = True
        records.curves |= curves_by_step(evaluation.history, seed, records.shown)
        losses = evaluation.history.get("loss_trained", {})
        records.arrays["loss_trained_by_step_trapped"] = [
            [losses[step][seed + i] for i in records.trapped] for step in sorted(losses)
        ]


def _aligned(predictor: Predictor, prompts: Prompt, learned: Mapping[str, analysis.Response]) -> dict[str, Array]:
    """Loss of a Predictor, and its alignment to every learner."""
    metrics = {"loss_trained": analysis.losses(predictor, prompts).mean()}
    response = analysis.response(predictor, prompts)
    for name, learner_response in learned.items():
        aligned = analysis.compare(response, learner_response)._asdict()
        metrics |= {f"{measure}_{name}": value for measure, value in aligned.items()}
    return metrics


def _all_losses(losses_of: Losses, learner_losses: Losses, beyond: Array, prompts: Prompt) -> dict[str, Array]:
    """Losses of members and learners, and as "clipped" the members' losses clipped at `beyond`."""
    losses = losses_of(prompts) | learner_losses(prompts)
    return losses | {"clipped": clip_losses(losses["loss_trained"], beyond)}


def _optimal_loss(evaluation: Evaluation) -> float | None:
    """The closed-form risk of the best linear layer, for Gaussian inputs or independent coordinates; otherwise None.

    With corrupted labels the best layer is still a gradient step. Proof: flipping the signs of w and of all corrupted
    labels keeps the distribution of prompts and flips y_query. Terms of the prediction that are of even order in the
    labels do not change. So these terms are uncorrelated with y_query, and only add variance.
    """
    task, model = evaluation.task, evaluation.trained.config
    if model.n_layers != 1 or not models.has_gram_form(model):
        return None
    ratio, n = noise_to_weight(task), task.n_context
    if task.inputs == "normal" and not task.corrupted_labels:
        optimum = learners.gaussian_optimum_risk(task.second_moment, n, ratio, float(task.weight_scale))
    elif INPUT_DISTRIBUTIONS[task.inputs].independent and task.covariance is None:
        moments = task.second_moment[0, 0], task.fourth_moment
        step_size = learners.optimal_step_size(task.d_input, n, *moments, ratio, **corruption(task))
        sizes = step_size, task.d_input, n, *moments, ratio, float(task.weight_scale)
        optimum = learners.one_step_risk(*sizes, **corruption(task))
    else:
        return None
    return task.d_output * optimum
