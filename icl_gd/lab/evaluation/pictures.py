"""Figures of a run, drawn from its results alone, in the paper's order."""

import importlib
import os
import pkgutil
from collections.abc import Sequence
from pathlib import Path

from icl_gd import plots
from icl_gd.lab.config.questions import Done, Picture
from icl_gd.lab.evaluation import analyses, references


def every(more: Sequence[Picture] = ()) -> list[Picture]:
    """All figures that there are: of analyses, of what populations are compared with, and those given."""
    modules = [
        importlib.import_module(f"{references.__name__}.{module.name}")
        for module in pkgutil.iter_modules(references.__path__)
    ]
    found = [picture for analysis in analyses.every() for picture in analysis.figures]
    found += [picture for module in modules for picture in getattr(module, "PICTURES", ())]
    return sorted((*found, *more), key=lambda picture: (picture.place, picture.name))


def _wanted(done: Done, pictures: Sequence[Picture]) -> dict[str, Picture]:
    """Figures that the results have records for, by file stem, numbered in order."""
    parts = [done.get(part, {}) for part in ("curves", "arrays", "metrics")]
    parts += [point["metrics"] for point in done.get("sweep", [])[:1]]
    has = lambda key: done.get(key) or any(key in part for part in parts)
    wanted = [picture for picture in pictures if all(map(has, picture.needs))]
    if "variants" in [picture.name for picture in wanted]:  # the same, and more than a line each could show
        wanted = [picture for picture in wanted if picture.name != "sweep"]
    return {f"{i:02d}_{picture.name}": picture for i, picture in enumerate(wanted, 1)}


def _captions(done: Done, wanted: dict[str, Picture]) -> dict[str, str]:
    arrays = done.get("arrays", {})
    none_free = " No seed is free: all are drawn." if "none_free" in arrays else ""
    remarks = lambda of: "".join(f" {said.format(arrays[name])}" for name, said in of.items() if name in arrays)
    return {stem: picture.caption + remarks(picture.remarks) + none_free for stem, picture in wanted.items()}


def captions(done: Done, more: Sequence[Picture] = ()) -> dict[str, str]:
    """What figures of these results show, by file stem.

    Args:
      more: figures of analyses that do not ship.
    """
    return _captions(done, _wanted(done, every(more)))


def draw(done: Done, directory: Path, more: Sequence[Picture] = ()) -> dict[str, str]:
    """Draws every figure the results have records for, as png and pdf, numbered in order.

    Those that are there under another number, from an older version, are removed.

    Args:
      more: figures of analyses that do not ship.

    Returns:
      Captions by file stem.
    """
    directory.mkdir(exist_ok=True)
    pictures = every(more)
    wanted = _wanted(done, pictures)
    with plots.style():
        for stem, picture in wanted.items():
            figure = picture.draw(done)
            for ending, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
                partial = directory / f".{stem}.{ending}"
                figure.savefig(partial, metadata=metadata)
                os.replace(partial, directory / f"{stem}.{ending}")
                figure.set_layout_engine("none")  # as it lies now, or it would be laid out anew for every file
    known = {picture.name for picture in pictures}
    for path in directory.glob("[0-9][0-9]_*.p[nd][gf]"):
        if path.stem not in wanted and path.stem[3:] in known:
            path.unlink()
    return _captions(done, wanted)
