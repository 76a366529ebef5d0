"""Notebooks are their sources, and run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parents[1] / "colabs").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_is_its_source_and_executes(source):
    jupytext = pytest.importorskip("jupytext")
    notebook = source.with_suffix(".ipynb")
    ours, theirs = (jupytext.read(path) for path in (source, notebook))
    strip = lambda cells: [(cell.cell_type, cell.source) for cell in cells]
    assert strip(ours.cells) == strip(theirs.cells)
    command = [sys.executable, "-m", "pytest", "--nbmake", "-q", "-n0", "-p", "no:cacheprovider", str(notebook)]
    environment = {**os.environ, "ICL_GD_FAST": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:]
