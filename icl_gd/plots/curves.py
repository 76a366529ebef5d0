"""Curves: lines with bands, points with error bars, levels and limits.

A curve is a mapping with the sequences "x", "mean", "low" and "high"; low and high are the edges of its band. The role
of a curve (such as "gd") names the quantity that it shows, and determines its label, colour and line style.

    >>> from icl_gd.plots.roles import COLUMN, subplots
    >>> figure, ax = subplots(figsize=(COLUMN, 2.0))
    >>> curve = {"x": [0, 1], "mean": [1.0, 0.5], "low": [0.9, 0.4], "high": [1.1, 0.6]}
    >>> line(ax, curve, "gd").get_legend_handles_labels()[1]
    ['gradient descent']
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from icl_gd.plots.roles import Axes, role_of

Curve: TypeAlias = Mapping[str, Sequence[Any] | np.ndarray]


def line(ax: Axes, curve: Curve, role: str, *, marker: str = "", label: str | None = None) -> Axes:
    """Draws a curve as a line with its band, in the colour and line style of a role.

    Args:
      ax: the Axes.
      curve: "x", "mean", "low" and "high", of equal length.
      role: the role of the curve, such as a key of `ROLES`.
      marker: a Matplotlib marker. Default: none.
      label: text in the legend. Default: the label of the role.

    Returns:
      The same Axes.
    """
    name, colour, dashes = role_of(role)
    label = name if label is None else label
    ax.plot(curve["x"], curve["mean"], linestyle=dashes, color=colour, marker=marker, label=label)
    low, high = np.asarray(curve["low"], float), np.asarray(curve["high"], float)
    ax.fill_between(curve["x"], low, high, color=colour, alpha=0.2, linewidth=0)
    return ax


def points(
    ax: Axes,
    curve: Curve,
    role: str,
    *,
    marker: str,
    size: float,
    label: str | None,
    colour: Any = None,
    join: bool = False,
) -> Axes:
    """Draws a curve with few points as hollow markers with error bars.

    Hollow markers do not hide the curves behind them.

    Args:
      ax: the Axes.
      curve: "x", "mean", "low" and "high", of equal length.
      role: the role of the curve; it determines the colour.
      marker, size: a Matplotlib marker, and its size in points.
      label: text in the legend. None: no legend entry.
      colour: a colour to use instead of the colour of the role.
      join: connect the markers by a line. Default: False.

    Returns:
      The same Axes.
    """
    colour = role_of(role)[1] if colour is None else colour
    mean = np.asarray(curve["mean"], float)
    bar_lengths = np.abs(np.asarray([curve["low"], curve["high"]], float) - mean)
    ax.errorbar(
        curve["x"],
        mean,
        bar_lengths,
        fmt=marker,
        linestyle="-" if join else "",
        linewidth=0.9,
        elinewidth=1.3,
        color=colour,
        markersize=size,
        markerfacecolor="none",
        label=label,
    )
    return ax


def horizontal_line(ax: Axes, value: float, role: str, label: str | None = None) -> Axes:
    """Draws a horizontal line at a value.

    Args:
      ax: the Axes.
      value: height of the line.
      role: the role of the line, such as a key of `ROLES`.
      label: text in the legend. Default: the label of the role.

    Returns:
      The same Axes.
    """
    name, colour, dashes = role_of(role)
    ax.axhline(value, color=colour, linestyle=dashes, label=name if label is None else label)
    return ax


def shade_untrained_lengths(ax: Axes, last: int) -> Axes:
    """Shades the prompt lengths above `last`, the longest length in training, on an x axis of prompt lengths.

    Returns:
      The same Axes.
    """
    left, right = ax.get_xlim()
    ax.axvline(last, color="#999999", linewidth=0.8)
    ax.axvspan(last, right, color="#999999", alpha=0.15, linewidth=0, label="longer than in training")
    ax.set_xlim(left, right)
    return ax


# Add this sentence to the caption of every figure drawn with `frame_losses`.
ARROWS = "The loss axis ends at 100 times the loss of predicting zero; arrows mark larger or infinite losses."


def frame_losses(ax: Axes, zero: float) -> Axes:
    """Limits a loss axis to 100 times the loss of predicting zero, and marks larger or infinite losses by arrows.

    Arrows are drawn at the upper edge, in the colour of the curve. A line has one arrow, at the first x whose value is
    above the limit; points have an arrow at every such x.

    Args:
      ax: the Axes, with all curves drawn.
      zero: the loss of predicting zero.

    Returns:
      The same Axes.
    """
    ax.set_ylim(top=min(ax.get_ylim()[1], 100 * zero))
    top = ax.get_ylim()[1]
    n_arrows: dict[float, int] = {}  # number of arrows drawn so far, by x
    for curve in list(ax.lines):
        x, y = np.asarray(curve.get_xdata(), float), np.asarray(curve.get_ydata(), float)
        beyond = x[~(y <= top)]  # includes the x at which y is nan
        # A line drawn by `axhline` is skipped: its x values are fractions of the axes, not data.
        is_level = curve.get_transform() != ax.transData
        if is_level or len(beyond) == 0:
            continue
        is_line = curve.get_linestyle() != "None"
        arrow_positions = beyond[:1] if is_line else beyond
        for position in arrow_positions:
            n_drawn = n_arrows.get(position, 0)  # arrows at the same x are stacked downwards
            n_arrows[position] = n_drawn + 1
            ax.plot(
                [position],
                [0.98 - 0.05 * n_drawn],
                "^",
                color=curve.get_color(),
                markersize=3,
                clip_on=False,
                transform=ax.get_xaxis_transform(),
            )
    return ax


def log_where_it_spikes(ax: Axes, curves: Iterable[Curve]) -> Axes:
    """Makes the y axis logarithmic if the maximum of any curve exceeds 100 times the median of the same curve.

    All values must be positive.

    Returns:
      The same Axes.
    """
    if any(np.max(curve["mean"]) > 100 * np.median(curve["mean"]) for curve in curves):
        ax.set_yscale("log")
    return ax


def inverse_square_root(ax: Axes, curve: Curve, of: str) -> Axes:
    """Draws a line proportional to 1/sqrt(x) through the middle point of a curve.

    Args:
      ax: the Axes.
      curve: "x" and "mean", of equal length.
      of: name of the x quantity in the legend.

    Returns:
      The same Axes.
    """
    x, middle = np.asarray(curve["x"], float), len(curve["x"]) // 2
    y = curve["mean"][middle] * (x / x[middle]) ** -0.5
    ax.plot(x, y, ":", color="black", linewidth=0.8, label=f"1 / square root of {of}")
    return ax


def seed_values(metric: Mapping[str, Any]) -> list[float]:
    """The values of a metric, one per seed; seeds without a value are left out.

    Returns:
      The values; `[inf]` if no seed has a value.
    """
    return [value for value in metric["per_seed"] if value is not None] or [np.inf]


def curve_of_metric(metric: Mapping[str, Any]) -> dict[str, list[float]]:
    """Converts a metric to a curve with one point. Its band is the range over seeds.

    Returns:
      The curve's "mean", "low" and "high"; the caller adds "x".
    """
    values = seed_values(metric)
    return {"mean": [metric["mean"]], "low": [min(values)], "high": [max(values)]}


def grouped_points(ax: Axes, curves: Mapping[str, Curve]) -> Axes:
    """Draws curves over a categorical x axis; each category is a group of points with error bars.

    Args:
      ax: the Axes.
      curves: role -> curve. The "x" of every curve is the same list of category names.

    Returns:
      The same Axes.
    """
    for i, (role, curve) in enumerate(curves.items()):
        name, colour, _ = role_of(role)
        offset = (i - (len(curves) - 1) / 2) * 0.7 / len(curves)  # a group is 0.7 wide
        x = np.arange(len(curve["x"])) + offset
        mean, low, high = (np.asarray(curve[part], float) for part in ("mean", "low", "high"))
        bar_lengths = np.abs(np.stack([low, high]) - mean)
        ax.errorbar(
            x, mean, bar_lengths, fmt="osDv^<>"[i % 7], color=colour, markersize=3.5, elinewidth=0.8, label=name
        )
        ax.set_xticks(np.arange(len(curve["x"])), curve["x"])
    return ax
