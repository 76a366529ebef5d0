"""Draws results onto matplotlib Axes. This module only draws. All numbers come from results.json.

A curve is a mapping with the sequences "x", "mean", "low" and "high". A role names what a curve shows (such as "gd")
and determines its label, colour and line style.

    >>> figure, ax = subplots(figsize=(COLUMN, 2.0))
    >>> curve = {"x": [0, 1], "mean": [1.0, 0.5], "low": [0.9, 0.4], "high": [1.1, 0.6]}
    >>> line(ax, curve, "gd").get_legend_handles_labels()[1]
    ['gradient descent']
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

# Matplotlib's types. Matplotlib takes half a second to import, so functions import it when they draw.
Axes: TypeAlias = Any
Figure: TypeAlias = Any

COLUMN, PAGE = 3.25, 6.75  # widths in inches of a column and of a page

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
      The entry of `ROLES`. A role without an entry is labelled with its own name, and gets a colour and a line style
      derived from it.
    """
    if role in ROLES:
        return ROLES[role]
    number = sum(map(ord, role))
    return role.replace("_", " "), _COLOURS[number % len(_COLOURS)], _DASHES[number % len(_DASHES)]


def style() -> Any:
    """The project's matplotlib settings.

    Returns:
      A context manager that sets them.
    """
    import matplotlib

    return matplotlib.rc_context(STYLE)


def subplots(rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], **more: Any) -> tuple[Figure, Any]:
    """Creates a figure and its Axes like `pyplot.subplots`, without global state: no backend is chosen.

    Args:
      rows, columns: numbers of Axes. Default: 1.
      figsize: width and height in inches.
      more: keyword arguments of `Figure.subplots`.

    Returns:
      The figure, and its Axes: one, or an array of them.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize)
    return figure, figure.subplots(rows, columns, **more)


def line(ax: Axes, curve: Mapping[str, Sequence], role: str, *, marker: str = "", label: str | None = None) -> Axes:
    """Draws a curve as a line with its band, in a role's colour and line style.

    Args:
      ax: the Axes.
      curve: "x", "mean", "low" and "high", of equal length.
      role: a key of `ROLES`.
      marker: a marker of matplotlib. Default: none.
      label: text of the legend. Default: the label of the role.

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
      role: a key of `ROLES`, for the colour.
      marker, size: marker of matplotlib, and its size in points.
      label: text of the legend; None leaves the curve out of it.
      colour: overrides the role's colour.
      join: connect the markers by a line. Default: False.

    Returns:
      The same Axes.
    """
    colour = role_of(role)[1] if colour is None else colour
    mean = np.asarray(curve["mean"], float)
    reach = np.abs(np.asarray([curve["low"], curve["high"]], float) - mean)
    ax.errorbar(
        curve["x"],
        mean,
        reach,
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
      role: a key of `ROLES`, for colour and line style.
      label: text of the legend. Default: the label of the role.

    Returns:
      The same Axes.
    """
    name, colour, dashes = role_of(role)
    ax.axhline(value, color=colour, linestyle=dashes, label=name if label is None else label)
    return ax


def never_trained(ax: Axes, last: int) -> Axes:
    """Shades prompt lengths above `last`, the longest length used in training. The x axis shows prompt lengths.

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

    Arrows are drawn at the upper edge in the colour of the curve: for a line, at the first x whose value is above the
    limit; for points, at every such x.

    Args:
      ax: the Axes, with all curves drawn.
      zero: the loss of predicting zero.

    Returns:
      The same Axes.
    """
    ax.set_ylim(top=min(ax.get_ylim()[1], 100 * zero))
    top = ax.get_ylim()[1]
    arrows: dict[float, int] = {}  # number of arrows drawn so far, by x
    for curve in list(ax.lines):
        x, y = np.asarray(curve.get_xdata(), float), np.asarray(curve.get_ydata(), float)
        beyond = x[~(y <= top)]  # also where y is nan
        # A horizontal line drawn by `axhline`; its x values are axes fractions, not data.
        is_level = curve.get_transform() != ax.transData
        if is_level or len(beyond) == 0:
            continue
        is_line = curve.get_linestyle() != "None"
        for at in beyond[:1] if is_line else beyond:
            below = arrows.get(at, 0)  # arrows at the same x are stacked downwards
            arrows[at] = below + 1
            ax.plot(
                [at],
                [0.98 - 0.05 * below],
                "^",
                color=curve.get_color(),
                markersize=3,
                clip_on=False,
                transform=ax.get_xaxis_transform(),
            )
    return ax


def log_where_it_spikes(ax: Axes, curves: Iterable[Mapping[str, Sequence]]) -> Axes:
    """Makes the y axis logarithmic if the maximum of any curve exceeds 100 times its median; curves must be positive.

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
    """A metric as a curve of one point, whose band is the range over seeds.

    Returns:
      The curve's "mean", "low" and "high"; the caller adds "x".
    """
    values = seeds(metric)
    return {"mean": [metric["mean"]], "low": [min(values)], "high": [max(values)]}


def by_name(ax: Axes, curves: Mapping[str, Mapping[str, Sequence]]) -> Axes:
    """Draws curves over a categorical x axis; each category is a group of points with error bars.

    Args:
      ax: the Axes.
      curves: role -> curve; "x" contains the names of the categories, the same for all curves.

    Returns:
      The same Axes.
    """
    for i, (role, curve) in enumerate(curves.items()):
        name, colour, _ = role_of(role)
        offset = (i - (len(curves) - 1) / 2) * 0.7 / len(curves)  # a group is 0.7 wide
        x = np.arange(len(curve["x"])) + offset
        mean, low, high = (np.asarray(curve[part], float) for part in ("mean", "low", "high"))
        reach = np.abs(np.stack([low, high]) - mean)
        ax.errorbar(x, mean, reach, fmt="osDv^<>"[i % 7], color=colour, markersize=3.5, elinewidth=0.8, label=name)
        ax.set_xticks(np.arange(len(curve["x"])), curve["x"])
    return ax


def heat(
    ax: Axes, values: Sequence[Sequence[float]], title: str, limits: tuple[float, float], distance: bool = False
) -> Axes:
    """Draws a heat map of layers (rows) by steps (columns) with its numbers; brighter is more similar.

    Rows and columns are numbered from 1.

    Args:
      ax: the Axes.
      values: the numbers, `[layer step]`.
      title: title of the Axes.
      limits: the ends of the colour scale; use the same for maps that are compared.
      distance: the values are distances, where smaller is more similar; the colour scale is logarithmic if they are
        positive. Default: False.

    Returns:
      The same Axes.
    """
    from matplotlib.colors import LogNorm, Normalize

    entries = np.asarray(values, float)
    norm = (LogNorm if distance and limits[0] > 0 else Normalize)(*limits)
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
    reach = np.abs(entries).max() or 1.0
    image = ax.imshow(entries, cmap="PuOr_r", vmin=-reach, vmax=reach)
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
