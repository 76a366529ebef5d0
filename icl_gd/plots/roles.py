"""The style of figures, and the label, colour and line style of each role.

The role of a curve (such as "gd") names the quantity that it shows.

    >>> role_of("gd")
    ('gradient descent', '#D55E00', '--')
"""

from typing import Any, TypeAlias

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
    "shuffled": ("shuffled targets", "#CC79A7", ":"),
    "embedding": ("embedding only", "#E69F00", "-."),
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


def shades(n: int) -> list:
    """Colours for n ordered values, from dark to light, safe for colour-blind readers.

    Returns:
      The colours, n RGBA tuples.
    """
    from matplotlib import colormaps

    return [colormaps["viridis"](i / max(n - 1, 1) * 0.85) for i in range(n)]
