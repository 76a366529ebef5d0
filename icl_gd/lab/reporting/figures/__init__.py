"""Figures of a run, drawn from its results alone, in the paper's order."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from icl_gd import plots
from icl_gd.lab.reporting.figures import copying, depth, duals, nonlinear, one_layer, prefixes, switches

Done = dict[str, Any]


# What the results must have records of, what draws it, and its caption.
FIGURES: dict[str, tuple[tuple[str, ...], Callable[[Done], Figure], str]] = {
    **one_layer.FIGURES,
    **depth.FIGURES,
    **copying.FIGURES,
    **switches.FIGURES,
    **nonlinear.FIGURES,
    **prefixes.FIGURES,
    **duals.FIGURES,
}


def _wanted(done: Done) -> dict[str, str]:
    """Figures that the results have records for, by file stem, numbered in order."""
    parts = [done.get(part, {}) for part in ("curves", "arrays", "metrics")]
    parts += [point["metrics"] for point in done.get("sweep", [])[:1]]
    has = lambda key: done.get(key) or any(key in part for part in parts)
    names = [name for name, (wanted, _, _) in FIGURES.items() if all(map(has, wanted))]
    if "variants" in names:  # the same, and more than a line for every combination could show
        names.remove("sweep")
    return {f"{i:02d}_{name}": name for i, name in enumerate(names, 1)}


def captions(done: Done) -> dict[str, str]:
    """What figures of these results show, by file stem."""
    none_free = " No seed is free: all are drawn." if "none_free" in done.get("arrays", {}) else ""
    return {stem: FIGURES[name][2] + none_free for stem, name in _wanted(done).items()}


def draw(done: Done, directory: Path) -> dict[str, str]:
    """Draws every figure the results have records for, as png and pdf, numbered in order.

    Those that are there under another number, from an older version, are removed.

    Returns:
      Captions by file stem.
    """
    directory.mkdir(exist_ok=True)
    wanted = _wanted(done)
    with plots.style():
        for stem, name in wanted.items():
            figure = FIGURES[name][1](done)
            for ending, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
                partial = directory / f".{stem}.{ending}"
                figure.savefig(partial, metadata=metadata)
                os.replace(partial, directory / f"{stem}.{ending}")
                figure.set_layout_engine("none")  # as it lies now, or it would be laid out anew for every file
            plt.close(figure)
    for path in directory.glob("[0-9][0-9]_*.p[nd][gf]"):
        if path.stem not in wanted and path.stem[3:] in FIGURES:
            path.unlink()
    return captions(done)
