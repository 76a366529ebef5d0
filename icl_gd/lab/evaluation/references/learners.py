"""Comparison with your own learners: losses, and the Transformers' alignment to every learner.

    reference=Learners({"momentum": learners.heavy_ball([6.0, 6.0], momentum=0.5)})

If a learner has to be fitted to prompts of the task, pass the function that fits it: `fitted={"gd": best_step}`, with
`best_step(prompts) -> Predictor`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import jax
import numpy as np

from icl_gd import analysis, learners, models, plots
from icl_gd.lab.config.errors import reject
from icl_gd.lab.config.experiment import Experiment
from icl_gd.lab.config.questions import Done, Picture, Reference
from icl_gd.lab.evaluation.measured import (
    GROUPS,
    Evaluation,
    PreparedReference,
    Records,
    Setting,
    free_members,
    losses_of_learner,
    losses_of_members,
    merge_losses,
)
from icl_gd.programs import quick_jit
from icl_gd.types import Array, Predictor, Prompt


@dataclass(frozen=True)
class Learners(Reference):
    """A reference that consists of your own learners. Metric names contain the names of the learners.

    Attributes:
      learners: name -> Predictor.
      fitted: name -> function that returns a Predictor, given a batch of prompts.
    """

    name: ClassVar[str] = "learners"
    learners: Mapping[str, Predictor] = field(default_factory=dict)
    fitted: Mapping[str, Callable[[Prompt], Predictor]] = field(default_factory=dict)

    @property
    def records(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        names = [*self.learners, *self.fitted]
        losses = [f"loss_{name}" for name in ("trained", "untrained", "zero", *names)]
        measures = analysis.Alignment._fields
        suffixes = ("", "_untrained")
        aligned = [f"{measure}_{name}{suffix}" for measure in measures for name in names for suffix in suffixes]
        return (*losses, *(f"loss_ratio_{name}" for name in names), *aligned, "training_loss")

    def check(self, experiment: Experiment) -> None:
        if duplicates := set(self.learners) & set(self.fitted):
            name = sorted(duplicates)[0]
            reject("reference", name, "is a name in both learners and fitted; every learner needs a different name")
        if reserved := {"trained", "untrained", "zero"} & {*self.learners, *self.fitted}:
            name = sorted(reserved)[0]
            reject("reference", name, "is a reserved name (trained, untrained, zero); choose another for the learner")
        if not all(name.isidentifier() for name in (*self.learners, *self.fitted)):
            names = [*self.learners, *self.fitted]
            reject(
                "reference",
                names,
                "names of learners may contain letters, digits and _, and may not start with a digit",
            )

    def prepare(self, setting: Setting) -> "PreparedLearners":
        fitted = {name: fit(setting.prompts) for name, fit in self.fitted.items()}
        return PreparedLearners(setting, {**self.learners, **fitted})


@dataclass(frozen=True)
class PreparedLearners(PreparedReference):
    """Learners as Predictors, compared with a population."""

    setting: Setting
    learners: Mapping[str, Predictor]

    @cached_property
    def _watch(self) -> Callable[[Any], dict[str, Array]]:
        network, layout, prompts = self.setting.network, self.setting.layout, self.setting.prompts
        learner_responses = {
            name: jax.jit(lambda p, learner=learner: analysis.response(learner, p))(prompts)
            for name, learner in self.learners.items()
        }

        def metrics_of(params: Any, prompts: Prompt, responses: Mapping[str, analysis.Response]) -> dict[str, Array]:
            predictor = models.fastest_predictor(network, params, layout)
            metrics = {"loss_trained": analysis.losses(predictor, prompts).mean()}
            member_response = analysis.response(predictor, prompts)
            for name, response in responses.items():
                aligned = analysis.compare(member_response, response)._asdict()
                metrics |= {f"{measure}_{name}": value for measure, value in aligned.items()}
            return metrics

        # Prompts and responses are arguments, because the compiler would spend seconds on folding constants.
        compiled = quick_jit(
            lambda params, *fixed: analysis.over_members(lambda member: metrics_of(member, *fixed), params)
        )
        return lambda params: compiled(params, prompts, learner_responses)

    def watch(self, params: Any) -> dict[str, np.ndarray]:
        """Loss and alignment to every learner, `[member]` each."""
        return jax.tree.map(np.asarray, self._watch(params))

    def evaluate(self, evaluation: Evaluation) -> Records:
        """Records of final losses on the same prompts, loss ratios, and alignment, with untrained members as a control.

        A member is trapped if its loss is above 1.2 times the smallest loss of the learners and of predicting zero.
        """
        trained = evaluation.trained
        losses_of = {
            "loss_trained": losses_of_members(trained.predictor(trained.params)),
            "loss_untrained": losses_of_members(trained.predictor(evaluation.untrained)),
            "loss_zero": losses_of_learner(learners.predict_zero),
            **{f"loss_{name}": losses_of_learner(learner) for name, learner in self.learners.items()},
        }
        risks = analysis.streamed_risks(
            merge_losses(losses_of), evaluation.task.sample, evaluation.key, evaluation.n_prompts
        )
        loss = risks["loss_trained"].mean
        least = min(risks[f"loss_{name}"].mean for name in (*self.learners, "zero"))
        records = Records(free_members(loss, least), np.asarray(trained.diverged_at) >= 0)
        records.add_risks(risks)
        for name in self.learners:
            records.add(f"loss_ratio_{name}", loss / risks[f"loss_{name}"].mean)
        for watched, suffix, over in (
            (evaluation.watched, "", GROUPS[:2]),
            (evaluation.watched_untrained, "_untrained", GROUPS[:1]),
        ):
            for name, values in watched.items():
                if name.startswith(analysis.Alignment._fields):
                    records.add(f"{name}{suffix}", values, over=over)
        records.arrays["loss_zero_on_curve_prompts"] = float(
            analysis.losses(learners.predict_zero, evaluation.prompts).mean()
        )
        records.arrays["learners"] = list(self.learners)
        for name, learner in self.learners.items():
            loss = analysis.losses(learner, evaluation.prompts).mean()
            records.arrays[f"loss_{name}_on_curve_prompts"] = float(loss)
        return records


def _draw_losses(done: Done) -> plots.Figure:
    figure, ax = plots.subplots(figsize=(plots.COLUMN, 2.7))
    plots.line(ax, done["curves"]["loss_trained_by_step"], "trained")
    for name in (*done["arrays"]["learners"], "zero"):
        plots.horizontal_line(ax, done["arrays"][f"loss_{name}_on_curve_prompts"], name)
    ax.set(xlabel="training step", ylabel=r"loss  $\frac{1}{2}(\hat y - y)^2$")
    zero = done["arrays"]["loss_zero_on_curve_prompts"]
    if ax.get_ylim()[1] > 2 * zero:  # cuts off short spikes
        ax.set_ylim(0, 2 * zero)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _draw_alignment(done: Done) -> plots.Figure:
    figure, axes = plots.subplots(1, 3, figsize=(plots.PAGE, 2.5))
    for ax, measure in zip(
        axes, ("sensitivity_cosine", "sensitivity_difference", "prediction_difference"), strict=True
    ):
        for name in done["arrays"]["learners"]:
            plots.line(ax, done["curves"][f"{measure}_{name}_by_step"], name)
        ax.set(xlabel="training step", ylabel=measure.replace("_", " "))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


# Only this reference records both `learners` and `loss_zero_on_curve_prompts`; others record one of them.
PICTURES = (
    Picture(
        "beside_learners",
        ("loss_trained_by_step", "learners", "loss_zero_on_curve_prompts"),
        _draw_losses,
        "Loss of the trained Transformers on held-out prompts during training. The line is the mean over seeds, the "
        "band their range. Horizontal lines are the losses of the learners, and of predicting zero, on the same "
        "prompts.",
        place=25,
    ),
    Picture(
        "aligned_with_learners",
        ("loss_trained_by_step", "learners", "loss_zero_on_curve_prompts"),
        _draw_alignment,
        "Alignment of the trained Transformers to each learner during training: cosine and difference "
        "between the input sensitivities (derivatives with respect to the query), and difference between the "
        "predictions. Lines show means over seeds, bands show their range.",
        place=35,
    ),
)
