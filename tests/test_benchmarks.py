"""Every benchmark has a help text, and runs with --smoke at tiny sizes, which never changes a page."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if '__name__ == "__main__"' in path.read_text())
PAGES = sorted(ROOT.glob("*/*.md"))
TABLE = re.compile(r"^\|.+\|\n\|( ?-+ ?\|)+\n\|.+\|$", re.MULTILINE)
each = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


def run(script, *words):
    command = [sys.executable, str(script), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


@each
def test_help_names_smoke(script, monkeypatch, capsys):
    monkeypatch.syspath_prepend(script.parent)
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(script), run_name="__main__")
    assert re.search(r"^ +--smoke ", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.slow
@each
def test_smoke_prints_a_table(script):
    done = run(script, "--smoke")
    assert done.returncode == 0, done.stderr[-3000:]
    assert TABLE.search(done.stdout), done.stdout


@pytest.mark.slow
@each
def test_figures_of_tiny_sizes_are_not_written(script):
    before = [page.read_text(encoding="utf-8") for page in PAGES]
    done = run(script, "--smoke", "--write")
    assert done.returncode == 2
    assert "error: --smoke with --write" in done.stderr
    assert [page.read_text(encoding="utf-8") for page in PAGES] == before
