"""Executes the notebooks of colabs/ and writes them with their outputs.

    python -m experiments.notebooks [--check] [NAME ...]

Each colabs/NAME.py is the source of colabs/NAME.ipynb. Without names all are executed, one after another; together they
take about half an hour on two CPU cores. A notebook is written when it is complete. With --check nothing is executed;
the exit code is 1, with one line, if the cells of a notebook are not those of its source, or an output is missing.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "colabs"
MOST_BYTES = 1_500_000  # of a notebook with its figures


def sources() -> dict[str, Path]:
    """The sources of the notebooks, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.py"))}


def from_source(path: Path) -> Any:
    """The notebook of a source, without outputs.

    Returns:
      An nbformat notebook. The ids of its cells are their positions, so that equal sources give equal files.
    """
    import jupytext

    notebook = jupytext.read(path)
    notebook.metadata.pop("jupytext", None)
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i}"
    return notebook


def problem(name: str) -> str | None:
    """What is wrong with a committed notebook; None if nothing is.

    Returns:
      One line that says what differs from the source, which output is missing, or that the file is too large.
    """
    import nbformat

    path = FOLDER / f"{name}.ipynb"
    if not path.exists():
        return f"{path.name} is missing"
    there, wanted = nbformat.read(path, as_version=4), from_source(sources()[name])
    cells = [[(cell.cell_type, cell.source) for cell in one.cells] for one in (there, wanted)]
    if cells[0] != cells[1]:
        return f"{path.name} has other cells than its source"
    if not any("image/png" in output.get("data", {}) for cell in there.cells for output in cell.get("outputs", ())):
        return f"{path.name} has no figure"
    if path.stat().st_size > MOST_BYTES:
        return f"{path.name} has {path.stat().st_size:,} bytes, at most {MOST_BYTES:,} are accepted"
    return None


def execute(name: str) -> None:
    """Executes a notebook in a new kernel, and replaces the committed file when all cells have run.

    Raises:
      nbclient.exceptions.CellExecutionError: if a cell fails. Nothing is written.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = from_source(sources()[name])
    NotebookClient(notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": FOLDER}}).execute()
    for cell in notebook.cells:
        cell.get("metadata", {}).pop("execution", None)  # times, which change from run to run
    partial = FOLDER / f"{name}.ipynb.partial"
    nbformat.write(notebook, partial)
    os.replace(partial, FOLDER / f"{name}.ipynb")


def main(argv: Sequence[str]) -> int:
    """Runs the command line.

    Returns:
      The exit code: 0 done, 1 a notebook is stale, 2 bad input.
    """
    if any(word in ("--help", "-h") for word in argv):
        print(__doc__)
        return 0
    names = [word for word in argv if not word.startswith("--")]
    wrong = [word for word in argv if word.startswith("--") and word != "--check"] or sorted({*names} - {*sources()})
    if wrong:
        print(f"error: {wrong[0]}: accepted are --check and {', '.join(sources())}", file=sys.stderr)
        return 2
    if "--check" in argv:
        stale = [said for name in names or sources() if (said := problem(name)) is not None]
        if stale:
            print(f"stale: {'; '.join(stale)}; run python -m experiments.notebooks", file=sys.stderr)
        return int(bool(stale))
    for name in names or sources():
        began = time.monotonic()
        print(f"executing {name}", flush=True)
        execute(name)
        print(f"wrote colabs/{name}.ipynb after {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
