"""Figures of one layer, of its training, and of sweeps, in the paper's order."""

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from icl_gd import plots
from icl_gd.lab.config import sweeps
from icl_gd.lab.reporting.results import sweep_line

Done = dict[str, Any]
DEEP = ("gd_free_steps", "gd_plus_plus_published", "gd_plus_plus", "gd_plus_plus_free_steps")  # learners of more steps


def _value(done: Done, name: str) -> float | None:
    return done["metrics"].get(name, {}).get("mean")


def _loss(done: Done) -> Figure:
    figure, ax = plt.subplots(figsize=(plots.COLUMN, 2.7))
    curve, zero = done["curves"]["loss_trained_by_step"], done["arrays"]["loss_zero_on_curve_prompts"]
    plots.line(ax, curve, "trained")
    trapped = [] if "none_free" in done["arrays"] else done["arrays"]["loss_trained_by_step_trapped"]
    for i, losses in enumerate(zip(*trapped, strict=True)):
        _, colour, dashes = plots.ROLES["trapped"]
        ax.plot(curve["x"], losses, dashes, color=colour, linewidth=0.7, label="trapped seeds" if i == 0 else None)
    # On the curve's own prompts: a sample of ten thousand is off by a percent, more than what is to be seen here.
    deep = [name for name in DEEP if f"loss_{name}_on_curve_prompts" in done["arrays"]]
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


def _alignment(done: Done) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(plots.PAGE, 2.4))
    names = ("sensitivity_cosine_gd", "sensitivity_difference_gd", "prediction_difference_gd")
    for ax, name in zip(axes, names, strict=True):
        curve = done["curves"][f"{name}_by_step"]
        plots.line(ax, curve, "trained")
        if "difference" in name:
            plots.log_where_it_spikes(ax, [curve])
        for control in ("untrained", "wrong_step"):
            if (value := _value(done, f"{name}_{control}")) is not None:
                plots.level(ax, value, control)
        ax.set(xlabel="training step", ylabel=f"{name.removesuffix('_gd').replace('_', ' ')}\nto gradient descent")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _weights(done: Done) -> Figure:
    rows = [name for name in ("construction", "trained") if f"W_KQ_{name}" in done["arrays"]]
    figure, axes = plt.subplots(2, len(rows), figsize=(plots.COLUMN * len(rows) / 1.3, 4.0), squeeze=False)
    for column, name in enumerate(rows):
        for row, circuit in enumerate(("W_KQ", "W_PV")):
            values = done["arrays"][f"{circuit}_{name}"]
            title = rf"$W_{{{circuit[2:]}}}$, {plots.ROLES[name][0]}"
            plots.matrix(axes[row, column], values, title, done["arrays"].get("d_input"))
    return figure


def _interpolation(done: Done) -> Figure:
    figure, ax = plt.subplots(figsize=(plots.COLUMN, 2.2))
    plots.line(ax, done["curves"]["loss_by_interpolation"], "interpolated", marker="o")
    curve, deep = done["curves"]["loss_by_interpolation"], "loss_gd_plus_plus" in done["metrics"]
    end, high = curve["mean"][-1], max(value for value in curve["high"] if value is not None)
    plots.level(ax, end, "gd_plus_plus" if deep else "gd", "GD++" if deep else "best gradient step")
    # What is within a tenth is to be seen as such.
    ax.set(
        xlabel="trained weights → constructed weights", ylabel="loss", ylim=(0.9 * end, max(1.25 * end, 1.05 * high))
    )
    ax.legend()
    return figure


def _shifts(done: Done) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(plots.PAGE, 2.8), width_ratios=(1, 1, 1.3))
    roles = ("trained", "gd", "construction", "interpolated", "closed_form")
    for ax, suite, label in zip(
        axes,
        ("input_scale", "weight_scale", "input_family"),
        (r"input scale $\alpha$", r"weight scale $\beta$", "family of inputs"),
        strict=True,
    ):
        curves = {role: done["curves"].get(f"loss_by_{suite}_{role}") for role in roles}
        curves = {role: curve for role, curve in curves.items() if curve is not None}
        if isinstance(next(iter(curves.values()))["x"][0], str):
            plots.by_name(ax, {role: curve for role, curve in curves.items() if role != "closed_form"})
            ax.tick_params(axis="x", rotation=30)
        else:
            for role, curve in curves.items():
                plots.line(ax, curve, role, marker="o" if role == "trained" else "")
        ax.set(xlabel=label, ylabel="loss", yscale="log")
        plots.frame_losses(ax, done["metrics"]["loss_zero"]["mean"])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _trapped(done: Done) -> Figure:
    figure, axes = plt.subplots(1, 2, figsize=(plots.PAGE * 0.75, 2.4))
    for ax, circuit in zip(axes, ("W_KQ", "W_PV"), strict=True):
        title = rf"$W_{{{circuit[2:]}}}$, a trapped seed"
        plots.matrix(ax, done["arrays"][f"{circuit}_trapped"], title, done["arrays"].get("d_input"))
    return figure


WORDS = {"task.n_context": r"context examples $N$", "model.d_embed": "width of the residual", "train.steps": "steps",
         "task.pool": "prompts in the training set", "model.n_heads": "heads",
         "task.corrupted_labels": "corrupted labels in training"}  # fmt: skip


def _sweep(done: Done) -> Figure:
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
    figure, ax = plt.subplots(figsize=(width, 2.4 + 0.15 * len(groups) * bool(others)))
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
        else:
            gd = sweep_line(points, field, "loss_gd")
            plots.points(ax, gd, "gd", marker="s", size=7.0, label=hide("best gradient step", i))
        if "loss_gd_centred" in points[0]["metrics"]:
            centred = sweep_line(points, field, "loss_gd_centred")
            plots.line(ax, centred, "closed_form", label=hide("best step, centred context", i))
    for i, ((name, points), shade) in enumerate(zip(groups.items(), plots.shades(len(groups)), strict=True)):
        plots.points(ax, sweep_line(points, field, error), "trained", marker="o^vDs<>p"[i % 8], size=4.0,
                     join=bool(others), label=f"trained{', ' * bool(name)}{name}",
                     colour=shade if others else None)  # fmt: skip
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


def _rollout(done: Done) -> Figure:
    figure, axes = plt.subplots(1, 2, figsize=(plots.PAGE, 2.4))
    titles = f"damped, λ = {done['arrays']['damping']}", "undamped"
    for ax, suffix, title in zip(axes, ("", "_undamped"), titles, strict=True):
        for role in ("trained", "gd"):
            plots.line(ax, done["curves"][f"loss_by_iteration_{role}{suffix}"], role)
        ax.set(xlabel="applications of the layer", ylabel="loss", yscale="log", title=title)
        if suffix:
            ax.set_ylim(top=1e3)  # where it has long been clear that both diverge
        ax.legend()
    return figure


def _optimum(done: Done) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(plots.PAGE, 2.2), width_ratios=(1, 1, 1.3))
    plots.matrix(axes[0], done["arrays"]["preconditioner_exact"], r"$\Gamma^{-1}$, closed form")
    plots.matrix(axes[1], done["arrays"]["preconditioner_trained"], "learned matrix")
    for role in ("trained", "closed_form"):
        plots.line(
            axes[2], done["curves"][f"loss_by_test_length_{role}"], role, marker="o" if role == "trained" else ""
        )
    axes[2].set(xlabel=r"test context examples $M$", ylabel="loss", xscale="log")
    axes[2].legend()
    return figure


FIGURES = {
    "sweep": (("sweep",), _sweep,
              "Loss, or error, over what was swept over: trained models (mean and range over all seeds) beside the "
              "learners, and the closed form, that they were measured with."),
    "loss": (("loss_trained_by_step", "loss_gd_on_curve_prompts"), _loss,
             "Loss on held-out prompts over training: mean and range over free seeds; trapped seeds one by one. Levels "
             "are of these prompts, fewer than those that final losses are of."),
    "alignment": (("sensitivity_cosine_gd_by_step", "sensitivity_difference_gd_by_step"), _alignment,
                  "Alignment to gradient descent over training (mean and range over free seeds), beside controls where "
                  "they were measured: untrained layers, and gradient descent with half its step size."),
    "weights": (("W_KQ_construction", "W_KQ_trained"), _weights,
                "The circuits of the construction and of a free seed, the scale between them matched."),
    "interpolation": (("loss_by_interpolation",), _interpolation,
                      "Loss on the line from trained to constructed weights: mean and range over free seeds."),
    "shifts": (("loss_by_input_scale_trained",), _shifts,
               "Losses under shifts of the test distribution; nothing is fitted anew. Bands and bars: range over free "
               f"seeds. {plots.ARROWS}"),
    "trapped": (("W_KQ_trapped",), _trapped,
                "The circuits of a trapped seed. Gradient descent has one entry in W_PV, from y to y, and reads x "
                "with W_KQ; the metrics share_..._trapped say which other way its weights went."),
    "rollout": (("loss_by_iteration_trained",), _rollout,
                "A layer trained for one application, applied many times, against gradient descent with the same "
                "damping."),
    "optimum": (("preconditioner_exact", "preconditioner_trained"), _optimum,
                "The learned matrix against the closed-form optimum, and both at test lengths not trained on."),
}  # fmt: skip
