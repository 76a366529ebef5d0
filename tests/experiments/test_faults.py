"""Injected faults: a small count of every script in tests/faults, and tests of faults that need no process."""

import ast
import importlib.util
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import icl_gd
from icl_gd.lab import command, command_line, doctor
from icl_gd.lab.config.errors import ConfigError
from icl_gd.lab.lifecycle import compile_cache, devices, resume, workdirs
from icl_gd.migrations import CONFIGS, newest_of
from icl_gd.trees import nested

ROOT = Path(__file__).parents[2]
FAULTS = ROOT / "tests" / "faults"
COUNTS = {
    **{"kill": 3, "signals": 3, "extension": 1, "corruption": 42, "disk": 1, "divergence": 3},
    **{"bad_input": 60, "bad_identify": 60},
}
CONFIG = f"--config={ROOT}/configs/one_layer.py:smoke"


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_injected(name):
    command = [sys.executable, str(FAULTS / f"{name}.py"), f"--count={COUNTS[name]}", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    records = json.loads(done.stdout)
    assert [record for record in records if record["ok"] is False] == []
    assert sum(record["ok"] is True for record in records) >= COUNTS[name]


def test_every_script_is_counted_on_the_page():
    assert {path.stem for path in FAULTS.glob("*.py")} - {"all", "harness"} == set(COUNTS)
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    counted = re.findall(r"^\| `(\w+)\.py` \| .+ \| (\d+) \| (\d+) \|", page, re.MULTILINE)
    assert {name for name, *_ in counted} == set(COUNTS)
    assert all(held == tried for _, held, tried in counted)


@pytest.mark.parametrize(("name", "kinds"), [("bad_input", 14), ("bad_identify", 30)])
def test_generated_bad_input_is_distinct(name, kinds, monkeypatch):
    monkeypatch.syspath_prepend(str(FAULTS))
    spec = importlib.util.spec_from_file_location(name, FAULTS / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, script)  # its dataclasses resolve their type hints there
    spec.loader.exec_module(script)
    cases = script.cases(300)
    assert len({case.words for case in cases}) == len(cases) == 300
    assert len({case.kind for case in cases}) >= kinds


def unpickles(tree):
    """The lines of a syntax tree that could unpickle a file, and so run code from it. Strings are ignored."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        if {"pickle", "joblib", "dill", "cloudpickle"} & {name.split(".")[0] for name in names}:
            yield node.lineno
        if isinstance(node, ast.Call):
            safely = [its.value for its in node.keywords if its.arg == "allow_pickle"]
            is_load = ast.unparse(node.func) in ("np.load", "numpy.load")
            if (is_load and not safely) or any(ast.unparse(value) != "False" for value in safely):
                yield node.lineno


def test_no_pickle():
    """No file that the package, the commands or the configs read can run code."""
    for code in (
        "import pickle",
        "from joblib import load",
        "np.load(x)",
        "np.load(x, allow_pickle=True)",
        "f(allow_pickle=a)",
    ):
        assert list(unpickles(ast.parse(code))) == [1], code
    for folder in ("icl_gd", "experiments", "configs"):
        for path in (ROOT / folder).rglob("*.py"):
            assert list(unpickles(ast.parse(path.read_text()))) == [], path


def stored(workdir, steps, **more):
    config = nested(command_line.parse(["run", CONFIG]).experiment.flat())
    config["train"] |= {"steps": steps}
    workdir.mkdir(exist_ok=True)
    (workdir / "config.json").write_text(json.dumps({"format": newest_of(CONFIGS), "config": config, **more}))


def test_steps_may_be_raised_where_the_first_ones_do_not_depend_on_the_last(tmp_path):
    words = ["run", CONFIG, f"--workdir={tmp_path}/run"]
    stored(tmp_path / "run", 20)
    assert command_line.parse([*words, "--config.train.steps=21"])
    with pytest.raises(
        ConfigError, match=r"train.steps \(stored 20, requested 19\); train.steps may be raised, .*not lowered"
    ):
        command_line.parse([*words, "--config.train.steps=19"])
    with pytest.raises(ConfigError, match=r"train\.steps \(.*seeds \(stored 2, requested 5\)"):
        command_line.parse([*words, "--config.train.steps=21", "--config.seeds=5"])
    decays = json.loads((tmp_path / "run" / "config.json").read_text())
    decays["config"]["train"]["schedule"] = "cosine"
    (tmp_path / "run" / "config.json").write_text(json.dumps(decays))
    with pytest.raises(ConfigError, match=r"only train.schedule=constant can be extended"):
        command_line.parse([*words, "--config.train.steps=21", "--config.train.schedule=cosine"])


def test_results_of_fewer_steps_are_not_those_of_the_extended_run(tmp_path, capsys):
    stored(tmp_path, 25)
    config = json.loads((tmp_path / "config.json").read_text())["config"]
    (tmp_path / "results.json").write_text(json.dumps({"steps": 25}))
    assert resume.finished(tmp_path, config) == {"steps": 25}
    assert resume.last_step(tmp_path) == 0
    for step in ("20", "25"):
        (tmp_path / "checkpoints" / step).mkdir(parents=True)
    assert resume.last_step(tmp_path) == 25
    config["train"]["steps"] = 40
    resume.store(tmp_path, {}, config)
    assert "extending the run from step 25 to 40" in capsys.readouterr().out
    # Checkpoint 25 is deleted, because it is within a chunk of ten steps.
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["20"]
    assert resume.finished(tmp_path, config) is None  # also if the run was killed before it continued
    resume.store(tmp_path, {}, config)
    assert json.loads((tmp_path / "config.json").read_text())["extended_from"] == [25]
    assert capsys.readouterr().out == ""


def test_files_in_the_way_and_full_disks_are_seen_before_anything_runs(tmp_path, monkeypatch):
    words = ["run", CONFIG, f"--workdir={tmp_path}"]
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(ConfigError, match="checkpoints in it is not a directory"):
        command_line.parse(words)
    (tmp_path / "checkpoints").unlink()
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match=r"metrics\.jsonl in it is not a file"):
        command_line.parse(words)
    (tmp_path / "metrics.jsonl").unlink()
    monkeypatch.setattr(workdirs, "disk_needed", lambda experiment: 2.0**70)
    with pytest.raises(ConfigError, match="MiB are free, but the run needs about"):
        command_line.parse(words)


def test_a_failure_leaves_nothing_half_written(tmp_path):
    mine = tmp_path / "notes.partial"
    half = [
        tmp_path / name
        for name in ("config.json.partial", "figures/.01_loss.png", "checkpoints/5.orbax-checkpoint-tmp/a")
    ]
    for path in (mine, *half):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    command._clean_up(tmp_path, "where")
    assert [path for path in (mine, *half) if path.exists()] == [mine]
    assert (tmp_path / "error.log").read_text() == "where"


def test_platforms_that_are_not_there(tmp_path, monkeypatch, capsys):
    class Config:
        jax_platforms = "gpuu"

    monkeypatch.setattr(devices, "_config", lambda: Config)
    words = ["run", CONFIG, f"--workdir={tmp_path}/run"]
    assert command.main(words) == 2
    assert "JAX_PLATFORMS=gpuu: did you mean gpu? accepted: cpu" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert doctor.main() == 1
    assert "FAILS  devices: JAX_PLATFORMS=gpuu" in capsys.readouterr().out


@pytest.mark.slow
def test_a_platform_without_its_device(tmp_path):
    command = [sys.executable, "-m", "experiments.run", CONFIG, f"--workdir={tmp_path}/run"]
    environment = {"JAX_PLATFORMS": "tpu", "PATH": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "JAX_PLATFORMS=tpu: no such device" in done.stderr
    assert not (tmp_path / "run").exists()


def test_float64_on_a_tpu_is_refused():
    assert "a TPU has no float64" in devices.why_not("tpu", "float64")
    assert (
        devices.why_not("tpu", "float32")
        is devices.why_not("cpu", "float64")
        is devices.why_not("gpu", "float64")
        is None
    )


def test_doctor(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    assert doctor.main() == 0
    said = capsys.readouterr().out
    assert re.findall(r"^ok +([\w ]+):", said, re.MULTILINE) == list(doctor.CHECKS)
    assert "no accelerator" in said
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setitem(doctor.CHECKS, "one step", lambda: "skipped")
    assert doctor.main() == 1
    assert "FAILS  cache:" in capsys.readouterr().out


def test_the_cache_is_where_it_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    assert compile_cache.cache_directory().parent == tmp_path / "icl_gd"
    monkeypatch.setattr(compile_cache, "_cpu", lambda: "other")
    assert compile_cache.cache_directory().name.endswith("-other")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    assert compile_cache.cache_directory() == tmp_path / "mine"
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        assert "disabled" in str(compile_cache.Cache())
    finally:
        jax.config.update("jax_enable_compilation_cache", True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_modules_are_imported_ends_the_process_with_its_code(number):
    code = f"import os, signal; from experiments import run; run._stop_before_the_run({int(number)}, None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stderr) == (128 + number, "stopped before the run began; nothing was written\n")


def test_what_holds_no_checkpoints_is_not_called_a_sweep(tmp_path):
    (tmp_path / "figures" / "old").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="holds no checkpoints"):
        icl_gd.load(tmp_path)
