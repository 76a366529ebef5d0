"""GD++, its construction and its spectral risk; analyses of layers, tested on layers whose steps are known."""

from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import analysis, constructions, learners, models, tokens
from icl_gd.analysis import losses
from icl_gd.lab.evaluation.reference_learners import by_gram, by_prompts, reference_learners
from icl_gd.learners import Spectrum
from icl_gd.models import TransformerConfig
from icl_gd.tasks import LinearRegression
from icl_gd.types import Gram

D, N = 4, 6
RATES = ([2.0, 5.0, 9.0], [0.5, 1.5, 2.0])


def problem(seed, d=D, n=N, m=2):
    rng = np.random.default_rng(seed)
    return tuple(rng.uniform(-1, 1, size=shape) for shape in ((n, d), (n, m), (d,)))


def drawn(task, count, seed):
    """`count` prompts of a task; call it inside jit."""
    return jax.vmap(task.sample)(jax.random.split(jax.random.key(seed), count))


@cache
def sample(task, count):
    """`count` cached prompts of seed 0. Only tests with `x64` may call it: it caches float64 arrays."""
    return jax.jit(lambda seed: drawn(task, count, seed))(0)


spectral_risk = jax.jit(learners.spectral_risk)


@pytest.mark.parametrize(
    ("k", "m"), [*product([1, 2, 5], [1, 3]), (10, 1), pytest.param(10, 3, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("clip", [None, 0.3])
def test_gd_plus_plus_is_its_construction(k, m, shared, clip, x64):
    rng = np.random.default_rng(k)
    etas, gammas = (np.full(k, rng.uniform()) if shared else rng.uniform(size=k) for _ in range(2))
    x, y, q = problem(k, m=m)
    config = TransformerConfig(D + m, k, n_heads=2, d_head=D + m + 1, shared=shared, clip=clip)

    @jax.jit
    def both(x, y, q):
        params = constructions.gd_plus_plus_weights(config, D, N, etas, gammas)
        built = models.layerwise_predictor(config, params, tokens.concatenated(D, m))
        return learners.layerwise_gd_plus_plus(etas, gammas, clip)(x, y, q), built(x, y, q)

    expected, built = map(np.asarray, both(x, y, q))
    assert expected.shape == (k + 1, m)
    assert float(np.abs(built - expected).max() / np.abs(expected).max()) < 1e-12


def test_without_gamma_it_is_gradient_descent(x64):
    two_learners = learners.layerwise_gd_plus_plus(RATES[0], [0.0] * 3), learners.layerwise_gradient_descent(RATES[0])
    actual, expected = jax.jit(lambda *problem: [learner(*problem) for learner in two_learners])(*problem(3))
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("config", "etas", "gammas", "words"),
    [
        (TransformerConfig(5, 2), [1.0, 1.0], [1.0], "gammas"),
        (TransformerConfig(5, 2, shared=True), [1.0, 1.0], [1.0, 2.0], "gamma"),
        (TransformerConfig(5, 1, d_head=4), [1.0], [1.0], "d_head"),
    ],
)
def test_what_a_config_cannot_hold_is_refused(config, etas, gammas, words):
    with pytest.raises(ValueError, match=words):
        constructions.gd_plus_plus_weights(config, 4, 6, etas, gammas)


def test_polynomials_are_the_learner(x64):
    """Along an eigenvector of S, GD++ multiplies the error by a factor r and the eigenvalue by a factor a^2."""
    x, _, _ = problem(5, m=1)
    eigenvalues, vectors = np.linalg.eigh(x.T @ x / N)
    w = np.random.default_rng(0).normal(size=(2, D))
    config = TransformerConfig(D + 2, 3)

    @jax.jit
    def run(x, y, eigenvalues, vectors):
        y_hat = jax.vmap(learners.layerwise_gd_plus_plus(*RATES), in_axes=(None, None, 1))(x, y, vectors)
        params = constructions.gd_plus_plus_weights(config, D, N, *RATES)
        residual = models.apply(config, params, tokens.concatenated(D, 2).encode(x, y, x[0])).residual
        factors = learners.residual_factors(*RATES, eigenvalues), learners.input_factors(*RATES, eigenvalues)
        return y_hat, analysis.context_spectrum(residual, D), *factors

    y_hat, spectrum, residual_factors, input_factors = map(np.asarray, run(x, x @ w.T, eigenvalues, vectors))
    # Both factors are [iterate d].
    for k, vector in enumerate(vectors.T):
        expected = (1 - residual_factors[:, k, None]) * (w @ vector)[None]
        np.testing.assert_allclose(y_hat[k], expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(spectrum, np.sort(input_factors**2 * eigenvalues, axis=1), rtol=1e-9, atol=1e-13)


SKEWED = ((1.0, 0.4, 0.1), (0.4, 0.3, 0.0), (0.1, 0.0, 0.2))  # 3 x 3: a 2 x 2 matrix of eigenvectors may be symmetric
TASKS = {
    "uniform": LinearRegression(D, 1, N, input_scale=2.0),
    "noisy": LinearRegression(D, 1, N, input_scale=2.0, noise_std=0.3, weight_scale=1.5),
    "skewed": LinearRegression(3, 1, N, "normal", covariance=SKEWED, noise_std=0.2),
}


@pytest.mark.parametrize("name", TASKS)
def test_spectral_risk_meets_sampling(name, x64):
    task, etas, gammas = TASKS[name], np.array([0.4, 0.5]), np.array([0.3, 0.2])
    two_learners = learners.gradient_descent(etas), learners.gd_plus_plus(etas, gammas)

    @jax.jit
    def measured(seed):
        prompts = drawn(task, 50_000, seed)
        return prompts.x, [losses(learner, prompts) for learner in two_learners]

    x, sampled_losses = measured(0)
    spectrum = Spectrum.of(x, task.second_moment, (task.noise_std / task.weight_scale) ** 2)
    for rates, sampled in zip(((etas,), (etas, gammas)), map(np.asarray, sampled_losses), strict=True):
        exact = float(spectral_risk(spectrum, *rates)) * task.weight_scale**2
        assert abs(float(sampled.mean()) - exact) < 5 * float(sampled.std()) / 50_000**0.5


@pytest.mark.parametrize("name", TASKS)
def test_spectral_risk_is_exact_over_weights_noise_and_queries(name, x64):
    """GD++ is linear in labels and query, y_hat = y^T C x_query, so its risk for fixed x_1, ..., x_n is a trace."""
    task, d = TASKS[name], TASKS[name].d_input
    rates, moment = (np.array([0.4, 0.5]), np.array([0.3, 0.2])), task.second_moment

    @jax.jit
    def coefficients(seed):
        contexts = drawn(task, 20, seed).x
        map_over_queries = jax.vmap(learners.gd_plus_plus(*rates), in_axes=(None, None, 0), out_axes=1)
        return contexts, jax.vmap(lambda x: map_over_queries(x, jnp.eye(N), jnp.eye(d)))(contexts)

    contexts, c = coefficients(0)  # both [prompt n d]
    left = np.eye(d) - np.einsum("pni,pnj->pij", contexts, c)
    expected = task.weight_scale**2 * np.einsum("pij,jk,pik->p", left, moment, left)
    expected += task.noise_std**2 * np.einsum("pnj,jk,pnk->p", c, moment, c)
    spectrum = Spectrum.of(contexts, moment, (task.noise_std / task.weight_scale) ** 2)
    actual = task.weight_scale**2 * float(spectral_risk(spectrum, *rates))
    assert actual == pytest.approx(0.5 * expected.mean(), rel=1e-10)


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_best_rates_are_minima(steps, free, x64):
    task = TASKS["uniform"]
    spectrum = Spectrum.of(sample(task, 500).x, task.second_moment)
    etas = learners.fit_step_sizes(spectrum, steps, free)
    pairs = learners.fit_gd_plus_plus(spectrum, steps, free)
    assert len(set(etas)) == len(set(pairs.step_sizes)) == (steps if free else 1)

    def risk(*rates):
        return float(spectral_risk(spectrum, *rates))

    assert risk(*pairs) <= risk(etas) + 1e-12
    groups = [np.arange(steps) == i for i in range(steps)] if free else [np.full(steps, True)]
    for group in groups:
        for factor in (0.98, 1.02):

            def moved(rates, g=group, f=factor):
                return np.where(g, f * rates, rates)

            assert risk(moved(etas)) > risk(etas)
            assert risk(moved(pairs.step_sizes), pairs.gammas) > risk(*pairs)
            is_last, is_shared = group[-1], group.sum() > 1
            if steps > 1 and not (is_last or is_shared):  # the last gamma does not affect the prediction
                assert risk(pairs.step_sizes, moved(pairs.gammas)) > risk(*pairs)


@jax.jit
def risk_under(clip, prompts, step_sizes, gammas):
    y_hat = jax.vmap(learners.gd_plus_plus(step_sizes, gammas, clip))(prompts.x, prompts.y, prompts.x_query)
    return 0.5 * jnp.mean((y_hat - prompts.y_query) ** 2)


@pytest.mark.parametrize("free", [False, True])
def test_best_rates_under_a_clip(free, x64):
    """If the clip never binds, rates are at least as good as the spectral ones. If it binds, the minimum is another."""
    task = LinearRegression(2, n_context=3)
    prompts = sample(task, 400)
    query = np.asarray(prompts.x_query)
    spectrum = Spectrum.of(prompts.x, query.T @ query / 400)
    unclipped = learners.fit_gd_plus_plus(spectrum, 2, free)

    def risk(step_sizes, gammas, clip=0.6):
        return float(risk_under(clip, prompts, step_sizes, gammas))

    wide = learners.fit_gd_plus_plus_on(prompts, unclipped, 1e6, free)
    best = learners.fit_gd_plus_plus_on(prompts, unclipped, 0.6, free)
    assert len(set(best.step_sizes)) == (2 if free else 1)
    assert risk(*wide, clip=None) <= risk(*unclipped, clip=None)
    assert risk(*best) < risk(*unclipped)
    for group in np.eye(2, dtype=bool) if free else [np.full(2, True)]:
        for factor in (0.97, 1.03):

            def moved(rates, g=group, f=factor):
                return np.where(g, f * rates, rates)

            assert risk(moved(best.step_sizes), best.gammas) > risk(*best)
            if not free or group[0]:
                assert risk(best.step_sizes, moved(best.gammas)) > risk(*best)


@pytest.mark.parametrize("m", [1, 2])
def test_published_rates_are_learned_on_the_learner(m, x64):
    """Predictions from Gram matrices (no clip) and from prompts (with clip) are equal if the clip never binds."""
    task = LinearRegression(3, m, 5)

    @jax.jit
    def run(rate_x, rate_y):
        prompts, labels = by_prompts(task, 1e6)[0](jax.random.key(1), 7)
        encoded = jax.vmap(tokens.concatenated(3, m).encode, out_axes=-1)(prompts.x, prompts.y, prompts.x_query)
        unclipped, clipped = (by_prompts(task, clip)[1](rate_x, rate_y, prompts) for clip in (1e6, 0.1))
        return labels, unclipped, by_gram(task)[1](rate_x, rate_y, Gram.of(encoded)), clipped

    labels, on_prompts, in_gram_form, clipped = map(
        np.asarray, run(-np.array([0.3, 0.2]) / 5, -np.array([1.0, 2.0]) / 5)
    )
    assert on_prompts.shape == labels.shape == (m, 7)
    np.testing.assert_allclose(in_gram_form, on_prompts, rtol=1e-12)
    assert np.abs(clipped).max() <= 0.1


def test_published_optima(x64):
    """Risks for d = n = 10 and uniform inputs: values that others optimised in published settings, a lower optimum."""
    spectrum = Spectrum.of(sample(LinearRegression(), 2**14).x, LinearRegression().second_moment)

    def risk(*rates):
        return float(spectral_risk(spectrum, *map(np.asarray, rates)))

    assert risk(learners.fit_step_sizes(spectrum, 1)) == pytest.approx(0.206229, rel=0.01)
    assert risk(learners.fit_step_sizes(spectrum, 2)) == pytest.approx(0.1567, rel=0.01)
    assert risk(learners.fit_step_sizes(spectrum, 2, free=True)) == pytest.approx(0.1414, rel=0.01)
    assert risk(*learners.fit_gd_plus_plus(spectrum, 2)) == pytest.approx(0.1106, rel=0.01)
    assert risk(*learners.fit_gd_plus_plus(spectrum, 2, free=True)) < 0.1040
    tied = learners.tied_step_size(spectrum, 2, 10)
    tied_risk = risk([tied] * 2, [tied / 10] * 2)
    assert tied_risk < min(risk([f * tied] * 2, [f * tied / 10] * 2) for f in (0.98, 1.02))


def test_layer_map_of_a_construction_is_that_of_its_learner(x64):
    """Layer l equals step l: cosine 1 and differences 0 on the diagonal, and no other step is as close to layer l."""
    config = TransformerConfig(D + 2, 3)

    @jax.jit
    def run(seed):
        prompts = drawn(LinearRegression(D, 2, N), 64, seed)
        params = constructions.gd_plus_plus_weights(config, D, N, *RATES)
        layerwise = models.layerwise_predictor(config, params, tokens.concatenated(D, 2))
        reference = learners.layerwise_gd_plus_plus(*RATES)
        layer_map = analysis.alignment_map(layerwise, reference, prompts)
        last = analysis.alignment(learners.gradient_descent([1.0]), learners.gd_plus_plus(*RATES), prompts)
        return layer_map, last, analysis.alignment_map(learners.layerwise_gradient_descent([1.0]), reference, prompts)

    layer_map, last, map_of_one_step = run(0)
    diagonal = np.arange(1, 4)
    np.testing.assert_allclose(layer_map.sensitivity_cosine[diagonal, diagonal], 1.0, rtol=1e-9)
    np.testing.assert_allclose(layer_map.sensitivity_difference[diagonal, diagonal], 0.0, atol=1e-9)
    np.testing.assert_allclose(layer_map.prediction_difference[diagonal, diagonal], 0.0, atol=1e-9)
    assert np.array_equal(np.asarray(layer_map.sensitivity_cosine).argmax(1)[1:], diagonal)
    np.testing.assert_allclose([np.asarray(leaf)[1, 3] for leaf in map_of_one_step], last, rtol=1e-9)


@pytest.mark.parametrize("identity", [True, False])
def test_input_transforms_are_found(identity, x64):
    """For a construction the fit returns its gammas and explains the full update; with added noise it explains less."""
    config, layout = TransformerConfig(D + 1, 3), tokens.concatenated(D, 1)

    @jax.jit
    def fits(seed):
        prompts = drawn(LinearRegression(D, 1, N, input_scale=2.0), 64, seed)
        params = constructions.gd_plus_plus_weights(config, D, N, *RATES)

        def run(x, y, q):
            return models.apply(config, params, layout.encode(x, y, q)).residual

        residuals = jax.vmap(run)(prompts.x, prompts.y, prompts.x_query)
        fit = analysis.input_transform(residuals, D, 1 if identity else 3, identity)
        noise = 0.1 * jax.random.normal(jax.random.key(1), residuals.shape)
        return fit, fit.gamma, analysis.input_transform(residuals + noise, D).explained

    fit, gamma, explained = jax.tree.map(np.asarray, fits(0))
    np.testing.assert_allclose(gamma, RATES[1], rtol=1e-6)
    np.testing.assert_allclose(fit.coefficients[:, 0], 1.0, rtol=1e-6)
    np.testing.assert_allclose(fit.coefficients[:, 2:], 0.0, atol=1e-5)
    np.testing.assert_allclose(fit.explained, 1.0, rtol=1e-9)
    assert np.all(explained < 0.9)


def test_condition_numbers():
    spectrum = np.float32([[1e-9, 0.5, 2.0], [1.0, 2.0, 4.0]])
    condition_numbers = jax.jit(lambda spectrum: [analysis.condition_numbers(spectrum, rank) for rank in (2, 3)])
    two, three = condition_numbers(spectrum)
    np.testing.assert_allclose(two, [4.0, 2.0])
    np.testing.assert_allclose(three, [2e9, 4.0], rtol=1e-6)


def test_spectral_filter_of_a_learner_is_its_polynomial(x64):
    """With one eigenvalue per bin the filter is exact; a bin below all eigenvalues is empty, which gives nan."""
    prompts = sample(LinearRegression(D, 2, N, input_scale=2.0), 5)
    eigenvalues = np.sort(np.linalg.eigvalsh(np.einsum("pni,pnj->pij", prompts.x, prompts.x) / N).ravel())
    middles = (eigenvalues[1:] + eigenvalues[:-1]) / 2
    edges = np.array([-2.0, -1.0, *middles, 1e3])

    @jax.jit
    def both(prompts, edges, eigenvalues):
        actual = analysis.spectral_filter(learners.gd_plus_plus(*RATES), prompts, edges)
        return actual, 1 - learners.residual_factors(*RATES, eigenvalues)[-1]

    actual, expected = map(np.asarray, both(prompts, edges, eigenvalues))
    assert np.isnan(actual[0])
    np.testing.assert_allclose(actual[1:], expected, rtol=1e-8, atol=1e-12)


def test_nothing_is_learned_along_empty_directions(x64):
    """With fewer examples than dimensions, some eigenvalues are 0; in their bin the filter is 0."""
    task, edges = LinearRegression(D, 2, D - 2, input_scale=2.0), np.array([0.0, 1e-300, 10.0])
    learner = learners.gradient_descent([1.0])
    spectral_filter = jax.jit(lambda seed, edges: analysis.spectral_filter(learner, drawn(task, 50, seed), edges))
    filter_by_bin = np.asarray(spectral_filter(0, edges))
    assert float(filter_by_bin[0]) == pytest.approx(0.0, abs=1e-12)
    assert filter_by_bin[1] > 0.1


@pytest.mark.parametrize(
    ("main", "clip"),
    [
        ("gd", 0.4),
        ("gd_plus_plus", None),
        pytest.param("gd", None, marks=pytest.mark.slow),
        pytest.param("gd_plus_plus", 0.4, marks=pytest.mark.slow),
    ],
)
def test_one_program_measures_every_learner(main, clip, x64):
    task, model = LinearRegression(3, n_context=5), TransformerConfig(4, 2, shared=True, clip=clip)
    reference = reference_learners(task, model, jax.random.key(0), 256, main, published_steps=5)
    half = learners.gd_plus_plus(0.5 * reference.rates["gd"].step_sizes, np.zeros(2), clip)

    @jax.jit
    def run(*problem):
        expected = {
            name: learners.layerwise_gd_plus_plus(*rates, clip)(*problem) for name, rates in reference.rates.items()
        }
        last = {name: reference.learner(name)(*problem) for name in reference.rates}
        equal_pairs = (reference.construction(*problem), last[main]), (reference.wrong_step(*problem), half(*problem))
        return reference.over_learners(lambda learner: learner(*problem)), expected, last, equal_pairs

    measured, expected, last, equal_pairs = jax.tree.map(np.asarray, run(*problem(0, 3, 5, 1)))
    assert set(measured) == set(reference.rates)
    assert len(measured) == (1 if main == "gd" else 5)
    for name in reference.rates:
        np.testing.assert_allclose(measured[name], expected[name], rtol=1e-12)
        np.testing.assert_allclose(last[name], expected[name][-1], rtol=1e-12)
    for first, second in equal_pairs:
        np.testing.assert_allclose(first, second, rtol=1e-12)
