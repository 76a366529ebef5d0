"""Figures that need no analysis: sweeps, losses during training, and losses of learners with several steps."""

from typing import Any

import numpy as np

from icl_gd import plots
from icl_gd.lab.config import sweeps
from icl_gd.lab.config.questions import Done, Picture
from icl_gd.lab.evaluation.comparing import LEARNERS
from icl_gd.lab.reporting.results import sweep_line

LABELS = {  # field -> label of the horizontal axis
    "task.n_context": r"context examples $N$",
    "model.d_embed": "width of the residual stream",
    "train.steps": "training steps",
    "task.pool": "prompts in the training set",
    "model.n_heads": "heads",
    "task.corrupted_labels": "corrupted labels in training",
}


def _draw_sweep(done: Done) -> plots.Figure:
    """Loss over the first field of a sweep, with one line for every combination of the other fields."""
    field, *others = done["sweep"][0]["fields"]
    groups: dict[str, list] = {}
    for point in done["sweep"]:
        values = (_setting_label(other, point["fields"][other]) for other in others)
        groups.setdefault(", ".join(values), []).append(point)
    width = plots.COLUMN if len(others) < 3 else plots.PAGE  # long legend labels need a wide figure
    figure, ax = plots.subplots(figsize=(width, 2.4 + (0.15 * len(groups) if others else 0.0)))
    error = "loss_trained" if "loss_trained" in done["sweep"][0]["metrics"] else "normalised_error"
    for i, points in enumerate(groups.values()):
        _draw_learners(ax, points, field, error, is_first=i == 0)
    for i, ((name, points), shade) in enumerate(zip(groups.items(), plots.shades(len(groups)), strict=True)):
        plots.points(
            ax,
            sweep_line(points, field, error),
            "trained",
            marker="o^vDs<>p"[i % 8],
            size=4.0,
            join=bool(others),
            label=f"trained, {name}" if name else "trained",
            colour=shade if others else None,
        )
    ax.set(xlabel=_label(field), ylabel="loss" if error == "loss_trained" else "squared error\n/ variance of labels")
    xs = [point["fields"][field] for point in done["sweep"]]
    if field in sweeps.SPREAD_OUT and min(xs) > 0:
        ax.set_xscale("log")
        if len(set(xs)) <= 4:  # few enough to label every value
            ax.set_xticks(sorted(set(xs)), [f"{x:g}" for x in sorted(set(xs))])
            ax.minorticks_off()
    elif all(isinstance(x, int) for x in xs):
        ax.set_xticks(sorted(set(xs)))
    losses = [value for point in done["sweep"] for value in point["metrics"][error]["per_seed"] if value]
    if losses and max(losses) > 10 * min(losses):
        ax.set_yscale("log")
    else:
        ax.set_ylim(0, None)
    if others:
        figure.legend(loc="outside lower center")
    else:
        ax.legend()
    return figure


def _label(field: str) -> str:
    """The label of a swept field."""
    return LABELS.get(field, sweeps.leaf(field).replace("_", " "))


def _setting_label(field: str, value: Any) -> str:
    """The label of one value of a swept field."""
    return f"{_label(field)} {value:g}" if isinstance(value, float) else f"{_label(field)} {value}"


def _draw_learners(ax: plots.Axes, points: list, field: str, error: str, is_first: bool) -> None:
    """Draws the learners and closed forms that the trained models of one group are compared with.

    Args:
      is_first: whether this is the first group; only its lines are in the legend.
    """
    metrics = points[0]["metrics"]

    def label(text: str) -> str:
        return text if is_first else f"_{text}"  # matplotlib's legend omits labels that begin with an underscore

    if "loss_optimal" in metrics:
        optimal = sweep_line(points, field, "loss_optimal")
        plots.line(ax, optimal, "closed_form", label=label("closed form"))
    if error == "normalised_error":
        if "normalised_error_least_squares" in metrics:
            exact = sweep_line(points, field, "normalised_error_least_squares")
            plots.line(ax, exact, "least_squares", label=label("least squares"))
    elif "loss_gd" in metrics:
        gd = sweep_line(points, field, "loss_gd")
        plots.points(ax, gd, "gd", marker="s", size=7.0, label=label("best gradient step"))
    else:
        for name in _learners(metrics):
            line = sweep_line(points, field, f"loss_{name}")
            plots.line(ax, line, name, label=label(plots.role_of(name)[0]))
    if "loss_gd_centred" in metrics:
        centred = sweep_line(points, field, "loss_gd_centred")
        plots.line(ax, centred, "closed_form", label=label("best step, centred context"))


def _learners(metrics: Done) -> list[str]:
    """The learners that a population is compared with: the metrics contain their loss and a loss ratio."""
    ratios = [name.removeprefix("loss_ratio_") for name in metrics if name.startswith("loss_ratio_")]
    return [name for name in ratios if f"loss_{name}" in metrics]


def _draw_loss(done: Done) -> plots.Figure:
    """Draws the loss during training, and the losses of learners on the same prompts.

    On ten thousand other prompts, mean losses would change by a percent, more than the differences in the figure.
    """
    deep = [name for name in LEARNERS[1:] if f"loss_{name}_on_curve_prompts" in done["arrays"]]
    standardised = done["arrays"].get("loss_gd_standardised_on_curve_prompts")
    has_long_labels = bool(deep) or standardised is not None
    figure, ax = plots.subplots(figsize=(plots.COLUMN, 3.2 if has_long_labels else 2.7))
    curve, zero = done["curves"]["loss_trained_by_step"], done["arrays"]["loss_zero_on_curve_prompts"]
    plots.line(ax, curve, "trained")
    trapped = [] if "none_free" in done["arrays"] else done["arrays"]["loss_trained_by_step_trapped"]
    for i, losses in enumerate(zip(*trapped, strict=True)):
        _, colour, dashes = plots.ROLES["trapped"]
        ax.plot(curve["x"], losses, dashes, color=colour, linewidth=0.7, label="trapped seeds" if i == 0 else None)
    plots.horizontal_line(ax, done["arrays"]["loss_gd_on_curve_prompts"], "gd", None if deep else "best gradient step")
    levels = {name: done["arrays"][f"loss_{name}_on_curve_prompts"] for name in (*deep, "zero")}
    for name, value in levels.items():
        plots.horizontal_line(ax, value, name)
    if standardised is not None:
        plots.horizontal_line(ax, standardised, "gd_tuned", "gradient step, standardised tokens")
    ax.set(xlabel="training step", ylabel=r"loss  $\frac{1}{2}(\hat y - y)^2$")
    if min(levels.values()) < zero / 20:
        ax.set_yscale("log")
    if ax.get_ylim()[1] > 2 * zero:  # cuts off short spikes
        ax.set_ylim(None if ax.get_yscale() == "log" else 0, 2 * zero)
    figure.legend(loc="outside lower center", ncols=1 if has_long_labels else 2)
    return figure


def _draw_depth_losses(done: Done) -> plots.Figure:
    """Losses of deep networks and of learners, one row each."""
    figure, ax = plots.subplots(figsize=(0.7 * plots.PAGE, 2.2))
    names = ["trained", "interpolated", *reversed(LEARNERS)]
    names = [name for name in names if f"loss_{name}" in done["metrics"]]
    zero = done["metrics"]["loss_zero"]["mean"]
    losses = {name: plots.seed_values(done["metrics"][f"loss_{name}"]) for name in names}
    bounded = {
        name: plots.seed_values(done["metrics"][f"loss_bounded_{name}"])
        for name, values in losses.items()
        if max(values) > zero and f"loss_bounded_{name}" in done["metrics"]
    }
    losses |= bounded
    reach = 1.5 * max((max(values) for values in losses.values() if max(values) < zero), default=zero)
    for row, (name, values) in enumerate(losses.items()):
        _, colour, _ = plots.ROLES[name]
        if max(values) > reach:  # the mean loss is dominated by rare prompts that diverge
            ax.annotate(
                f"{np.mean(values):.2g}",
                (0.9 * reach, row),
                (-5, 0),
                textcoords="offset points",
                va="center",
                ha="right",
                fontsize=6.5,
            )
            ax.plot([0.93 * reach], [row], ">", color=colour)
            continue
        ax.plot(values, [row] * len(values), "o", color=colour, markerfacecolor="none")
        ax.annotate(
            f"{np.mean(values):.4f} *" if name in bounded else f"{np.mean(values):.4f}",
            (max(values), row),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=6.5,
        )
    ax.set_yticks(range(len(names)), [plots.ROLES[name][0] for name in names])
    ax.set_xlim(0, reach)
    ax.set_xlabel(r"loss  $\frac{1}{2}(\hat y - y)^2$")
    if bounded:
        figure.supxlabel("* over prompts on which it does not diverge", fontsize=6.5, x=0.98, ha="right")
    return figure


PICTURES = (
    Picture(
        "sweep",
        ("sweep",),
        _draw_sweep,
        "Loss or error of the trained models for every value of the sweep, with one line for every combination of "
        "other swept fields. Hollow marks are means over all seeds, bars their range. Other marks and lines are the "
        "learners, or the closed-form optimum, on the same task.",
        place=10,
    ),
    Picture(
        "loss",
        ("loss_trained_by_step", "loss_gd_on_curve_prompts"),
        _draw_loss,
        "Loss on held-out prompts during training. The line is the mean over untrapped seeds, the band their range; "
        "each trapped seed has its own line. Horizontal lines are the losses of the learners on the same prompts, "
        "which are fewer than the prompts of the final losses.",
        place=20,
    ),
    Picture(
        "depth_losses",
        ("loss_gd_plus_plus",),
        _draw_depth_losses,
        "Final losses of the trained networks and of the learners on the same prompts; one circle for each seed, and "
        "the mean as a number. A star marks losses over the prompts on which the network or learner does not diverge. "
        "A triangle at the right edge marks a loss beyond the axis.",
        place=100,
    ),
)
