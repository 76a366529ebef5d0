"""Runs and models that an earlier version wrote are read, drawn again and continued (see `tests/stored/write.py`)."""

import json
import sys
import tarfile

import numpy as np
import pytest
from whole import ROOT, kept_settings, read  # from this directory

from icl_gd import interop
from icl_gd.lab import command, command_line
from icl_gd.lab.lifecycle.workdirs import stored_fields
from icl_gd.migrations import CONFIGS, newest_of

STORED = ROOT / "tests" / "stored"
sys.path.append(str(STORED))
from write import predictions, problem  # noqa: E402

NAMES = sorted(path.name.partition(".")[0] for path in STORED.glob("*.tar.gz"))
MODELS = [name for name in NAMES if name.startswith("pretrained")]
RUNS = [name for name in NAMES if name not in MODELS]


def unpacked(name, directory):
    """Unpacks a stored run or model into a directory. Returns its asked.json: config, arguments and predictions."""
    with tarfile.open(STORED / f"{name}.tar.gz") as archive:
        archive.extractall(directory, filter="data")
    return json.loads((directory / "asked.json").read_text())


def again(asked, workdir):
    words = [f"--config.{word.replace('model.mlp_width', 'model.input_mlp_width')}" for word in asked["words"]]
    with kept_settings():
        return command.main(
            ["run", f"--config={ROOT}/configs/{asked['config']}.py:smoke", f"--workdir={workdir}", *words]
        )


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


@pytest.mark.parametrize("name", RUNS)
def test_configs_are_read_as_this_version_has_them(name, tmp_path):
    """Stored fields that still exist have the requested values. Those that no longer exist had no effect."""
    asked = unpacked(name, tmp_path)
    found = stored_fields(json.loads((tmp_path / "config.json").read_text()))
    words = [f"--config.{word.replace('model.mlp_width', 'model.input_mlp_width')}" for word in asked["words"]]
    experiment = command_line.parse(
        ["run", f"--config={asked['config']}:smoke", f"--workdir={tmp_path}", *words]
    ).experiment
    theirs = {field: value for field, value in found.items() if field in experiment.fields}
    ours = json.loads(json.dumps(experiment.flat()))
    free = {field for field, its in experiment.fields.items() if its.is_free}
    assert {field: theirs[field] for field in ours if field in theirs and field not in free} == {
        field: value for field, value in ours.items() if field in theirs and field not in free
    }
    assert len(theirs) > 30


def test_a_run_of_a_later_version_is_refused_in_one_line(tmp_path, capsys):
    asked = unpacked("finished", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"format": newest_of(CONFIGS) + 1}))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert again(asked, tmp_path) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"it is written in format {newest_of(CONFIGS) + 1}, this version reads formats 1 to" in said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_model_of_a_later_version_is_refused(tmp_path):
    unpacked(MODELS[0], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"format": 9}))
    with pytest.raises(ValueError, match="it is written in format 9, this version reads formats 1 to"):
        interop.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", MODELS)
def test_models_are_read(name, tmp_path):
    asked = unpacked(name, tmp_path)
    model = interop.from_pretrained(tmp_path)
    found = model.predictor(*problem(model.layout.d_input, 4))
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


@pytest.mark.slow
def test_an_interrupted_run_goes_on(tmp_path, capsys):
    asked = unpacked("interrupted", tmp_path)
    assert not (tmp_path / "results.json").exists()
    assert again(asked, tmp_path) == 0
    assert "resuming training from step" in capsys.readouterr().out
    metrics = read(tmp_path)["metrics"]
    for name in ("loss_trained", "loss_untrained", "loss_gd"):
        np.testing.assert_allclose(metrics[name]["per_seed"], asked["ends"][name]["per_seed"], rtol=1e-3)
