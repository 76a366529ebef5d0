"""A run can start from the weights of another run. Weights that do not fit are refused before the run begins."""

import tarfile

import chex
import pytest
from whole import ONE_LAYER, ROOT, complete, kept_settings  # from this directory

import icl_gd
from icl_gd.lab import command

SMOKE = f"--config={ROOT}/configs/one_layer.py:smoke"


@pytest.fixture
def finished(tmp_path):
    """The workdir of a finished run of one_layer:smoke."""
    with tarfile.open(ROOT / "tests" / "stored" / "finished.tar.gz") as archive:
        archive.extractall(tmp_path / "finished", filter="data")
    return tmp_path / "finished"


def refused(capsys, *words):
    with kept_settings():
        assert command.main(["run", *words]) == 2
    return capsys.readouterr().err.removeprefix("error: ").strip()


def test_weights_that_do_not_fit_are_refused(finished, tmp_path, capsys):
    start, workdir, small = f"--config.train.start={finished}", f"--workdir={tmp_path}/run", "--config.task.d_input=2"
    said = refused(capsys, SMOKE, small, start, workdir, "--config.seeds=3")
    assert said == (
        f"train.start={finished}: weights of 2 members cannot start a population of 3; give weights of 1 or 3 members; "
        f"population[i] gives the weights of one member"
    )
    said = refused(capsys, SMOKE, small, start, workdir, "--config.model.n_layers=2", "--config.analyses=()")
    assert "the layers differ, only the new model has block_1" in said
    said = refused(capsys, SMOKE, start, workdir)
    assert said.endswith(
        "(1, 3, 3) in the starting weights, (1, 11, 11) in the new model; give weights of a Transformer of the same "
        "sizes"
    )
    said = refused(capsys, SMOKE, small, start, f"--workdir={finished.parent}")
    assert said.endswith("is in the workdir of this run; to continue it raise train.steps, or give another path")
    said = refused(capsys, SMOKE, f"--config.train.start={tmp_path}/none", workdir)
    assert said == f"train.start={tmp_path}/none: there is no such directory; give the workdir of a run"
    said = refused(capsys, SMOKE, "--config.train.start=gs://bucket/run", workdir)
    assert said.startswith("train.start=gs://bucket/run: object stores are neither read nor written")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_starts_from_the_weights_of_another(tmp_path):
    """Starts on another task, from a workdir, from one of its checkpoints, and from a saved model."""
    first = complete("one_layer", tmp_path / "first", *ONE_LAYER, "--config.train.keep_checkpoints=all")
    trained = icl_gd.load(first)
    trained.stacked.save(tmp_path / "model")
    for name, start in {"whole": first, "step": first / "checkpoints" / "5", "saved": tmp_path / "model"}.items():
        words = "--config.train.keep_checkpoints=all", "--config.task.n_context=4", f"--config.train.start={start}"
        complete("one_layer", tmp_path / name, *ONE_LAYER, *words)
        began = icl_gd.load(tmp_path / name, step=0)
        expected = icl_gd.load(first, 5 if name == "step" else None)
        chex.assert_trees_all_equal(began.params, expected.params)
