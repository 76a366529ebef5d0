"""The analysis of copying: when copying starts, and which analyses accept separate tokens."""

from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from icl_gd.lab.command_line import parse
from icl_gd.lab.config.errors import ConfigError
from icl_gd.lab.evaluation.analyses.copying import _coordinates, _moments, lasting_from
from icl_gd.lab.evaluation.measured import Records
from icl_gd.tasks import LinearRegression

CONFIGS = Path(__file__).parents[2] / "configs"
APART = f"--config={CONFIGS}/token_copying.py"
TASK = LinearRegression(d_input=3, n_context=5)
OF_ONE_LAYER = ("weights", "rollout", "optimum")
READ_PAIRS = (*OF_ONE_LAYER, "interpolation", "layer_map", "curvature")  # these read inputs and labels from one token


def test_the_step_from_which_something_lasts():
    holds = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 1]], bool)
    np.testing.assert_array_equal(lasting_from(np.array([10, 20, 30]), holds), [30, 20, np.nan, 10])


@pytest.mark.parametrize("analysis", READ_PAIRS)
def test_what_reads_inputs_and_labels_in_one_token_refuses_separate_ones(analysis):
    file = "gaussian_optimum" if analysis in OF_ONE_LAYER else "two_layers"
    words = ["run", f"--config={CONFIGS}/{file}.py", f"--config.analyses=('{analysis}',)", "--config.claims=()"]
    assert parse(words).experiment.analysis_names == (analysis,)
    said = rf"model\.layout=interleaved: contradicts analyses={analysis}, which needs concatenated"
    with pytest.raises(ConfigError, match=said):
        parse([*words, "--config.model.layout=interleaved"])


def test_copying_is_asked_of_separate_tokens_alone():
    assert parse(["run", APART, "--config.analyses=('alignment','copying')"]).experiment.model.layout == "interleaved"
    said = r"model\.layout=concatenated: contradicts analyses=copying, which needs interleaved"
    with pytest.raises(ConfigError, match=said):
        parse(["run", APART, "--config.model.layout=concatenated"])


@pytest.fixture(scope="module")
def prompts():
    return jax.jit(jax.vmap(TASK.sample))(jax.random.split(jax.random.key(0), 32))


def test_every_coordinate_has_a_step_of_its_own(prompts):
    """For gradient descent with one step size per coordinate, the analysis returns these step sizes."""
    rates = np.array([[0.1, 0.1, 0.1], [0.2, 0.4, 0.15]], np.float32)
    trained = SimpleNamespace(params=rates, predictor=lambda rate: lambda x, y, x_query: y.T @ (x @ (rate * x_query)))
    found = Records(np.full(2, True), np.full(2, False))
    _coordinates(SimpleNamespace(prompts=prompts, task=TASK, trained=trained), found)
    np.testing.assert_allclose(found.curves["step_by_coordinate"]["mean"], rates.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.metrics()["shared_coordinate_step"]["per_seed"], [1.0, 0.5], rtol=1e-5)


def test_when_copying_starts_and_when_the_loss_falls(prompts):
    """One seed copies 20 steps before its loss is halfway down. The loss of the other falls, but it never copies."""
    plateau = float(0.5 * np.mean(np.sum(np.square(prompts.y_query), -1)))
    by_seed = {
        "loss_trained": [[1.0, 1.0, 0.8, 0.2, 0.0], [1.0, 0.4, 0.2, 0.0, 0.0]],
        "derivative_own": [[0.0] * 5] * 2,
        "derivative_following": [[1.0, 1.1, 1.5, 2.1, 3.0], [1.0] * 5],
        "derivative_others": [[1.0] * 5] * 2,
    }

    def scale(name):
        return plateau if name == "loss_trained" else 1.0

    history = {
        name: {10 * (k + 1): {seed: scale(name) * values[seed][k] for seed in (0, 1)} for k in range(5)}
        for name, values in by_seed.items()
    }
    found = Records(np.full(2, True), np.full(2, False))
    _moments(SimpleNamespace(prompts=prompts, history=history), found)
    nan = np.nan
    expected = {
        "copying_starts_at": [20, nan],
        "copying_clear_at": [40, nan],
        "loss_halfway_at": [40, 20],
        "copying_leads_by": [20, nan],
        "copying_clear_leads_by": [0, nan],
        "loss_ratio_zero_at_start": [1.0, nan],
    }
    metrics = found.metrics()
    for name, values in expected.items():
        np.testing.assert_allclose(metrics[name]["per_seed"], values, rtol=1e-6, err_msg=name)
    assert found.arrays["copying_by_seed"]["step"] == [10, 20, 30, 40, 50]
