"""The reference for modified attention: one gradient step, and the unmodified member of the same seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import jax
import numpy as np

from icl_gd import analysis, learners, models, plots
from icl_gd.lab.config.errors import reject
from icl_gd.lab.config.experiment import Experiment
from icl_gd.lab.config.parts import MODIFICATION, Elementwise
from icl_gd.lab.config.questions import Done, Picture, Reference
from icl_gd.lab.evaluation.measured import (
    Evaluation,
    PreparedReference,
    Records,
    Setting,
    free_members,
    losses_of_learner,
    losses_of_members,
    merge_losses,
)
from icl_gd.lab.reporting.results import half_interval
from icl_gd.models import TransformerConfig
from icl_gd.types import Array

VARIED = ("alpha", "beta", "augment_keys", "augment_values")
AUGMENTED = {(0.0, 0.0): "neither", (1.0, 0.0): "keys", (0.0, 1.0): "values", (1.0, 1.0): "both"}


@dataclass(frozen=True)
class OneStep(Reference):
    """One gradient step with its best step size, for attention of any kind, modified or not."""

    name: ClassVar[str] = "one_step"
    tasks: ClassVar[tuple[type, ...]] = (Elementwise,)
    records: ClassVar[tuple[str, ...]] = (
        *("loss_trained", "loss_untrained", "loss_gd", "loss_zero", "loss_ratio_gd", "loss_ratio_plain"),
        *("step_size_gd", "training_loss"),
    )

    def check(self, experiment: Experiment) -> None:
        if experiment.model.layout == "interleaved":
            reject("model.layout", "interleaved", "reference.name=one_step needs concatenated, whose tokens are (x, y)")

    def prepare(self, setting: Setting) -> "PreparedOneStep":
        return PreparedOneStep(setting)


@dataclass(frozen=True)
class PreparedOneStep(PreparedReference):
    """The gradient step, compared with a population."""

    setting: Setting

    @cached_property
    def step_size(self) -> float:
        """The best step size on the prompts of curves."""
        return float(learners.fit_step_size(self.setting.prompts))

    @cached_property
    def _losses(self) -> Callable[[Any, Any], Array]:
        predictor_of = partial(models.fastest_predictor, self.setting.network, layout=self.setting.layout)
        return jax.jit(lambda params, prompts: analysis.member_losses(predictor_of(params), prompts).mean(-1))

    def watch(self, params: Any) -> dict[str, np.ndarray]:
        """The loss of every member, `[member]`."""
        return {"loss_trained": np.asarray(self._losses(params, self.setting.prompts))}

    def evaluate(self, evaluation: Evaluation) -> Records:
        """Records of losses on the same prompts, and ratios to the gradient step's and the unmodified member's loss."""
        trained, task, points = evaluation.trained, evaluation.task, evaluation.points
        losses_of = {
            "loss_trained": losses_of_members(trained.predictor(trained.params)),
            "loss_untrained": losses_of_members(trained.predictor(evaluation.untrained)),
            "loss_gd": losses_of_learner(learners.gradient_descent([self.step_size])),
            "loss_zero": losses_of_learner(learners.predict_zero),
        }
        risks = analysis.streamed_risks(merge_losses(losses_of), task.sample, evaluation.key, evaluation.n_prompts)
        loss = risks["loss_trained"].mean
        records = Records(free_members(loss, risks["loss_gd"].mean), np.asarray(trained.diverged_at) >= 0)
        for name in ("loss_trained", "loss_untrained"):
            records.add(name, risks[name].mean, risks[name].stderr)
        for name in ("loss_gd", "loss_zero"):
            records.add_one(name, risks[name].mean, risks[name].stderr)
        records.add("loss_ratio_gd", loss / risks["loss_gd"].mean)
        records.add_one("step_size_gd", self.step_size / task.n_context)
        if (plain := plain_member(points, evaluation.network)) is not None:
            by_point = loss.reshape(len(points), evaluation.experiment.seeds)
            records.add("loss_ratio_plain", (by_point / by_point[plain]).ravel(), over=("",))
        return records


def plain_member(points: Sequence[Mapping[str, Any]], config: TransformerConfig) -> int | None:
    """The index of the combination of a sweep that leaves attention unmodified.

    Args:
      points: the fields and values of every combination.
      config: the network of the population; it contains the strengths that are not swept over.

    Returns:
      The index. None if no modification is swept over, if every combination modifies attention, or if there is only one
      combination.
    """
    strengths = {
        f"model.{MODIFICATION.get(name, name)}": value
        for name, value in config.modification.enabled.items()
        if name != "negative_fraction"
    }
    swept = [name for name in strengths if name in points[0]]
    fixed = [value for name, value in strengths.items() if name not in swept]
    plain = [i for i, point in enumerate(points) if all(point[name] == 0.0 for name in swept)]
    return plain[0] if swept and plain and len(points) > 1 and not any(fixed) else None


def _task_name(point: Mapping[str, Any]) -> str:
    """The name of the task in one combination of a sweep; empty if the sweep is not over tasks."""
    return point["fields"].get("task.name", "")


def _strengths(point: Mapping[str, Any]) -> tuple[float, ...]:
    """Strengths of the modifications in one combination of a sweep, in the order of `VARIED`."""
    return tuple(point["fields"].get(f"model.{name}", 0.0) for name in VARIED)


def _draw_variants(done: Done) -> plots.Figure:
    """Loss relative to the unmodified member of the seed, for one modification at a time."""
    tasks = list(dict.fromkeys(_task_name(point) for point in done["sweep"]))
    figure, axes = plots.subplots(1, 3, figsize=(plots.PAGE, 2.7), sharey=True)
    for task, marker, shade in zip(tasks, "osD", plots.shades(len(tasks)), strict=False):
        points = [
            (*_strengths(point), point["metrics"]["loss_ratio_plain"])
            for point in done["sweep"]
            if _task_name(point) == task
        ]
        augmentations = list(AUGMENTED)
        panels = (
            [(alpha, ratio) for alpha, beta, keys, values, ratio in points if not beta and not (keys or values)],
            [(beta, ratio) for alpha, beta, keys, values, ratio in points if not alpha and not (keys or values)],
            [
                (augmentations.index((keys, values)), ratio)
                for alpha, beta, keys, values, ratio in points
                if not (alpha or beta)
            ],
        )
        for ax, panel in zip(axes, panels, strict=True):
            x, metrics = zip(*sorted(panel, key=lambda pair: pair[0]), strict=True)
            mean = [metric["mean"] for metric in metrics]
            half_widths = [half_interval(metric) for metric in metrics]
            ax.errorbar(
                x,
                mean,
                half_widths,
                fmt=marker,
                linestyle="-" if ax is not axes[2] else "",
                color=shade,
                label=task,
                linewidth=0.9,
                markersize=3.5,
                markerfacecolor="none",
            )
    for ax, label in zip(
        axes, (r"regularisation $\alpha$", r"negative samples $\beta$", "augmented by an MLP"), strict=True
    ):
        ax.axhline(1.0, color="black", linewidth=0.4)
        ax.set_xlabel(label)
    axes[2].set_xticks(range(4), AUGMENTED.values())
    axes[2].set_xlim(-0.5, 3.5)
    axes[0].set_ylabel("loss / loss of plain softmax")
    handles, labels = axes[0].get_legend_handles_labels()
    if any(tasks):
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _draw_every_variant(done: Done) -> plots.Figure:
    """Draws one panel per task (rows) and augmentation (columns), with loss ratios over alpha and beta."""
    ratios = {(_task_name(point), *_strengths(point)): point["metrics"]["loss_ratio_plain"] for point in done["sweep"]}
    tasks, alphas, betas, keys, values = (list(dict.fromkeys(axis)) for axis in zip(*ratios, strict=True))
    augmentations = [pair for pair in AUGMENTED if pair[0] in keys and pair[1] in values]
    extent = max(abs(np.log(metric["mean"])) for metric in ratios.values()) or 1.0
    size = plots.PAGE, 0.6 + 1.55 * len(tasks)
    figure, axes = plots.subplots(len(tasks), len(augmentations), figsize=size, squeeze=False, sharex=True, sharey=True)
    for (row, column), ax in np.ndenumerate(axes):
        task, pair = tasks[row], augmentations[column]
        cells = [[ratios[task, alpha, beta, *pair] for alpha in alphas] for beta in betas]
        logs = np.log([[metric["mean"] for metric in line] for line in cells])
        ax.imshow(logs, cmap="PuOr", vmin=-extent, vmax=extent, aspect="auto")
        for (i, j), log in np.ndenumerate(logs):
            metric = cells[i][j]
            is_better = metric["mean"] + half_interval(metric) < 1.0
            ax.text(
                j,
                i,
                f"{metric['mean']:.2f}*" if is_better else f"{metric['mean']:.2f}",
                ha="center",
                va="center",
                fontsize=6,
                fontweight="bold" if is_better else "normal",
                color="white" if abs(log) > 0.6 * extent else "black",
            )
        ax.set_xticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
        ax.set_yticks(range(len(betas)), [f"{beta:g}" for beta in betas])
        if row == 0 and len(augmentations) > 1:
            name = AUGMENTED[pair]
            ax.set_title("not augmented" if name == "neither" else f"{name} augmented")
        if row == len(tasks) - 1:
            ax.set_xlabel(r"$\alpha$")
        if column == 0:
            ax.set_ylabel(f"{task}\n" + r"$\beta$")
    return figure


PICTURES = (
    Picture(
        "variants",
        ("loss_ratio_plain",),
        _draw_variants,
        "Effect of one modification of attention at a time, for each task. The vertical axis is the loss divided by "
        "that of plain softmax attention with the same seed; below 1 the modification helps. Marks are means over "
        "seeds, bars 95 % intervals of the mean. In the right panel an MLP augments keys, values or both.",
        place=390,
    ),
    Picture(
        "every_variant",
        ("loss_ratio_plain",),
        _draw_every_variant,
        "Loss of every combination of modifications of attention, divided by that of plain softmax attention with "
        "the same seed: means over seeds. Rows of panels are tasks, columns the augmentation; within a panel the "
        "axes are the regularisation alpha and the negative samples beta. Orange is below 1, better than plain "
        "softmax. Bold numbers with a star have a 95 % interval below 1. With this many combinations, some do by "
        "chance.",
        place=400,
    ),
)
