"""Maps: matrices as colours, such as weights, attention patterns, and effects by layer and position.

>>> from icl_gd.plots.roles import COLUMN, subplots
>>> figure, ax = subplots(figsize=(COLUMN, 1.5))
>>> ax = site_map(ax, [[0.1, 0.9], [0.0, 1.0]], token_names(1), label="recovered")
>>> [text.get_text() for text in ax.get_yticklabels()]
['L0', 'L1']
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from icl_gd.analysis.symmetries import STATEMENTS, Violation
from icl_gd.plots.roles import Axes, Figure

Limits: TypeAlias = tuple[float | int, float | int]
DIVERGING, MISSING = "PuOr_r", "#cccccc"  # from purple over white at zero to orange; nan is grey
TICK_SIZE, VALUE_SIZE = 6, 5.5  # font sizes in points


def layer_step_map(
    ax: Axes, values: Sequence[Sequence[float]], title: str, limits: Limits, distance: bool = False
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


def token_names(n_context: int, has_separate_tokens: bool = False) -> list[str]:
    """Names of the tokens of a prompt, for the axes of maps.

    Args:
      n_context: number of examples.
      has_separate_tokens: whether x and y have tokens of their own, as `Layout.has_separate_tokens`.

    Returns:
      Names in the notation of Matplotlib, the query last: 1, 2, ..., q, or x_1, y_1, ..., x_q if tokens are separate.
    """
    examples = range(1, n_context + 1)
    if has_separate_tokens:
        return [name for i in examples for name in (f"$x_{{{i}}}$", f"$y_{{{i}}}$")] + ["$x_q$"]
    return [*map(str, examples), "q"]


def attention_patterns(
    axes: Any,
    patterns: Any,
    names: Sequence[str],
    *,
    member: int | None = None,
    own_scale: bool = False,
) -> Any:
    """Draws attention patterns in a grid of layers (rows) by heads (columns).

    Rows of a panel are query tokens, columns are key tokens. Layers and heads are numbered from 0, as in the names of
    sites. Positive weights are orange, negative weights, as in linear attention, are purple, and zero is white. The
    mean over members averages heads of equal number, which members may use in different ways.

    Args:
      axes: the Axes `[layer head]`, such as those of `subplots(layers, heads, squeeze=False, ...)`. To draw heads in
        rows and layers in columns, give `axes.T` of `subplots(heads, layers, squeeze=False, ...)`.
      patterns: `[layer head query key]`, or `[member layer head query key]`.
      names: names of the tokens, such as `token_names(n)`; as many as fit are written.
      member: the member to draw. Default: the mean over members.
      own_scale: give every panel a colour scale of its own, whose end is in its title. Default: one scale and one
        colour bar for all panels.

    Returns:
      The same Axes.

    Raises:
      ValueError: if shapes do not agree, a value is not finite, or there is no such member.
    """
    values = np.asarray(patterns, float)
    if member is not None and (values.ndim != 5 or not -len(values) <= member < len(values)):
        raise ValueError(
            f"member={member}: patterns have shape {values.shape}; give [member layer head query key] with this member"
        )
    if values.ndim == 5:
        values = values.mean(axis=0) if member is None else values[member]
    grid = np.asarray(axes, object)
    if values.ndim != 4 or grid.shape != values.shape[:2]:
        raise ValueError(
            f"patterns have shape {np.shape(patterns)} and axes {grid.shape}; give patterns [layer head query key] and "
            "the Axes of plots.subplots(layers, heads, squeeze=False, figsize=...)"
        )
    _check_map("patterns", values, values.shape[-2:], (len(names), len(names)))
    colours = _colours(values, None)
    _compress(grid[0, 0].figure)
    for (layer, head), ax in np.ndenumerate(grid):
        title = f"L{layer} H{head}"
        if own_scale:
            colours = _colours(values[layer, head], None)
            end = f"{'±' if colours['vmin'] < 0 else '0 to '}{colours['vmax']:.2g}"
            title += f", {end}" if _fits(f"{title}, {end}", _inches(ax)[0]) else f"\n{end}"
        ax.imshow(values[layer, head], **colours, interpolation="nearest")
        ax.set_title(title, fontsize=TICK_SIZE + 1, pad=3)
        _frame(ax)
    _label_grid(grid.ravel().tolist(), names)
    if not own_scale:
        _colour_bar(grid.ravel().tolist(), grid[0, 0].images[0], "attention weight")
    return axes


def _compress(figure: Figure) -> None:
    """Lets constrained layout put square panels side by side, without gaps, and fit the colour bar to them."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        figure.set_layout_engine("compressed")


def _fits(text: str, inches: float) -> bool:
    """Whether a label fits into a length; a letter is about 0.55 times as wide as high."""
    return bool(len(text) * 0.55 * (TICK_SIZE + 1) < 72 * inches)


def _label_grid(panels: list[Axes], names: Sequence[str]) -> None:
    """Names the tokens at the left and lower edge of a grid. Small panels share one axis label at every edge."""
    places = [_place(ax) for ax in panels]
    rows, columns = (sorted(set(indices)) for indices in zip(*places, strict=True))
    for ax, (row, column) in zip(panels, places, strict=True):
        width, height = _inches(ax)
        is_left, is_bottom = column == columns[0], row == rows[-1]
        _name_ticks(ax, "y", names if is_left else [])
        _name_ticks(ax, "x", names if is_bottom else [])
        if is_left and (_fits("query token", height) or row == rows[len(rows) // 2]):
            ax.set_ylabel("query token", fontsize=TICK_SIZE + 1)
        if is_bottom and (_fits("key token", width) or column == columns[len(columns) // 2]):
            ax.set_xlabel("key token", fontsize=TICK_SIZE + 1)


def _place(ax: Axes) -> tuple[int, int]:
    """Row and column of an Axes in its figure; (0, 0) for an Axes outside a grid."""
    place = ax.get_subplotspec()
    return (0, 0) if place is None else (place.rowspan.start, place.colspan.start)


def site_map(
    ax: Axes,
    values: Any,
    columns: Sequence[str],
    *,
    label: str,
    title: str = "",
    rows: Sequence[str] | None = None,
    limits: Limits | None = None,
) -> Axes:
    """Draws a heat map of layers (rows) by positions or heads (columns): effects of patching, or R^2 of probes.

    Positive values are orange, negative values are purple, and zero is white. Values are written if they fit into their
    cells.

    Args:
      ax: the Axes.
      values: `[layer column]`; nan is grey.
      columns: names of the columns, such as `token_names(n)`; as many as fit are written.
      label: what the colours show.
      title: title of the Axes. Default: none.
      rows: names of the rows. Default: L0, L1, ..., as in the names of sites.
      limits: ends of the colour scale, (0, high) or (-high, high); use the same for maps that are compared. Pointed
        ends of the colour bar mark values beyond them. Default: high is the largest absolute value, and the scale
        begins at 0 if no value is negative.

    Returns:
      The same Axes.

    Raises:
      ValueError: if shapes do not agree, or the limits are neither (0, high) nor (-high, high).
    """
    entries = np.asarray(values, float)
    if entries.ndim != 2:
        raise ValueError(f"values have shape {entries.shape}; give [layer column], for one layer values[None]")
    rows = [f"L{i}" for i in range(len(entries))] if rows is None else rows
    _check_map("values", np.where(np.isnan(entries), 0.0, entries), entries.shape, (len(rows), len(columns)))
    colours = _colours(entries, limits)
    image = ax.imshow(entries, **colours, aspect="auto", interpolation="nearest")
    ax.set_title(title)
    _frame(ax)
    _name_ticks(ax, "x", columns)
    _name_ticks(ax, "y", rows)
    _write_values(ax, image, entries)
    # What differs from an end of the scale by less than a hundredth of it looks the same.
    near = 0.01 * (colours["vmax"] - colours["vmin"])
    below = bool(np.nanmin(entries, initial=0.0) < colours["vmin"] - near)
    above = bool(np.nanmax(entries, initial=0.0) > colours["vmax"] + near)
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    _colour_bar([ax], image, label, extend[below, above])
    return ax


def symmetry_map(
    ax: Axes,
    violations: Mapping[str, Mapping[str, Violation]],
    *,
    statements: Mapping[str, str] = STATEMENTS,
) -> Axes:
    """Draws a table of symmetries (rows) by Predictors (columns), whose colours show by how much each one is broken.

    A cell contains the size of the part that breaks the symmetry, relative to the prediction: the square root of a
    violation. It is "exact" up to rounding, and "× 3" is 3 times the prediction. Colours have a logarithmic scale, from
    1 % (white) to 100 %.

    Args:
      ax: the Axes.
      violations: by name of the Predictor, what `analysis.symmetries` returns for it; nan is grey.
      statements: a statement by symmetry, written at the right. Default: those of `analysis.symmetries`. {}: none.

    Returns:
      The same Axes.

    Raises:
      ValueError: if there is no Predictor, or two Predictors have other symmetries.
    """
    columns = list(violations.values())
    names = list(columns[0]) if columns else []
    if not names or any(list(column) != names for column in columns):
        raise ValueError(
            f"violations have the symmetries {[sorted(column) for column in columns]}; give at least one Predictor, "
            "and the same symmetries for all"
        )
    cells = [[column[name] for column in columns] for name in names]
    sizes = np.sqrt([[cell.value for cell in row] for row in cells])
    with np.errstate(divide="ignore"):
        shades = np.clip(1 + np.log10(sizes) / 2, 0.0, 1.0)
    image = ax.imshow(shades, **_colours(shades, (0, 1)), aspect="auto", interpolation="nearest")
    _frame(ax)
    ax.set_xticks(range(len(columns)), list(violations))
    ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    for (row, column), size in np.ndenumerate(sizes):
        text = "exact" if cells[row][column].holds else _size(float(size))
        ax.text(column, row, text, ha="center", va="center", fontsize=7, color=_ink(image, float(shades[row, column])))
    edge = ax.get_yaxis_transform()
    for row, name in enumerate(names):
        text = textwrap.fill(statements.get(name, ""), 48)
        ax.text(1.03, row, text, transform=edge, va="center", fontsize=TICK_SIZE, color="#555555")
    return ax


def _size(size: float) -> str:
    """The size of a difference, relative to the prediction, in few letters."""
    if np.isnan(size):
        return ""
    percent = 100 * size
    return f"{percent:.1g} %" if percent < 0.95 else f"{percent:.0f} %" if percent < 999.5 else f"× {size:.0f}"


def _ink(image: Any, value: float) -> str:
    """White on dark cells, black on others."""
    red, green, blue, _ = image.cmap(image.norm(value))
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"


def _check_map(name: str, values: np.ndarray, shape: tuple[int, ...], named: tuple[int, int]) -> None:
    """Checks that values are finite, and that the rows and columns of a map have one name each."""
    if shape != named:
        raise ValueError(
            f"{name} have maps of shape {shape} for {named[0]} and {named[1]} names; give one name for each"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{name} have entries that are not finite; leave these prompts or members out")


def _colours(values: np.ndarray, limits: Limits | None) -> dict[str, Any]:
    """The colour map and its ends, as arguments of `imshow`."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    if limits is None:
        high = np.nanmax(np.abs(values), initial=0.0) or 1.0
        low = -high if np.nanmin(values, initial=0.0) < 0 else 0.0
    else:
        low, high = limits
    if high <= 0 or low not in (0, -high):
        raise ValueError(f"limits={limits} must be (0, high) or (-high, high); give for example (0, 1) or (-1, 1)")
    cmap = colormaps[DIVERGING]
    if low == 0:  # the upper half, so that a value has the same colour on both scales
        cmap = ListedColormap(cmap(np.arange(cmap.N // 2, cmap.N)), f"{DIVERGING} from zero")
    return {"cmap": cmap.with_extremes(bad=MISSING), "vmin": low, "vmax": high}


def _frame(ax: Axes) -> None:
    """Draws a thin frame, because cells of value zero are white."""
    for spine in ax.spines.values():
        spine.set(visible=True, linewidth=0.5, color="#666666")


def _inches(ax: Axes) -> tuple[float, float]:
    """Width and height of an Axes, before constrained layout."""
    box, figure = ax.get_position(), ax.figure
    return box.width * figure.get_figwidth(), box.height * figure.get_figheight()


def _name_ticks(ax: Axes, which: str, names: Sequence[str]) -> None:
    """Names the cells of a map along one axis: the last one, and every k-th one before it, such that they fit.

    k is 1 or even, so that every second token, such as an x, is named or none.
    """
    width, height = _inches(ax)
    ticks, labels = [], []
    if names:
        room = 72 * 0.85 * (width if which == "x" else height)  # points
        stride = math.ceil(len(names) * (TICK_SIZE + 1.5) / room)
        stride += stride % 2 if stride > 1 else 0
        ticks = list(range((len(names) - 1) % stride, len(names), stride))
        labels = [names[i] for i in ticks]
    longest = max((len(_plain(label)) for label in labels), default=0)
    crowded = which == "x" and len(labels) * longest * 0.6 * TICK_SIZE > 72 * 0.85 * width
    set_ticks = ax.set_xticks if which == "x" else ax.set_yticks
    set_ticks(ticks, labels, fontsize=TICK_SIZE, rotation=90 if crowded else 0)
    ax.tick_params(axis=which, length=1.5 if labels else 0, pad=1.5)


def _plain(name: str) -> str:
    """A name as it is printed, without the marks of mathematics."""
    return name.translate(str.maketrans("", "", "${}_\\"))


def short(value: float) -> str:
    """A number in at most two digits before or after the point, without a leading zero, for the cells of maps.

    Returns:
      For example ".52", "-.03", "0", "1.4" or "12".
    """
    if np.isnan(value):
        return ""
    decimals = 2 if abs(value) < 0.995 else 1 if abs(value) < 9.95 else 0
    text = f"{value:.{decimals}f}"
    return "0" if float(text) == 0 else text.replace("0.", ".") if decimals == 2 else text


def _write_values(ax: Axes, image: Any, entries: np.ndarray) -> None:
    """Writes the values of a map into its cells, if the longest fits."""
    texts = [short(value) for value in entries.ravel()]
    width, height = _inches(ax)
    columns, rows = 72 * 0.8 * width / entries.shape[1], 72 * 0.85 * height / entries.shape[0]
    widths = [VALUE_SIZE * sum(0.35 if letter in ".-" else 0.64 for letter in text) for text in texts]
    if max(widths) > 0.95 * columns or rows < VALUE_SIZE * 1.2:
        return
    for ((row, column), value), text in zip(np.ndenumerate(entries), texts, strict=True):
        ax.text(column, row, text, ha="center", va="center", fontsize=VALUE_SIZE, color=_ink(image, value))


def _colour_bar(axes: list[Axes], image: Any, label: str, extend: str = "neither") -> None:
    """A colour bar of a width in inches that does not depend on its height."""
    figure, boxes = axes[0].figure, [ax.get_position() for ax in axes]
    height = (max(box.y1 for box in boxes) - min(box.y0 for box in boxes)) * figure.get_figheight()
    bar = figure.colorbar(image, ax=axes, extend=extend, aspect=height / 0.08, pad=0.02)
    letters = max(int(72 * 0.85 * height / (0.55 * (TICK_SIZE + 1))), 1)  # that fit along the bar
    bar.set_label(textwrap.fill(label, letters, break_long_words=False), fontsize=TICK_SIZE + 1)
    bar.ax.tick_params(labelsize=TICK_SIZE)
    bar.outline.set_linewidth(0.5)
