"""If `train.wandb` names a project, metrics are logged to Weights & Biases; without the package the run is refused."""

import importlib.util

import pytest
from whole import ONE_LAYER, complete, kept_settings  # from this directory

from icl_gd.lab import command
from icl_gd.lab.lifecycle import monitor


def test_without_the_package_a_run_is_refused_before_it_begins(monkeypatch, tmp_path, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "wandb" else find(name, *more))
    with kept_settings():
        words = ["run", "--config=one_layer:smoke", "--config.train.wandb=mine", f"--workdir={tmp_path}/run"]
        assert command.main(words) == 2
    assert capsys.readouterr().err == (
        "error: train.wandb=mine: needs the package wandb: pip install 'icl-gd[wandb]', or give None\n"
    )
    assert not (tmp_path / "run").exists()
    monitor.check_wandb(None)


@pytest.mark.slow
def test_metrics_are_logged_offline(monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    complete("one_layer", tmp_path / "run", *ONE_LAYER, "--config.train.wandb=mine")
    (record,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert b"sensitivity_cosine_gd" in record.read_bytes()
