"""Bad input ends with exit code 2 and one line that says what was wrong and what would do; nothing is written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import run

CONFIGS = Path(__file__).parents[2] / "configs"
ONE = f"--config={CONFIGS}/one_layer.py"
GAUSSIAN = f"--config={CONFIGS}/gaussian_optimum.py"
SWEEP = f"--config={CONFIGS}/context_sweep.py"

BAD = [
    ([], ["--config", "one_layer"]),
    (["--config"], ["--config"]),
    ([f"--config={CONFIGS}/one_layr.py"], ["one_layr", "did you mean one_layer?"]),
    ([f"--config={CONFIGS.parent}/README.md"], ["README.md", "get_config"]),
    ([f"{ONE}:smok"], ["smok", "did you mean smoke?", "converged"]),
    ([ONE, "--wokdir=x"], ["--wokdir", "--workdir"]),
    ([ONE, "--config.trian.steps=4"], ["trian.steps", "train.steps"]),
    ([ONE, "--config.train.step=4"], ["train.step", "train.steps"]),
    ([ONE, "--config.train=4"], ["--config.train"]),
    ([ONE, "extra"], ["extra", "--config.FIELD"]),
    ([ONE, "--config.train.steps=abc"], ["train.steps", "abc", "int"]),
    ([ONE, "--config.train.steps=1.5"], ["train.steps", "1.5", "int"]),
    ([ONE, "--config.train.share_batches=maybe"], ["share_batches", "maybe"]),
    ([ONE, "--config.train.steps=0"], ["train.steps=0", "at least 1"]),
    ([ONE, "--config.train.steps=-5"], ["train.steps=-5", "at least 1"]),
    ([ONE, "--config.train.learning_rate=nan"], ["train.learning_rate=nan", "finite"]),
    ([ONE, "--config.train.learning_rate=inf"], ["train.learning_rate=inf", "finite"]),
    ([ONE, "--config.train.beta2=1.0"], ["train.beta2", "at most"]),
    ([ONE, "--config.seed=-1"], ["seed=-1", "at least 0"]),
    ([ONE, "--config.seeds=0"], ["seeds=0", "at least 1"]),
    ([ONE, "--config.task.noise_std=-0.1"], ["task.noise_std=-0.1"]),
    ([ONE, "--config.task.inputs=unifrm"], ["unifrm", "did you mean uniform?"]),
    ([ONE, "--config.task.name=quadratic"], ["task.name=quadratic", "linear"]),
    ([ONE, "--config.model.attention=softmax"], ["softmax", "linear"]),
    ([ONE, "--config.model.attention=linear,linear"], ["model.attention", "(1)"]),
    ([ONE, "--config.model.clip=-1"], ["model.clip=-1"]),
    ([ONE, "--config.precision=float16"], ["float16", "float32"]),
    ([ONE, "--config.train.schedule=linear"], ["linear", "cosine"]),
    ([ONE, "--config.recipe=cake"], ["recipe=cake", "linear_attention"]),
    ([ONE, "--config.analyses=('shift',)"], ["analyses=shift", "did you mean shifts?"]),
    ([ONE, "--config.model.n_layers=2"], ["model.n_layers=2", "analyses"]),
    ([ONE, "--config.model.n_heads=2"], ["model.n_heads=2", "interpolation"]),
    ([ONE, "--config.train.batch_size=2000000000"], ["GiB", "train.batch_size=2000000000"]),
    ([GAUSSIAN, "--config.task.d_input=4"], ["task.eigenvalues", "task.d_input=4"]),
    ([GAUSSIAN, "--config.task.inputs=uniform"], ["task.inputs=uniform", "optimum"]),
    ([SWEEP, "--config.task.n_context=(5,-1)"], ["task.n_context=-1"]),
    ([ONE, f"--workdir={CONFIGS}/one_layer.py/x"], ["--workdir", "cannot write"]),
]


@pytest.mark.parametrize(("words", "expected"), BAD, ids=lambda v: " ".join(map(str, v))[-50:])
def test_one_line_and_nothing_written(words, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run.main(["run", *words]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out == ""
    assert all(part in err for part in expected), err
    assert not os.listdir(tmp_path)


def test_other_settings_than_those_stored_are_refused(capsys, tmp_path):
    config = {"train": {"steps": 3}}
    (tmp_path / "config.json").write_text(json.dumps({"config": config}))
    assert run.main(["run", f"{ONE}:smoke", f"--workdir={tmp_path}"]) == 2
    assert "train.steps (stored 3, asked 20)" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["config.json"]


def test_as_a_program(tmp_path):
    command = [sys.executable, "-m", "experiments.run", ONE, "--config.train.steps=-5", f"--workdir={tmp_path}/run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CONFIGS.parent, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "run").exists()
