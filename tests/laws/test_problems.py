"""Every learner and model refuses problems whose shapes do not agree, and accepts arrays of every numeric dtype."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import constructions, learners, models, tokens
from icl_gd.analysis import losses, risk
from icl_gd.models import TransformerConfig
from icl_gd.types import Prompt

D, N = 3, 6
LAYOUT = tokens.concatenated(D, 1)
BUILT = constructions.gradient_descent_config(D, 1, 1)
WEIGHTS = constructions.gradient_descent_weights(BUILT, D, N, [0.1])
POOL = np.array([[[1.0, -1.0, 0.5]], [[0.5, 1.0, -1.0]]])
LEARNERS = {
    "gradient_descent": lambda: learners.gradient_descent([0.1] * 5),
    "gd_plus_plus": lambda: learners.gd_plus_plus([0.1], [0.1]),
    "momentum": lambda: learners.momentum([0.1, 0.1], 0.5),
    "ols": lambda: learners.ols,
    "ridge": lambda: learners.ridge(0.5),
    "zero": lambda: learners.predict_zero,
    "averaging": lambda: learners.averaging,
    "newton": lambda: learners.newton_schulz(3),
    "conjugate": lambda: learners.conjugate_gradient(2),
    "preconditioned": lambda: learners.preconditioned_gradient_descent([0.1], np.eye(D)),
    "kernel_regression": lambda: learners.kernel_regression(1.0),
    "kernel_ridge": lambda: learners.kernel_ridge(0.5, bandwidth=1.0),
    "pool": lambda: learners.bayes_pool(POOL, 5.0),
    "nearest": lambda: learners.nearest_neighbours(2),
    "lasso": lambda: learners.lasso(0.1),
    "network": lambda: learners.two_layer_network(hidden=3, steps=2),
    "centred": lambda: learners.centred(learners.ols),
    "standardised": lambda: learners.standardised(learners.ols),
    "gram": lambda: models.fastest_predictor(BUILT, WEIGHTS, LAYOUT),
    "tokens": lambda: models.predictor(BUILT, WEIGHTS, LAYOUT),
    "layers": lambda: models.layerwise_predictor(BUILT, WEIGHTS, LAYOUT),
    "model": lambda: models.Model(BUILT, WEIGHTS, LAYOUT),
}
GPT2 = models.gpt2_config(D, 2 * N + 1, 4, 1, 2)
PREFIXES = {
    "least_squares": lambda: learners.prefix_least_squares,
    "averaging": lambda: learners.prefix_averaging,
    "ridge": lambda: learners.prefix_ridge(0.5),
    "nearest": lambda: learners.prefix_nearest_neighbours(2),
    "pool": lambda: learners.prefix_bayes_pool(POOL, 5.0),
    "lasso": lambda: learners.prefix_lasso(0.1),
    "lasso_path": lambda: learners.prefix_lasso_path([0.1, 0.2]),
    "network": lambda: learners.prefix_two_layer_network(hidden=3, steps=2),
    "gpt2": lambda: models.prefix_predictor(GPT2, models.init(GPT2, jax.random.key(0)), tokens.alternating(D, 1)),
}
RNG = np.random.default_rng(0)
X, Y, QUERY = RNG.integers(-3, 4, (N, D)), RNG.integers(-3, 4, (N, 1)), RNG.integers(-3, 4, D)
WRONG = {
    "labels": (lambda x, y, q: (x, y[:, 0], q), r"y has shape \(6,\): labels are \[n m\]; give y\[:, None\]"),
    "fewer_labels": (lambda x, y, q: (x, y[:4], q), r"y has shape \(4, 1\): labels are \[n m\], with n=6"),
    "one_input": (lambda x, y, q: (x[0], y, q), r"x has shape \(3,\): inputs are \[n d\]"),
    "queries": (lambda x, y, q: (x, y, q[None]), r"x_query has shape \(1, 3\): one query is \[d\], with d=3"),
    "another_query": (lambda x, y, q: (x, y, q[:2]), r"x_query has shape \(2,\): one query is \[d\], with d=3"),
    "lists": (lambda x, y, q: (x.tolist(), y, q), r"x is a list; give an array, for example jnp.array\(x\)"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", LEARNERS)
def test_problems_of_wrong_shapes_are_refused(name, wrong):
    change, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message):
        LEARNERS[name]()(*change(X.astype(np.float32), Y.astype(np.float32), QUERY.astype(np.float32)))


@pytest.mark.parametrize("wrong", ["labels", "fewer_labels", "one_input", "lists"])
@pytest.mark.parametrize("name", PREFIXES)
def test_examples_of_wrong_shapes_are_refused(name, wrong):
    change, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message):
        PREFIXES[name]()(*change(X.astype(np.float32), Y.astype(np.float32), QUERY)[:2])


def test_labels_without_an_axis_of_outputs_are_refused_by_analyses():
    prompts = Prompt(*(jnp.ones(shape) for shape in ((2, N, D), (2, N), (2, D), (2, 1), (2, 1, D))))
    for measure in (losses, lambda learner, prompts: risk(learner, prompts, jax.random.key(0))):
        with pytest.raises(ValueError, match=r"labels are \[n m\]; give y\[:, None\]"):
            measure(learners.ols, prompts)


def test_a_host_learner_refuses_labels_without_an_axis_of_outputs():
    with pytest.raises(ValueError, match=r"labels are \[n m\]; give y\[:, None\]"):
        learners.greedy_tree(2)(X.astype(float), Y[:, 0].astype(float), QUERY.astype(float))


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.int32, jnp.int32])
@pytest.mark.parametrize("name", LEARNERS)
def test_arrays_of_any_kind_are_the_same_numbers(name, kind):
    learner = jax.jit(LEARNERS[name]()) if name in ("lasso", "network") else LEARNERS[name]()
    expected = LEARNERS[name]()(*(jnp.asarray(part, float) for part in (X, Y, QUERY)))
    to_array = jnp.asarray if kind is jnp.int32 else np.asarray
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        actual = learner(*(to_array(part, kind) for part in (X, Y, QUERY)))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [np.float64, np.int64])
@pytest.mark.parametrize("name", PREFIXES)
def test_examples_of_any_kind_are_the_same_numbers(name, kind):
    expected = PREFIXES[name]()(jnp.asarray(X, float), jnp.asarray(Y, float))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        actual = PREFIXES[name]()(X.astype(kind), Y.astype(kind))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_several_outputs_are_taken():
    y = np.concatenate([Y, 2 * Y], axis=1)
    y_hat = learners.ols(X, y, QUERY)
    np.testing.assert_allclose(y_hat[1], 2 * y_hat[0], rtol=1e-4)
    assert TransformerConfig(4).d_token == 4


@pytest.mark.parametrize("name", PREFIXES)
def test_finite_predictions_make_no_nan_on_their_way(name):
    """`jax_debug_nans` checks the result of every operation."""
    with jax.debug_nans(True):
        assert np.all(np.isfinite(PREFIXES[name]()(X.astype(np.float32), Y.astype(np.float32))))
