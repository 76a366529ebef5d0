"""Figures of separate tokens: the loss beside copying, what the layers read, and the construction's error."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from icl_gd import plots

Done = dict[str, Any]
MARKS = {
    "loss_halfway_at": "halfway down",
    "copying_starts_at": "next above others",
    "copying_clear_at": "twice the others",
}
TO = {"own_token": "own", "next_token": "following", "other_tokens": "others"}  # roles, and the ends of metrics' names


def _copying(done: Done) -> Figure:
    """Every seed on its own: they fall at different steps, and a mean would show none of them."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(plots.COLUMN, 4.4), sharex=True)
    by_seed, zero = done["arrays"]["copying_by_seed"], done["arrays"]["loss_zero_on_curve_prompts"]
    _seeds(top, by_seed["step"], by_seed["loss_trained"], "trained", "trained, a line a seed")
    plots.level(top, done["arrays"]["loss_gd_on_curve_prompts"], "gd", "one gradient step")
    plots.level(top, zero, "zero")
    top.set(ylabel=r"loss  $\frac{1}{2}(\hat y - y)^2$", ylim=(0, 1.2 * zero))
    for role, to in TO.items():
        _seeds(bottom, by_seed["step"], by_seed[f"derivative_{to}"], role, plots.ROLES[role][0])
    bottom.set(xlabel="training step", ylabel="norm of derivatives", yscale="log")
    for name, ax, to, marker in (
        ("loss_halfway_at", top, "loss_trained", "o"),
        ("copying_starts_at", bottom, "derivative_following", "v"),
        ("copying_clear_at", bottom, "derivative_following", "o"),
    ):
        _mark(ax, by_seed, to, done["metrics"][f"{name}_untrapped"]["per_seed"], MARKS[name], marker)
    for ax in (top, bottom):
        ax.legend()
    return figure


def _seeds(ax: Axes, steps: list, values: list, role: str, label: str) -> None:
    _, colour, dashes = plots.ROLES[role]
    for i, line in enumerate(values):
        ax.plot(steps, np.asarray(line, float), dashes, color=colour, linewidth=0.8, label=f"{'_' * bool(i)}{label}")


def _mark(ax: Axes, by_seed: dict, to: str, at: list, label: str, marker: str) -> None:
    """Each seed's curve at its own step; seeds without one have no mark."""
    found = [(step, line[by_seed["step"].index(step)]) for step, line in zip(at, by_seed[to], strict=False) if step]
    if found:
        ax.plot(*zip(*found, strict=True), marker, color="black", markersize=3, markerfacecolor="none", label=label)


def _patterns(done: Done) -> Figure:
    mean, one = (np.asarray(done["arrays"][f"pattern_{name}"], float) for name in ("mean", "one"))
    figure, axes = plt.subplots(len(mean), 2, figsize=(plots.PAGE * 0.8, 2.4 * len(mean)), squeeze=False)
    for layer, row in enumerate(axes):
        for ax, values, title in zip(row, (mean, one), ("mean over prompts", "one prompt"), strict=True):
            plots.matrix(ax, values[layer], f"layer {layer + 1}, {title}")
            ax.set(xlabel="token read", ylabel="reading token")
            places = range(0, len(values[layer]), 5)
            ax.set_xticks(places, [place + 1 for place in places])
            ax.set_yticks(places, [place + 1 for place in places])
    return figure


def _coordinates(done: Done) -> Figure:
    figure, ax = plt.subplots(figsize=(plots.COLUMN, 2.0))
    curve = done["curves"]["step_by_coordinate"]
    plots.level(ax, done["metrics"]["step_size_gd"]["mean"], "gd", "one gradient step")
    plots.points(ax, curve, "trained", marker="o", size=4.0, label="trained, two layers")
    ax.set(xlabel="coordinate of x", ylabel=r"step size over $N$", ylim=(0, None), xticks=curve["x"])
    ax.legend()
    return figure


def _error(done: Done) -> Figure:
    figure, ax = plt.subplots(figsize=(plots.COLUMN, 2.2))
    plots.line(ax, done["curves"]["copying_error_by_scale"], "construction", marker="o")
    ax.set(xlabel="scale of the copying layer's scores", ylabel="largest error, relative", yscale="log")
    ax.legend()
    return figure


FIGURES = {
    "copying": (("copying_by_seed",), _copying,
                "Loss on held-out prompts over training, and norms of the derivative of the first layer's outputs by "
                "their own, the next, and one other token, free seeds one by one. Marked are the steps from which on "
                "the norm for the next token stays above that for the others, and above twice that, and from which on "
                "the loss is more than halfway down from that of predicting zero."),
    "patterns": (("pattern_mean", "pattern_one"), _patterns,
                 "What multiplies the values in each layer of a typical free seed, that of the median score of the "
                 "following token in the first layer. Odd tokens are inputs, even ones "
                 "labels, the last is the query, which nobody reads."),
    "coordinates": (("step_by_coordinate",), _coordinates,
                    "The step that each coordinate takes, fitted to predictions: mean and range over free seeds. The "
                    "last is the one whose place y shares."),
    "copying_error": (("copying_error_by_scale",), _error,
                      "A softmax layer built to merge neighbours, and a gradient step behind it, against the learner: "
                      "the error falls exponentially with the scale of scores, until rounding ends it."),
}  # fmt: skip
