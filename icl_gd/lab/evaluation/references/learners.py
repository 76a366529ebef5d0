"""Any learners beside any Transformer: losses, and alignment to each of them, during training and after it.

    reference=Learners({"momentum": learners.heavy_ball([6.0, 6.0], momentum=0.5)})

A learner that is fitted to prompts of the task is given as the function that fits it: `fitted={"gd": best_step}`, with
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
    EVERY,
    Compared,
    Evaluation,
    Records,
    Setting,
    free_members,
    merge_losses,
    of_learner,
    of_members,
)
from icl_gd.programs import brief
from icl_gd.types import Array, Predictor, Prompt


@dataclass(frozen=True)
class Learners(Reference):
    """Learners of one's own, by the names that metrics have for them.

    Attributes:
      learners: name -> Predictor.
      fitted: name -> function of a batch of prompts that gives a Predictor.
    """

    name: ClassVar[str] = "learners"
    learners: Mapping[str, Predictor] = field(default_factory=dict)
    fitted: Mapping[str, Callable[[Prompt], Predictor]] = field(default_factory=dict)

    @property
    def records(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        names = [*self.learners, *self.fitted]
        losses = [f"loss_{name}" for name in ("trained", "untrained", "zero", *names)]
        measures = analysis.Alignment._fields
        aligned = [f"{measure}_{name}{of}" for measure in measures for name in names for of in ("", "_untrained")]
        return (*losses, *(f"loss_ratio_{name}" for name in names), *aligned, "training_loss")

    def check(self, experiment: Experiment) -> None:
        if twice := set(self.learners) & set(self.fitted):
            reject(
                "reference", sorted(twice)[0], "is a learner and one to be fitted; give every learner a name of its own"
            )
        if reserved := {"trained", "untrained", "zero"} & {*self.learners, *self.fitted}:
            reject("reference", sorted(reserved)[0], "is a name that metrics have already; give the learner another")
        if not all(name.isidentifier() for name in (*self.learners, *self.fitted)):
            reject("reference", list(self.learners), "names of learners are words of letters, digits and _")

    def prepare(self, setting: Setting) -> "BesideLearners":
        fitted = {name: fit(setting.prompts) for name, fit in self.fitted.items()}
        return BesideLearners(setting, {**self.learners, **fitted})


@dataclass(frozen=True)
class BesideLearners(Compared):
    """Learners as Predictors, and a population that is measured beside them."""

    setting: Setting
    learners: Mapping[str, Predictor]

    @cached_property
    def _watch(self) -> Callable[[Any], dict[str, Array]]:
        network, layout, prompts = self.setting.network, self.setting.layout, self.setting.prompts
        of_learners = {
            name: jax.jit(lambda p, its=its: analysis.response(its, p))(prompts) for name, its in self.learners.items()
        }

        def one(params: Any, prompts: Prompt, theirs: Mapping[str, analysis.Response]) -> dict[str, Array]:
            predictor = models.fastest_predictor(network, params, layout)
            found = {"loss_trained": analysis.losses(predictor, prompts).mean()}
            ours = analysis.response(predictor, prompts)
            for name, its in theirs.items():
                aligned = analysis.compare(ours, its)._asdict()
                found |= {f"{measure}_{name}": value for measure, value in aligned.items()}
            return found

        compiled = brief(lambda params, *fixed: analysis.over_members(lambda member: one(member, *fixed), params))
        return lambda params: compiled(params, prompts, of_learners)

    def watch(self, params: Any) -> dict[str, np.ndarray]:
        """Loss and alignment to every learner `[member]`."""
        return jax.tree.map(np.asarray, self._watch(params))

    def evaluate(self, study: Evaluation) -> Records:
        """Final losses on the same prompts, their ratios, and alignment beside an untrained control.

        A member is trapped above 1.2 times the least loss of the learners.
        """
        trained = study.trained
        losses_of = {
            "loss_trained": of_members(trained.predictor(trained.params)),
            "loss_untrained": of_members(trained.predictor(study.untrained)),
            "loss_zero": of_learner(learners.predict_zero),
            **{f"loss_{name}": of_learner(its) for name, its in self.learners.items()},
        }
        risks = analysis.streamed_risks(merge_losses(losses_of), study.task.sample, study.key, study.n_prompts)
        loss = risks["loss_trained"].mean
        least = min(risks[f"loss_{name}"].mean for name in (*self.learners, "zero"))
        found = Records(free_members(loss, least), np.asarray(trained.diverged_at) >= 0)
        found.add_risks(risks)
        for name in self.learners:
            found.add(f"loss_ratio_{name}", loss / risks[f"loss_{name}"].mean)
        for watched, ending, over in (
            (study.watched, "", EVERY[:2]),
            (study.watched_untrained, "_untrained", EVERY[:1]),
        ):
            for name, values in watched.items():
                if name.startswith(analysis.Alignment._fields):
                    found.add(f"{name}{ending}", values, over=over)
        found.arrays["loss_zero_on_curve_prompts"] = float(analysis.losses(learners.predict_zero, study.prompts).mean())
        found.arrays["learners"] = list(self.learners)
        for name, its in self.learners.items():
            found.arrays[f"loss_{name}_on_curve_prompts"] = float(analysis.losses(its, study.prompts).mean())
        return found


def _draw_losses(done: Done) -> plots.Figure:
    figure, ax = plots.subplots(figsize=(plots.COLUMN, 2.7))
    plots.line(ax, done["curves"]["loss_trained_by_step"], "trained")
    for name in (*done["arrays"]["learners"], "zero"):
        plots.level(ax, done["arrays"][f"loss_{name}_on_curve_prompts"], name)
    ax.set(xlabel="training step", ylabel=r"loss  $\frac{1}{2}(\hat y - y)^2$")
    zero = done["arrays"]["loss_zero_on_curve_prompts"]
    if ax.get_ylim()[1] > 2 * zero:  # what does worse for a moment leaves the frame
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


# `loss_zero_on_curve_prompts` is of other references too, `learners` of prefix learners: both are of these alone.
PICTURES = (
    Picture(
        "beside_learners",
        ("loss_trained_by_step", "learners", "loss_zero_on_curve_prompts"),
        _draw_losses,
        "Loss on held-out prompts over training: mean and range over seeds, beside the learners' and that of always "
        "zero on the same prompts.",
        place=25,
    ),
    Picture(
        "aligned_with_learners",
        ("loss_trained_by_step", "learners", "loss_zero_on_curve_prompts"),
        _draw_alignment,
        "Alignment of trained Transformers to each learner over training: mean and range over seeds.",
        place=35,
    ),
)
