"""Figures that need no analysis: sweeps, losses over training, and those of learners of several steps."""

import numpy as np

from icl_gd import plots
from icl_gd.lab.config import sweeps
from icl_gd.lab.config.questions import Done, Picture
from icl_gd.lab.evaluation.comparing import LEARNERS
from icl_gd.lab.reporting.results import sweep_line

WORDS = {
    "task.n_context": r"context examples $N$",
    "model.d_embed": "width of the residual",
    "train.steps": "steps",
    "task.pool": "prompts in the training set",
    "model.n_heads": "heads",
    "task.corrupted_labels": "corrupted labels in training",
}


def _draw_sweep(done: Done) -> plots.Figure:
    """Loss over the first swept field, a line for every combination of the others."""
    field, *others = done["sweep"][0]["fields"]
    words = lambda name: WORDS.get(name, sweeps.leaf(name).replace("_", " "))
    groups: dict[str, list] = {}
    for point in done["sweep"]:
        values = {words(other): point["fields"][other] for other in others}
        shown = (
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
        )
        groups.setdefault(", ".join(shown), []).append(point)
    width = plots.COLUMN if len(others) < 3 else plots.PAGE  # for the legend
    figure, ax = plots.subplots(figsize=(width, 2.4 + 0.15 * len(groups) * bool(others)))
    error = "loss_trained" if "loss_trained" in done["sweep"][0]["metrics"] else "normalised_error"
    hide = lambda label, i: f"{'_' * bool(i)}{label}"  # a line like one before: matplotlib lists no underscores
    for i, points in enumerate(groups.values()):
        if "loss_optimal" in points[0]["metrics"]:
            optimal = sweep_line(points, field, "loss_optimal")
            plots.line(ax, optimal, "closed_form", label=hide("closed form", i))
        if error == "normalised_error":
            if "normalised_error_least_squares" in points[0]["metrics"]:
                exact = sweep_line(points, field, "normalised_error_least_squares")
                plots.line(ax, exact, "least_squares", label=hide("least squares", i))
        elif "loss_gd" in points[0]["metrics"]:
            gd = sweep_line(points, field, "loss_gd")
            plots.points(ax, gd, "gd", marker="s", size=7.0, label=hide("best gradient step", i))
        else:
            for name in _beside(points[0]["metrics"]):
                line = sweep_line(points, field, f"loss_{name}")
                plots.line(ax, line, name, label=hide(plots.role_of(name)[0], i))
        if "loss_gd_centred" in points[0]["metrics"]:
            centred = sweep_line(points, field, "loss_gd_centred")
            plots.line(ax, centred, "closed_form", label=hide("best step, centred context", i))
    for i, ((name, points), shade) in enumerate(zip(groups.items(), plots.shades(len(groups)), strict=True)):
        plots.points(
            ax,
            sweep_line(points, field, error),
            "trained",
            marker="o^vDs<>p"[i % 8],
            size=4.0,
            join=bool(others),
            label=f"trained{', ' * bool(name)}{name}",
            colour=shade if others else None,
        )
    ax.set(xlabel=words(field), ylabel="loss" if error == "loss_trained" else "square error / variance of labels")
    xs = [point["fields"][field] for point in done["sweep"]]
    if field in sweeps.SPREAD_OUT and min(xs) > 0:
        ax.set_xscale("log")
        if len(set(xs)) <= 4:  # few enough to be written out
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


def _beside(metrics: Done) -> list[str]:
    """The learners that a population is measured beside, by their ratios."""
    ratios = [name.removeprefix("loss_ratio_") for name in metrics if name.startswith("loss_ratio_")]
    return [name for name in ratios if f"loss_{name}" in metrics]


def _draw_loss(done: Done) -> plots.Figure:
    figure, ax = plots.subplots(figsize=(plots.COLUMN, 2.7))
    curve, zero = done["curves"]["loss_trained_by_step"], done["arrays"]["loss_zero_on_curve_prompts"]
    plots.line(ax, curve, "trained")
    trapped = [] if "none_free" in done["arrays"] else done["arrays"]["loss_trained_by_step_trapped"]
    for i, losses in enumerate(zip(*trapped, strict=True)):
        _, colour, dashes = plots.ROLES["trapped"]
        ax.plot(curve["x"], losses, dashes, color=colour, linewidth=0.7, label="trapped seeds" if i == 0 else None)
    # On the curve's own prompts: a sample of ten thousand is off by a percent, more than what is to be seen here.
    deep = [name for name in LEARNERS[1:] if f"loss_{name}_on_curve_prompts" in done["arrays"]]
    plots.level(ax, done["arrays"]["loss_gd_on_curve_prompts"], "gd", None if deep else "best gradient step")
    levels = {name: done["arrays"][f"loss_{name}_on_curve_prompts"] for name in (*deep, "zero")}
    for name, value in levels.items():
        plots.level(ax, value, name)
    if (standardised := done["arrays"].get("loss_gd_standardised_on_curve_prompts")) is not None:
        plots.level(ax, standardised, "gd_tuned", "on standardised tokens")
    ax.set(xlabel="training step", ylabel=r"loss  $\frac{1}{2}(\hat y - y)^2$")
    if min(levels.values()) < zero / 20:
        ax.set_yscale("log")
    if ax.get_ylim()[1] > 2 * zero:  # what does worse for a moment leaves the frame
        ax.set_ylim(None if ax.get_yscale() == "log" else 0, 2 * zero)
    narrow = {"fontsize": 6, "columnspacing": 0.8, "handlelength": 2.6} if deep else {}
    figure.legend(loc="outside lower center", ncols=2, **narrow)
    return figure


def _draw_depth_losses(done: Done) -> plots.Figure:
    figure, ax = plots.subplots(figsize=(plots.COLUMN, 2.2))
    names = ["trained", "interpolated", *reversed(LEARNERS)]
    names = [name for name in names if f"loss_{name}" in done["metrics"]]
    zero = done["metrics"]["loss_zero"]["mean"]
    losses = {name: plots.seeds(done["metrics"][f"loss_{name}"]) for name in names}
    bounded = {
        name: plots.seeds(done["metrics"][f"loss_bounded_{name}"])
        for name, values in losses.items()
        if max(values) > zero and f"loss_bounded_{name}" in done["metrics"]
    }
    losses |= bounded
    reach = 1.5 * max((max(values) for values in losses.values() if max(values) < zero), default=zero)
    for row, (name, values) in enumerate(losses.items()):
        _, colour, _ = plots.ROLES[name]
        if max(values) > reach:  # rare prompts on which it diverges are most of its mean
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
            f"{np.mean(values):.4f}" + " *" * (name in bounded),
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
        figure.supxlabel("* of prompts on which it does not diverge", fontsize=6.5, x=0.98, ha="right")
    return figure


PICTURES = (
    Picture(
        "sweep",
        ("sweep",),
        _draw_sweep,
        "Loss, or error, over what was swept over: trained models (mean and range over all seeds) beside the "
        "learners, and the closed form, that they were measured with.",
        place=10,
    ),
    Picture(
        "loss",
        ("loss_trained_by_step", "loss_gd_on_curve_prompts"),
        _draw_loss,
        "Loss on held-out prompts over training: mean and range over free seeds; trapped seeds one by one. Levels "
        "are of these prompts, fewer than those that final losses are of.",
        place=20,
    ),
    Picture(
        "depth_losses",
        ("loss_gd_plus_plus",),
        _draw_depth_losses,
        "Losses of deep trained networks (every seed) beside those of the learners they are compared "
        "with, on the same prompts, more than curves over training are of; where rare prompts are all of "
        "a mean, of the others.",
        place=100,
    ),
)
