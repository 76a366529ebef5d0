"""Figures of non-linear tasks: a Transformer with a perceptron beside gradient descent on deep features."""

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from icl_gd import plots

Done = dict[str, Any]
LEARNER = "gd_deep_features"
SHORT = {"trained": "layer", LEARNER: "gradient step"}


def _loss(done: Done) -> Figure:
    figure, ax = plt.subplots(figsize=(plots.COLUMN, 2.7))
    plots.line(ax, done["curves"]["loss_trained_by_step"], "trained")
    plots.line(ax, done["curves"][f"loss_{LEARNER}_by_step"], LEARNER)
    plots.level(ax, done["arrays"]["loss_zero"], "zero")
    ax.set(xlabel="training step", ylabel=r"loss  $\frac{1}{2}(\hat y - y)^2$", yscale="log")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _alignment(done: Done) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(plots.PAGE, 2.2))
    for ax, name in zip(axes, ("sensitivity_cosine", "sensitivity_difference", "prediction_difference"), strict=True):
        plots.line(ax, done["curves"][f"{name}_{LEARNER}_by_step"], "trained")
        plots.level(ax, done["metrics"][f"{name}_{LEARNER}_untrained"]["mean"], "untrained")
        ax.set(xlabel="training step", ylabel=f"{name.replace('_', ' ')}\nto gradient descent")
    axes[0].legend()
    return figure


def _functions(done: Done) -> Figure:
    prompts = done["arrays"]["functions"]
    figure, axes = plt.subplots(2, len(prompts), figsize=(plots.PAGE, 3.0), sharex=True, sharey=True)
    for row, role in zip(axes, ("trained", LEARNER), strict=True):
        _, colour, dashes = plots.ROLES[role]
        for ax, prompt in zip(row, prompts, strict=True):
            ax.plot(prompt["x"], prompt["target"], color="black", linewidth=0.8, label="target")
            ax.plot(
                prompt["x"], prompt[f"{role}_before"], ":", color=colour, linewidth=1.0, label=f"before {SHORT[role]}"
            )
            ax.plot(prompt["x"], prompt[role], dashes, color=colour, label=f"after {SHORT[role]}")
            ax.plot(prompt["context_x"], prompt["context_y"], "o", color="black", markersize=2.5, label="context")
        row[0].set(ylabel="$y$")
    for ax in axes[-1]:
        ax.set(xlabel="$x$")
    (handles, labels), (more, names) = (row[0].get_legend_handles_labels() for row in axes)
    figure.legend([*handles, *more[1:3]], [*labels, *names[1:3]], loc="outside lower center", ncols=6)
    return figure


def _differences(done: Done) -> Figure:
    figure, ax = plt.subplots(figsize=(plots.COLUMN, 2.6))
    shown = (
        ("targets", "targets, centred", "#000000", "-"),
        ("error_trained", "error of the layer", *plots.ROLES["trained"][1:]),
        (f"error_{LEARNER}", "error of the step", *plots.ROLES[LEARNER][1:]),
        (LEARNER, "layer minus step", "#009E73", "-"),
        ("seeds", "layer minus layer, other seed", "#CC79A7", "-."),
        (f"{LEARNER}_seeds", "step minus step, other seed", "#E69F00", ":"),
    )
    for name, label, colour, dashes in shown:
        if (curve := done["curves"].get(f"absolute_{name}_by_quantile")) is not None:
            ax.plot(curve["mean"], curve["x"], dashes, color=colour, label=label)
    ax.set(xlabel="absolute value, in units of $y$", ylabel="share of prompts below", xscale="log", ylim=(0, 1))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _features(done: Done) -> Figure:
    figure, axes = plt.subplots(1, 2, figsize=(plots.PAGE, 2.6), sharey=True)
    arrays = done["arrays"]
    for ax, role in zip(axes, ("trained", LEARNER), strict=True):
        for component, share, dashes, colour in zip(
            arrays[f"features_{role}"], arrays[f"features_share_{role}"], ("-", "--", ":"), plots.shades(3), strict=True
        ):
            ax.plot(arrays["features_x"], component, dashes, color=colour, label=f"{100 * share:.1f} %")
        ax.set(xlabel="$x$", title=plots.ROLES[role][0])
        ax.legend(title="share of variance", loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=3)
    axes[0].set(ylabel="component, root mean square 1")
    return figure


FIGURES = {
    "deep_features_loss": ((f"loss_{LEARNER}_by_step",), _loss,
                           "Loss on held-out prompts over training, of the Transformer and of the meta-learned "
                           "learner: mean and range over seeds."),
    "deep_features_alignment": ((f"sensitivity_cosine_{LEARNER}_by_step",), _alignment,
                                "Alignment of each Transformer to a fully trained learner over training, beside an "
                                "untrained control."),
    "functions": (("functions",), _functions,
                  "Predictions over x for four prompts, of one seed: before and after the attention layer, and before "
                  "and after the gradient step on the head."),
    "differences": ((f"absolute_{LEARNER}_by_quantile",), _differences,
                    "Differences of predictions next to the spread of targets, over held-out prompts: a curve to the "
                    "left is a smaller difference."),
    "features": (("features_x",), _features,
                 "The largest principal components of the features with which a query meets the examples, over x, of "
                 "one seed."),
}  # fmt: skip
