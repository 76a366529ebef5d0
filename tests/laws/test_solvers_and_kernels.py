"""Learners that solve linear systems by iteration, kernel learners, and the Bayesian predictor for a finite pool."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse.linalg
import scipy.special
import sklearn.kernel_ridge

from icl_gd import learners
from icl_gd.analysis import losses
from icl_gd.tasks import LinearRegression
from icl_gd.types import Prompt

D, M = 4, 2
STEPS, LONG = 6, 100


def problem(seed, n=6, d=D, m=M):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=shape) for shape in ((n, d), (n, m), (d,)))


def pinv(x, y, q):
    return q @ np.linalg.pinv(x) @ y


def on_queries(learner, x, y, queries):
    return jax.vmap(learner, in_axes=(None, None, 0))(x, y, queries)


# --- Newton-Schulz ---


@jax.jit
def inverse_errors(x, scale):
    """I - M_k S `[start iterate d d]`: for the labels y = x, the predictions for unit vectors are the rows of M_k S."""

    def error(start):
        learner = learners.layerwise_newton_schulz(STEPS, scale, start)
        return jnp.eye(D)[None] - on_queries(learner, x, x, jnp.eye(D)).swapaxes(0, 1)

    return jnp.stack([error("gram"), error("identity")])


@pytest.mark.parametrize("n", [3, 9])
def test_a_newton_step_squares_the_error(n, x64):
    x, _, _ = problem(1, n)
    s = x.T @ x / n
    scale = 0.3 / np.linalg.eigvalsh(s)[-1] ** 2
    for first, errors in zip((s, np.eye(D)), np.asarray(inverse_errors(x, scale)), strict=True):
        for k in range(STEPS + 1):
            expected = np.linalg.matrix_power(np.eye(D) - scale * first @ s, 2**k)
            np.testing.assert_allclose(errors[k], expected, atol=1e-12)


def test_newton_from_the_identity_is_gradient_descent(x64):
    """K steps are 2^K gradient steps; the prediction also agrees if only M_0 makes it."""
    x, y, q = problem(2)

    @jax.jit
    def run(x, y, q):
        newton = learners.layerwise_newton_schulz(5, 0.2, "identity")(x, y, q)
        return newton, learners.layerwise_gradient_descent(np.full(32, 0.2))(x, y, q)

    newton, descent = map(np.asarray, run(x, y, q))
    np.testing.assert_allclose(newton, descent[[1, 2, 4, 8, 16, 32]], rtol=1e-12)


@jax.jit
def newton_to_the_end(x, y, q):
    starts = {"gram": 30, "identity": 14}
    return [learners.newton_schulz(n_steps, start=start)(x, y, q) for start, n_steps in starts.items()]


@pytest.mark.parametrize("n", [3, 9])
def test_newton_converges_to_least_squares(n, x64):
    """With the scale by default, for inputs of any scale, from both starts."""
    x, y, q = problem(3, n)
    for factor in (1e-3, 1.0, 1e3):
        # From the identity, rounding errors grow outside the span of the inputs, which three examples do not fill.
        for y_hat, tolerance in zip(newton_to_the_end(factor * x, y, q), (1e-10, 1e-6), strict=True):
            np.testing.assert_allclose(y_hat, pinv(factor * x, y, q), rtol=tolerance)


# --- conjugate gradients ---


@jax.jit
def conjugate_steps(x, y, q):
    return learners.layerwise_conjugate_gradient(LONG)(x, y, q)


def repeated(n):
    """A context of rank 2: all inputs are multiples or sums of the first two."""
    x, y, q = problem(4, n)
    return np.random.default_rng(5).normal(size=(n, 2)) @ x[:2], y, q


@pytest.mark.parametrize("make", [lambda: problem(4, 3), lambda: problem(4, 9), lambda: repeated(9)])
def test_conjugate_gradients_are_scipys_and_end_at_least_squares(make, x64):
    """Also long after the solution has been reached, and where labels are not a function of the inputs."""
    x, y, q = make()
    rank = np.linalg.matrix_rank(x)
    y_hat = np.asarray(conjugate_steps(x, y, q))
    assert y_hat.shape == (LONG + 1, M)
    np.testing.assert_array_equal(y_hat[0], 0.0)
    for k in range(1, rank):
        for j in range(M):
            w, _ = scipy.sparse.linalg.cg(x.T @ x / len(x), x.T @ y[:, j] / len(x), rtol=0.0, maxiter=k)
            np.testing.assert_allclose(y_hat[k, j], q @ w, rtol=1e-11)
    for k in range(rank, LONG + 1):
        np.testing.assert_allclose(y_hat[k], pinv(x, y, q), rtol=1e-10)


def test_conjugate_gradients_stay_where_the_residual_is_zero(x64):
    """An orthonormal design is solved in one step, and zero labels in none. No derivative is nan."""
    x, y = np.eye(D), np.array([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0], [3.0, 0.0]])
    q = problem(6)[2]

    @jax.jit
    def run(x, y, q):
        learner = learners.conjugate_gradient(5)
        return conjugate_steps(x, y, q), jax.jacrev(learner, argnums=(0, 1, 2))(x, y, q)

    y_hat, (by_x, by_y, by_query) = jax.tree.map(np.asarray, run(x, y, q))
    np.testing.assert_allclose(y_hat[1:], np.broadcast_to(q @ y, (LONG, M)), rtol=1e-14)
    assert np.isfinite(by_x).all()
    assert np.isfinite(by_y).all()
    np.testing.assert_allclose(by_query, y.T, atol=1e-14)


def test_derivatives_of_conjugate_gradients_are_those_of_least_squares(x64):
    """Where as many steps are taken as S has eigenvalues."""
    x, y, q = problem(7, 3)

    @jax.jit
    def run(x, y, q):
        def solution(x, y, q):
            return q @ x.T @ jnp.linalg.solve(x @ x.T, y)

        two = learners.conjugate_gradient(5), solution
        return [jax.jacrev(one, argnums=(0, 1, 2))(x, y, q) for one in two]

    actual, expected = jax.tree.map(np.asarray, run(x, y, q))
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10)


# --- preconditioned gradient descent ---


def test_a_preconditioner_changes_the_inputs(x64):
    """With A it is gradient descent on A^(1/2) x; with I it is gradient descent; one matrix may belong to each step."""
    x, y, q = problem(8)
    rng = np.random.default_rng(9)
    root = rng.normal(size=(D, D))
    root = root @ root.T / D
    etas, w0, matrices = [0.3, 0.1, 0.2], rng.normal(size=(M, D)), rng.normal(size=(3, D, D))

    @jax.jit
    def run(x, y, q, root, w0, matrices):
        make = learners.layerwise_preconditioned_gradient_descent
        return {
            "root": make(etas, root @ root)(x, y, q),
            "inputs": learners.layerwise_gradient_descent(etas)(x @ root, y, root @ q),
            "identity": make(etas, jnp.eye(D), w0)(x, y, q),
            "plain": learners.layerwise_gradient_descent(etas, w0)(x, y, q),
            "each": make(etas, matrices, w0)(x, y, q),
            "final": learners.preconditioned_gradient_descent(etas, matrices, w0)(x, y, q),
            "same": make(etas, jnp.stack([root] * 3), w0)(x, y, q) - make(etas, root, w0)(x, y, q),
        }

    found = jax.tree.map(np.asarray, run(x, y, q, root, w0, matrices))
    np.testing.assert_allclose(found["root"], found["inputs"], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found["identity"], found["plain"], rtol=1e-12)
    w, expected = w0, [w0 @ q]
    for eta, a in zip(etas, matrices, strict=True):
        w = w - eta / len(x) * (x @ w.T - y).T @ x @ a
        expected.append(w @ q)
    np.testing.assert_allclose(found["each"], expected, rtol=1e-12)
    np.testing.assert_array_equal(found["final"], found["each"][-1])
    np.testing.assert_allclose(found["same"], 0.0, atol=1e-12)


GAUSSIAN = LinearRegression(3, 2, 6, "normal", noise_std=0.5, weight_scale=1.5, covariance=((1.0, 0.3, 0.0),
                            (0.3, 0.6, 0.1), (0.0, 0.1, 0.2)))  # fmt: skip


@jax.jit
def gaussian_prompts(seed):
    return jax.vmap(GAUSSIAN.sample)(jax.random.split(jax.random.key(seed), 20_000))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("has_w0", [False, True])
def test_the_fitted_preconditioner_is_the_minimum(symmetric, has_w0, x64):
    """The gradient at the fit is zero (its symmetric part, over symmetric matrices), and every change raises the loss.

    The loss is quadratic in A. With zero gradient, it grows in every direction, because it is convex.
    """
    prompts = jax.tree.map(lambda leaf: leaf[:300], gaussian_prompts(0))
    w0 = jnp.full((2, 3), 0.3) if has_w0 else None
    a = learners.fit_preconditioner(prompts, w0, symmetric)
    changes = np.random.default_rng(1).normal(size=(4, 3, 3)) * 0.01
    if symmetric:
        np.testing.assert_array_equal(a, a.T)
        changes = changes + changes.swapaxes(1, 2)

    @jax.jit
    def risk_and_gradient(prompts, a, changes, w0):
        def risk(a):
            return losses(learners.preconditioned_gradient_descent([1.0], a, w0), prompts).mean()

        return *jax.value_and_grad(risk)(a), jax.vmap(risk)(a[None] + changes)

    best, gradient, others = map(np.asarray, risk_and_gradient(prompts, a, changes, w0))
    np.testing.assert_allclose(gradient + gradient.T if symmetric else gradient, 0.0, atol=1e-12)
    assert best < others.min()
    assert symmetric != np.allclose(gradient, 0.0, atol=1e-12)


def test_the_fitted_preconditioner_tends_to_the_gaussian_optimum(x64):
    exact = learners.gaussian_optimum_matrix(GAUSSIAN.second_moment, 6, (0.5 / 1.5) ** 2)
    prompts = gaussian_prompts(2)
    parts = [jax.tree.map(lambda leaf, i=i: leaf[i::5], prompts) for i in range(5)]
    fits = np.stack([np.asarray(learners.fit_preconditioner(part, symmetric=True)) for part in parts])
    stderr = fits.std(0, ddof=1) / 5**0.5
    assert np.all(np.abs(fits.mean(0) - exact) < 6 * stderr)
    assert stderr.max() < 0.02 * np.abs(exact).max()


def test_with_few_prompts_the_fit_has_the_smallest_norm(x64):
    """Two prompts, nine entries: the fit is the pseudo-inverse solution."""
    prompts = jax.tree.map(lambda leaf: leaf[:2], gaussian_prompts(3))
    prompts = Prompt(prompts.x, prompts.y[..., :1], prompts.x_query, prompts.y_query[..., :1], None)
    moment = np.einsum("pn,pnd->pd", prompts.y[..., 0], prompts.x) / 6
    features = np.einsum("pi,pj->pij", moment, prompts.x_query)
    for symmetric in (False, True):
        basis = (features + features.swapaxes(1, 2)) / 2 if symmetric else features
        expected = np.linalg.pinv(basis.reshape(2, 9)) @ np.asarray(prompts.y_query[:, 0])
        fit = learners.fit_preconditioner(prompts, symmetric=symmetric)
        np.testing.assert_allclose(fit, expected.reshape(3, 3), atol=1e-10)


# --- kernels ---


@jax.jit
def kernel_regressions(x, y, q, bandwidth):
    return [learners.kernel_regression(bandwidth, kernel)(x, y, q) for kernel in ("gaussian", "softmax")]


def test_kernel_regression_is_attention(x64):
    """The formula in NumPy, and equal kernels for inputs of equal norm."""
    x, y, q = problem(10)
    gaussian = np.exp(-np.sum((x - q) ** 2, axis=1) / (2 * 0.7**2))
    scores = np.exp(x @ (np.eye(D) / 0.7**2) @ q)
    for weights, actual in zip((gaussian, scores), kernel_regressions(x, y, q, 0.7), strict=True):
        np.testing.assert_allclose(actual, weights @ y / weights.sum(), rtol=1e-12)
    one, other = kernel_regressions(x / np.linalg.norm(x, axis=1, keepdims=True), y, q, 0.3)
    np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_limits_of_the_bandwidth(size):
    """In single precision: at no bandwidth does a weight overflow or vanish from the sum."""
    x, y, q = (np.float32(part) for part in problem(11))
    x, q = size * x, size * q
    nearest = np.argmin(np.sum((x - q) ** 2, axis=1)), np.argmax(x @ q)
    for bandwidth in (1e-20, 1e-3 * size):
        for i, y_hat in zip(nearest, kernel_regressions(x, y, q, np.float32(bandwidth)), strict=True):
            np.testing.assert_array_equal(y_hat, y[i])
    for y_hat in kernel_regressions(x, y, q, np.float32(1e8)):
        np.testing.assert_allclose(y_hat, y.mean(0), rtol=1e-5)


@pytest.mark.parametrize("n", [3, 9])
def test_kernel_ridge_is_scikit_learns(n, x64):
    """With the linear kernel it is also ridge regression, and with a large penalty it is proportional to 1/penalty."""
    x, y, q = problem(12, n)

    @jax.jit
    def run(x, y, q):
        forms = learners.kernel_ridge(0.4, "gaussian", 1.3), learners.kernel_ridge(0.4, "linear"), learners.ridge(0.4)
        return [form(x, y, q) for form in forms]

    gaussian, linear, ridge = map(np.asarray, run(x, y, q))
    theirs = sklearn.kernel_ridge.KernelRidge(alpha=0.4, kernel="rbf", gamma=1 / (2 * 1.3**2))
    np.testing.assert_allclose(gaussian, theirs.fit(x, y).predict(q[None])[0], rtol=1e-10)
    theirs = sklearn.kernel_ridge.KernelRidge(alpha=0.4, kernel="linear")
    np.testing.assert_allclose(linear, theirs.fit(x, y).predict(q[None])[0], rtol=1e-10)
    np.testing.assert_allclose(linear, ridge, rtol=1e-10)


# --- finite pools ---


def pool_of(size, seed=13, m=M, d=D):
    return np.random.default_rng(seed).normal(size=(size, m, d))


def test_the_posterior_mean_of_a_pool_in_numpy_at_every_length(x64):
    x, y, _ = problem(14)
    pool = pool_of(5)

    @jax.jit
    def run(pool, x, y, noise_std):
        learner = learners.bayes_pool(pool, noise_std)
        each = jnp.stack([learner(x[:k], y[:k], x[k]) for k in range(len(x))])
        return each, learners.prefix_bayes_pool(pool, noise_std)(x, y)

    for noise_std in (1e-200, 0.01, 0.8, 50.0):
        each, prefixes = map(np.asarray, run(pool, x, y, noise_std))
        np.testing.assert_allclose(prefixes, each, rtol=1e-12, atol=1e-14)
        for k in range(len(x)):
            errors = np.sum((np.einsum("pmd,nd->pnm", pool, x[:k]) - y[:k]) ** 2, axis=(1, 2))
            if noise_std == 1e-200:
                weights = np.full(5, 0.2) if k == 0 else np.eye(5)[np.argmin(errors)]  # the limit
            else:
                weights = scipy.special.softmax(-errors / (2 * noise_std**2))
            np.testing.assert_allclose(each[k], np.tensordot(weights, pool, 1) @ x[k], rtol=1e-12, atol=1e-14)


def test_pools_of_one_function_and_of_very_many(x64):
    """One function ignores the context. Many functions from N(0, tau^2 I) are the prior for which ridge is Bayes."""
    x, y, q = problem(15, 4, 2, 1)
    tau, noise_std = 1.5, 0.9
    many = tau * pool_of(200_000, 16, 1, 2)

    @jax.jit
    def run(many, x, y, q):
        forms = learners.bayes_pool(many[:1], noise_std), learners.bayes_pool(many, noise_std)
        return *(form(x, y, q) for form in forms), learners.ridge((noise_std / tau) ** 2)(x, y, q)

    one, large, ridge = map(np.asarray, run(many, x, y, q))
    np.testing.assert_allclose(one, many[0] @ q, rtol=1e-12)
    weights = scipy.special.softmax(-np.sum((many[:, 0] @ x.T - y[:, 0]) ** 2, axis=1) / (2 * noise_std**2))
    stderr = np.sqrt(np.sum((weights * (many[:, 0] @ q - large)) ** 2))  # of a self-normalised mean
    assert abs(large - ridge) < 5 * stderr
    assert stderr < 0.01


# --- all of them ---


def test_averaging_is_a_gradient_step_and_the_prefix_form(x64):
    x, y, _ = problem(17)

    @jax.jit
    def run(x, y):
        each = jnp.stack([learners.averaging(x[:k], y[:k], x[k]) for k in range(len(x))])
        steps = jnp.stack([learners.gradient_descent([1.0])(x[:k], y[:k], x[k]) for k in range(1, len(x))])
        return each, steps, learners.prefix_averaging(x, y)

    each, steps, prefixes = map(np.asarray, run(x, y))
    np.testing.assert_allclose(each[1:], steps, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(each, prefixes, rtol=1e-12, atol=1e-14)


POOL = np.stack([np.full((M, D), 0.5), np.full((M, D), -0.25)])
LEARNERS = {
    "newton": (learners.newton_schulz(3), 0.0),
    "newton_identity": (learners.newton_schulz(3, start="identity"), 0.0),
    "newton_scale": (learners.newton_schulz(3, 0.1), 0.0),
    "conjugate": (learners.conjugate_gradient(3), 0.0),
    "kernel_regression": (learners.kernel_regression(0.5), 0.0),
    "kernel_regression_softmax": (learners.kernel_regression(0.5, "softmax"), 0.0),
    "kernel_ridge": (learners.kernel_ridge(0.5, bandwidth=1.0), 0.0),
    "kernel_ridge_linear": (learners.kernel_ridge(0.5, "linear"), 0.0),
    "averaging": (learners.averaging, 0.0),
    "pool": (learners.bayes_pool(POOL, 0.5), 0.125 * D),
}


@jax.jit
def without_examples_and_without_inputs(q):
    """Predictions and their derivatives by the query, for n = 0, and for three examples that are zero."""
    found = {}
    for name, (learner, _) in LEARNERS.items():
        for n in (0, 3):
            found[name, n] = (
                learner(jnp.zeros((n, D)), jnp.zeros((n, M)), q),
                jax.jacrev(learner, 2)(jnp.zeros((n, D)), jnp.zeros((n, M)), q),
            )
    return found


def test_contexts_that_say_nothing_give_the_prior(x64):
    found = jax.tree.map(np.asarray, without_examples_and_without_inputs(np.ones(D)))
    for (name, n), (y_hat, sensitivity) in found.items():
        np.testing.assert_allclose(y_hat, np.full(M, LEARNERS[name][1]), atol=1e-14, err_msg=f"{name} {n}")
        assert np.isfinite(sensitivity).all(), (name, n)


def test_equal_learners_are_compiled_once():
    """Learners are pytrees whose leaves are their parameters, so new values of parameters need no new program."""
    makers = {
        "newton": lambda value: learners.newton_schulz(2, value),
        "conjugate": lambda value: learners.conjugate_gradient(2),
        "kernel_regression": lambda value: learners.kernel_regression(value),
        "kernel_ridge": lambda value: learners.kernel_ridge(value, bandwidth=value),
        "pool": lambda value: learners.bayes_pool(value * POOL, value),
        "prefix_pool": lambda value: learners.prefix_bayes_pool(value * POOL, value),
        "preconditioned": lambda value: learners.preconditioned_gradient_descent([value], value * np.eye(D)),
    }
    for name, make in makers.items():
        (leaves, tree), (others, other_tree) = (jax.tree.flatten(make(value)) for value in (0.5, 0.7))
        assert tree == other_tree, name
        assert hash(tree) == hash(other_tree), name
        assert all(np.shape(leaf) == np.shape(other) for leaf, other in zip(leaves, others, strict=True))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: learners.newton_schulz(-1), "n_steps=-1 must be"),
        (lambda: learners.newton_schulz(2, start="covariance"), "one of gram, identity"),
        (lambda: learners.newton_schulz(2, 0.0), "scale=0.0 must be"),
        (lambda: learners.conjugate_gradient(1.5), "n_steps=1.5 must be"),
        (lambda: learners.preconditioned_gradient_descent([0.1], np.ones((3, 2))), r"shape \(3, 2\): give one"),
        (lambda: learners.preconditioned_gradient_descent([0.1] * 3, np.ones((2, 4, 4))), r"each of the 3 step_sizes"),
        (lambda: learners.kernel_regression(0.0), "bandwidth=0.0 must be"),
        (lambda: learners.kernel_regression(1.0, "linear"), "one of gaussian, softmax"),
        (lambda: learners.kernel_ridge(0.5), "needs a positive number, for example bandwidth=1.0"),
        (lambda: learners.kernel_ridge(0.5, "linear", 1.0), "bandwidth=1.0 has no effect"),
        (lambda: learners.bayes_pool(POOL, 0.0), "noise_std=0.0 must be"),
        (lambda: learners.bayes_pool(POOL[0], 0.5), r"pool has shape \(2, 4\)"),
        (lambda: learners.prefix_bayes_pool(POOL[:0], 0.5), r"pool has shape \(0, 2, 4\)"),
        (lambda: learners.bayes_pool(POOL[:, :1], 0.5)(*problem(0)), r"with m=2 as in y \(6, 2\)"),
    ],
)
def test_what_makes_no_such_learner_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
