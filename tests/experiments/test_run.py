"""What a run leaves, and how it ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from whole import check_redrawn, check_what_it_leaves  # beside this file

from icl_gd.lab import run
from icl_gd.lab.recipes import linear_attention
from icl_gd.lab.reporting import results
from icl_gd.training import Interrupted

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one_layer", "learning_rate_sweep", "sine", "garg_linear", "dual_model"])
def test_smoke_as_a_program(name, tmp_path):
    """One of every recipe and a sweep as processes of their own, twice; test_smokes.py has all configs."""
    command = [sys.executable, "-m", "experiments.run", f"--config=configs/{name}.py:smoke", f"--workdir={tmp_path}"]
    program = lambda: subprocess.run(command, cwd=ROOT, check=True, timeout=600, capture_output=True, text=True)
    program()
    check_what_it_leaves(tmp_path)
    said = []
    check_redrawn(tmp_path, lambda: said.append(program().stdout))
    assert "holds a finished run; drawing" in said[0]


def test_a_failing_run_says_so_in_one_line(tmp_path, monkeypatch, capsys):
    def fail(run, stop):
        raise OSError("no space\nleft")

    monkeypatch.setattr(linear_attention, "run", fail)
    handler = signal.getsignal(signal.SIGTERM)
    code = run.main(["run", f"--config={ROOT}/configs/one_layer.py:smoke", f"--workdir={tmp_path}/run"])
    assert code == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "OSError: no space left" in err
    assert "Traceback" in (tmp_path / "run" / "error.log").read_text()
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_waits_for_the_chunk_while_steps_are_unsaved(number, code, tmp_path, monkeypatch, capsys):
    def polls(run, stop):
        assert stop.signal is None
        stop.saved = False
        signal.raise_signal(number)
        raise Interrupted(7, stop.signal)

    def hangs(run, stop):
        stop.saved = False
        signal.raise_signal(number)
        signal.raise_signal(number)
        raise AssertionError("still running")

    def analyses(run, stop):
        signal.raise_signal(number)
        raise AssertionError("still running")

    words = ["run", f"--config={ROOT}/configs/one_layer.py:smoke", f"--workdir={tmp_path}/run"]
    for recipe, said in ((polls, "step 7"), (hangs, "at once"), (analyses, "at once")):
        monkeypatch.setattr(linear_attention, "run", recipe)
        assert run.main(words) == code
        assert said in capsys.readouterr().err


def test_help(capsys):
    assert run.main(["run", "--help"]) == 0
    assert "--config=configs/NAME.py" in capsys.readouterr().out


def test_claims_are_judged_by_their_numbers():
    done = {
        "metrics": {"a": results.metric([1.0, 3.0])},
        "curves": {"c": results.curve([0.5, 2.0], [[4.0, 4.0], [4.0, 6.0]])},
    }
    row = {"id": "i", "statement": "s", "source": "p"}
    cases = [
        ("a", "mean", "within", 2.05, 0.1, True), ("a", "mean", "within", 2.2, 0.1, False),
        ("a", "max", "at_most", 2.9, 0.0, False), ("a", "min", "at_least", 1.0, 0.0, True),
        ("c[2.0]", "mean", "within", 5.0, 0.0, True), ("c[9.0]", "mean", "within", 5.0, 0.0, False),
        ("c[2.0]", "max", "at_least", 6.0, 0.0, True), ("missing", "mean", "at_most", 9.0, 0.0, False),
    ]  # fmt: skip
    for metric, reduce, relation, target, tolerance, holds in cases:
        claim = row | {
            "metric": metric,
            "reduce": reduce,
            "relation": relation,
            "target": target,
            "tolerance": tolerance,
        }
        assert results.check_claims([claim], done, [])[0]["holds"] is holds
    assert "task.d_input" in results.check_claims([claim], done, ["task.d_input"])[0]["note"]


def test_json_is_atomic_and_has_no_nan(tmp_path):
    results.write_json(tmp_path / "a.json", {"x": [float("nan"), 1.0]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [None, 1.0]}
    assert os.listdir(tmp_path) == ["a.json"]
