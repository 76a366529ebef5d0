"""Figures of a run, drawn from its results alone, in the paper's order."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments.figures import copying, depth, nonlinear, one_layer, prefixes, switches
from icl_gd import plots

Done = dict[str, Any]


# What the results must have records of, what draws it, and its caption.
FIGURES: dict[str, tuple[tuple[str, ...], Callable[[Done], Figure], str]] = {
    **one_layer.FIGURES,
    **depth.FIGURES,
    **copying.FIGURES,
    **switches.FIGURES,
    **nonlinear.FIGURES,
    **prefixes.FIGURES,
}


def draw(done: Done, directory: Path) -> dict[str, str]:
    """Draws every figure the results have records for, as png and pdf, numbered in order.

    Those that are there under another number, from an older version, are removed.

    Returns:
      Captions by file stem.
    """
    directory.mkdir(exist_ok=True)
    captions = {}
    with plots.style():
        for name, (wanted, make, caption) in FIGURES.items():
            if not all(key in done["curves"] or key in done["arrays"] or key in done["metrics"] or done.get(key)
                       for key in wanted):  # fmt: skip
                continue
            figure, stem = make(done), f"{len(captions) + 1:02d}_{name}"
            for ending, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
                partial = directory / f".{stem}.{ending}"
                figure.savefig(partial, metadata=metadata)
                os.replace(partial, directory / f"{stem}.{ending}")
                figure.set_layout_engine("none")  # as it lies now, or it would be laid out anew for every file
            plt.close(figure)
            none_free = " No seed is free: all are drawn." if "none_free" in done["arrays"] else ""
            captions[stem] = caption + none_free
    for path in directory.glob("[0-9][0-9]_*.p[nd][gf]"):
        if path.stem not in captions and path.stem[3:] in FIGURES:
            path.unlink()
    return captions
