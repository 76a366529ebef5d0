"""Symmetries of all learners: those that they have hold up to rounding, and those that they lack do not."""

import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import constructions, learners, models, tokens
from icl_gd.analysis import calls, symmetries
from icl_gd.analysis.symmetries import STATEMENTS, Violation, orthogonal_matrices, prompts_of, violations
from icl_gd.models import TransformerConfig
from icl_gd.tasks import LinearRegression

D, M, N = 3, 2, 6
TASK = LinearRegression(d_input=D, d_output=M, n_context=N, inputs="normal", noise_std=0.3)
SHORT = LinearRegression(d_input=D, d_output=M, n_context=2, inputs="normal")  # fewer examples than inputs
ONE = LinearRegression(d_input=D, n_context=N, inputs="normal", noise_std=0.3)  # one output
POOL = np.random.default_rng(0).normal(size=(4, M, D))
A = np.diag([1.6, 1.0, 0.4])

ADDITIVE = {"additive_in_labels", "linear_in_labels"}
LABELS = {"odd_in_labels", "homogeneous_in_labels", *ADDITIVE}
QUERY = {"odd_in_query", "linear_in_query"}
ORDER, ROTATION, SCALE, INTERPOLATING = (
    {name} for name in ("order_invariant", "rotation_invariant", "scale_invariant", "interpolating")
)
LINEAR = LABELS | QUERY | ORDER | ROTATION


def first_label(x, y, x_query):
    return y[0]


# A learner, its task, and the symmetries that it has.
LEARNERS = {
    "zero": (learners.predict_zero, TASK, LINEAR | SCALE),
    "averaging": (learners.averaging, TASK, LINEAR),
    "gradient descent": (learners.gradient_descent([0.3, 0.1]), TASK, LINEAR),
    "preconditioned": (learners.gradient_descent([0.3, 0.1], preconditioner=A), TASK, LINEAR - ROTATION),
    "GD++": (learners.gd_plus_plus([0.3, 0.1], [0.2, 0.1]), TASK, LINEAR),
    "momentum": (learners.momentum([0.3, 0.1, 0.2], 0.5), TASK, LINEAR),
    "Newton": (learners.newton_schulz(2, 0.1), TASK, LINEAR),
    "scaled Newton": (learners.newton_schulz(2), TASK, LINEAR | SCALE),
    "conjugate gradients": (learners.conjugate_gradient(2), TASK, LINEAR - ADDITIVE | SCALE),
    "ridge": (learners.ridge(0.5), TASK, LINEAR),
    "least squares": (learners.ols, TASK, LINEAR | SCALE),
    "least squares, few examples": (learners.ols, SHORT, LINEAR | SCALE | INTERPOLATING),
    "Lasso": (learners.lasso(0.1), TASK, QUERY | ORDER | {"odd_in_labels"}),
    "finite pool": (learners.bayes_pool(POOL, 0.5), TASK, QUERY | ORDER),
    "nearest neighbour": (learners.nearest_neighbours(1), TASK, LABELS | ORDER | ROTATION | SCALE | INTERPOLATING),
    "three neighbours": (learners.nearest_neighbours(3), TASK, LABELS | ORDER | ROTATION | SCALE),
    "mean": (learners.nearest_neighbours(N), TASK, LABELS | ORDER | ROTATION | SCALE),
    "Gaussian kernel": (learners.kernel_regression(0.7), TASK, LABELS | ORDER | ROTATION),
    "softmax": (learners.kernel_regression(0.7, "softmax"), TASK, LABELS | ORDER | ROTATION),
    "kernel ridge": (learners.kernel_ridge(0.1, bandwidth=1.5), TASK, LABELS | ORDER | ROTATION),
    "first label": (first_label, TASK, LABELS | ROTATION | SCALE),  # no algorithm, but a function of positions
}


@pytest.fixture
def small(monkeypatch):
    """Small batches: a compiled program always runs for a full one."""
    monkeypatch.setattr(calls, "BATCH", 64)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_has_its_symmetries_and_no_others(name, small, x64):
    learner, task, own = LEARNERS[name]
    found = symmetries(learner, task, jax.random.key(0), prompts=64)
    assert list(found) == list(STATEMENTS)
    assert {symmetry for symmetry, violation in found.items() if violation.holds} == own
    for symmetry, violation in found.items():
        if symmetry not in own:
            assert violation.value > 1e-4
        assert violation.floor < 1e-25


def test_in_single_precision_the_same_symmetries_hold(small):
    learner, task, own = LEARNERS["gradient descent"]
    found = symmetries(learner, task, jax.random.key(1), prompts=64)
    assert {symmetry for symmetry, violation in found.items() if violation.holds} == own
    assert all(1e-15 < violation.floor < 1e-9 for violation in found.values())


def test_every_symmetry_tells_learners_apart():
    """Every symmetry holds for some learner and not for another."""
    for symmetry in STATEMENTS:
        assert len({symmetry in own for _, _, own in LEARNERS.values()}) == 2


def test_a_model_is_accepted(small):
    config = TransformerConfig(d_token=D + M, n_layers=1)
    params = constructions.gradient_descent_weights(config, D, N, [0.3])
    found = symmetries(models.Model(config, params, tokens.concatenated(D, M)), TASK, jax.random.key(0), prompts=64)
    assert {symmetry for symmetry, violation in found.items() if violation.value < 1e-10} == LINEAR


# --- values ---


def averaging(x, y, x_query):
    return y.T @ (x @ x_query) / len(x)


def test_a_violation_is_the_share_of_the_response(small, x64):
    """A learner with a part that is even in the labels and the query: f = a + a^2, where a is averaging."""

    def learner(x, y, x_query):
        return averaging(x, y, x_query) + averaging(x, y, x_query) ** 2

    batch, other = (prompts_of(ONE, jax.random.key(seed), 64) for seed in (1, 2))
    found = violations(calls.Calls(learner), batch, other, np.random.default_rng(0))
    a = np.array([averaging(*prompt) for prompt in zip(*batch, strict=True)])
    b = np.array([averaging(x, y, q) for x, y, q in zip(batch[0], other[1], batch[2], strict=True)])
    size = np.mean((a + a**2) ** 2)
    expected = {
        "odd_in_labels": np.mean(a**4) / size,
        "odd_in_query": np.mean(a**4) / size,
        "additive_in_labels": np.mean((2 * a * b) ** 2) / size,
        "homogeneous_in_labels": np.mean(a**4) / size,
        "scale_invariant": np.mean((3 * a + 15 * a**2) ** 2) / size,
    }
    for symmetry, value in expected.items():
        np.testing.assert_allclose(found[symmetry].value, value, rtol=1e-12)


def test_interpolation_is_measured_in_units_of_the_labels(small, x64):
    """The mean label of two examples leaves half of their difference."""
    batch = prompts_of(SHORT, jax.random.key(1), 64)

    def mean(x, y, x_query):
        return y.mean(0)

    found = violations(calls.Calls(mean), batch, batch, np.random.default_rng(0))["interpolating"].value
    half = np.mean((batch[1][:, 0] - batch[1][:, 1]) ** 2) / 4
    low, high = (choose(batch[1] ** 2, axis=1).mean() for choose in (np.min, np.max))
    assert half / high <= found <= half / low


def test_a_violation_holds_up_to_ten_times_the_floor():
    assert Violation(1e-13, 1e-14).holds
    assert not Violation(1.01e-13, 1e-14).holds


def test_rotations_are_uniformly_distributed():
    """They are orthogonal, and the mean of Q_ij Q_kl is that of the Haar measure; half of them are reflections."""
    q = orthogonal_matrices(np.random.default_rng(0), (40_000,), 3)
    np.testing.assert_allclose(q @ q.swapaxes(1, 2), np.broadcast_to(np.eye(3), q.shape), atol=1e-13)
    np.testing.assert_allclose(q.mean(0), 0.0, atol=0.02)
    np.testing.assert_allclose((q**2).mean(0), 1 / 3, atol=0.02)
    np.testing.assert_allclose((q**4).mean(0), 1 / 5, atol=0.02)
    assert abs(np.mean(np.linalg.det(q) > 0) - 0.5) < 0.02


# --- functions that JAX cannot trace ---


def numpy_least_squares(x, y, x_query):
    return x_query @ np.linalg.lstsq(x, y, rcond=None)[0]


def numpy_neighbours(x, y, x_query):
    """JAX can trace it, but not compile it: `np.argsort` passes arguments on that `jax.numpy` does not know."""
    return y[np.argsort(np.sum((x - x_query[None]) ** 2, axis=1))[:3]].mean(axis=0)


@pytest.mark.parametrize(
    ("predictor", "learner"), [(numpy_least_squares, "least squares"), (numpy_neighbours, "three neighbours")]
)
def test_a_numpy_function_has_the_symmetries_of_its_learner(predictor, learner):
    found = symmetries(predictor, TASK, jax.random.key(0), prompts=64)
    assert {symmetry for symmetry, violation in found.items() if violation.holds} == LEARNERS[learner][2]
    assert all(violation.floor < 1e-25 for violation in found.values())  # double precision


def test_a_function_for_one_number_of_examples_is_accepted():
    def predictor(x, y, x_query):
        if x.shape != (N, D) or y.shape != (N, M):
            raise ValueError("another shape")
        return numpy_least_squares(x, y, x_query)

    found = symmetries(predictor, TASK, jax.random.key(0), prompts=64)
    assert found["order_invariant"].holds


def test_a_number_is_a_prediction_of_one_output():
    def median(x, y, x_query):
        return float(np.median(y))

    found = symmetries(median, ONE, jax.random.key(0), prompts=64)
    assert {symmetry for symmetry, violation in found.items() if violation.holds} == {
        "odd_in_labels", "homogeneous_in_labels", "order_invariant", "rotation_invariant", "scale_invariant"
    }  # fmt: skip


# --- refusals ---


def layerwise(x, y, x_query):
    return jnp.stack([averaging(x, y, x_query)] * 3)


def as_row(x, y, x_query):
    return averaging(x, y, x_query)[None]


def first_output(x, y, x_query):
    return averaging(x, y, x_query)[:1]


def one_number(x, y, x_query):
    return averaging(x, y, x_query)[0]


def broken(x, y, x_query):
    return averaging(x, y, x_query) / 0.0


def sometimes_nan(x, y, x_query):
    return averaging(x, y, x_query) * jnp.where(x_query[0] > 1.0, jnp.nan, 1.0)


@pytest.mark.parametrize(
    ("predictor", "expected"),
    [
        (layerwise, r"array of shape \(3, 2\); return y_hat \[m\] with m=2"),
        (as_row, r"array of shape \(1, 2\); return y_hat \[m\] with m=2"),
        (first_output, r"array of shape \(1,\) for labels y \(6, 2\); return y_hat \[m\] with m=2"),
        (one_number, r"array of shape \(\) for labels y \(6, 2\); return y_hat \[m\] with m=2"),
        (broken, "returns -?inf for a prompt; return finite numbers"),
        (sometimes_nan, "returns nan for a prompt; return finite numbers"),
    ],
    ids=lambda case: getattr(case, "__name__", ""),
)
def test_wrong_shapes_and_nan_are_refused(predictor, expected, small):
    with pytest.raises(ValueError, match=expected) as refused:
        symmetries(predictor, TASK, jax.random.key(0), prompts=64)
    assert "\n" not in str(refused.value)


def test_an_error_of_the_predictor_is_passed_on():
    def picky(x, y, x_query):
        raise ValueError("only for children")

    with pytest.raises(ValueError, match="only for children"):
        symmetries(picky, TASK, jax.random.key(0), prompts=64)


class Drawn:
    """A task with one part of every prompt replaced."""

    def __init__(self, **parts):
        self.d_input, self.d_output, self.parts = D, M, parts

    def sample(self, key):
        return TASK.sample(key)._replace(**self.parts)


def drawn_with_numpy(key):
    return np.random.default_rng(int(jax.random.bits(key))).normal(size=D)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (LinearRegression, "task is the class LinearRegression; give an object with d_input, d_output and sample"),
        (Drawn(x=jnp.ones((N, D + 1))), r"returns x \[6 4\], y \[6 2\], x_query \[3\]; return a Prompt with x \[n 3\]"),
        (Drawn(y=jnp.ones(N)), r"y \[6\], x_query \[3\]; return a Prompt"),
        (Drawn(x=jnp.ones((0, D)), y=jnp.ones((0, M))), r"x \[0 3\], y \[0 2\].* at least one example"),
        (Drawn(x=jnp.ones((N, D), complex)), r"x \[6 3\] of complex64"),
        (Drawn(x="text"), "returns x str, "),
        (Drawn(y=jnp.full((N, M), jnp.nan)), "returns nan in y for a prompt; return finite numbers"),
        (Drawn(y=jnp.zeros((N, M))), "all prompts are 0"),
    ],
)
def test_tasks_that_draw_no_prompts_are_refused(task, expected):
    with pytest.raises(ValueError, match=expected) as refused:
        symmetries(learners.averaging, task, jax.random.key(0))
    assert "\n" not in str(refused.value)


def test_prompts_that_do_not_fit_into_memory_are_refused(small, monkeypatch):
    """Otherwise JAX would end the process. An orthogonal matrix of each prompt must fit, too."""
    monkeypatch.setattr(sys.modules[prompts_of.__module__], "MOST", 4096)
    for d_input, n_context, prompts in ((2, 40, 64), (40, 1, 4), (2, 4, 4096)):
        task = LinearRegression(d_input=d_input, n_context=n_context)
        with pytest.raises(
            ValueError, match=rf"^{prompts} prompts with n_context={n_context}, .* at most 4.1e\+03 fit"
        ):
            symmetries(learners.averaging, task, jax.random.key(0), prompts)
    assert symmetries(learners.averaging, LinearRegression(d_input=2, n_context=4), jax.random.key(0), 64)


def test_a_task_must_be_traceable():
    task = Drawn()
    task.sample = drawn_with_numpy
    with pytest.raises(ValueError, match=r"task\.sample cannot be traced by JAX .*; draw with jax.random") as refused:
        symmetries(learners.averaging, task, jax.random.key(0))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("returned", "kind"),
    [
        (None, "NoneType"),
        ("1.5", "str"),
        ([[1], [1, 2]], "list"),
        (1j, "complex"),
        (jnp.ones(M, complex), "an array of complex64"),
        (np.array(["1", "2"]), "an array of <U1"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(returned, kind):
    """NumPy would read None as nan and text as a number, and drop the imaginary part of a complex number."""
    with pytest.raises(calls.Refusal, match=rf"returns {kind}; return y_hat \[m\], an array of m=2 real numbers"):
        symmetries(lambda x, y, x_query: returned, TASK, jax.random.key(0), prompts=64)


def test_a_function_that_draws_random_numbers_is_not_traced():
    """Tracing would draw once, and the noise would be a constant factor."""
    generator = np.random.default_rng(0)
    call = calls.Calls(lambda x, y, x_query: y.T @ x @ x_query * (1 + 0.2 * generator.normal()))
    batch = prompts_of(TASK, jax.random.key(0), 64)
    factors = call(*batch) / np.einsum("pnm,pna,pa->pm", batch[1], batch[0], batch[2])
    assert call.is_traced is False
    assert 0.1 < factors[:, 0].std() < 0.3


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ("two_layers", r"for a saved model, give icl_gd\.load_model\('two_layers'\)"),
        (SimpleNamespace(params={}), r"must be a function of \(x, y, x_query\)"),
        (
            type("Population", (), {"params": {}, "__len__": lambda self: 3})(),
            r"Population of 3 .*; give population\[0\]",
        ),
    ],
)
def test_what_is_no_predictor_is_refused(value, advice):
    with pytest.raises(ValueError, match=advice):
        calls.check_predictor(value)


def test_shapes_that_differ_between_prompts_are_refused():
    def predictor(x, y, x_query):
        return y[0] if x[0, 0] < 0 else y

    with pytest.raises(calls.Refusal, match=r"arrays of shapes \(2,\) and \(6, 2\) for different prompts"):
        symmetries(predictor, TASK, jax.random.key(0), prompts=64)


# --- batches ---


def test_a_numpy_function_may_change_its_arguments():
    """It gets arrays of its own, so later predictions are those for the same prompts."""

    def careless(x, y, x_query):
        y_hat = y.T @ x @ x_query / len(x)
        x[:] = y[:] = x_query[:] = np.nan
        return y_hat

    batch = prompts_of(TASK, jax.random.key(4), 5)
    before = [part.copy() for part in batch]
    call = calls.Calls(careless)
    np.testing.assert_array_equal(call(*batch), call(*batch))
    for part, copy in zip(batch, before, strict=True):
        np.testing.assert_array_equal(part, copy)


def test_batches_of_any_size_give_the_predictions_of_single_prompts(small):
    x, y, x_query = prompts_of(TASK, jax.random.key(3), 130)
    expected = np.einsum("pna,pnm,pa->pm", x, y, x_query) / N
    for count in (1, 63, 64, 65, 130):
        progress = []
        found = calls.Calls(learners.averaging, progress.append)(x[:count], y[:count], x_query[:count])
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected[:count], rtol=1e-5, atol=1e-6)
        assert sum(progress) == count
