"""Figures of deep networks beside gradient descent and GD++."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from icl_gd import plots

Done = dict[str, Any]
LEARNERS = ("gd", "gd_free_steps", "gd_plus_plus_published", "gd_plus_plus", "gd_plus_plus_free_steps")
ALIGNED = ("gd", "gd_plus_plus_published", "gd_plus_plus", "gd_plus_plus_free_steps")


def _losses(done: Done) -> Figure:
    figure, ax = plt.subplots(figsize=(plots.COLUMN, 2.2))
    names = ["trained", "interpolated", *reversed(LEARNERS)]
    names = [name for name in names if f"loss_{name}" in done["metrics"]]
    zero = done["metrics"]["loss_zero"]["mean"]
    losses = {name: _values(done["metrics"][f"loss_{name}"]) for name in names}
    bounded = {name: _values(done["metrics"][f"loss_bounded_{name}"]) for name, values in losses.items()
               if max(values) > zero and f"loss_bounded_{name}" in done["metrics"]}  # fmt: skip
    losses |= bounded
    reach = 1.5 * max((max(values) for values in losses.values() if max(values) < zero), default=zero)
    for row, (name, values) in enumerate(losses.items()):
        _, colour, _ = plots.ROLES[name]
        if max(values) > reach:  # rare prompts on which it diverges are most of its mean
            ax.annotate(f"{np.mean(values):.2g}", (0.9 * reach, row), (-5, 0), textcoords="offset points",
                        va="center", ha="right", fontsize=6.5)  # fmt: skip
            ax.plot([0.93 * reach], [row], ">", color=colour)
            continue
        ax.plot(values, [row] * len(values), "o", color=colour, markerfacecolor="none")
        ax.annotate(f"{np.mean(values):.4f}" + " *" * (name in bounded), (max(values), row), (5, 0),
                    textcoords="offset points", va="center", fontsize=6.5)  # fmt: skip
    ax.set_yticks(range(len(names)), [plots.ROLES[name][0] for name in names])
    ax.set_xlim(0, reach)
    ax.set_xlabel(r"loss  $\frac{1}{2}(\hat y - y)^2$")
    if bounded:
        figure.supxlabel("* of prompts on which it does not diverge", fontsize=6.5, x=0.98, ha="right")
    return figure


def _alignment(done: Done) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(plots.PAGE, 2.5))
    measures = ("sensitivity_cosine", "sensitivity_difference", "prediction_difference")
    for ax, measure in zip(axes, measures, strict=True):
        curves = {name: done["curves"][f"{measure}_{name}_by_step"] for name in ALIGNED}
        for name, curve in curves.items():
            plots.line(ax, curve, name)
        if "difference" in measure:
            plots.log_where_it_spikes(ax, curves.values())
        ax.set(xlabel="training step", ylabel=measure.replace("_", " "))
    if done["curves"]["sensitivity_cosine_gd_by_step"]["mean"][-1] > 0.8:
        axes[0].set_ylim(0.8, 1.005)  # what comes before is the same for all
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def _map(done: Done) -> Figure:
    rates = done["arrays"]["rates"]["gd_plus_plus_published"]
    shared = all(len(set(of_layers)) == 1 for of_layers in rates)  # one pair for all layers, as their weights are
    names = ("gd", "gd_plus_plus_published", "gd_plus_plus" if shared else "gd_plus_plus_free_steps")
    figure, axes = plt.subplots(2, 3, figsize=(plots.PAGE, 4.2), sharex=True, sharey=True)
    for column, name in enumerate(names):
        for row, measure in enumerate(("sensitivity_cosine", "prediction_difference")):
            maps = [done["arrays"][f"map_{measure}_{other}"] for other in names]
            title = plots.ROLES[name][0] if row == 0 else ""
            distance = measure == "prediction_difference"
            limits = float(np.min(maps)), float(np.max(maps)) if distance else 1.0
            plots.heat(axes[row, column], maps[column], title, limits, distance)
        axes[1, column].set_xlabel("step of the learner")
    axes[0, 0].set_ylabel("trained layer\n(sensitivity cosine)")
    axes[1, 0].set_ylabel("trained layer\n(prediction difference)")
    return figure


def _by_steps(done: Done) -> Figure:
    figure, ax = plt.subplots(figsize=(plots.COLUMN, 2.8))
    for name in ("gd", "gd_free_steps", "gd_plus_plus"):
        plots.line(ax, done["curves"][f"loss_by_steps_{name}"], name, marker="o")
    layers, trained = done["arrays"]["n_layers"], done["metrics"]["loss_trained"]
    plots.points(ax, {"x": [layers], **_band(trained)}, "trained", marker="s", size=6.0, label="trained layers")
    ax.set(xlabel="steps, or layers", ylabel="loss", yscale="log")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _tails(done: Done) -> Figure:
    figure, axes = plt.subplots(1, 2, figsize=(plots.PAGE, 2.7))
    for ax, quantity in zip(axes, ("loss_median", "diverging_share"), strict=True):
        for role in ("trained", *LEARNERS):
            if (curve := done["curves"].get(f"{quantity}_by_input_scale_{role}")) is not None:
                if quantity == "diverging_share":
                    curve = _with_many_prompts(curve, done["metrics"][f"diverging_share_{role}"])
                plots.line(ax, curve, role, marker="o" if role == "trained" or len(curve["x"]) == 1 else "")
        ax.set_xlabel("scale of the inputs / that of training")
    axes[0].set(ylabel="median loss over prompts", yscale="log")
    plots.frame_losses(axes[0], done["metrics"]["loss_zero"]["mean"])
    axes[1].set_yscale("symlog", linthresh=1e-6)
    axes[1].set(ylabel="share of prompts that diverge", ylim=(-4e-7, 1.5))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _with_many_prompts(curve: dict, metric: dict) -> dict:
    """A curve over the inputs' scale with what was measured at that of training on many more prompts."""
    measured = _band(metric)
    at = lambda part: [
        measured[part][0] if x == 1.0 else value for x, value in zip(curve["x"], curve[part], strict=True)
    ]
    return {"x": curve["x"], **{part: at(part) for part in ("mean", "low", "high")}}


def _band(metric: dict) -> dict[str, list[float]]:
    values = _values(metric)
    return {"mean": [metric["mean"]], "low": [min(values)], "high": [max(values)]}


def _values(metric: dict) -> list[float]:
    """Of the seeds that have one; infinite where none has."""
    return [value for value in metric["per_seed"] if value is not None] or [np.inf]


def _constructed(done: Done) -> str:
    """Which kind of GD++ is built; where results of earlier versions do not say, that of the construction's loss."""
    if (name := done["arrays"].get("constructed")) is not None:
        return plots.role_of(name)[0]
    metrics = done["metrics"]
    apart = {name: abs(metrics[f"loss_{name}"]["mean"] - metrics["loss_construction"]["mean"])
             for name in LEARNERS[2:] if (metrics.get(f"loss_{name}") or {}).get("mean") is not None}  # fmt: skip
    return plots.ROLES[min(apart, key=apart.__getitem__)][0]


def _curvature(done: Done) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(plots.PAGE, 2.9), width_ratios=(1, 1.1, 1.1))
    curves, built = done["curves"], _constructed(done)
    for role in ("construction", "trained"):
        plots.line(axes[0], curves[f"condition_number_by_layer_{role}"], role, marker="o",
                   label=built if role == "construction" else None)  # fmt: skip
    axes[0].set(xlabel="layers", ylabel="median condition number of $S$", yscale="log")
    axes[0].set_xticks(curves["condition_number_by_layer_trained"]["x"])
    axes[0].legend()
    layers = [key for key in curves if key.startswith("spectrum_trained_layer_")]
    for key, shade in zip(layers, plots.shades(len(layers)), strict=True):
        other = curves[key.replace("trained", "construction")]
        axes[1].plot(curves[key]["x"], curves[key]["mean"], color=shade, label=key.rsplit("_", 1)[1])
        axes[1].plot(other["x"], other["mean"], "o", color=shade, markersize=2.5, markerfacecolor="none")
    axes[1].xaxis.get_major_locator().set_params(integer=True)
    axes[1].set(xlabel="rank", ylabel="median eigenvalue of $S$", yscale="log")
    axes[1].legend(title="after so many layers (circles: GD++)", title_fontsize=7, loc="lower center", ncols=5,
                   bbox_to_anchor=(0.5, 1.0), handlelength=0.9, columnspacing=0.8, handletextpad=0.4)  # fmt: skip
    for role in ("trained", *ALIGNED):
        if (curve := curves.get(f"residual_factor_{role}")) is not None:
            plots.line(axes[2], curve, role)
    axes[2].axhline(0, color="black", linewidth=0.4)
    axes[2].set(xlabel="eigenvalue of $S$ at the start", ylabel="share of the error left", ylim=(-0.75, 1.02))
    axes[2].set_xscale("log")  # where it is zero nothing is known, and nothing is drawn
    handles, labels = axes[2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


FIGURES = {
    "depth_losses": (("loss_gd_plus_plus",), _losses,
                     "Losses of deep trained networks (every seed) beside those of the learners they are compared "
                     "with, on the same prompts, more than curves over training are of; where rare prompts are all of "
                     "a mean, of the others."),
    "depth_alignment": (("sensitivity_cosine_gd_plus_plus_by_step",), _alignment,
                        "Alignment to gradient descent and to kinds of GD++ over training: mean and range over free "
                        "seeds. Cosines are shown from .8 on, where gradient descent's end above it."),
    "layer_map": (("map_sensitivity_cosine_gd_plus_plus",), _map,
                  "What is predicted after each trained layer beside each step of a learner, mean over free seeds. An "
                  "algorithm that is run one step a layer has the best of each row on the diagonal. Bright is alike, "
                  "in both rows; colours of differences are those of their logarithms."),
    "by_steps": (("loss_by_steps_gd",), _by_steps,
                 "Losses of learners by their number of steps, each at its best rates, and of the trained layers."),
    "tails": (("loss_median_by_input_scale_trained",), _tails,
              "Inputs of other scales; nothing is trained anew. Left: the median loss, which rare prompts leave alone. "
              "Right: the share of prompts with more than a hundred times the mean loss of predicting zero, of a "
              "million at the scale of training and of 32,768 at others, where smaller shares than 3e-5 are not seen. "
              f"Without a clip they are most of a mean. {plots.ARROWS}"),
    "curvature": (("condition_number_by_layer_trained",), _curvature,
                  "Left and middle: the covariance S of the context's inputs after each layer, trained and GD++. "
                  "Right: what is left of the error along eigenvectors of S. GD++ flattens the spectrum, so that later "
                  "steps may be long enough for small eigenvalues too, which gradient descent leaves."),
}  # fmt: skip
