"""Records to matplotlib Axes. Nothing is computed here: what is drawn lies beside the figure as numbers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

Axes: TypeAlias = Any  # Matplotlib's; half a second to import, which a run spends when it draws
Figure: TypeAlias = Any  # likewise

COLUMN, PAGE = 3.25, 6.75  # inches: one column, and the width of a page

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

# Okabe and Ito's palette: told apart by all common kinds of colour vision. One colour and line style a role.
ROLES: dict[str, tuple[str, str, Any]] = {
    "trained": ("trained", "#0072B2", "-"),
    "gd": ("gradient descent", "#D55E00", "--"),
    "gd_deep_features": ("gradient descent on deep features", "#D55E00", "--"),
    "gd_free_steps": ("gradient descent, a step size each", "#D55E00", ":"),
    "gd_plus_plus": ("GD++, best pair", "#56B4E9", "--"),
    "gd_plus_plus_free_steps": ("GD++, best pair a layer", "#56B4E9", ":"),
    "gd_plus_plus_published": ("GD++ as published", "#009E73", "-."),
    "construction": ("construction", "#E69F00", "-."),
    "interpolated": ("interpolated weights", "#009E73", ":"),
    "rescaled": ("trained, as a mean", "#56B4E9", "-"),
    "gd_tuned": ("gradient descent, tuned anew", "#D55E00", ":"),
    "closed_form": ("closed form", "#000000", ":"),
    "untrained": ("untrained", "#999999", "-"),
    "trapped": ("trapped seed", "#CC79A7", "-"),
    "zero": ("always zero", "#999999", ":"),
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
    "other_tokens": ("one other token", "#56B4E9", "--"),
}

_COLOURS, _DASHES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9"), ("--", "-.", ":")


def role_of(role: str) -> tuple[str, str, Any]:
    """What a role is called, its colour and its line style; of one that is not in `ROLES`, by the letters it has."""
    if role in ROLES:
        return ROLES[role]
    number = sum(map(ord, role))
    return role.replace("_", " "), _COLOURS[number % len(_COLOURS)], _DASHES[number % len(_DASHES)]


def style() -> Any:
    """The project's matplotlib settings, as a context manager."""
    import matplotlib

    return matplotlib.rc_context(STYLE)


def subplots(rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], **more: Any) -> tuple[Figure, Any]:
    """A figure and its Axes, as pyplot gives them; nothing of the process changes, and no backend is chosen.

    Args:
      more: for `Figure.subplots`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize)
    return figure, figure.subplots(rows, columns, **more)


def line(ax: Axes, curve: Mapping[str, Sequence], role: str, *, marker: str = "", label: str | None = None) -> Axes:
    """A curve with its band in a role's colour."""
    name, colour, dashes = role_of(role)
    ax.plot(
        curve["x"], curve["mean"], linestyle=dashes, color=colour, marker=marker, label=name if label is None else label
    )
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
    """A curve known at few x: hollow markers with their band as bars, so that what lies under them is seen."""
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
    """Colours of ordered values, from dark to light, told apart by all common kinds of colour vision."""
    from matplotlib import colormaps

    return [colormaps["viridis"](i / max(n - 1, 1) * 0.85) for i in range(n)]


def level(ax: Axes, value: float, role: str, label: str | None = None) -> Axes:
    """A horizontal line at a value."""
    name, colour, dashes = role_of(role)
    ax.axhline(value, color=colour, linestyle=dashes, label=name if label is None else label)
    return ax


def never_trained(ax: Axes, last: int) -> Axes:
    """A line at the most examples that prompts of training have, and a light shade to the right of it."""
    left, right = ax.get_xlim()
    ax.axvline(last, color="#999999", linewidth=0.8)
    ax.axvspan(last, right, color="#999999", alpha=0.15, linewidth=0, label="longer than in training")
    ax.set_xlim(left, right)
    return ax


ARROWS = "The frame ends at a hundred times the loss of predicting zero; arrows: beyond it, or infinite."


def frame_losses(ax: Axes, zero: float) -> Axes:
    """The upper end of an axis of losses: those that diverge leave the frame, at a hundred times that of zero.

    What leaves it, or is infinite, has an arrow in its colour at the upper edge: a curve where it first does, points
    one by one.
    """
    ax.set_ylim(top=min(ax.get_ylim()[1], 100 * zero))
    top, placed = ax.get_ylim()[1], {}
    for drawn in list(ax.lines):
        x, y = np.asarray(drawn.get_xdata(), float), np.asarray(drawn.get_ydata(), float)
        leaves = x[~(y <= top)]
        if drawn.get_transform() != ax.transData or not len(y) or len(leaves) == 0:
            continue  # a level of the whole axis, or all of it is seen
        for at in leaves[:1] if drawn.get_linestyle() != "None" else leaves:
            above = placed[at] = placed.get(at, -1) + 1  # one below the other
            ax.plot(
                [at],
                [0.98 - 0.05 * above],
                "^",
                color=drawn.get_color(),
                markersize=3,
                clip_on=False,
                transform=ax.get_xaxis_transform(),
            )
    return ax


def log_where_it_spikes(ax: Axes, curves: Iterable[Mapping[str, Sequence]]) -> Axes:
    """A logarithmic axis of positive curves, if on single steps one of them is a hundred times what it mostly is."""
    if any(np.max(curve["mean"]) > 100 * np.median(curve["mean"]) for curve in curves):
        ax.set_yscale("log")
    return ax


def root(ax: Axes, curve: Mapping[str, Sequence], of: str) -> Axes:
    """A line that falls as one over the root, through the curve's middle."""
    x, middle = np.asarray(curve["x"], float), len(curve["x"]) // 2
    ax.plot(
        x, curve["mean"][middle] * (x / x[middle]) ** -0.5, ":", color="black", linewidth=0.8, label=f"1 / root of {of}"
    )
    return ax


def seeds(metric: Mapping[str, Any]) -> list[float]:
    """A metric's values of the seeds that have one; infinite where none has."""
    return [value for value in metric["per_seed"] if value is not None] or [np.inf]


def band(metric: Mapping[str, Any]) -> dict[str, list[float]]:
    """A metric as the one point of a curve, its band the range over seeds."""
    values = seeds(metric)
    return {"mean": [metric["mean"]], "low": [min(values)], "high": [max(values)]}


def by_name(ax: Axes, curves: Mapping[str, Mapping[str, Sequence]]) -> Axes:
    """Curves over names, as groups of points with their bands as bars: role -> curve."""
    for i, (role, curve) in enumerate(curves.items()):
        name, colour, _ = role_of(role)
        place = np.arange(len(curve["x"])) + (i - (len(curves) - 1) / 2) * 0.7 / len(curves)
        mean, low, high = (np.asarray(curve[part], float) for part in ("mean", "low", "high"))
        reach = np.abs(np.stack([low, high]) - mean)
        ax.errorbar(place, mean, reach, fmt="osDv^<>"[i % 7], color=colour, markersize=3.5, elinewidth=0.8, label=name)
        ax.set_xticks(np.arange(len(curve["x"])), curve["x"])
    return ax


def heat(
    ax: Axes, values: Sequence[Sequence[float]], title: str, limits: tuple[float, float], distance: bool = False
) -> Axes:
    """A map of layers (rows, from one) by steps (columns, from one), with its numbers written in; alike is bright.

    Args:
      limits: the ends of the colours, for maps that are compared.
      distance: small ones are alike, and colours go with the logarithm.
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
        ax.text(
            column,
            row,
            f"{value:.3g}",
            ha="center",
            va="center",
            fontsize=5.5,
            color="white" if (norm(value) < 0.5) != distance else "black",
        )
    return ax


def matrix(ax: Axes, values: Sequence[Sequence[float]] | np.ndarray, title: str, d_input: int | None = None) -> Axes:
    """A weight matrix on a diverging scale around zero; x and y slots are told apart by a line after `d_input`."""
    entries = np.asarray(values, float)
    reach = np.abs(entries).max() or 1.0
    image = ax.imshow(entries, cmap="PuOr_r", vmin=-reach, vmax=reach)
    ax.set_title(title)
    ax.set_xticks([])
    ax.set_yticks([])
    if d_input is not None:
        ax.axhline(d_input - 0.5, color="black", linewidth=0.5)
        ax.axvline(d_input - 0.5, color="black", linewidth=0.5)
        ax.set_xlabel("x slots | y")
    colorbar = ax.figure.colorbar(image, ax=ax, shrink=0.75)
    colorbar.ax.tick_params(labelsize=6)
    return ax
