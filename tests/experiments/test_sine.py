"""A run on sine waves trains two populations: it resumes in either of them, and records their differences."""

import signal

import jax
import numpy as np
import pytest
from whole import ROOT, SINE, check_what_it_leaves, read  # from this directory

import icl_gd
from icl_gd import constructions
from icl_gd.lab import pipeline
from icl_gd.lab.command_line import parse
from icl_gd.lab.evaluation.measured import Records
from icl_gd.lab.evaluation.references import deep_features
from icl_gd.lab.lifecycle import monitor
from icl_gd.training import Interrupted

TO_THE_BIT = True  # see tests/conftest.py


def asked(workdir):
    workdir.mkdir(exist_ok=True)
    return parse(["run", f"--config={ROOT}/configs/sine.py:smoke", *SINE, f"--workdir={workdir}"])


def stopped():
    stop = monitor.Stop()
    stop.signal = signal.SIGTERM
    return stop


def stop_twice_and_go_on(workdir, capsys):
    """Runs until stopped while the learner is trained, then until stopped after that, then to the end."""

    class After(monitor.Stop):
        """Stops as soon as the learner is trained."""

        @property
        def signal(self):
            return signal.SIGTERM if (workdir / "checkpoints").exists() else None

        @signal.setter
        def signal(self, value):
            pass

    for stop, step in ((stopped(), 2), (After(), 2)):
        with pytest.raises(Interrupted) as interrupted:
            pipeline.carry_out(asked(workdir), stop)
        assert interrupted.value.step == step
    pipeline.carry_out(asked(workdir), monitor.Stop())
    said = capsys.readouterr().out
    assert "resuming learner from step 2" in said
    assert "resuming training from step 2" in said


def lines(workdir):
    return sorted((workdir / "metrics.jsonl").read_text().splitlines())


@pytest.mark.slow
def test_it_goes_on_in_either_population(sine, tmp_path, capsys, monkeypatch):
    """A stopped and resumed run has the same members and the same metrics during training. Evaluation is skipped."""
    monkeypatch.setattr(deep_features, "evaluate", lambda study: Records(np.full(2, True), np.full(2, False)))
    monkeypatch.setattr(pipeline, "present", lambda *_: None)
    stop_twice_and_go_on(tmp_path, capsys)
    assert lines(tmp_path) == lines(sine)
    for part in ("", "learner"):
        ours, theirs = (icl_gd.load(workdir / part).params for workdir in (tmp_path, sine))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    ours, theirs = read(tmp_path)["curves"], read(sine)["curves"]
    assert ours
    assert ours == {name: theirs[name] for name in ours}


@pytest.mark.slow
def test_a_run_that_went_on_records_what_an_uninterrupted_one_does(sine, tmp_path, capsys):
    stop_twice_and_go_on(tmp_path, capsys)
    ours, theirs = read(tmp_path), read(sine)
    for part in ("metrics", "curves", "arrays"):
        assert ours[part] == theirs[part]
    assert lines(tmp_path) == lines(sine)


def test_members_are_loaded_and_the_learner_is_built(sine):
    trained, learner = icl_gd.load(sine), icl_gd.load(sine / "learner")
    built = constructions.gradient_descent_weights(learner.config, 3, 3, [0.1])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b), learner.params["block_0"], built["block_0"])
    assert len(trained) == len(learner) == 2
    assert trained.config == learner.config


def test_what_is_recorded(sine):
    done = read(sine)
    metrics = done["metrics"]
    assert metrics["construction_error"]["mean"] < 1e-5
    ratio = metrics["prediction_difference_gd_deep_features"]["mean"] / metrics["target_spread"]["mean"]
    assert metrics["prediction_difference_ratio_gd_deep_features"]["mean"] == pytest.approx(ratio, rel=1e-4)
    assert done["curves"]["loss_gd_deep_features_by_step"]["x"] == [2, 4]
    drawn = done["arrays"]["functions"][0]
    amplitude, at = max(map(abs, drawn["target"])), np.searchsorted(drawn["x"], drawn["context_x"])
    assert 0.1 <= amplitude <= 0.5
    np.testing.assert_allclose(np.array(drawn["target"])[at], drawn["context_y"], atol=0.05 * amplitude)
    for name in ("trained", "gd_deep_features"):
        components = np.array(done["arrays"][f"features_{name}"])
        np.testing.assert_allclose(np.mean(components**2, 1), 1.0, rtol=1e-6)
        assert sum(done["arrays"][f"features_share_{name}"]) <= 1 + 1e-9
        assert 0 <= metrics[f"waves_in_features_{name}"]["mean"] <= 1


def test_what_a_run_leaves(sine):
    check_what_it_leaves(sine)
