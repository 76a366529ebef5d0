"""For every prefix, a PrefixPredictor predicts the same as its Predictor, and as independent libraries."""

import os
import warnings
from functools import cache, partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.linear_model
import sklearn.neighbors
import sklearn.tree

from icl_gd import analysis, learners
from icl_gd.tasks import FunctionRegression, Linear, Sparse

N, D, M = 12, 5, 2
averaging = learners.gradient_descent([1.0])
nearest = {(k, how): learners.nearest_neighbours(k, how) for k in (1, 3) for how in ("uniform", "distance")}
LEARNERS = {
    "least_squares": (learners.prefix_least_squares, learners.ols),
    "ridge": (learners.prefix_ridge(0.7), learners.ridge(0.7)),
    "lasso": (learners.prefix_lasso(0.1), learners.lasso(0.1)),
    "averaging": (learners.prefix_averaging, averaging),
    "network": (learners.prefix_two_layer_network(1, 8, 20), learners.two_layer_network(1, 8, 20)),
    "network_gd": (
        learners.prefix_two_layer_network(2, 8, 5, 0.1, "gd"),
        learners.two_layer_network(2, 8, 5, 0.1, "gd"),
    ),
    **{f"nearest_{k}_{how}": (learners.prefix_nearest_neighbours(k, how), form) for (k, how), form in nearest.items()},
}


def examples(seed=0, n=N):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, D)), rng.normal(size=(n, M))


def collinear(seed=0):
    """Examples in which some inputs are repeats, multiples or sums of earlier inputs, or zero."""
    x, y = examples(seed)
    x[2], x[4], x[5], x[7] = x[0], -2 * x[1], x[0] + x[3], 0.0
    return x, y


@cache
def compiled_predictions(name):
    """A compiled function of examples and queries, `(x [n d], y [n m], x_query [n d])`.

    It returns predictions of the PrefixPredictor, whose queries are the inputs, and of the Predictor, whose k-th query
    is `x_query[k]`, for all but the empty prefix.
    """
    prefix, predictor = LEARNERS[name]

    @jax.jit
    def run(x, y, x_query):
        return prefix(x, y), jnp.stack([predictor(x[:k], y[:k], x_query[k]) for k in range(1, N)])

    return run


def both_predictions(name, x, y):
    """Predictions of the PrefixPredictor and of the Predictor for the same queries."""
    return compiled_predictions(name)(x, y, x)


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("draw", [examples, collinear])
def test_every_prefix_is_the_predictor(name, draw, x64):
    actual, expected = map(np.asarray, both_predictions(name, *draw()))
    assert actual.shape == (N, M)
    np.testing.assert_array_equal(actual[0], 0.0)
    for k in range(1, N):
        np.testing.assert_allclose(actual[k], expected[k - 1], rtol=1e-9, atol=1e-10, err_msg=str(k))


# Only some learners, because without jit every operation is compiled separately.
WITHOUT_JIT = ["least_squares", "ridge", "averaging", "nearest_3_uniform"]


@pytest.mark.parametrize("name", [*WITHOUT_JIT, pytest.param("network_gd", marks=pytest.mark.slow)])
def test_without_jit_they_say_the_same(name, x64):
    prefix, predictor = LEARNERS[name]
    x, y = examples()
    jitted_prefix, jitted_predictor = both_predictions(name, x, y)
    np.testing.assert_allclose(prefix(x, y), jitted_prefix, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(predictor(x[:-1], y[:-1], x[-1]), jitted_predictor[-1], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("draw", [examples, collinear])
def test_least_squares_is_the_pseudo_inverse(draw, x64):
    x, y = draw(1)
    actual = np.asarray(both_predictions("least_squares", x, y)[0])
    for k in range(1, N):
        np.testing.assert_allclose(actual[k], x[k] @ np.linalg.pinv(x[:k]) @ y[:k], rtol=1e-9, atol=1e-10)


def test_least_squares_in_single_precision():
    """At d = 20 the median error is below 1e-4 of the median prediction at every k, also at k = d (ill-conditioned)."""
    x, y = (np.random.default_rng(2).normal(size=(200, 41, size)) for size in (20, 1))
    least_squares = jax.jit(jax.vmap(learners.prefix_least_squares))
    actual = np.asarray(least_squares(np.float32(x), np.float32(y)), np.float64)
    for k in (1, 10, 19, 20, 21, 40):
        exact = np.einsum("pd,pdm->pm", x[:, k], np.linalg.pinv(x[:, :k]) @ y[:, :k])
        assert np.median(np.abs(actual[:, k] - exact)) < 1e-4 * np.median(np.abs(exact)), k


def test_ridge_and_neighbours_are_scikit_learns(x64):
    x, y = examples(3)
    names = "ridge", "nearest_3_uniform", "nearest_3_distance"
    ridge_y_hat, uniform, by_distance = (np.asarray(both_predictions(name, x, y)[0]) for name in names)
    ridge = sklearn.linear_model.Ridge(0.7, fit_intercept=False)
    for k in range(1, N):
        expected = ridge.fit(x[:k], y[:k]).predict(x[k : k + 1])[0]
        np.testing.assert_allclose(ridge_y_hat[k], expected, rtol=1e-9)
        for weights, actual in (("uniform", uniform), ("distance", by_distance)):
            model = sklearn.neighbors.KNeighborsRegressor(min(3, k), weights=weights).fit(x[:k], y[:k])
            np.testing.assert_allclose(actual[k], model.predict(x[k : k + 1])[0], rtol=1e-9)


ALPHAS = (1.0, 0.1, 0.01, 0.001, 0.0001)
lasso_path = jax.jit(learners.prefix_lasso_path(ALPHAS))


@pytest.mark.parametrize("draw", [examples, collinear])
def test_every_lasso_of_a_path_is_scikit_learns(draw, x64):
    """Coordinate descent to convergence, also with fewer examples than inputs, where many weights are zero."""
    x, y = draw(6)
    path = np.asarray(lasso_path(x, y))
    assert path.shape == (len(ALPHAS), N, M)
    for alpha, actual in zip(ALPHAS, path, strict=True):
        model = sklearn.linear_model.Lasso(alpha, fit_intercept=False, tol=1e-13, max_iter=10**6)
        for k in (k for k in range(1, N) if np.any(x[:k] @ x[:k].T)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # scikit-learn recommends a larger alpha
                expected = model.fit(x[:k], y[:k]).predict(x[k : k + 1])[0]
            np.testing.assert_allclose(actual[k], expected, atol=1e-7, err_msg=f"{alpha}, {k}")


DESIGNS = {
    "normal": lambda rng, *shape: rng.normal(size=shape),
    "signs": lambda rng, *shape: rng.choice([-1.0, 1.0], shape),
    "one_hot": lambda rng, *shape: np.eye(shape[-1])[rng.integers(shape[-1], size=shape[:-1])],
    "integers": lambda rng, *shape: rng.integers(-2, 3, shape).astype(float),
}


@jax.jit
def lasso_weights(x, y):
    """Lasso weights `[alpha problem d]` for x `[problem n d]`, y `[problem n 1]` and every alpha."""

    def solve(alpha, x, y):
        return jax.vmap(lambda e: learners.lasso(alpha)(x, y, e)[0])(jnp.eye(x.shape[1]))

    return jnp.stack([jax.vmap(partial(solve, alpha))(x, y) for alpha in ALPHAS])


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize(
    ("n", "d"), [(1, 4), (3, 8), (30, 8), *(pytest.param(8, d, marks=pytest.mark.slow) for d in (4, 8))]
)
def test_a_lasso_is_stationary(n, d, design, x64):
    """The optimality conditions of the Lasso hold for 100 problems and every alpha; no other solver is needed.

    If inputs take few values, several of them become active or inactive at the same alpha.
    """
    rng = np.random.default_rng(n)
    x = DESIGNS[design](rng, 100, n, d)
    y = rng.normal(size=(100, n, 1)) if design == "normal" else rng.choice([-1.0, 1.0], (100, n, 1))
    for alpha, w in zip(ALPHAS, np.asarray(lasso_weights(x, y)), strict=True):
        correlation = np.einsum("pnd,pn->pd", x, y[..., 0] - np.einsum("pnd,pd->pn", x, w)) / n
        assert np.all(np.abs(correlation) <= alpha + 1e-9)
        # The solver perturbs c to break ties, which can leave tiny weights.
        is_active = np.abs(w) > (0.0 if design == "normal" else 1e-9)
        np.testing.assert_allclose(correlation[is_active], alpha * np.sign(w[is_active]), atol=1e-9)


def test_greedy_trees_are_scikit_learns_and_stay_on_the_host():
    x, y = (np.stack([examples(seed)[i] for seed in range(3)]) for i in (0, 1))
    for depth in (2, None):
        actual = learners.host_predictions(learners.greedy_tree(depth), x, y, -x, processes=1)
        assert actual.shape == y.shape
        np.testing.assert_array_equal(actual[:, 0], 0.0)
        for k in range(1, N):
            tree = sklearn.tree.DecisionTreeRegressor(max_depth=depth, random_state=0).fit(x[1, :k], y[1, :k])
            np.testing.assert_array_equal(actual[1, k], tree.predict(-x[1, k : k + 1])[0])
    with pytest.raises(TypeError, match="outside of jit"):
        jax.vmap(learners.greedy_tree())(x, y, x[:, 0])


def test_boosted_trees_are_xgboosts():
    xgboost = pytest.importorskip("xgboost")
    x, y = examples(7)
    actual = learners.boosted_trees()(x, y[:, :1], x[3] + 0.1)
    expected = xgboost.XGBRegressor(n_jobs=1).fit(x, y[:, 0]).predict(x[3:4] + 0.1)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_host_predictions_are_the_same_over_processes():
    x, y = (part[None].repeat(3, 0) for part in examples(2, 4))
    query = np.where(np.arange(4)[None, :, None] == 2, np.nan, x)
    recorded: list[np.ndarray] = []

    def record(results):
        for result in results:
            recorded.append(result)
            yield result

    def predict(processes):
        return learners.host_predictions(learners.greedy_tree(2), x, y, query, processes, record)

    one, two = predict(1), predict(2)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(recorded, [*one, *two])  # in the order of the prompts
    assert np.isnan(one[:, 2]).all()
    assert np.isfinite(one[:, [1, 3]]).all()
    assert learners.host_predictions(learners.greedy_tree(2), x[:0], y[:0], x[:0], 1).shape == (0, *y.shape[1:])


class Ends:
    """An estimator whose fit ends the process."""

    def fit(self, x, y):
        os._exit(1)


def test_a_process_that_ends_is_said():
    x, y = (part[None].repeat(2, 0) for part in examples(2, 4))
    with pytest.raises(RuntimeError, match="__main__"):
        learners.host_predictions(learners.HostPredictor(Ends), x, y, x, 2)


def test_classes_are_told_by_signs():
    """The error is twice the share of wrong signs, so random signs and the prediction 0 have error 1."""
    y_hat, y = np.float32([[3.0], [-0.1], [2.0], [0.0]]), np.float32([[1.0], [1.0], [-1.0], [1.0]])
    errors = jax.jit(
        lambda y_hat, y: (analysis.squared_errors(y_hat, y, are_classes=True), analysis.squared_errors(y_hat, y))
    )
    class_errors, squared_errors = errors(y_hat, y)
    np.testing.assert_array_equal(class_errors, [0.0, 2.0, 2.0, 1.0])
    np.testing.assert_allclose(squared_errors, [4.0, 1.21, 9.0, 1.0], rtol=1e-6)


class Threads:
    """An estimator that predicts the number of OpenMP threads of its process."""

    def fit(self, x, y):
        return self

    def predict(self, x_query):
        return np.full((len(x_query), M), float(os.environ["OMP_NUM_THREADS"]))


@pytest.mark.parametrize(("setting", "threads"), [(None, 1.0), pytest.param("3", 3.0, marks=pytest.mark.slow)])
def test_processes_have_one_thread_each_unless_it_was_said_how_many(setting, threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if setting is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", setting)
    x, y = (part[None] for part in examples(1, 2))
    assert (learners.host_predictions(learners.HostPredictor(Threads), x, y, x, 2)[0, 1] == threads).all()
    assert os.environ.get("OMP_NUM_THREADS") == setting


def test_a_network_fits_its_context_in_many_steps(x64):
    x, y = examples(5)
    fitted = jax.jit(jax.vmap(learners.two_layer_network(0, 100, 3000), in_axes=(None, None, 0)))
    np.testing.assert_allclose(fitted(x, y, x), y, atol=1e-3)


def two_columns(name, x, y, x_query):
    """Predictions of a Predictor for all prefixes but the empty one, by a program for labels with two columns."""
    return np.asarray(compiled_predictions(name)(x, np.repeat(y, M, axis=1), x_query)[1])[:, :1]


@pytest.mark.parametrize("name", ["standard", "orthogonal_query", "repeated_query"])
def test_predictions_of_prompts_are_those_of_their_prefixes(name, x64):
    """Also for queries that are not the next inputs."""
    task = FunctionRegression(Linear(D), N - 1, name)

    @jax.jit
    def run(key):
        prompts = jax.vmap(task.sample_prefixes)(jax.random.split(key, 3))
        ridge_y_hat = analysis.prefix_predictions(learners.prefix_ridge(0.7), prompts, task.in_order)
        lasso_y_hat = analysis.prefix_predictions(learners.prefix_lasso_path(ALPHAS[:2]), prompts, task.in_order)
        errors = analysis.prefix_squared_errors(learners.prefix_ridge(0.7), prompts, task.in_order)
        return prompts, ridge_y_hat, lasso_y_hat, errors

    prompts, ridge_y_hat, lasso_y_hat, errors = jax.tree.map(np.asarray, run(jax.random.key(0)))
    problems = [(prompts.x[i], prompts.y[i], prompts.x_query[i]) for i in range(3)]
    expected_ridge, expected_lasso = (
        [two_columns(learner, *each) for each in problems] for learner in ("ridge", "lasso")
    )
    assert (ridge_y_hat.shape, lasso_y_hat.shape, errors.shape) == ((3, N, 1), (2, 3, N, 1), (3, N))
    for i in range(3):
        for k in (k for k in range(1, N) if np.isfinite(prompts.x_query[i, k]).all()):
            expected = expected_ridge[i][k - 1]
            np.testing.assert_allclose(ridge_y_hat[i, k], expected, atol=1e-10)
            np.testing.assert_allclose(errors[i, k], np.sum((expected - prompts.y_query[i, k]) ** 2), rtol=1e-9)
            np.testing.assert_allclose(lasso_y_hat[1, i, k], expected_lasso[i][k - 1], atol=1e-10)


@pytest.mark.parametrize("name", ["standard", "repeated_query"])
def test_sensitivities_of_prefixes_are_the_weights_of_ridge_regression(name, x64):
    task = FunctionRegression(Linear(D), N - 1, name)

    @jax.jit
    def run(key):
        prompts = jax.vmap(task.sample_prefixes)(jax.random.split(key, 3))
        return prompts, analysis.prefix_responses(learners.prefix_ridge(0.7), prompts, 2)

    prompts, (y_hat, sensitivities) = jax.tree.map(np.asarray, run(jax.random.key(3)))
    assert (y_hat.shape, sensitivities.shape) == ((3, N, 1), (3, N, 1, D))
    for i, k in product(range(3), range(1, N)):
        x, y = prompts.x[i, :k], prompts.y[i, :k]
        weights = y.T @ x @ np.linalg.inv(x.T @ x + 0.7 * np.eye(D))
        np.testing.assert_allclose(y_hat[i, k], weights @ prompts.x_query[i, k], atol=1e-10)
        np.testing.assert_allclose(sensitivities[i, k], weights, atol=1e-10)


PROMPTS = 1280


def errors_on(task, learner, count=PROMPTS):
    """Squared errors `[... prompt n]` of a PrefixPredictor on prompts of a task."""

    @jax.jit
    def measure(key):
        prompts = jax.vmap(task.sample_prefixes)(jax.random.split(key, count))
        return analysis.prefix_squared_errors(learner, prompts, task.in_order, 64)

    return np.asarray(measure(jax.random.key(1)))


# Exact mean errors at d = 20, divided by d, by learner, prompt distribution and k.
EXPECTED = {
    ("least_squares", "standard"): {0: 1.0, 5: 0.75, 10: 0.5, 19: 0.05, 20: 0.0, 40: 0.0},
    ("averaging", "standard"): {5: 21 / 5, 10: 21 / 10, 40: 0.525},
    ("least_squares", "orthogonal_query"): dict.fromkeys((0, 5, 10, 19), 1.0),
    ("least_squares", "repeated_query"): dict.fromkeys((1, 10, 20, 40), 0.0),
}


@pytest.mark.parametrize(("name", "family"), EXPECTED)
def test_errors_are_those_known_exactly(name, family, x64):
    points = max(EXPECTED[name, family])
    count = PROMPTS if any(EXPECTED[name, family].values()) else 64  # errors that are zero are zero on every prompt
    errors = errors_on(FunctionRegression(Linear(20), points, family), LEARNERS[name][0], count) / 20
    for k, expected in EXPECTED[name, family].items():
        stderr = errors[:, k].std() / count**0.5
        assert abs(errors[:, k].mean() - expected) <= 4 * stderr + 1e-9, (k, errors[:, k].mean())


# Published errors of the Lasso with alpha = 0.01 on sparse functions at d = 20, as printed, from 1280 other prompts.
PUBLISHED = {1: 1.11, 5: 0.645, 10: 0.0498, 15: 0.0023, 20: 0.0002, 25: 0.0002, 40: 0.0001}


@pytest.mark.slow
def test_errors_of_the_lasso_are_those_published(x64):
    task = FunctionRegression(Sparse(20), 40)
    errors = errors_on(task, learners.prefix_lasso_path([0.01]))[0] / task.label_variance
    for k, expected in PUBLISHED.items():
        stderr = (2 / PROMPTS) ** 0.5 * errors[:, k].std()  # of the difference of two sample means
        assert abs(errors[:, k].mean() - expected) <= 4 * stderr + 0.5e-4, (k, errors[:, k].mean())


def test_an_example_at_the_query_is_all_that_counts_by_distance(x64):
    x, y = examples(4)
    by_distance = jax.jit(learners.nearest_neighbours(3, "distance"))
    np.testing.assert_allclose(by_distance(x, y, x[5]), y[5], rtol=1e-12)
    x[1] = x[5]
    np.testing.assert_allclose(by_distance(x, y, x[5]), (y[1] + y[5]) / 2, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: learners.nearest_neighbours(0), "neighbours=0"),
        (lambda: learners.prefix_nearest_neighbours(3, "gaussian"), "uniform, distance"),
        (lambda: learners.prefix_ridge(0.0), "penalty=0.0"),
        (lambda: learners.greedy_tree(0), "max_depth=0"),
        (lambda: learners.two_layer_network(steps=0), "steps=0"),
        (lambda: learners.two_layer_network(optimizer="sgd"), "adam, gd"),
        (
            lambda: learners.host_predictions(learners.greedy_tree(), *[np.zeros((1, 1, 1))] * 3, processes=0),
            "processes=0",
        ),
        (
            lambda: learners.host_predictions(learners.greedy_tree(), *[np.zeros((1, 4, 1))] * 2, np.zeros((1, 2, 1))),
            r"x_query \(1, 2, 1\)",
        ),
        (lambda: learners.lasso(0.0), "alpha=0.0"),
        (lambda: learners.prefix_lasso_path([]), r"alphas=\(\)"),
    ],
)
def test_what_makes_no_learner_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
