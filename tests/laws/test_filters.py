"""Candidates of `icl_gd.identification`: their filters are those of the learners, and special cases are special cases.

Numbers of candidates are drawn once; a learner is built from the parameters that a candidate reports for its numbers.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import learners
from icl_gd.identification.black_box import filter_values, predict_by_filter
from icl_gd.identification.families import (
    DIRECT,
    FILTERS,
    Name,
    conjugate_gradient,
    finite_pool,
    kernels,
    neighbours,
    sparse,
)
from icl_gd.identification.families.gradient_descent import polynomial_steps
from icl_gd.identification.fitting import Rows, deviations, minimise, misfits
from icl_gd.identification.naming import ORDER, sentence
from icl_gd.identification.probe import Whitening, probe, spectrum

D, M, COUNT = 4, 2, 3
BY_NAME = {candidate.name: candidate for candidate in FILTERS}


def label(name):
    return f"{name.verdict}-{name.n_steps}{'' if name.shared else '-own'}" if isinstance(name, Name) else None


def prompts(n, count=COUNT, d=D, m=M, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=shape) for shape in ((count, n, d), (count, n, m), (count, d)))


def numbers_of(name):
    """Numbers for a candidate: step sizes of about 0.2, and momentum, gammas or penalties as large as usual."""
    rng = np.random.default_rng([len(name.verdict), name.n_steps, name.shared])
    size = BY_NAME[name].n_numbers
    steps = rng.uniform(0.1, 0.3, size)
    if name.verdict == "momentum":
        return np.array([steps[0], 0.6])
    if name.verdict == "gd_plus_plus":
        return np.concatenate([steps[: (size + 1) // 2], rng.uniform(0.02, 0.1, size // 2)])
    return steps


def learner(verdict, parameters):
    """The learner of a candidate, from the parameters that are reported."""
    match verdict:
        case "averaging":
            return learners.averaging
        case "ols":
            return learners.ols
        case "ridge":
            return learners.ridge(parameters["penalty"])
        case "gd":
            return learners.gradient_descent(parameters["step_sizes"])
        case "newton":
            scale = parameters["scale"]
            return learners.newton_schulz(parameters["n_steps"], None if isinstance(scale, str) else scale)
        case "momentum":
            return learners.momentum(parameters["step_sizes"], parameters["momentum"])
        case "gd_plus_plus":
            return learners.gd_plus_plus(parameters["step_sizes"], parameters["gammas"])
    raise AssertionError(verdict)


# --- filters ---


@pytest.mark.parametrize("name", BY_NAME, ids=label)
def test_derivatives_of_a_filter_are_central_differences(name):
    candidate, numbers = BY_NAME[name], numbers_of(name)
    eigenvalues = np.random.default_rng(1).uniform(0.1, 3.0, (2, 3))
    values, slopes = candidate.p(numbers, eigenvalues)
    assert values.shape == eigenvalues.shape
    assert slopes.shape == (candidate.n_numbers, *eigenvalues.shape)
    step = 1e-4
    for move, slope in zip(step * np.eye(candidate.n_numbers), slopes, strict=True):
        far, near, before, after = (candidate.p(numbers + k * move, eigenvalues)[0] for k in (-2, -1, 1, 2))
        expected = (8 * (before - near) - (after - far)) / (12 * step)  # of fourth order
        np.testing.assert_allclose(slope, expected, rtol=1e-7, atol=1e-9 * np.abs(values).max())


@pytest.fixture(scope="module")
def predictions():
    """The predictions of learners of candidates, `{n: {name: y_hat [prompt m]}}`; compiled at once.

    With fewer examples than inputs, only one candidate per family.
    """
    with jax.enable_x64(True):

        def predict(n, names, *batch):
            built = [learner(name.verdict, BY_NAME[name].parameters(numbers_of(name), n)) for name in names]
            return [jax.vmap(one)(*batch) for one in built]

        result = {}
        for n, names in ((9, list(BY_NAME)), (3, list({name.verdict: name for name in BY_NAME}.values()))):
            y_hats = jax.jit(partial(predict, n, names))(*prompts(n))
            result[n] = dict(zip(names, map(np.asarray, y_hats), strict=True))
        return result


@pytest.mark.parametrize("n", [3, 9])
def test_a_filter_predicts_as_its_learner_does(n, predictions):
    assert {name.verdict for name in predictions[n]} == {name.verdict for name in BY_NAME}
    for name, y_hat in predictions[n].items():
        p = partial(filter_values, BY_NAME[name].p, numbers_of(name))
        found = predict_by_filter(p, Whitening.identity(D), *prompts(n))
        np.testing.assert_allclose(found, y_hat, rtol=1e-10, atol=1e-10, err_msg=str(name))


@pytest.mark.parametrize("rank", [D, 2])
def test_a_whitened_filter_predicts_as_preconditioned_gradient_descent_does(rank, x64):
    """Also with a singular preconditioner: inputs are projected onto its range."""
    root = np.random.default_rng(3).normal(size=(D, rank))
    a, batch = root @ root.T / D, prompts(6)
    steps = np.array([0.3, 0.1, 0.2])
    expected = jax.jit(jax.vmap(learners.gradient_descent(steps, preconditioner=a)))(*batch)
    p = partial(filter_values, BY_NAME[Name("gd", 3, False)].p, steps)
    whitening = Whitening.of(a)
    assert whitening.forward.shape == (rank, D)
    np.testing.assert_allclose(predict_by_filter(p, whitening, *batch), expected, rtol=1e-10, atol=1e-10)


def test_rotations_of_whitened_inputs_change_no_filter():
    """`turned` rotates z = B x, and the prediction of any filter in these coordinates stays the same."""
    root = np.random.default_rng(3).normal(size=(D, 3))
    whitening = Whitening.of(root @ root.T)
    rotation = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
    turn = whitening.turned(rotation)
    np.testing.assert_allclose(whitening.forward @ turn, rotation @ whitening.forward, atol=1e-12)
    outside = np.linalg.svd(root.T)[2][3:].T  # z does not depend on it
    np.testing.assert_allclose(turn @ outside, outside, atol=1e-12)
    x, y, x_query = prompts(6)
    p = partial(filter_values, BY_NAME[Name("ridge")].p, np.array([0.3]))
    one, other = (
        predict_by_filter(p, whitening, *batch) for batch in ((x, y, x_query), (x @ turn.T, y, x_query @ turn.T))
    )
    np.testing.assert_allclose(one, other, rtol=1e-12)


def test_learners_differ():
    """The comparison with learners means something: no two candidates have the same predictions."""
    eigenvalues = np.linspace(0.1, 3.0, 7)
    values = np.array([one.p(numbers_of(name), eigenvalues)[0] for name, one in BY_NAME.items()])
    distances = np.abs(values[:, None] - values).max(-1) + np.eye(len(values))
    assert distances.min() > 1e-6


# --- special cases ---

SPECIAL = [(name, special) for name, candidate in BY_NAME.items() for special in sorted(candidate.special)]


def special_numbers(name, special):
    """Numbers with which a candidate is its special case, and the numbers of that case."""
    numbers, steps = numbers_of(special), name.n_steps
    if special.verdict == "ols":
        return np.array([1e-13]), numbers  # ridge regression without penalty, up to rounding
    own, gammas = numbers, np.zeros(0)
    if special.verdict == "averaging":
        own = np.ones(1)
    elif special.verdict == "gd_plus_plus":
        size = (len(numbers) + 1) // 2
        own, gammas = numbers[:size], numbers[size:]
        if special.shared:
            own, gammas = np.repeat(own, special.n_steps), np.repeat(gammas, special.n_steps - 1)
    elif special.shared:
        own = np.repeat(numbers, special.n_steps)
    if name.shared:  # the same rates in every step, and momentum 0 or gamma 0
        return np.array([own[0], 0.0][: BY_NAME[name].n_numbers]), numbers
    own = np.pad(own, (0, steps - len(own)))  # steps of size 0 do nothing
    if name.verdict == "gd":
        return own, numbers
    return np.concatenate([own, np.pad(gammas, (0, steps - 1 - len(gammas)))]), numbers


def test_there_are_special_cases():
    assert len(SPECIAL) > 100
    assert {special.verdict for _, special in SPECIAL} == {"averaging", "gd", "gd_plus_plus", "ols"}


@pytest.mark.parametrize("verdict", sorted({name.verdict for name, _ in SPECIAL}))
def test_special_cases_are_special_cases(verdict):
    eigenvalues = np.linspace(0.1, 3.0, 9)
    for name, special in SPECIAL:
        if name.verdict == verdict:
            general, numbers = special_numbers(name, special)
            found, expected = BY_NAME[name].p(general, eigenvalues)[0], BY_NAME[special].p(numbers, eigenvalues)[0]
            np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13, err_msg=f"{name} {special}")


def test_a_special_case_of_a_special_case_is_one():
    for name, candidate in BY_NAME.items():
        for special in candidate.special:
            assert BY_NAME[special].special <= candidate.special, (name, special)
            assert BY_NAME[special].n_numbers <= candidate.n_numbers
            assert list(BY_NAME).index(special) < list(BY_NAME).index(name)  # and is fitted before


@pytest.mark.parametrize("name", BY_NAME, ids=label)
def test_the_order_of_numbers_has_an_effect_only_where_it_is_said(name):
    candidate, numbers = BY_NAME[name], numbers_of(name)
    eigenvalues = np.linspace(0.1, 3.0, 9)
    turned = candidate.p(numbers[::-1], eigenvalues)[0]
    if not candidate.has_order:
        np.testing.assert_allclose(turned, candidate.p(numbers, eigenvalues)[0], rtol=1e-12)
    elif len(numbers) > 1:
        assert np.abs(turned - candidate.p(numbers, eigenvalues)[0]).max() > 1e-4


@pytest.mark.parametrize("name", BY_NAME, ids=label)
def test_numbers_of_no_algorithm_are_refused(name):
    """Negative step sizes, penalties and scales, and momentum outside (0, 1); a gamma may be negative."""
    candidate, numbers = BY_NAME[name], numbers_of(name)
    assert candidate.is_valid(numbers)
    for k in range(len(numbers)):
        bad = numbers.copy()
        bad[k] = -0.1
        is_gamma = name.verdict == "gd_plus_plus" and k >= (len(numbers) + 1) // 2
        assert candidate.is_valid(bad) == is_gamma
    if name.verdict == "momentum":
        assert not candidate.is_valid(np.array([0.2, 1.01]))


def test_every_name_has_words_and_an_order():
    assert {name.verdict for name in BY_NAME} < set(ORDER)
    assert ORDER[-1] == "none"
    assert sentence("gd", {"n_steps": 1, "step_sizes": [0.3]}) == "gradient descent, 1 step"
    assert sentence("gd_plus_plus", {"n_steps": 3}) == "GD++, 3 steps"
    assert sentence("nearest_neighbours", {"neighbours": 1}) == "1 nearest neighbour"
    assert sentence("nearest_neighbours", {"neighbours": 3}) == "3 nearest neighbours"
    assert sentence("kernel_regression", {"kernel": "softmax"}) == "kernel regression (softmax)"
    assert sentence("ols", {}) == "least squares"


# --- fits ---


@pytest.fixture(scope="module")
def seen():
    """The probe of three own steps of gradient descent, in float64."""
    steps = np.array([0.5, 0.3, 0.1])
    p = partial(filter_values, BY_NAME[Name("gd", 3, False)].p, steps)
    call = partial(predict_by_filter, p, Whitening.identity(D))
    return steps, probe(call, prompts(7, 60), np.random.default_rng(0))


def test_every_candidate_has_starts_of_its_numbers(seen):
    rows = Rows(seen[1])
    found = {name: numbers_of(name) for name in BY_NAME}
    for name, candidate in BY_NAME.items():
        for fitted in ({}, found):
            starts = candidate.starts(rows, fitted)
            assert all(start.shape == (candidate.n_numbers,) and np.isfinite(start).all() for start in starts), name
        assert starts


def test_the_best_polynomial_has_the_step_sizes_as_roots(seen):
    steps, found = seen
    np.testing.assert_allclose(np.sort(polynomial_steps(Rows(found), 3))[::-1], steps, rtol=1e-8)


def test_a_fit_finds_the_numbers_and_leaves_nothing(seen):
    steps, found = seen
    candidate = BY_NAME[Name("gd", 3, False)]
    numbers, cost = minimise(Rows(found), candidate.p, np.array([0.4, 0.35, 0.2]), gain=1e-9)
    np.testing.assert_allclose(np.sort(numbers)[::-1], steps, rtol=1e-7)
    assert cost < 1e-10
    np.testing.assert_allclose(misfits(found, candidate.p, numbers), 0.0, atol=1e-20)
    assert misfits(found, candidate.p, 1.1 * steps).min() > 1e-3


def test_the_smallest_inputs_give_the_slope(seen):
    """p(0) is the sum of the step sizes."""
    steps, found = seen
    smallest = found.ratios.min() ** 2 * found.eigenvalues.max()
    assert abs(Rows(found).slope / steps.sum() - 1) < smallest


def test_deviations_are_those_of_repeated_fits():
    """The step size of a noisy learner, fitted on other prompts with other noise, scatters as it is said to."""
    rng = np.random.default_rng(0)
    one_step = BY_NAME[Name("gd", 1)]

    def noisy(x, y, x_query):
        y_hat = 0.5 * np.einsum("pna,pnm,pa->pm", x, y, x_query) / x.shape[1]
        return y_hat + 0.05 * np.abs(y_hat) * np.sin(37.0 * x[:, 0, :1] + 11.0 * y[:, 0, :1])

    fits, spreads = [], []
    for seed in range(25):
        rows = Rows(probe(noisy, prompts(7, 40, seed=seed), rng))
        numbers, _ = minimise(rows, one_step.p, np.array([0.4]))
        fits.append(numbers[0])
        spreads.append(deviations(rows, one_step.p, numbers)[0])
    assert abs(np.mean(fits) - 0.5) < 4 * np.std(fits) / 5
    assert 0.6 < np.mean(spreads) / np.std(fits, ddof=1) < 1.6


def asymmetric(x, y, x_query):
    """Averaging, with a part that is even in the labels and one that depends on the coordinate system."""
    y_hat = np.einsum("pna,pnm,pa->pm", x, y, x_query) / x.shape[1]
    return y_hat + 0.1 * np.abs(y_hat) + 0.2 * y_hat * np.sin(5 * x_query[:, :1] ** 2)


def test_a_probe_separates_what_breaks_symmetries():
    """The even part is measured exactly; the rest of the violation is the variance over the group."""
    batch = prompts(7, 400, m=1)
    base = probe(asymmetric, batch, np.random.default_rng(0)).base
    size = np.sum(base.weight * base.mean**2)
    y_hat = np.einsum("pna,pnm,pa->pm", *batch) / 7
    np.testing.assert_allclose(base.gauge, np.sum(base.weight * (0.1 * y_hat) ** 2) / size, rtol=1e-10)
    assert 0.005 < base.within < 0.04
    assert base.violation == base.gauge + base.within


def test_a_misfit_contains_no_noise():
    """The mean over the group still has noise: a share within / 8 for the true filter, which is subtracted."""

    def call(x, y, x_query):
        y_hat = np.einsum("pna,pnm,pa->pm", x, y, x_query) / x.shape[1]
        return y_hat + 0.2 * y_hat * np.sin(40.0 * (x_query[:, :1] + 1) ** 2 * (x[:, 0, :1] + 2) ** 2)

    found = probe(call, prompts(7, 1000, m=1), np.random.default_rng(0))
    left = misfits(found, BY_NAME[Name("averaging")].p, np.zeros(0))[0]
    assert abs(left) < 0.3 * found.base.within / 8
    assert found.base.within > 0.01


def test_the_spectrum_predicts_by_the_eigenvectors(x64):
    """For n < d, directions that the context does not contain have eigenvalue and loading 0 exactly."""
    for n in (2, 9):
        batch = prompts(n)
        eigenvalues, loadings = spectrum(batch, Whitening.identity(D))
        s = np.einsum("pna,pnb->pab", batch[0], batch[0]) / n
        np.testing.assert_allclose(eigenvalues, np.linalg.eigvalsh(s), atol=1e-14)
        expected = np.einsum("pna,pnm,pa->pm", *batch) / n
        np.testing.assert_allclose(loadings.sum(-1), expected, atol=1e-14)
        assert np.all((eigenvalues == 0).sum(-1) == max(D - n, 0))
        assert np.all(loadings[..., : max(D - n, 0)] == 0)


# --- algorithms that are no filters ---

X, Y, QUERY = prompts(7, seed=5)
PENALTY, WIDTH, STD, ALPHA = 0.2, 1.3, 0.7, 0.15
POOL = np.random.default_rng(6).normal(size=(5, M, D))


@pytest.fixture(scope="module")
def direct():
    """The predictions of learners that are no filters, and the weights of the Lasso."""
    with jax.enable_x64(True):
        built = {
            **{f"conjugate {k}": learners.conjugate_gradient(k) for k in range(1, D + 3)},
            **{f"nearest {k}": learners.nearest_neighbours(k) for k in (1, 3, 7)},
            "gaussian": learners.kernel_regression(WIDTH),
            "softmax": learners.kernel_regression(WIDTH, "softmax"),
            "kernel ridge": learners.kernel_ridge(PENALTY, bandwidth=WIDTH),
            "pool": learners.bayes_pool(POOL, STD),
            "lasso": lambda x, y, x_query: jax.vmap(learners.lasso(ALPHA), (None, None, 0))(x, y, jnp.eye(D)).T,
        }
        y_hats = jax.jit(lambda *batch: [jax.vmap(one)(*batch) for one in built.values()])(X, Y, QUERY)
        return dict(zip(built, map(np.asarray, y_hats), strict=True))


def predictions_for_batches():
    """The same algorithms of `icl_gd.identification`."""
    return {
        **{f"conjugate {k}": partial(conjugate_gradient.conjugate_gradient, k) for k in range(1, D + 3)},
        **{f"nearest {k}": partial(neighbours.nearest_neighbours, k) for k in (1, 3, 7)},
        "gaussian": partial(kernels.gaussian, WIDTH),
        "softmax": partial(kernels.softmax, WIDTH),
        "kernel ridge": partial(kernels.ridge, WIDTH, PENALTY),
        "pool": partial(finite_pool.posterior_mean, STD, POOL),
    }


@pytest.mark.parametrize("name", predictions_for_batches())
def test_an_algorithm_that_is_no_filter_predicts_as_its_learner_does(name, direct):
    predict = predictions_for_batches()[name]
    np.testing.assert_allclose(predict(X, Y, QUERY), direct[name], rtol=1e-9, atol=1e-10)


def test_the_lasso_is_found_on_the_support_of_inexact_weights(direct):
    """The weights of the Predictor give the support; the weights on it are exact again."""
    noise = 1e-5 * np.random.default_rng(0).normal(size=direct["lasso"].shape)
    for x, y, exact, w in zip(X, Y, direct["lasso"], direct["lasso"] * (1 + noise), strict=True):
        for o in range(M):
            np.testing.assert_allclose(sparse.lasso_weights(ALPHA, x, y[:, o], w[o]), exact[o], atol=1e-9)


def test_weights_that_are_not_those_of_the_lasso_are_refused(direct):
    """On the support of another penalty, or of other weights, the solution violates a condition."""
    x, y, w = X[0], Y[0, :, 0], direct["lasso"][0, 0]
    assert sparse.lasso_weights(ALPHA / 2, x, y, w) is None
    assert sparse.lasso_weights(ALPHA, x, y, np.linalg.lstsq(x, y, rcond=None)[0]) is None
    assert sparse.lasso_weights(ALPHA, x, y, np.zeros(D)) is None
    np.testing.assert_array_equal(sparse.lasso_weights(100.0, x, y, np.zeros(D)), 0.0)


def test_every_family_that_is_no_filter_is_tried():
    assert [family.__module__.rpartition(".")[2] for family in DIRECT] == [
        "conjugate_gradient", "sparse", "finite_pool", "neighbours", "kernels", "kernels"
    ]  # fmt: skip
