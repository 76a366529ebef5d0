"""Runs and models that an earlier version left are read, drawn again and gone on with; see `tests/stored/write.py`."""

import json
import sys
import tarfile

import numpy as np
import pytest
from whole import ROOT, kept_settings, read  # beside this file

from icl_gd import interop
from icl_gd.lab import run

STORED = ROOT / "tests" / "stored"
sys.path.append(str(STORED))
from write import predictions, problem  # noqa: E402

NAMES = sorted(path.name.partition(".")[0] for path in STORED.glob("*.tar.gz"))
MODELS = [name for name in NAMES if name.startswith("pretrained")]
RUNS = [name for name in NAMES if name not in MODELS]


def unpacked(name, directory):
    """A directory as it was left, and what was asked of it."""
    with tarfile.open(STORED / f"{name}.tar.gz") as archive:
        archive.extractall(directory, filter="data")
    return json.loads((directory / "asked.json").read_text())


def again(asked, workdir):
    words = [f"--config.{word}" for word in asked["words"]]
    with kept_settings():
        return run.main(["run", f"--config={ROOT}/configs/{asked['config']}.py:smoke", f"--workdir={workdir}", *words])


def test_all_are_there():
    assert len(RUNS) >= 8
    assert len(MODELS) >= 3


@pytest.mark.parametrize("name", RUNS)
def test_trained_members_are_read(name, tmp_path):
    asked = unpacked(name, tmp_path)
    found = predictions(tmp_path)
    assert found.keys() == asked["predictions"].keys()
    for label, expected in asked["predictions"].items():
        np.testing.assert_allclose(found[label], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_models_are_read(name, tmp_path):
    asked = unpacked(name, tmp_path)
    model = interop.from_pretrained(tmp_path)
    found = model.predictor(*problem(model.d_input, 4))
    np.testing.assert_allclose(found, asked["predictions"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in RUNS if name != "interrupted"])
def test_finished_runs_are_drawn_again(name, tmp_path, capsys):
    asked = unpacked(name, tmp_path)
    before = (tmp_path / "results.json").read_bytes()
    assert again(asked, tmp_path) == 0
    assert "holds a finished run; drawing" in capsys.readouterr().out
    assert (tmp_path / "results.json").read_bytes() == before
    assert len(list((tmp_path / "figures").glob("*.png"))) > 0
    assert (tmp_path / "report.html").stat().st_size > 0


def test_an_interrupted_run_goes_on(tmp_path, capsys):
    asked = unpacked("interrupted", tmp_path)
    assert not (tmp_path / "results.json").exists()
    assert again(asked, tmp_path) == 0
    assert "resuming training from step" in capsys.readouterr().out
    metrics = read(tmp_path)["metrics"]
    for name in ("loss_trained", "loss_untrained", "loss_gd"):
        np.testing.assert_allclose(metrics[name]["per_seed"], asked["ends"][name]["per_seed"], rtol=1e-3)
