"""Figures of separate tokens: the loss beside copying, what the layers read, and the construction's error."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from icl_gd import plots

Done = dict[str, Any]
TO = {"own_token": "own", "next_token": "following", "other_tokens": "others"}  # roles, and the ends of metrics' names


def _copying(done: Done) -> Figure:
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(plots.COLUMN, 4.2), sharex=True)
    plots.line(top, done["curves"]["loss_trained_by_step"], "trained", label="trained, two layers")
    plots.level(top, done["arrays"]["loss_gd_on_curve_prompts"], "gd", "one gradient step")
    plots.level(top, done["arrays"]["loss_zero_on_curve_prompts"], "zero")
    top.set(ylabel=r"loss  $\frac{1}{2}(\hat y - y)^2$", ylim=(0, 1.3 * done["arrays"]["loss_zero_on_curve_prompts"]))
    for role, to in TO.items():
        plots.line(bottom, done["curves"][f"derivative_{to}_by_step"], role)
    bottom.set(xlabel="training step", ylabel="norm of derivatives", yscale="log")
    for ax in (top, bottom):
        _mark(ax, done, "loss_halfway_at", "loss halfway down", "-.")
        _mark(ax, done, "copying_starts_at", "next above others", ":")
        ax.legend()
    return figure


def _mark(ax: Axes, done: Done, name: str, label: str, dashes: str) -> None:
    """The steps of the seeds that have one, as lines; only the first is named."""
    steps = [step for step in done["metrics"].get(name, {}).get("per_seed", []) if step is not None]
    for i, step in enumerate(steps):
        ax.axvline(step, color="black", linestyle=dashes, linewidth=0.6, alpha=0.7, label=f"{'_' * bool(i)}{label}")


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


def _error(done: Done) -> Figure:
    figure, ax = plt.subplots(figsize=(plots.COLUMN, 2.2))
    plots.line(ax, done["curves"]["copying_error_by_scale"], "construction", marker="o")
    ax.set(xlabel="scale of the copying layer's scores", ylabel="largest error, relative", yscale="log")
    ax.legend()
    return figure


FIGURES = {
    "copying": (("derivative_following_by_step",), _copying,
                "Loss on held-out prompts over training, and the norms of the derivative of the first layer's outputs "
                "to their own, the next, and one other token: mean and range over free seeds. Lines mark, seed by "
                "seed, where the norm for the next token comes to stand above twice that for the others, and where the "
                "loss is halfway down from that of predicting zero."),
    "patterns": (("pattern_mean", "pattern_one"), _patterns,
                 "What multiplies the values in each layer of a free seed. Odd tokens are inputs, even ones labels, "
                 "the last is the query, which nobody reads."),
    "copying_error": (("copying_error_by_scale",), _error,
                      "A softmax layer built to merge neighbours, and a gradient step behind it, against the learner: "
                      "the error falls exponentially with the scale of scores, until rounding ends it."),
}  # fmt: skip
