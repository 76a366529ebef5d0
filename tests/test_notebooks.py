"""Every notebook has the cells of its source file and figures, and runs with ICL_GD_FAST=1."""

import os
import subprocess
import sys

import pytest

from experiments import notebooks

NAMES = sorted(notebooks.sources())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_its_source_with_figures(name):
    pytest.importorskip("jupytext")
    assert notebooks.problem(name) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_executes(name):
    pytest.importorskip("nbmake")
    path = notebooks.FOLDER / f"{name}.ipynb"
    command = [sys.executable, "-m", "pytest", "--nbmake", "-q", "-n0", "-p", "no:cacheprovider", str(path)]
    environment = {**os.environ, "ICL_GD_FAST": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
def test_what_is_wrong_with_a_notebook_is_said(tmp_path, monkeypatch, capsys):
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("jupytext")
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    (tmp_path / "one.py").write_text("# %%\n1 + 1\n")
    assert notebooks.problem("one") == "one.ipynb is missing"
    nbformat.write(notebooks.from_source(tmp_path / "one.py"), tmp_path / "one.ipynb")
    assert notebooks.problem("one") == "one.ipynb has no figure"
    (tmp_path / "one.py").write_text("# %%\n1 + 2\n")
    assert notebooks.main(["--check"]) == 1
    assert capsys.readouterr().err.startswith("stale: one.ipynb has other cells than its source; run python -m")
    assert notebooks.main(["two"]) == 2
    assert capsys.readouterr().err == "error: two: accepted are --check and one\n"
