"""Draws the figures of a run from its results alone."""

import importlib
import os
import pkgutil
from collections.abc import Sequence
from pathlib import Path

from icl_gd import plots
from icl_gd.lab.config.questions import Done, Picture
from icl_gd.lab.evaluation import analyses, references


def every(more: Sequence[Picture] = ()) -> list[Picture]:
    """All figures: those of the analyses, those of the references, and `more`.

    Args:
      more: figures of analyses that do not ship with the package.

    Returns:
      Figures in the order of a report.
    """
    modules = [
        importlib.import_module(f"{references.__name__}.{module.name}")
        for module in pkgutil.iter_modules(references.__path__)
    ]
    pictures = [picture for analysis in analyses.every() for picture in analysis.figures]
    pictures += [picture for module in modules for picture in getattr(module, "PICTURES", ())]
    return sorted((*pictures, *more), key=lambda picture: (picture.place, picture.name))


def _wanted(done: Done, pictures: Sequence[Picture]) -> dict[str, Picture]:
    """The figures whose data the results contain, by file stem. A stem begins with the number of the figure."""
    parts = [done.get(part, {}) for part in ("curves", "arrays", "metrics")]
    parts += [point["metrics"] for point in done.get("sweep", [])[:1]]

    def has(key: str) -> bool:
        return bool(done.get(key)) or any(key in part for part in parts)

    wanted = [picture for picture in pictures if all(map(has, picture.needs))]
    if "variants" in [picture.name for picture in wanted]:  # it shows the sweep more clearly
        wanted = [picture for picture in wanted if picture.name != "sweep"]
    return {f"{i:02d}_{picture.name}": picture for i, picture in enumerate(wanted, 1)}


def _captions(done: Done, wanted: dict[str, Picture]) -> dict[str, str]:
    arrays = done.get("arrays", {})
    result = {}
    for stem, picture in wanted.items():
        sentences = [picture.caption]
        sentences += [text.format(arrays[name]) for name, text in picture.remarks.items() if name in arrays]
        if "none_free" in arrays:
            sentences.append(
                "All seeds of this run are trapped, so this figure shows trapped seeds instead of untrapped ones."
            )
        result[stem] = " ".join(sentences)
    return result


def captions(done: Done, more: Sequence[Picture] = ()) -> dict[str, str]:
    """Captions of the figures of these results.

    Args:
      done: the content of results.json.
      more: figures of analyses that do not ship with the package.

    Returns:
      Captions by file stem.
    """
    return _captions(done, _wanted(done, every(more)))


def draw(done: Done, directory: Path, more: Sequence[Picture] = ()) -> dict[str, str]:
    """Draws every figure whose data the results contain, as PNG and PDF files, numbered in order.

    Files of the same figures with other numbers, which an earlier version wrote, are deleted.

    Args:
      done: the content of results.json.
      directory: where the figures are written.
      more: figures of analyses that do not ship with the package.

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
                figure.set_layout_engine("none")  # otherwise the next file computes the layout again
    known = {picture.name for picture in pictures}
    for path in directory.glob("[0-9][0-9]_*.p[nd][gf]"):
        if path.stem not in wanted and path.stem[3:] in known:
            path.unlink()
    return _captions(done, wanted)
