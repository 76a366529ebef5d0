"""Law 2: symmetries and limits of linear learners, independent implementations, and closed forms of risks."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.linear_model

from icl_gd import learners
from icl_gd.analysis import losses
from icl_gd.tasks import LinearRegression, scale_inputs

LEARNERS = {
    "gd": learners.gradient_descent([0.3, 0.2]),
    "gd_plus_plus": learners.gd_plus_plus([0.3, 0.2], [0.1, 0.2]),
    "momentum": learners.momentum([0.3, 0.2, 0.3], 0.6),
    "ols": learners.ols,
    "ridge": learners.ridge(0.7),
    "averaging": learners.averaging,
    "newton": learners.newton_schulz(3),
    "conjugate": learners.conjugate_gradient(2),
    "kernel_regression": learners.kernel_regression(0.8),
    "kernel_regression_softmax": learners.kernel_regression(0.8, "softmax"),
    "kernel_ridge": learners.kernel_ridge(0.7, bandwidth=1.5),
    "zero": learners.predict_zero,
}
UNIFORM = (1 / 12, 1 / 80)


def problem(seed, n=6, d=4, m=2):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=shape) for shape in ((n, d), (n, m), (d,)))


@cache
def jitted(name):
    return jax.jit(LEARNERS[name])


def drawn(task, count, seed):
    """`count` prompts of a task; call it inside jit."""
    return jax.vmap(task.sample)(jax.random.split(jax.random.key(seed), count))


@partial(jax.jit, static_argnums=0)
def one_step_losses(task, seed, eta, preconditioner):
    """Losses of one gradient step on 100,000 prompts of a task."""
    return losses(learners.gradient_descent([eta], preconditioner=preconditioner), drawn(task, 100_000, seed))


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("n", [3, 6])
def test_rotation_and_order(name, n, x64):
    x, y, q = problem(1, n)
    rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(4, 4)))
    order = np.random.default_rng(3).permutation(n)
    learner = jitted(name)
    expected = learner(x, y, q)
    np.testing.assert_allclose(learner(x @ rotation, y, q @ rotation), expected, atol=1e-12)
    np.testing.assert_allclose(learner(x[order], y[order], q), expected, atol=1e-12)


@pytest.mark.parametrize("name", LEARNERS)
def test_without_jit_it_says_the_same(name, x64):
    problem_1 = problem(1)
    np.testing.assert_allclose(LEARNERS[name](*problem_1), jitted(name)(*problem_1), rtol=1e-10, atol=1e-12)


def test_a_step_is_the_gradient_of_the_in_context_loss(x64):
    """W_{k+1} = W_k - eta_k grad L(W_k) A with L = 1/(2n) sum |W x - y|^2; `jax.grad` computes the gradient."""
    x, y, q = problem(8)
    rng = np.random.default_rng(9)
    w0, a, etas = rng.normal(size=(2, 4)), rng.normal(size=(4, 4)), [0.3, 0.1, 0.2]

    @jax.jit
    def run(x, y, q, w0, a):
        gradient = jax.grad(lambda w: jnp.sum((x @ w.T - y) ** 2) / (2 * len(x)))
        w = [w0]
        for eta in etas:
            w.append(w[-1] - eta * gradient(w[-1]) @ a)
        iterates = learners.gradient_descent_iterates(x, y, etas, w0, a)
        return jnp.stack(w), iterates, learners.layerwise_gradient_descent(etas, w0, a)(x, y, q)

    w, iterates, y_hat = map(np.asarray, run(x, y, q, w0, a))
    np.testing.assert_allclose(iterates, w, rtol=1e-12)
    np.testing.assert_allclose(y_hat, w @ q, rtol=1e-12)


def test_momentum_is_that_of_an_independent_library(x64):
    """With equal step sizes, momentum is that of optax; with momentum 0 it is gradient descent."""
    x, y, q = problem(10)
    optimizer = optax.sgd(0.3, momentum=0.6)

    @jax.jit
    def run(x, y, q):
        gradient = jax.grad(lambda w: jnp.sum((x @ w.T - y) ** 2) / (2 * len(x)))
        w, state = jnp.zeros((2, 4)), optimizer.init(jnp.zeros((2, 4)))
        predicted = [w @ q]
        for _ in range(5):
            change, state = optimizer.update(gradient(w), state)
            w = w + change
            predicted.append(w @ q)
        actual = learners.layerwise_momentum([0.3] * 5, 0.6)(x, y, q)
        without_momentum = learners.momentum([0.3, 0.1], 0.0)(x, y, q), learners.gradient_descent([0.3, 0.1])(x, y, q)
        return actual, jnp.stack(predicted), without_momentum

    actual, expected, (zero_momentum, descent) = run(x, y, q)
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(zero_momentum, descent, rtol=1e-12)


@pytest.mark.parametrize("n", [3, 9])
def test_limits_and_the_independent_library(n, x64):
    x, y, q = problem(4, n)
    eta = n / np.linalg.eigvalsh(x.T @ x)[-1]
    all_learners = (
        learners.ols,
        learners.ridge(1e-9),
        learners.gradient_descent(np.full(20_000, eta)),
        learners.ridge(0.7),
    )
    least_squares, small_penalty, descent, large_penalty = jax.jit(
        lambda *problem: [learner(*problem) for learner in all_learners]
    )(x, y, q)
    np.testing.assert_allclose(least_squares, q @ (np.linalg.pinv(x) @ y), atol=1e-10)
    np.testing.assert_allclose(small_penalty, least_squares, atol=1e-6)
    np.testing.assert_allclose(descent, least_squares, atol=1e-6)
    expected = sklearn.linear_model.Ridge(alpha=0.7, fit_intercept=False).fit(x, y).predict(q[None])[0]
    np.testing.assert_allclose(large_penalty, expected, atol=1e-10)
    with pytest.raises(ValueError, match="penalty"):
        learners.ridge(0.0)


def test_best_step_size_is_the_minimum_on_the_sample(x64):
    prompts = jax.jit(lambda seed: drawn(LinearRegression(4, 2, 6), 200, seed))(0)

    def risk(eta, w0):
        return losses(learners.gradient_descent([eta], w0), prompts).mean()

    risk_and_gradient = jax.jit(jax.vmap(jax.value_and_grad(risk), in_axes=(0, None)))
    for w0 in (None, np.full((2, 4), 0.3)):
        eta = learners.fit_step_size(prompts, None if w0 is None else jnp.asarray(w0))
        risks, gradients = map(np.asarray, risk_and_gradient(eta * np.array([1.0, 0.99, 1.01]), w0))
        assert risks[0] < min(risks[1:])
        assert abs(gradients[0]) < 1e-10


def test_numbers_of_the_closed_forms():
    """Risks of the best step at d = 10 by n and by input scale, and Gaussian optima: published and derived values."""
    for n, expected in {
        5: 0.27590,
        10: 0.206229,
        15: 0.16465,
        20: 0.13702,
        25: 0.11734,
        50: 0.06828,
        100: 0.03719,
    }.items():
        eta = learners.optimal_step_size(10, n, *UNIFORM)
        assert learners.one_step_risk(eta, 10, n, *UNIFORM) == pytest.approx(expected, abs=6e-6)
    eta = learners.optimal_step_size(10, 10, *UNIFORM)
    assert eta / 10 == pytest.approx(0.606061, abs=1e-6)
    for alpha, expected in {0.5: 0.08115, 1.25: 0.42627, 1.5: 1.20384, 2.0: 8.40067}.items():
        assert learners.one_step_risk(eta, 10, 10, *UNIFORM, input_scale=alpha) == pytest.approx(expected, abs=6e-6)
    for (d, n), expected in {(5, 20): 1.15385, (10, 10): 5.23810, (20, 40): 6.88525, (8, 16): 2.88}.items():
        assert 2 * learners.gaussian_optimum_risk(np.eye(d), n) == pytest.approx(expected, abs=6e-6)


TASKS = {
    "uniform": LinearRegression(3, 1, 4),
    "noisy": LinearRegression(3, 1, 4, noise_std=0.4, weight_scale=2.0),
    "laplace": LinearRegression(2, 1, 5, inputs="laplace"),
    "corrupted": LinearRegression(3, 1, 5, corrupted_labels=2, noise_std=0.3, weight_scale=0.5),
    "all_but_one_corrupted": LinearRegression(2, 1, 3, inputs="normal", corrupted_labels=2),
}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("alpha", [1.0, 1.4])
def test_one_step_risk_meets_sampling(name, alpha, x64):
    task = TASKS[name]
    sizes = task.d_input, task.n_context, task.second_moment[0, 0], task.fourth_moment
    ratio = (task.noise_std / task.weight_scale) ** 2
    corruption = task.corrupted_labels, task.weight_scale**-2
    eta = learners.optimal_step_size(*sizes, ratio, *corruption)
    exact = learners.one_step_risk(eta, *sizes, ratio, task.weight_scale, alpha, *corruption)
    sampled = np.asarray(one_step_losses(scale_inputs(task, alpha), 5, eta, None))
    assert abs(float(sampled.mean()) - exact) < 5 * float(sampled.std()) / 100_000**0.5
    if alpha == 1.0:
        prompts = jax.jit(lambda seed: drawn(task, 100_000, seed))(6)
        assert learners.fit_step_size(prompts) == pytest.approx(eta, rel=0.05)


@pytest.mark.parametrize("n_test", [None, 2, 20])
def test_gaussian_optimum_meets_sampling(n_test, x64):
    covariance = np.array([[1.0, 0.3, 0.0], [0.3, 0.6, 0.1], [0.0, 0.1, 0.2]])
    nested = tuple(map(tuple, covariance.tolist()))
    task = LinearRegression(3, 1, n_test or 6, "normal", covariance=nested, noise_std=0.5, weight_scale=1.5)
    ratio = (0.5 / 1.5) ** 2
    matrix = learners.gaussian_optimum_matrix(covariance, 6, ratio)
    sampled = np.asarray(one_step_losses(task, 7, 1.0, matrix))
    exact = learners.gaussian_optimum_risk(covariance, 6, ratio, 1.5, n_test)
    assert abs(float(sampled.mean()) - exact) < 5 * float(sampled.std()) / 100_000**0.5
    if n_test is None:
        prompts = jax.tree.map(np.asarray, jax.jit(lambda seed: drawn(task, 100_000, seed))(7))
        moment = np.einsum("bnd,bn->bd", prompts.x, prompts.y[..., 0]) / 6
        features = np.einsum("bc,bd->bcd", prompts.x_query, moment).reshape(-1, 9)
        best, *_ = np.linalg.lstsq(features, prompts.y_query[:, 0])
        np.testing.assert_allclose(best.reshape(3, 3), matrix, atol=0.03 * np.abs(matrix).max())
        assert learners.gaussian_optimum_risk(covariance, 6, ratio, 1.5, 6) == pytest.approx(exact)


def test_ridge_at_the_noise_to_weight_ratio_is_bayes(x64):
    """With this penalty, ridge is the posterior mean, so other penalties have a higher risk on the same prompts."""
    task = LinearRegression(3, 1, 5, "normal", noise_std=0.8, weight_scale=1.5)
    penalty = (0.8 / 1.5) ** 2

    @jax.jit
    def risks(seed):
        prompts = drawn(task, 20_000, seed)
        return [losses(learners.ridge(factor * penalty), prompts).mean() for factor in (1.0, 0.5, 2.0)]

    best, *others = map(float, risks(8))
    assert best < min(others)
