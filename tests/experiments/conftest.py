"""Fixtures for tests of whole runs: one small run per kind of experiment, shared by all tests that only read it.

Each pytest worker makes a run once, so tests that read the same run are in the same file. Figures have a low
resolution, and learners that could use several processes use one.
"""

import pytest
from whole import FAMILIES, FUNCTIONS, ONE_LAYER, RATES, SINE, complete, kept_settings  # from this directory

from icl_gd import plots
from icl_gd.learners import host

TRAINED_SHORTLY = ("--config.train.steps=4", "--config.train.batch_size=8", "--config.train.log_every=2")
ON_FEW = ("--config.eval.prompts=64", "--config.eval.curve_prompts=16")


@pytest.fixture(autouse=True, scope="session")
def _coarse_figures_and_one_process():
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(plots.STYLE, "savefig.dpi", 30)
        patched.setattr(host, "usable_cores", lambda: 1)
        yield


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path, monkeypatch):
    """Runs of the user in `runs/`, the default place of workdirs, must not affect tests."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _settings_of_jax():
    with kept_settings():
        yield


@pytest.fixture(scope="session")
def one_layer(tmp_path_factory):
    """Two seeds of a learned mixture of softmax and linear attention."""
    return complete(
        "softmax_heads",
        tmp_path_factory.mktemp("one_layer"),
        "--config.model.attention=mixed",
        "--config.model.n_heads=1",
        "--config.analyses=('alignment',)",
        "--config.eval.prompts=256",
        "--config.eval.curve_prompts=64",
    )


@pytest.fixture(scope="session")
def swept(tmp_path_factory):
    """A sweep over two learning rates of linear attention, in one population."""
    rates = f"--config.train.learning_rate={','.join(map(str, RATES))}"
    return complete("one_layer", tmp_path_factory.mktemp("swept"), *ONE_LAYER, rates)


@pytest.fixture(scope="session")
def sine(tmp_path_factory):
    """Transformers on sine waves, and gradient descent on deep features."""
    return complete("sine", tmp_path_factory.mktemp("sine"), *SINE)


@pytest.fixture(scope="session")
def functions(tmp_path_factory):
    """A causal Transformer on linear functions."""
    return complete("garg_linear", tmp_path_factory.mktemp("functions"), *FUNCTIONS, *FAMILIES)


@pytest.fixture(scope="session")
def dual_models(tmp_path_factory):
    """A causal layer of softmax heads, and its dual models."""
    return complete(
        "dual_model",
        tmp_path_factory.mktemp("dual_models"),
        *TRAINED_SHORTLY,
        *ON_FEW,
        "--config.task.d_input=2",
        "--config.task.n_context=4",
        "--config.model.n_layers=1",
        "--config.model.d_embed=8",
        "--config.train.active_inputs=()",
        "--profile",
    )
