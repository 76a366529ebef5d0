"""Draws results onto matplotlib Axes. This module only draws. All numbers come from results.json.

A curve is a mapping with the sequences "x", "mean", "low" and "high"; low and high are the edges of its band. The role
of a curve (such as "gd") names the quantity that it shows, and determines its label, colour and line style.

    >>> figure, ax = subplots(figsize=(COLUMN, 2.0))
    >>> curve = {"x": [0, 1], "mean": [1.0, 0.5], "low": [0.9, 0.4], "high": [1.1, 0.6]}
    >>> line(ax, curve, "gd").get_legend_handles_labels()[1]
    ['gradient descent']
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

# Types of Matplotlib, which takes half a second to import. So each function imports it when it is called.
Axes: TypeAlias = Any
Figure: TypeAlias = Any

COLUMN, PAGE = 3.25, 6.75  # widths of a column and of a page, in inches

STYLE: Any = {
    "figure.constrained_layout.use": True,
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
}

# Role -> label, colour, line style. The palette is Okabe and Ito's, which is safe for colour-blind readers.
ROLES: dict[str, tuple[str, str, Any]] = {
    "trained": ("trained", "#0072B2", "-"),
    "gd": ("gradient descent", "#D55E00", "--"),
    "gd_deep_features": ("gradient descent on deep features", "#D55E00", "--"),
    "gd_free_steps": ("gradient descent, one step size per step", "#D55E00", ":"),
    "gd_plus_plus": ("GD++, fitted rates", "#56B4E9", "--"),
    "gd_plus_plus_free_steps": ("GD++, fitted rates per layer", "#56B4E9", ":"),
    "gd_plus_plus_published": ("GD++ as published", "#009E73", "-."),
    "construction": ("construction", "#E69F00", "-."),
    "interpolated": ("interpolated weights", "#009E73", ":"),
    "rescaled": ("trained, rescaled", "#56B4E9", "-"),
    "gd_tuned": ("gradient descent, step size refitted", "#D55E00", ":"),
    "closed_form": ("closed form", "#000000", ":"),
    "untrained": ("untrained", "#999999", "-"),
    "trapped": ("trapped seed", "#CC79A7", "-"),
    "zero": ("predict zero", "#999999", ":"),
    "wrong_step": ("half the step size", "#CC79A7", "-."),
    "least_squares": ("least squares", "#D55E00", "--"),
    "averaging": ("averaging", "#E69F00", ":"),
    "nearest_3": ("3 nearest neighbours", "#009E73", "-."),
    **{
        f"lasso_{alpha}": (f"Lasso, $\\alpha$ = {alpha}", "#CC79A7", dashes)
        for alpha, dashes in (
            ("1", ":"),
            ("0.1", "-."),
            ("0.01", "--"),
            ("0.001", (0, (1, 3))),
            ("0.0001", (0, (5, 5))),
        )
    },
    "network": ("two-layer network, Adam", "#56B4E9", "--"),
    "tree_4": ("greedy tree, depth 4", "#000000", "-."),
    "tree": ("greedy tree", "#CC79A7", ":"),
    "xgboost": ("boosted trees", "#56B4E9", "--"),
    "own_token": ("own token", "#009E73", "-"),
    "next_token": ("next token", "#D55E00", "-"),
    "other_tokens": ("another token", "#56B4E9", "--"),
}

_COLOURS, _DASHES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9"), ("--", "-.", ":")


def role_of(role: str) -> tuple[str, str, Any]:
    """Label, colour and line style of a role.

    Returns:
      The entry of `ROLES`. A role without an entry is labelled with its own name; its colour and line style are derived
      from the name.
    """
    if role in ROLES:
        return ROLES[role]
    number = sum(map(ord, role))
    return role.replace("_", " "), _COLOURS[number % len(_COLOURS)], _DASHES[number % len(_DASHES)]


def style() -> Any:
    """A context manager that applies the Matplotlib settings of the project, `STYLE`.

    Returns:
      The context manager.
    """
    import matplotlib

    return matplotlib.rc_context(STYLE)


def subplots(rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], **more: Any) -> tuple[Figure, Any]:
    """Creates a figure and its Axes like `pyplot.subplots`, but changes no global state and chooses no backend.

    Args:
      rows, columns: numbers of rows and columns of Axes. Default: 1.
      figsize: width and height in inches.
      more: keyword arguments of `Figure.subplots`.

    Returns:
      The figure, and one Axes or an array of Axes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize)
    return figure, figure.subplots(rows, columns, **more)


def line(ax: Axes, curve: Mapping[str, Sequence], role: str, *, marker: str = "", label: str | None = None) -> Axes:
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
    curve: Mapping[str, Sequence],
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


def shades(n: int) -> list:
    """Colours for n ordered values, from dark to light, safe for colour-blind readers.

    Returns:
      The colours, n RGBA tuples.
    """
    from matplotlib import colormaps

    return [colormaps["viridis"](i / max(n - 1, 1) * 0.85) for i in range(n)]


def level(ax: Axes, value: float, role: str, label: str | None = None) -> Axes:
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


def never_trained(ax: Axes, last: int) -> Axes:
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


def log_where_it_spikes(ax: Axes, curves: Iterable[Mapping[str, Sequence]]) -> Axes:
    """Makes the y axis logarithmic if the maximum of any curve exceeds 100 times the median of the same curve.

    All values must be positive.

    Returns:
      The same Axes.
    """
    if any(np.max(curve["mean"]) > 100 * np.median(curve["mean"]) for curve in curves):
        ax.set_yscale("log")
    return ax


def root(ax: Axes, curve: Mapping[str, Sequence], of: str) -> Axes:
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


def seeds(metric: Mapping[str, Any]) -> list[float]:
    """The values of a metric, one per seed; seeds without a value are left out.

    Returns:
      The values; `[inf]` if no seed has a value.
    """
    return [value for value in metric["per_seed"] if value is not None] or [np.inf]


def band(metric: Mapping[str, Any]) -> dict[str, list[float]]:
    """Converts a metric to a curve with one point. Its band is the range over seeds.

    Returns:
      The curve's "mean", "low" and "high"; the caller adds "x".
    """
    values = seeds(metric)
    return {"mean": [metric["mean"]], "low": [min(values)], "high": [max(values)]}


def by_name(ax: Axes, curves: Mapping[str, Mapping[str, Sequence]]) -> Axes:
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


def heat(
    ax: Axes, values: Sequence[Sequence[float]], title: str, limits: tuple[float, float], distance: bool = False
) -> Axes:
    """Draws a heat map whose rows are layers and whose columns are steps, with the value in every cell.

    Brighter cells are more similar. Rows and columns are numbered from 1.

    Args:
      ax: the Axes.
      values: the values, `[layer step]`.
      title: title of the Axes.
      limits: the ends of the colour scale; use the same for maps that are compared.
      distance: the values are distances: smaller is more similar. The colour scale is then logarithmic if the lower
        limit is positive. Default: False.

    Returns:
      The same Axes.
    """
    from matplotlib.colors import LogNorm, Normalize

    entries = np.asarray(values, float)
    is_log = distance and limits[0] > 0
    norm = LogNorm(*limits) if is_log else Normalize(*limits)
    ax.imshow(entries, cmap="viridis_r" if distance else "viridis", norm=norm)
    ax.set_title(title)
    rows, columns = entries.shape
    ax.set_xticks(range(columns), [str(i + 1) for i in range(columns)])
    ax.set_yticks(range(rows), [str(i + 1) for i in range(rows)])
    for (row, column), value in np.ndenumerate(entries):
        is_dark = (norm(value) < 0.5) != distance  # the colour map of distances is reversed
        text_colour = "white" if is_dark else "black"
        ax.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=5.5, color=text_colour)
    return ax


def matrix(ax: Axes, values: Sequence[Sequence[float]] | np.ndarray, title: str, d_input: int | None = None) -> Axes:
    """Draws a weight matrix with a diverging colour scale around zero.

    Args:
      ax: the Axes.
      values: the matrix.
      title: title of the Axes.
      d_input: number of x slots; a line separates them from the y slots. Default: no line.

    Returns:
      The same Axes.
    """
    entries = np.asarray(values, float)
    limit = np.abs(entries).max() or 1.0
    image = ax.imshow(entries, cmap="PuOr_r", vmin=-limit, vmax=limit)
    ax.set_title(title)
    ax.set_xticks([])
    ax.set_yticks([])
    if d_input is not None:
        ax.axhline(d_input - 0.5, color="black", linewidth=0.5)
        ax.axvline(d_input - 0.5, color="black", linewidth=0.5)
        ax.set_xlabel("x slots | y slots")
    colorbar = ax.figure.colorbar(image, ax=ax, shrink=0.75)
    colorbar.ax.tick_params(labelsize=6)
    return ax
