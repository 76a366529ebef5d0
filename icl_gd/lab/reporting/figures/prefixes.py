"""Figures of errors at every length of a prompt, as Garg et al. have them."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from icl_gd import plots

Done = dict[str, Any]
CURVE = "normalised_error_"
WORST = 1.1  # shown over training
# Families of one figure, by its title; what is not named stands for itself.
GROUPS = {
    "query": ("random_quadrants", "opposite_quadrants", "orthogonal_query", "repeated_query"),
    "inputs": ("half_subspace", "skewed", "noisy"),
    "scale of inputs": ("inputs_third", "inputs_half", "inputs_double", "inputs_triple"),
    "scale of labels": ("labels_third", "labels_half", "labels_double", "labels_triple"),
}


def _roles(done: Done) -> list[str]:
    """The roles that have a place of their own, in order, and the learners of this run that have none."""
    return list(dict.fromkeys([*plots.ROLES, *done["arrays"].get("learners", ())]))


def _of(done: Done, family: str) -> dict[str, dict]:
    """The curves of a family by role, the trained model first and drawn last."""
    roles = [role for role in _roles(done) if f"{CURVE}{family}_{role}" in done["curves"]]
    return {role: done["curves"][f"{CURVE}{family}_{role}"] for role in roles}


def _draw(ax: Axes, curves: dict[str, dict], top: float) -> None:
    for i, (role, curve) in enumerate(curves.items()):
        plots.line(ax, curve, role, label="trained model" if role == "trained" else None)
        ax.lines[-1].set_zorder(10 - i)
    plots.level(ax, 1.0, "zero")
    ax.set_ylim(0, top)
    ax.set_xlim(0, max(curve["x"][-1] for curve in curves.values()))


def _top(curves: dict[str, dict]) -> float:
    """Averaging and neighbours leave the frame where few examples make them worse than zero."""
    found = [value for role, curve in curves.items() if role in ("trained", "least_squares") for value in curve["mean"]]
    return _frame(np.nanmax(np.array(found, float)))


def _usual(curves: dict[str, dict]) -> float:
    """A frame that holds every learner at half of all lengths at least."""
    medians = [np.nanmedian(np.array(curve["mean"], float)) for role, curve in curves.items() if role != "untrained"]
    return _frame(max(medians))


def _frame(error: float) -> float:
    return float(max(1.15, min(1.1 * error, 3.0)))


def _standard(done: Done) -> Figure:
    curves = _of(done, "standard")
    rows = (len(curves) + 2) // 2  # of the legend, with always zero
    figure, ax = plt.subplots(figsize=(plots.COLUMN, 2.5 + 0.17 * rows))
    _draw(ax, curves, _usual(curves))
    error = "wrong classes / one half" if done["arrays"].get("are_classes") else "square error / variance of labels"
    ax.set(xlabel="in-context examples", ylabel=error)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _families(done: Done) -> Figure:
    groups = {title: [name for name in names if _of(done, name)] for title, names in GROUPS.items()}
    groups = {title: names for title, names in groups.items() if names}
    columns = max(len(names) for names in groups.values())
    figure, axes = plt.subplots(
        len(groups), columns, figsize=(plots.PAGE, 0.5 + 1.6 * len(groups)), sharex=True, squeeze=False
    )
    handles: dict[str, Any] = {}
    for row, names in zip(axes, groups.values(), strict=True):
        for ax, name in zip(row, names, strict=False):
            curves = _of(done, name)
            _draw(ax, curves, _top(curves))
            ax.set_title(name.replace("_", " "))
            handles |= {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        for ax in row[len(names) :]:
            ax.set_axis_off()
        row[0].set_ylabel("normalised error")
    for ax in axes[-1]:
        ax.set_xlabel("in-context examples")
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4)
    return figure


def _functions(done: Done) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(plots.PAGE, 2.9))
    line, curves = done["arrays"]["along_the_function"], done["curves"]
    left.plot(line["x"], line["function"], color="#000000", alpha=0.25, linewidth=4, label="the function")
    for k, dashes, trained, least_squares in zip(
        line["examples"], (":", "--", "-"), line["trained"], line["least_squares"], strict=False
    ):
        left.plot(line["x"], trained, dashes, color=plots.ROLES["trained"][1], label=f"trained, {k} examples")
        left.plot(line["x"], least_squares, dashes, color=plots.ROLES["least_squares"][1], linewidth=0.8)
    left.plot([], [], color=plots.ROLES["least_squares"][1], linewidth=0.8, label="least squares, same dashes")
    left.set(xlabel="query along w, in its typical length", ylabel="prediction")
    at = "sensitivity_cosine_{}_{}".format
    plots.line(right, curves[at("least_squares", "trained")], "trained", label="trained, to least squares")
    plots.line(right, curves[at("least_squares", "untrained")], "untrained", label="untrained, to least squares")
    plots.line(right, curves[at("function", "trained")], "gd_plus_plus", label="trained, to the function")
    plots.line(right, curves[at("function", "least_squares")], "least_squares", label="least squares, to the function")
    right.set(xlabel="in-context examples", ylabel="cosine of sensitivities", ylim=(-0.15, 1.05))
    for ax in (left, right):
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, fontsize="small")
    return figure


def _by_step(done: Done) -> Figure:
    figure, ax = plt.subplots(figsize=(plots.COLUMN, 2.3))
    curves = done["curves"]
    plots.line(ax, curves["normalised_error_by_step"], "trained", label="mean over lengths")
    at_end = curves["normalised_error_at_end_by_step"]
    ax.plot(at_end["x"], at_end["mean"], ":", color=plots.ROLES["trained"][1], label="at full length")
    metrics, of = done["metrics"], "normalised_error_{}".format
    found = {role: metrics[of(role)]["mean"] for role in _roles(done) if role != "untrained" and of(role) in metrics}
    best = min(found, key=found.__getitem__, default="")
    if best and found[best] < WORST:
        plots.level(ax, found[best], best)
    if end := done["arrays"]["curriculum_ends_at"]:
        ax.axvline(end, color="#999999", linewidth=0.8, label="end of the curriculum")
    ax.set(xlabel="training step", ylabel="normalised error", ylim=(0, WORST))
    ax.locator_params(axis="x", nbins=4)
    ax.legend()
    return figure


FIGURES = {
    "in_context_error": ((f"{CURVE}standard_trained",), _standard,
                         "Error after each number of examples, over the variance of labels: the trained model (mean "
                         "over seeds) and learners, on the same prompts; bands hold 90 % of means over resampled "
                         "prompts. What is much worse than always zero leaves the frame."),
    "prompt_families": (("other_families",), _families,
                        "The same model on prompts of other families than those of its training, beside learners; "
                        "bands as before. Curves that are missing are above the frame, at all lengths shown."),
    "predicted_functions": (("along_the_function",), _functions,
                            "Left: what is predicted of a query that moves along w, where the function w x changes "
                            "most, in one prompt, by the first member; from as many examples as inputs on least "
                            "squares is the function. Right: cosine between sensitivities, d prediction / d query, "
                            "and those of least squares, or of the function itself (mean over prompts; bands hold 90 "
                            "% of means over resampled ones)."),
    "in_context_error_by_step": (("normalised_error_at_end_by_step",), _by_step,
                                 "Error on held-out prompts over training: mean over seeds, and their range; beside it "
                                 "the learner with the least mean over lengths, on the other prompts that final errors "
                                 f"are of. What is worse than {WORST}, early or under the curriculum, is above the "
                                 "frame."),
}  # fmt: skip
