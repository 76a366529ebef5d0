"""Populations whose attention is modified, beside the member that is not, and beside one gradient step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import jax
import numpy as np

from icl_gd import analysis, learners, models, plots
from icl_gd.lab.config.errors import reject
from icl_gd.lab.config.experiment import Experiment
from icl_gd.lab.config.parts import Elementwise
from icl_gd.lab.config.questions import Done, Picture, Reference
from icl_gd.lab.evaluation.measured import (
    Compared,
    Evaluation,
    Records,
    Setting,
    free_members,
    merge_losses,
    of_learner,
    of_members,
)
from icl_gd.lab.reporting.results import half_interval
from icl_gd.models import TransformerConfig
from icl_gd.types import Array

VARIED = ("alpha", "beta", "augment_keys", "augment_values")
AUGMENTED = {(0.0, 0.0): "neither", (1.0, 0.0): "keys", (0.0, 1.0): "values", (1.0, 1.0): "both"}


@dataclass(frozen=True)
class OneStep(Reference):
    """The best step of gradient descent, beside attention of any kind, modified or not."""

    name: ClassVar[str] = "one_step"
    tasks: ClassVar[tuple[type, ...]] = (Elementwise,)
    records: ClassVar[tuple[str, ...]] = (
        *("loss_trained", "loss_untrained", "loss_gd", "loss_zero", "loss_ratio_gd", "loss_ratio_plain"),
        *("step_size_gd", "training_loss"),
    )

    def check(self, experiment: Experiment) -> None:
        if experiment.model.layout == "interleaved":
            reject("model.layout", "interleaved", "reference.name=one_step takes concatenated")

    def prepare(self, setting: Setting) -> "BesideOneStep":
        return BesideOneStep(setting)


@dataclass(frozen=True)
class BesideOneStep(Compared):
    """The step, and a population that is measured beside it."""

    setting: Setting

    @cached_property
    def step_size(self) -> float:
        """The best one, on the prompts of curves."""
        return float(learners.fit_step_size(self.setting.prompts))

    @cached_property
    def _losses(self) -> Callable[[Any, Any], Array]:
        predictor_of = partial(models.fastest_predictor, self.setting.network, layout=self.setting.layout)
        return jax.jit(lambda params, prompts: analysis.member_losses(predictor_of(params), prompts).mean(-1))

    def watch(self, params: Any) -> dict[str, np.ndarray]:
        """Loss `[member]`."""
        return {"loss_trained": np.asarray(self._losses(params, self.setting.prompts))}

    def evaluate(self, study: Evaluation) -> Records:
        """Final losses on the same prompts, over that of the step, and over that of the member that is not modified."""
        trained, task, points = study.trained, study.task, study.points
        losses_of = {
            "loss_trained": of_members(trained.predictor(trained.params)),
            "loss_untrained": of_members(trained.predictor(study.untrained)),
            "loss_gd": of_learner(learners.gradient_descent([self.step_size])),
            "loss_zero": of_learner(learners.predict_zero),
        }
        risks = analysis.streamed_risks(merge_losses(losses_of), task.sample, study.key, study.n_prompts)
        loss = risks["loss_trained"].mean
        found = Records(free_members(loss, risks["loss_gd"].mean), np.asarray(trained.diverged_at) >= 0)
        for name in ("loss_trained", "loss_untrained"):
            found.add(name, risks[name].mean, risks[name].stderr)
        for name in ("loss_gd", "loss_zero"):
            found.add_one(name, risks[name].mean, risks[name].stderr)
        found.add("loss_ratio_gd", loss / risks["loss_gd"].mean)
        found.add_one("step_size_gd", self.step_size / task.n_context)
        if (plain := plain_member(points, study.network)) is not None:
            by_point = loss.reshape(len(points), study.experiment.seeds)
            found.add("loss_ratio_plain", (by_point / by_point[plain]).ravel(), over=("",))
        return found


def plain_member(points: Sequence[Mapping[str, Any]], config: TransformerConfig) -> int | None:
    """Which combination of a sweep modifies nothing, if there are others.

    Args:
      config: of the population: where a modification is not swept over, it is what all members have.
    """
    swept = {name.split(".")[-1]: name for name in points[0]}
    asked = {name: getattr(config, name) for name in models.Modification._fields if name != "share"}
    varied = [name for name in asked if name in swept]
    fixed = [value for name, value in asked.items() if name not in swept]
    zero = [i for i, point in enumerate(points) if all(point[swept[name]] == 0.0 for name in varied)]
    return zero[0] if varied and zero and len(points) > 1 and not any(fixed) else None


def _draw_variants(done: Done) -> plots.Figure:
    """Loss over that of the unmodified member of the seed: what each modification does alone, and the best of all."""
    tasks = list(dict.fromkeys(point["fields"]["task.name"] for point in done["sweep"]))
    figure, axes = plots.subplots(1, 3, figsize=(plots.PAGE, 2.7), sharey=True)
    of = lambda point: [point["fields"].get(f"model.{name}", 0.0) for name in VARIED]
    for task, marker, shade in zip(tasks, "osD", plots.shades(len(tasks)), strict=False):
        points = [(of(p), p["metrics"]["loss_ratio_plain"]) for p in done["sweep"] if p["fields"]["task.name"] == task]
        panels = (
            [(alpha, m) for (alpha, beta, *grown), m in points if not beta and not any(grown)],
            [(beta, m) for (alpha, beta, *grown), m in points if not alpha and not any(grown)],
            [(list(AUGMENTED).index((k, v)), m) for (alpha, beta, k, v), m in points if not alpha and not beta],
        )
        for ax, found in zip(axes, panels, strict=True):
            x, metrics = zip(*sorted(found, key=lambda pair: pair[0]), strict=True)
            mean = [m["mean"] for m in metrics]
            reach = [half_interval(m) for m in metrics]
            ax.errorbar(
                x,
                mean,
                reach,
                fmt=marker,
                linestyle="-" if ax is not axes[2] else "",
                color=shade,
                label=task,
                linewidth=0.9,
                markersize=3.5,
                markerfacecolor="none",
            )
    for ax, label in zip(axes, (r"$\alpha$", r"$\beta$", "augmented"), strict=True):
        ax.axhline(1.0, color="black", linewidth=0.4)
        ax.set_xlabel(label)
    axes[2].set_xticks(range(4), AUGMENTED.values())
    axes[2].set_xlim(-0.5, 3.5)
    axes[0].set_ylabel("loss / that of plain softmax")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _draw_every_variant(done: Done) -> plots.Figure:
    """All combinations: a row a task, a column an augmentation, in each alpha by beta."""
    of = {
        (p["fields"]["task.name"], *(p["fields"].get(f"model.{name}", 0.0) for name in VARIED)): p["metrics"][
            "loss_ratio_plain"
        ]
        for p in done["sweep"]
    }
    tasks, alphas, betas, keys, values = (list(dict.fromkeys(place)) for place in zip(*of, strict=True))
    grown = [pair for pair in AUGMENTED if pair[0] in keys and pair[1] in values]
    extent = max(abs(np.log(metric["mean"])) for metric in of.values()) or 1.0
    size = plots.PAGE, 0.6 + 1.55 * len(tasks)
    figure, axes = plots.subplots(len(tasks), len(grown), figsize=size, squeeze=False, sharex=True, sharey=True)
    for (row, column), ax in np.ndenumerate(axes):
        task, pair = tasks[row], grown[column]
        cells = [[of[task, alpha, beta, *pair] for alpha in alphas] for beta in betas]
        logs = np.log([[metric["mean"] for metric in line] for line in cells])
        ax.imshow(logs, cmap="PuOr", vmin=-extent, vmax=extent, aspect="auto")
        for (i, j), log in np.ndenumerate(logs):
            metric = cells[i][j]
            helped = metric["mean"] + half_interval(metric) < 1.0
            ax.text(
                j,
                i,
                f"{metric['mean']:.2f}" + "*" * helped,
                ha="center",
                va="center",
                fontsize=6,
                fontweight="bold" if helped else "normal",
                color="white" if abs(log) > 0.6 * extent else "black",
            )
        ax.set_xticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
        ax.set_yticks(range(len(betas)), [f"{beta:g}" for beta in betas])
        if row == 0 and len(grown) > 1:
            ax.set_title({"neither": "not augmented"}.get(name := AUGMENTED[pair], f"{name} augmented"))
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
        "Loss of modified attention over that of plain softmax of the same seed, one modification at a time: "
        "mean over seeds and its 95 % interval.",
        place=390,
    ),
    Picture(
        "every_variant",
        ("loss_ratio_plain",),
        _draw_every_variant,
        "The same of all combinations, mean over seeds; orange is better. Bold with a star: the 95 % "
        "interval lies below 1; of so many some will by chance.",
        place=400,
    ),
)
