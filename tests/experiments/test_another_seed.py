"""Repeating committed experiments at another base seed: the values of the claims are written beside the results."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from experiments import another_seed, publish

ROOT = Path(__file__).parents[2]
CONFIG = """
from icl_gd.lab import Eval, Experiment, GradientDescent, Network, Regression, Train, claim

VARIANTS = ("tiny",)

def get_config(variant=""):
    return Experiment(
        task=Regression(2, 1, 3), model=Network(), reference=GradientDescent(), seeds=2,
        train=Train(steps=2, batch_size=4, log_every=1), eval=Eval(prompts=16, curve_prompts=16),
        claims=(claim("A.zero", "zero is no answer", metric="loss_zero", source="control", at_least=0.0),
                claim("A.trapped", "no seed is trapped", metric="seeds_trapped", source="control", at_most=TARGET)),
    )
"""
STATED = [
    {"id": "A.zero", "statement": "zero is no answer", "relation": "at_least", "target": 0.0, "tolerance": 0.0},
    {"id": "A.trapped", "statement": "no seed is trapped", "relation": "at_most", "target": 1.0, "tolerance": 0.0},
]
RUN = {"git": "abc", "device": "cpu", "precision": "float32", "wall_seconds": 61.0}


def done(name, seconds=61.0):
    """The results.json of a run called `name`."""
    experiment, _, variant = name.partition("-")
    judged = [
        {**its, "value": value, "holds": value <= 1, "source": "control", "note": "at length"}
        for its, value in zip(STATED, (0.5, 2.0), strict=True)
    ]
    return {
        "experiment": experiment,
        "variant": variant or None,
        **RUN,
        "wall_seconds": seconds,
        "versions": {},
        "metrics": {},
        "claims": judged,
    }


COMMITTED = {"slow": 16 * 60.0, "middle-tiny": 300.0, "quick": 20.0}


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "configs").mkdir()
    for name, seconds in COMMITTED.items():
        (tmp_path / "configs" / f"{name.partition('-')[0]}.py").write_text(CONFIG.replace("TARGET", "1"))
        (tmp_path / "results" / name).mkdir(parents=True)
        (tmp_path / "results" / name / "results.json").write_text(json.dumps(done(name, seconds)))
    return tmp_path


class Runs:
    """Replaces the function that starts runs: writes results, or returns the exit code given for a name."""

    def __init__(self, **codes):
        self.codes, self.started = codes, []

    def __call__(self, words, root):
        given = dict(word.removeprefix("--").split("=") for word in words)
        name = Path(given["workdir"]).name
        self.started.append(words)
        if code := self.codes.get(name.replace("-", "_"), 0):
            return code
        (root / given["workdir"]).mkdir(parents=True, exist_ok=True)
        (root / given["workdir"] / "results.json").write_text(json.dumps(done(name)))
        return 0

    @property
    def names(self):
        return [Path(words[-1]).name for words in self.started]


def kept(repository, name) -> Any:
    path = repository / "results" / name / publish.AGAIN
    return json.loads(path.read_text()) if path.exists() else None


def test_short_ones_are_carried_out_and_kept(repository, capsys):
    runs = Runs()
    assert another_seed.main([], repository, runs) == 0
    assert runs.started == [
        ["--config=configs/quick.py", "--config.seed=5000", "--workdir=runs/another_seed/5000/quick"],
        ["--config=configs/middle.py:tiny", "--config.seed=5000", "--workdir=runs/another_seed/5000/middle-tiny"],
    ]
    judged = [{**its, "value": value, "holds": value < 1} for its, value in zip(STATED, (0.5, 2.0), strict=True)]
    assert kept(repository, "quick") == {"seed": 5000, **RUN, "claims": judged}
    assert kept(repository, "slow") is None
    printed = capsys.readouterr().out
    assert printed.startswith("left out, above 15 min: slow (16 min)\n[1/2] quick: running at base seed 5000")
    assert "[2/2] middle-tiny: running at base seed 5000; the committed run took 5 min; 0 s spent so far\n" in printed
    assert not list(repository.glob("results/*/*.partial"))

    assert another_seed.main(["--minutes=20"], repository, runs) == 0
    assert runs.names[2:] == ["slow"]
    assert "[1/3] quick: already written" in capsys.readouterr().out
    assert another_seed.main(["quick", "--seed", "7", "middle-tiny"], repository, runs) == 0
    assert runs.names[3:] == ["quick", "middle-tiny"]
    assert kept(repository, "quick")["seed"] == 7


def test_one_that_fails_is_named_and_the_others_go_on(repository, capsys):
    (repository / "configs" / "slow.py").unlink()
    assert another_seed.main(["--minutes=20"], repository, Runs(quick=2)) == 1
    assert kept(repository, "quick") is None
    assert kept(repository, "middle-tiny") is not None
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2].partition(":")[0] for line in lines] == ["slow", "quick"]
    assert "was refused" in lines[1]
    assert another_seed.main(["quick"], repository, Runs(quick=137)) == 1
    assert capsys.readouterr().err == "failed: quick: the run ended with exit code 137\n"


def test_a_signal_stops_at_once(repository, capsys):
    runs = Runs(quick=130)
    assert another_seed.main([], repository, runs) == 130
    assert runs.names == ["quick"]
    assert capsys.readouterr().err == "stopped; run the same command again to resume\n"


def test_claims_that_are_others_are_said(repository, capsys):
    """If a claim of a config has changed, neither its old values nor a finished run with the old claim are accepted."""
    assert another_seed.main(["quick"], repository, Runs()) == 0
    before = kept(repository, "quick")
    (repository / "configs" / "quick.py").write_text(CONFIG.replace("TARGET", "0"))
    runs = Runs()
    assert another_seed.main(["quick"], repository, runs) == 1
    assert runs.names == ["quick"]
    printed = capsys.readouterr()
    assert "quick: claims A.trapped of its config differ from those of its committed results" in printed.out
    assert printed.err.startswith("failed: quick: runs/another_seed/5000/quick holds a finished run that tested other")
    assert kept(repository, "quick") == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["quikc"], "quikc: there are no committed results of this name; did you mean quick?"),
        (["slow"], "slow: its committed run took 16 min; give --minutes=17"),
        (["--sed=1"], "--sed=1: unknown flag; did you mean --seed?"),
        (["--seed=-1"], "--seed=-1 must be a whole number of at least 0"),
        (["--seed=4294967295"], "--seed=4294967295 must be a whole number"),
        (["--seed=1"], "--seed=1: the committed run of quick has the seeds 0 to 1; give a seed of at least 2"),
        (["--minutes=nan"], "--minutes=nan must be a number above 0"),
        (["--minutes"], "argument --minutes: expected one argument"),
    ],
)
def test_bad_input_is_one_line_and_starts_nothing(repository, capsys, words, said):
    runs = Runs()
    assert another_seed.main(words, repository, runs) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {said}")
    assert not runs.started


def test_help_says_what_it_does(capsys):
    with pytest.raises(SystemExit) as ended:
        another_seed.main(["--help"])
    assert not ended.value.code
    printed = capsys.readouterr().out
    assert printed.startswith(another_seed.__doc__.splitlines()[0])
    assert all(flag in printed for flag in another_seed.FLAGS)


SAVES = """
import os, pathlib, signal, sys, time

def save(number, frame):
    time.sleep(0.2)
    pathlib.Path("saved").write_text(f"{number} {os.getpgrp() != os.getpgid(os.getppid())}")
    sys.exit(128 + number)

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, save)
pathlib.Path("began").touch()
time.sleep(30)
"""


@pytest.fixture
def not_ignored():
    """Handles SIGINT as in a terminal. Processes that a shell starts in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_saves_first(tmp_path, number, not_ignored):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").touch()
    (tmp_path / "experiments" / "run.py").write_text(SAVES)

    def stop():
        while not (tmp_path / "began").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    threading.Thread(target=stop, daemon=True).start()
    assert another_seed._start([], tmp_path) == 128 + number
    # True: the run is in another process group, so Ctrl-C in a terminal reaches it once.
    assert (tmp_path / "saved").read_text() == f"{number.value} True"
    assert signal.getsignal(number) is before


@pytest.mark.slow
def test_a_real_run_is_kept(repository, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert another_seed.main(["quick"], repository) == 0
    found = kept(repository, "quick")
    assert [its["id"] for its in found["claims"]] == ["A.zero", "A.trapped"]
    stored = json.loads((repository / "runs/another_seed/5000/quick/config.json").read_text())
    assert stored["config"]["seed"] == 5000
    assert found["wall_seconds"] > 0
