"""Figures of dual models: their way to what the layer says, random features, the gap, and modified attention."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from icl_gd import plots
from icl_gd.lab.reporting.results import half_interval

Done = dict[str, Any]
# Colours by the kind of features, dashes by their directions.
FEATURES = {
    "standard": ("standard, independent", "#0072B2", "-"),
    "orthogonal": ("standard, orthogonal", "#0072B2", "--"),
    "hyperbolic": ("hyperbolic, independent", "#D55E00", "-"),
    "hyperbolic_orthogonal": ("hyperbolic, orthogonal", "#D55E00", "--"),
    "trained": ("as trained, standard, independent", "#000000", "-"),
    "trained_orthogonal": ("as trained, standard, orthogonal", "#000000", "--"),
}
VARIED = ("alpha", "beta", "augment_keys", "augment_values")
AUGMENTED = {(0.0, 0.0): "neither", (1.0, 0.0): "keys", (0.0, 1.0): "values", (1.0, 1.0): "both"}


def _process(done: Done) -> Figure:
    figure, axes = plt.subplots(2, 2, figsize=(plots.PAGE * 0.85, 4.4), sharex=True)
    curves, layers = done["curves"], range(1, done["arrays"]["n_layers"] + 1)
    measures = {"distance": "distance to the layer's output", "norm": r"$|W_t| / |W_N|$",
                "loss": r"dual model's loss / $|$its last$|$"}  # fmt: skip
    for ax, (name, label) in zip(axes.flat, measures.items(), strict=False):
        for layer, shade in zip(layers, plots.shades(len(layers)), strict=True):
            curve = curves[f"dual_{name}_by_step_layer_{layer}"]
            ax.plot(curve["x"], curve["mean"], color=shade, label=f"layer {layer}")
            ax.fill_between(curve["x"], curve["low"], curve["high"], color=shade, alpha=0.2, linewidth=0)
        ax.set_ylabel(label)
        if name != "loss":
            ax.set_ylim(0, None)
    last = axes[1, 1]
    plots.line(last, curves["loss_by_dual_step"], "trained", label="last layer's prediction")
    plots.level(last, done["arrays"]["loss_gd_on_processed"], "gd", "one gradient step")
    plots.level(last, done["arrays"]["loss_zero_on_processed"], "zero")
    last.set(ylabel=r"loss  $\frac{1}{2}(\hat y - y)^2$", ylim=(0, None))
    met = "demonstrations met" if done["arrays"]["tokens_are_examples"] else "tokens met"
    for ax in axes[1]:
        ax.set_xlabel(met)
    (handles, labels), (more, names) = (ax.get_legend_handles_labels() for ax in (axes[0, 0], last))
    figure.legend([*handles, *more], [*labels, *names], loc="outside lower center", ncols=3)
    return figure


def _pull(done: Done) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(plots.PAGE * 0.85, 2.5))
    ours, theirs = (np.asarray(done["arrays"][f"pull_{name}"], float) for name in ("dual", "gd"))
    places = np.arange(1, ours.shape[1] + 1)
    for values, role, marker, label in (
        (ours[0], "trained", "o", "dual model"),
        (theirs[0], "gd", "s", "gradient step"),
    ):
        _, colour, _ = plots.ROLES[role]
        left.plot(places, values, marker, color=colour, markerfacecolor="none", label=label)
    left.axhline(0, color="black", linewidth=0.4)
    left.set(xlabel="demonstration of one prompt", ylabel="adds to the prediction")
    figure.legend(loc="outside lower center", ncols=2)
    right.plot(theirs.ravel(), ours.ravel(), ".", color=plots.ROLES["trained"][1], markersize=1.5)
    right.set(xlabel="by a gradient step", ylabel="by the dual model")
    return figure


def _heads(done: Done) -> Figure:
    pull = {name: np.asarray(values, float) for name, values in done["arrays"]["pull_of_heads"].items()}
    layers, heads, _ = pull["mean"].shape
    rows = layers * heads
    figure, axes = plt.subplots(1, 2, figsize=(plots.PAGE, 0.9 + 0.2 * rows))
    for ax, (name, title) in zip(axes, (("mean", "mean over prompts"), ("one", "one prompt")), strict=True):
        plots.matrix(ax, pull[name].reshape(rows, -1), title)
        ax.set_aspect("auto")
        ax.set_xlabel("token")
    axes[0].set_yticks(range(rows), [f"layer {i + 1}, head {j + 1}" for i in range(layers) for j in range(heads)])
    return figure


def _features(done: Done) -> Figure:
    figure, axes = plt.subplots(1, 2, figsize=(plots.PAGE, 2.6), sharey=True)
    for ax, name in zip(axes, ("attention", "output"), strict=True):
        for kind, (label, colour, dashes) in FEATURES.items():
            curve = done["curves"][f"{name}_error_by_features_{kind}"]
            ax.plot(curve["x"], curve["mean"], dashes, color=colour, label=label)
            ax.fill_between(curve["x"], curve["low"], curve["high"], color=colour, alpha=0.15, linewidth=0)
        _root(ax, done["curves"][f"{name}_error_by_features_standard"], "features")
        ax.set(xlabel="random features $m$", title=name, xscale="log", yscale="log")
    axes[0].set_ylabel("error, relative")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _gap(done: Done) -> Figure:
    figure, ax = plt.subplots(figsize=(plots.COLUMN, 2.4))
    curve = done["curves"]["generalisation_gap_by_length"]
    plots.line(ax, curve, "trained", marker="o", label="difference of losses")
    others = done["curves"]["generalisation_gap_others_by_length"]
    plots.line(ax, others, "construction", marker="s", label="without a demonstration's own part")
    _root(ax, others, "demonstrations")
    ax.set(xlabel="demonstrations $N$", ylabel="difference / loss on fresh ones", xscale="log", yscale="log")
    ax.legend()
    return figure


def _root(ax: Any, curve: Mapping[str, Sequence[float]], of: str) -> None:
    """A line that falls as one over the root, through the curve's middle."""
    x, middle = np.asarray(curve["x"], float), len(curve["x"]) // 2
    ax.plot(x, curve["mean"][middle] * (x / x[middle]) ** -0.5, ":", color="black", linewidth=0.8,
            label=f"1 / root of {of}")  # fmt: skip


def _variants(done: Done) -> Figure:
    """Loss over that of the unmodified member of the seed: what each modification does alone, and the best of all."""
    tasks = list(dict.fromkeys(point["fields"]["task.name"] for point in done["sweep"]))
    figure, axes = plt.subplots(1, 3, figsize=(plots.PAGE, 2.7), sharey=True)
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
            ax.errorbar(x, mean, reach, fmt=marker, linestyle="-" if ax is not axes[2] else "", color=shade, label=task,
                        linewidth=0.9, markersize=3.5, markerfacecolor="none")  # fmt: skip
    for ax, label in zip(axes, (r"$\alpha$", r"$\beta$", "augmented"), strict=True):
        ax.axhline(1.0, color="black", linewidth=0.4)
        ax.set_xlabel(label)
    axes[2].set_xticks(range(4), AUGMENTED.values())
    axes[2].set_xlim(-0.5, 3.5)
    axes[0].set_ylabel("loss / that of plain softmax")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _every_variant(done: Done) -> Figure:
    """All combinations: a row a task, a column an augmentation, in each alpha by beta."""
    of = {(p["fields"]["task.name"], *(p["fields"].get(f"model.{name}", 0.0) for name in VARIED)):
          p["metrics"]["loss_ratio_plain"] for p in done["sweep"]}  # fmt: skip
    tasks, alphas, betas, keys, values = (list(dict.fromkeys(place)) for place in zip(*of, strict=True))
    grown = [pair for pair in AUGMENTED if pair[0] in keys and pair[1] in values]
    extent = max(abs(np.log(metric["mean"])) for metric in of.values()) or 1.0
    size = plots.PAGE, 0.6 + 1.55 * len(tasks)
    figure, axes = plt.subplots(len(tasks), len(grown), figsize=size, squeeze=False, sharex=True, sharey=True)
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


FIGURES = {
    "dual_process": (("loss_by_dual_step", "dual_distance_by_step_layer_1"), _process,
                     "Dual models on their way, after steps on so many demonstrations: the distance of their output to "
                     "what the layer computes (relative), the norm of their weights, their own loss (these three: "
                     "means over heads and prompts), and the loss of the prediction that the last layer's would give, "
                     "beside others' on the same prompts. Bands: range over free seeds."),
    "dual_pull": (("pull_dual", "pull_gd"), _pull,
                  "What each demonstration adds to the prediction, by the dual models of all heads and by the best "
                  "least-squares gradient step: of one prompt, and of 64, in the free seed whose loss is the middle "
                  "one."),
    "dual_heads": (("pull_of_heads",), _heads,
                   "How much of each token's value the query gets, K(k, q)/D, by the dual model of every head: of the "
                   "free seed whose loss is the middle one."),
    "random_features": (("attention_error_by_features_standard",), _features,
                        "Errors of attention and of its output with random features in place of the kernel, by their "
                        "number: means over draws, prompts and heads, bands range over free seeds. Keys and queries "
                        "are as they were trained, or scaled until the longest of a prompt has length one."),
    "generalisation_gap": (("generalisation_gap_by_length",), _gap,
                           "Absolute difference between the dual model's mean loss on the N demonstrations of its step "
                           "and on N fresh ones, relative to the latter, with and without what a demonstration adds "
                           "to its own loss: mean over prompts and heads, range over free seeds."),
    "variants": (("loss_ratio_plain",), _variants,
                 "Loss of modified attention over that of plain softmax of the same seed, one modification at a time: "
                 "mean over seeds and its 95 % interval."),
    "every_variant": (("loss_ratio_plain",), _every_variant,
                      "The same of all combinations, mean over seeds; orange is better. Bold with a star: the 95 % "
                      "interval lies below 1; of so many some will by chance."),
}  # fmt: skip
