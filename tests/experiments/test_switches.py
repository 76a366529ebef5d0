"""Analyses of softmax heads, finite training sets and a real table, on populations with known results."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from whole import check_what_it_leaves, read  # from this directory

import icl_gd
from icl_gd import learners, models
from icl_gd.lab import command_line, pipeline
from icl_gd.lab.command_line import parse
from icl_gd.lab.config.errors import ConfigError
from icl_gd.lab.evaluation.analyses import table
from icl_gd.lab.evaluation.comparing import evaluated_values
from icl_gd.lab.evaluation.measured import subsample
from icl_gd.lab.lifecycle import monitor
from icl_gd.tasks import FinitePool, LinearRegression

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = (
    "--config.eval.prompts=256",
    "--config.eval.curve_prompts=64",
    "--config.seeds=2",
    "--config.train.log_every=50",
)


def run(workdir, *words):
    workdir.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patched:  # other tests check the figures
        patched.setattr(pipeline, "present", lambda *_: None)
        _run(workdir, *words)
    return json.loads((workdir / "results.json").read_text())


def _run(workdir, *words):
    pipeline.carry_out(parse(["run", *SMALL, *words, f"--workdir={workdir}"]), monitor.Stop())


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory):
    """A run that memorises three prompts; they have the size of the table's prompts."""
    return run(
        tmp_path_factory.mktemp("pool"),
        f"--config={CONFIGS}/finite_data.py:smoke",
        "--config.task.pool=3",
        "--config.train.steps=300",
        "--config.train.learning_rate=0.02",
        "--config.train.clip=1.0",
        "--config.model.init_scale=0.3",
        "--config.analyses=('pool','table')",
        "--config.eval.curve_prompts=1024",
    )


def value(done, name):
    return done["metrics"][name]["mean"]


@pytest.mark.slow
def test_a_pool_is_learned_by_heart_and_fresh_prompts_are_not(overfitted):
    on_pool, fresh = value(overfitted, "loss_trained_on_pool"), value(overfitted, "loss_trained")
    assert on_pool < 0.01 < 0.2 < fresh
    assert value(overfitted, "generalisation_gap") == pytest.approx(fresh - on_pool, rel=1e-5)
    assert value(overfitted, "loss_gd_tuned_on_pool") > value(overfitted, "loss_gd")


def test_the_pool_of_a_config_is_that_of_its_seed():
    words = ["run", f"--config={CONFIGS}/finite_data.py:smoke", "--config.task.pool=5", "--config.seed=4"]
    experiment = parse(words).experiment
    assert experiment.training_source == FinitePool(experiment.eval_task, 5, 4)
    fresh = parse([*words, "--config.task.pool=None", "--config.analyses=()"]).experiment
    assert fresh.training_source == fresh.eval_task == experiment.eval_task


@pytest.mark.slow
def test_the_table(overfitted):
    """The table has the scales of the training data, and its learners have the expected order of losses."""
    assert value(overfitted, "loss_table_zero") == pytest.approx(0.5 * 10 / 12, rel=0.3)
    whole, ridge, tuned, zero = (
        value(overfitted, f"loss_table_{n}") for n in ("whole_table", "ridge", "gd_tuned", "zero")
    )
    assert whole < ridge < tuned < zero < value(overfitted, "loss_table_ols")
    assert overfitted["curves"]["loss_by_learner_table"]["x"][0] == "trained"


def test_the_table_is_scikit_learns():
    class Asked:
        task = parse(["run", f"--config={CONFIGS}/one_layer.py"]).experiment.eval_task

    cut = table.diabetes(Asked)
    x, y = load_diabetes(return_X_y=True)
    np.testing.assert_allclose(cut.x.std(0), 12**-0.5, rtol=1e-9)
    np.testing.assert_allclose(cut.y.std(0), (10 / 12) ** 0.5, rtol=1e-9)
    np.testing.assert_allclose(np.corrcoef(cut.x.T, cut.y.T), np.corrcoef(x.T, y), atol=1e-9)


@pytest.mark.slow
def test_softmax_heads_are_measured(tmp_path):
    done = run(tmp_path, f"--config={CONFIGS}/softmax_heads.py:smoke")
    assert value(done, "loss_gd_centred") > value(done, "loss_gd")  # centring removes one degree of freedom
    assert np.shape(done["arrays"]["W_KQ_heads"]) == (2, 11, 11)
    np.testing.assert_allclose(np.sum(done["arrays"]["W_PV_heads"], 0), done["arrays"]["W_PV_summed"])
    assert 0 < value(done, "mean_pattern_left") <= 1
    both = (value(done, f"sensitivity_cosine_gd_centred{ending}") for ending in ("", "_without_common"))
    assert next(both) != next(both)
    prompts = jax.vmap(parse(["run", f"--config={CONFIGS}/one_layer.py"]).experiment.eval_task.sample)(
        jax.random.split(jax.random.key(0), 4000)
    )
    centred = learners.centre(prompts)
    assert float(jnp.abs(centred.x.mean(1)).max()) < 1e-6
    assert value(done, "step_size_gd_centred") == pytest.approx(float(learners.fit_step_size(centred)) / 10, rel=0.2)


def test_the_learned_mix_is_watched(one_layer):
    """The recorded softmax share is that of the members, and training has changed it."""
    done, trained = read(one_layer), icl_gd.load(one_layer)
    shares = [float(models.softmax_share(trained.member(i))["block_0"]) for i in range(2)]
    metrics, by_step = done["metrics"], done["curves"]["softmax_share_by_step"]
    np.testing.assert_allclose(metrics["softmax_share"]["per_seed"], shares, rtol=1e-6)
    assert by_step["x"] == [10, 20]
    np.testing.assert_allclose(by_step["mean"][1], np.mean(shares), rtol=1e-6)
    moved = np.abs(np.subtract(shares, metrics["softmax_share_untrained"]["per_seed"]))
    assert all((moved > 1e-6) & (moved < 0.2)), moved


def test_what_a_run_leaves(one_layer):
    check_what_it_leaves(one_layer)


def test_of_few_shifts_the_ends_are_among_them():
    def of(asked, suite):
        study = SimpleNamespace(task=LinearRegression(n_context=4), subsample=partial(subsample, at_most=asked))
        return evaluated_values(study, suite)

    assert of(2, "input_scale") == (0.5, 2.0)
    assert of(3, "weight_scale") == (0.5, 2.0, 5.0)
    assert of(None, "context_length") == of(9, "context_length") == (0.5, 1.0, 2.0, 4.0)
    assert of(2, "corrupted_labels") == (0, 4)


@pytest.mark.slow
def test_shifts_of_length_and_corruption(tmp_path):
    """A layer trained with four examples equals its rescaled version at this length, and at no other."""
    done = run(
        tmp_path,
        f"--config={CONFIGS}/noisy_labels.py:smoke",
        "--config.task.d_input=2",
        "--config.task.n_context=4",
        "--config.model.init_scale=1.0",
        "--config.eval.suite_values=9",
        "--config.analyses=('shifts',)",
    )
    curves = done["curves"]
    assert curves["loss_by_context_length_trained"]["x"] == [0.5, 1.0, 2.0, 4.0]
    trained, rescaled = (curves[f"loss_by_context_length_{name}"]["mean"] for name in ("trained", "rescaled"))
    assert trained[1] == pytest.approx(rescaled[1], rel=1e-5)
    assert trained[3] != pytest.approx(rescaled[3], rel=0.01)
    gd, built = (curves[f"loss_by_context_length_{name}"]["mean"] for name in ("gd", "construction"))
    assert gd[1] == pytest.approx(built[1], rel=1e-4)
    assert gd[3] < gd[1] < built[3]
    assert curves["loss_by_corrupted_labels_trained"]["x"] == [0, 2, 4]
    kept, anew = (curves[f"loss_by_corrupted_labels_{name}"]["mean"] for name in ("closed_form", "gd_tuned"))
    assert kept[1] > anew[1]
    assert anew[2] == pytest.approx(0.5 * 2 / 12)  # all labels are noise, so the best step size is 0


def test_old_names_of_fields_are_taken_and_told_of():
    experiment = command_line.load(CONFIGS / "one_layer.py", "smoke")
    notes = []
    given = {"model.normalised": "true", "train.form": "tokens", "analyses": "()"}
    changed = command_line.changed(experiment, given, notes)
    assert changed["model.sum_normalised"] is True
    assert notes == ["model.normalised is now model.sum_normalised"]
    notes.clear()
    assert command_line.changed(experiment, {"train.form": "moments"}, notes)["train.form"] == "gram"
    assert notes == ["train.form=moments is now gram"]
    with pytest.raises(ConfigError, match=r"model.mlp_width=3: .* give model.input_mlp_width .* block_mlp_width"):
        command_line.changed(experiment, {"model.mlp_width": "3"}, notes)
