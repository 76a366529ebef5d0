"""Spectral filters: the share of the least-squares solution that a learner takes, by eigenvalue of the context.

>>> from icl_gd.plots.roles import COLUMN, subplots
>>> figure, ax = subplots(figsize=(COLUMN, 2.0))
>>> measured = {"x": [0.1, 1.0], "mean": [0.1, 0.9], "low": [0.0, 0.8], "high": [0.2, 1.0]}
>>> fitted = {"ridge": {"x": [0.1, 1.0], "mean": [0.1, 0.5]}}
>>> spectral_filters(ax, {"measured": measured}, fitted).get_legend_handles_labels()[1]
['ridge regression', 'measured']
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from icl_gd.plots.roles import ROLES, Axes

# Family -> label, colour, line style.
LINES: dict[str, tuple[str, str, Any]] = {
    "averaging": ("averaging", "#E69F00", (0, (1, 3))),
    "gd": ("gradient descent", "#D55E00", "--"),
    "preconditioned_gd": ("preconditioned gradient descent", "#D55E00", "--"),
    "gd_plus_plus": ("GD++", "#56B4E9", "-."),
    "momentum": ("momentum", "#E69F00", "-."),
    "newton": ("Newton's method", "#CC79A7", ":"),
    "ridge": ("ridge regression", "#009E73", (0, (5, 1, 1, 1, 1, 1))),
    "ols": ("least squares", "#999999", "-"),
}
MARKERS = "osD^v<>"
LEAST = 0.1  # smallest misfit, in times of its limit, that is shown
MARGIN = 0.1  # of the height, above and below the measured filter


def spectral_filters(
    ax: Axes,
    measured: Mapping[str, Mapping[str, Sequence[float] | np.ndarray]],
    fitted: Mapping[str, Mapping[str, Any]],
    *,
    answer: str | None = None,
    framed: Sequence[str] | None = None,
) -> Axes:
    """Draws a measured filter as points with error bars, beside those of fitted algorithms as lines.

    Points outside of the frame are marked by triangles at its edge.

    Args:
      ax: the Axes.
      measured: by label, such as "inputs × 2": a curve with positive "x", and "mean", "low" and "high", of equal
        length. Other curves have other markers.
      fitted: by family, such as "gd": "x" and "mean" of equal length, and optionally a "label" for the legend. A key of
        `LINES` has its colour and line style.
      answer: the family whose line is thicker. Default: none.
      framed: the labels of `measured` that determine the height of the frame. Default: all.

    Returns:
      The same Axes.

    Raises:
      ValueError: if nothing is measured, lengths differ, a value is not finite, or an eigenvalue is not positive.
    """
    if not measured:
        raise ValueError('measured is empty; give at least one curve, such as {"measured": {"x": ..., "mean": ...}}')
    curves = {label: _arrays(label, curve, ("x", "mean", "low", "high")) for label, curve in measured.items()}
    lines = {family: _arrays(family, curve, ("x", "mean")) for family, curve in fitted.items()}
    chosen = [curves[label] for label in (framed or curves)]
    low = min(0.0, *(float(curve["mean"].min()) for curve in chosen))
    high = max(1.0, *(float(curve["mean"].max()) for curve in chosen))
    edge = MARGIN * (high - low)
    ax.set_ylim(low - edge, high + edge)
    ax.set_xscale("log")
    ax.axhline(0.0, color="black", linewidth=0.6)
    for family, line in lines.items():
        _line(ax, line, family, fitted[family].get("label"), is_answer=family == answer)
    for i, (label, curve) in enumerate(curves.items()):
        _points(ax, curve, label, MARKERS[i % len(MARKERS)])
    x = np.concatenate([curve["x"] for curve in curves.values()])
    ax.set_xlim(x.min() / 1.3, x.max() * 1.3)
    ax.set_xlabel(r"eigenvalue $\lambda$ of $X^\top X / n$")
    ax.set_ylabel(r"filter $\lambda\, p(\lambda)$")
    return ax


def misfits_by_scale(ax: Axes, misfits: Mapping[str, Mapping[str, Any]], *, answer: str | None = None) -> Axes:
    """Draws by how much fitted algorithms miss a response, in times of what is accepted, by the scale of the inputs.

    An algorithm is excluded if its misfit is above 1 at any scale. Misfits below 0.1 are drawn at 0.1.

    Args:
      ax: the Axes.
      misfits: by family, such as "gd": "x", the factors of the inputs, and "mean", the misfits divided by their limits,
        of equal length; and optionally a "label" for the legend.
      answer: the family whose line is thicker. Default: none.

    Returns:
      The same Axes.

    Raises:
      ValueError: if lengths differ, a value is not finite, or a factor is not positive.
    """
    from matplotlib.ticker import NullLocator

    factors = [1.0]
    for family, curve in misfits.items():
        line = _arrays(family, curve, ("x", "mean"))
        line["mean"] = np.maximum(line["mean"], LEAST)
        _line(ax, line, family, curve.get("label"), is_answer=family == answer, marker="o")
        factors += line["x"].tolist()
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(bottom=LEAST / 1.5)
    ax.axhspan(LEAST / 1.5, 1.0, color="#999999", alpha=0.15, linewidth=0, label="not excluded")
    powers = 2.0 ** np.arange(np.ceil(np.log2(min(factors))), np.floor(np.log2(max(factors))) + 1)
    ax.set_xticks(powers, [f"{power:g}" for power in powers])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("factor of the inputs")
    ax.set_ylabel("misfit ÷ accepted misfit")
    return ax


def _line(
    ax: Axes, line: Mapping[str, np.ndarray], family: str, label: str | None, *, is_answer: bool, marker: str = ""
) -> None:
    """Draws the line of one family."""
    words, colour, dashes = LINES.get(family, (family.replace("_", " "), "#000000", ":"))
    width = 2.4 if is_answer else 1.2
    ax.plot(
        line["x"], line["mean"], linestyle=dashes, color=colour, linewidth=width, label=label or words, marker=marker
    )


def _arrays(name: str, curve: Mapping[str, Any], parts: Sequence[str]) -> dict[str, np.ndarray]:
    """The parts of a curve as arrays, checked."""
    arrays = {part: np.asarray(curve[part], float) for part in parts}
    if len({array.shape for array in arrays.values()}) > 1 or arrays["x"].ndim != 1 or not len(arrays["x"]):
        raise ValueError(f"{name} has parts of shapes {[array.shape for array in arrays.values()]}; give equal lengths")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError(f"{name} has values that are not finite; leave these points out")
    if np.any(arrays["x"] <= 0):
        raise ValueError(f"{name} has eigenvalues that are not positive; the axis is logarithmic, leave them out")
    return arrays


def _points(ax: Axes, curve: Mapping[str, np.ndarray], label: str, marker: str) -> None:
    """Draws the points of one curve, and triangles at the edge for those outside of the frame."""
    colour, (low, high) = ROLES["trained"][1], ax.get_ylim()
    inside = (curve["mean"] >= low) & (curve["mean"] <= high)
    reach = np.abs(np.stack([curve["low"], curve["high"]]) - curve["mean"])[:, inside]
    ax.errorbar(
        curve["x"][inside],
        curve["mean"][inside],
        reach,
        fmt=marker,
        color=colour,
        markerfacecolor="none",
        markersize=4.0,
        elinewidth=0.9,
        label=label,
    )
    for is_beyond, at, triangle in ((curve["mean"] > high, 0.98, "^"), (curve["mean"] < low, 0.02, "v")):
        x = curve["x"][is_beyond]
        ax.plot(x, np.full(len(x), at), triangle, color=colour, markersize=3.0, transform=ax.get_xaxis_transform())
