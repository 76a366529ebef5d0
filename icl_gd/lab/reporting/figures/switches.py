"""Figures of switches: softmax heads, corrupted labels and lengths of contexts, finite data, a real table."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from icl_gd import plots

Done = dict[str, Any]


def _noise_and_length(done: Done) -> Figure:
    figure, axes = plt.subplots(1, 2, figsize=(plots.PAGE, 2.7))
    roles = ("trained", "rescaled", "gd", "construction", "interpolated", "closed_form", "gd_tuned")
    labels = {"context_length": r"context examples / those of training", "corrupted_labels": "corrupted labels"}
    for ax, (suite, label) in zip(axes, labels.items(), strict=True):
        for role in roles:
            if (curve := done["curves"].get(f"loss_by_{suite}_{role}")) is not None:
                plots.line(ax, curve, role, marker="o" if role == "trained" else "")
        ax.set(xlabel=label, ylabel="loss", yscale="log")
        plots.frame_losses(ax, done["metrics"]["loss_zero"]["mean"])
    axes[0].set_xscale("log", base=2)
    axes[0].xaxis.set_major_formatter("{x:g}")
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
    return figure


def _heads(done: Done) -> Figure:
    """Both circuits of every head and of all together, and the matrix of the linear layer they are."""
    arrays, heads = done["arrays"], len(done["arrays"]["W_KQ_heads"])
    figure, axes = plt.subplots(2, heads + 2, figsize=(plots.PAGE * max(1.0, (heads + 2) / 4), 3.6), squeeze=False)
    for row, circuit in enumerate(("W_KQ", "W_PV")):
        symbol = f"W_{{{circuit[2:]}}}"
        for head in range(heads):
            plots.matrix(axes[row, head], arrays[f"{circuit}_heads"][head], f"${symbol}$, head {head + 1}",
                         arrays["d_input"])  # fmt: skip
        plots.matrix(axes[row, heads], arrays[f"{circuit}_summed"], f"${symbol}$, summed", arrays["d_input"])
    plots.matrix(axes[0, -1], arrays["first_order_matrix"], "heads' products")
    step = done["metrics"]["step_size_gd_centred"]["mean"] * arrays["n_context"]
    plots.matrix(axes[1, -1], (step * np.eye(arrays["d_input"])).tolist(), "centred GD step")
    return figure


def _mix(done: Done) -> Figure:
    figure, ax = plt.subplots(figsize=(plots.COLUMN, 2.2))
    plots.line(ax, done["curves"]["softmax_share_by_step"], "trained")
    ax.set(xlabel="training step", ylabel="softmax share of the pattern", ylim=(-0.02, 1.02))
    return figure


def _pool(done: Done) -> Figure:
    figure, axes = plt.subplots(1, 2, figsize=(plots.PAGE, 2.6))
    curves = done["curves"]
    plots.line(axes[0], curves["loss_trained_by_pool"], "trained", marker="o", label="trained, fresh prompts")
    plots.line(
        axes[0], curves["loss_trained_on_pool_by_pool"], "rescaled", marker="s", label="trained, its own prompts"
    )
    plots.line(axes[0], curves["loss_gd_by_pool"], "gd")
    plots.line(axes[0], curves["loss_gd_tuned_on_pool_by_pool"], "gd_tuned", label="gradient descent, tuned on them")
    axes[0].set(ylabel="loss", yscale="log")
    plots.line(axes[1], curves["sensitivity_cosine_gd_by_pool"], "trained", marker="o")
    axes[1].set(ylabel="sensitivity cosine\nto gradient descent", ylim=(None, 1.02))
    for ax in axes:
        ax.set(xlabel="prompts in the training set", xscale="log")
    axes[0].legend()
    return figure


TABLE_ROLES = {"trained": "trained\nlayer", "gd": "gradient\ndescent", "gd_tuned": "gradient\ndescent,\ntuned here",
               "ridge": "ridge", "ols": "least\nsquares", "zero": "always\nzero",
               "whole_table": "weights of\nthe table"}  # fmt: skip


def _table(done: Done) -> Figure:
    figure, ax = plt.subplots(figsize=(plots.PAGE * 0.75, 2.4))
    curve = done["curves"]["loss_by_learner_table"]
    colours = [plots.ROLES[name][1] if name in plots.ROLES else "#999999" for name in curve["x"]]
    places = ax.bar([TABLE_ROLES[name] for name in curve["x"]], curve["mean"], color=colours)
    top = 1.2 * max(loss for name, loss in zip(curve["x"], curve["mean"], strict=True) if name != "ols")
    for place, loss in zip(places, curve["mean"], strict=True):  # as many examples as inputs: least squares leaves it
        ax.text(place.get_x() + place.get_width() / 2, min(loss, 0.93 * top), f"{loss:.3g}", ha="center", va="bottom")
    ax.set(ylabel="loss on prompts of the table", ylim=(0, top))
    return figure


FIGURES = {
    "noise_and_length": (("loss_by_corrupted_labels_trained", "loss_by_context_length_trained"), _noise_and_length,
                         "Losses on contexts of other lengths, and with labels replaced by noise; nothing is trained "
                         "anew. Linear attention sums over the context: a trained layer and the construction take a "
                         "step of eta over the n of training, gradient descent and the layer as a mean one of eta over "
                         f"the n there is. {plots.ARROWS}"),
    "softmax_heads": (("W_KQ_heads", "first_order_matrix"), _heads,
                      "Softmax heads of the best seed. W_PV adds up to zero in the y row, so that the mean pattern "
                      "cancels; W_KQ need not add up to anything, the products W_PV W_KQ are the linear solution."),
    "softmax_share": (("softmax_share_by_step",), _mix,
                      "How much of its pattern a layer that may choose makes softmax: mean and range over free seeds."),
    "pool": (("loss_trained_on_pool_by_pool", "sensitivity_cosine_gd_by_pool"), _pool,
             "Layers trained on finitely many prompts, on fresh ones and on their own, beside gradient descent."),
    "table": (("loss_by_learner_table",), _table,
              "Losses on prompts cut from the diabetes table; the trained layers have seen nothing like it."),
}  # fmt: skip
