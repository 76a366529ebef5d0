"""A run of sine waves has two populations: it goes on in either, and records how far they are apart."""

import json
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

import icl_gd
from experiments import monitor
from experiments.recipes import sine
from experiments.settings import parse
from icl_gd import constructions
from icl_gd.training import Interrupted

CONFIG = Path(__file__).parents[2] / "configs" / "sine.py"
WORDS = ("run", f"--config={CONFIG}:smoke", "--config.task.n_context=3", "--config.train.steps=4",
         "--config.train.batch_size=8", "--config.train.log_every=2", "--config.train.checkpoint_every=2",
         "--config.eval.prompts=32", "--config.eval.curve_prompts=16", "--config.model.d_embed=4",
         "--config.model.mlp_width=5", "--config.model.init_scale=1.0")  # fmt: skip


def asked(workdir):
    workdir.mkdir(exist_ok=True)
    return parse([*WORDS, f"--workdir={workdir}"])


def stopped():
    stop = monitor.Stop()
    stop.signal = signal.SIGTERM
    return stop


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sine")
    sine.run(asked(workdir), monitor.Stop())
    return workdir


def test_it_goes_on_in_either_population(finished, tmp_path, capsys):
    class After(monitor.Stop):
        """Stops once the learner is trained."""

        @property
        def signal(self):
            return signal.SIGTERM if (tmp_path / "checkpoints").exists() else None

        @signal.setter
        def signal(self, value):
            pass

    for stop, step in ((stopped(), 2), (After(), 2)):
        with pytest.raises(Interrupted) as interrupted:
            sine.run(asked(tmp_path), stop)
        assert interrupted.value.step == step
    sine.run(asked(tmp_path), monitor.Stop())
    said = capsys.readouterr().out
    assert "resuming learner from step 2" in said
    assert "resuming training from step 2" in said
    ours, theirs = (json.loads((w / "results.json").read_text()) for w in (tmp_path, finished))
    for part in ("metrics", "curves", "arrays"):
        assert ours[part] == theirs[part]
    ours, theirs = (sorted((w / "metrics.jsonl").read_text().splitlines()) for w in (tmp_path, finished))
    assert ours == theirs


def test_members_are_loaded_and_the_learner_is_built(finished):
    trained, learner = icl_gd.load(finished), icl_gd.load(finished / "learner")
    built = constructions.gradient_descent_weights(learner.config, 3, 3, [0.1])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b), learner.params["block_0"], built["block_0"])
    assert len(trained) == len(learner) == 2
    assert trained.config == learner.config


def test_what_is_recorded(finished):
    done = json.loads((finished / "results.json").read_text())
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
