"""Executes the notebooks of colabs/, and writes them with their outputs.

    python -m experiments.notebooks [--check] [NAME ...]

Each colabs/NAME.py is the source of colabs/NAME.ipynb. Without names, all notebooks are executed in sequence. This
takes about half an hour on two CPU cores. A notebook is written when all its cells have run. With --check nothing is
executed; if the cells of a notebook differ from its source, or its figures are missing, one line is printed and the
exit code is 1.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from icl_gd.paths import replacing

FOLDER = Path(__file__).parent.parent / "colabs"
MOST_BYTES = 1_500_000  # largest size of a notebook with its figures


def sources() -> dict[str, Path]:
    """The paths of the sources, by name of the notebook."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.py"))}


def from_source(path: Path) -> Any:
    """Makes a notebook without outputs from its source.

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
    """The problem of a committed notebook; None if it is up to date.

    Returns:
      One line: the file is missing or too large, has other cells than its source, or has no figure.
    """
    import nbformat

    path = FOLDER / f"{name}.ipynb"
    if not path.exists():
        return f"{path.name} is missing"
    committed, source = nbformat.read(path, as_version=4), from_source(sources()[name])
    committed_cells = [(cell.cell_type, cell.source) for cell in committed.cells]
    if committed_cells != [(cell.cell_type, cell.source) for cell in source.cells]:
        return f"{path.name} has other cells than its source"
    outputs = [output for cell in committed.cells for output in cell.get("outputs", ())]
    if not any("image/png" in output.get("data", {}) for output in outputs):
        return f"{path.name} has no figure"
    if path.stat().st_size > MOST_BYTES:
        return f"{path.name} has {path.stat().st_size:,} bytes, at most {MOST_BYTES:,} are accepted"
    return None


def execute(name: str) -> None:
    """Executes a notebook in a new kernel. If all cells run, the result replaces the committed file.

    Raises:
      nbclient.exceptions.CellExecutionError: if a cell fails. Then nothing is written.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = from_source(sources()[name])
    NotebookClient(notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": FOLDER}}).execute()
    for cell in notebook.cells:
        cell.get("metadata", {}).pop("execution", None)  # times, which differ in every run
    with replacing(FOLDER / f"{name}.ipynb") as partial:
        nbformat.write(notebook, partial)


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
        problems = [message for name in names or sources() if (message := problem(name)) is not None]
        if problems:
            print(f"stale: {'; '.join(problems)}; run python -m experiments.notebooks", file=sys.stderr)
        return int(bool(problems))
    for name in names or sources():
        began = time.monotonic()
        print(f"executing {name}", flush=True)
        execute(name)
        print(f"wrote colabs/{name}.ipynb after {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
