"""Deep learners: GD++, its construction and its spectrum; what is found of layers, and of steps that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.references import by_moments, by_prompts, references
from icl_gd import analysis, constructions, learners, models, tokens
from icl_gd.analysis import losses
from icl_gd.learners import Spectrum
from icl_gd.models import TransformerConfig
from icl_gd.tasks import LinearRegression
from icl_gd.types import Moments

D, N = 4, 6
RATES = ([2.0, 5.0, 9.0], [0.5, 1.5, 2.0])


def problem(seed, d=D, n=N, m=2):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.uniform(-1, 1, size=shape)) for shape in ((n, d), (n, m), (d,)))


def sample(task, count, seed=0):
    return jax.jit(jax.vmap(task.sample))(jax.random.split(jax.random.key(seed), count))


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("k", [1, 2, 5, 10])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("clip", [None, 0.3])
def test_gd_plus_plus_is_its_construction(k, m, shared, clip, x64):
    rng = np.random.default_rng(k)
    etas, gammas = (np.full(k, rng.uniform()) if shared else rng.uniform(size=k) for _ in range(2))
    x, y, q = problem(k, m=m)
    config = TransformerConfig(D + m, k, n_heads=2, d_head=D + m + 1, shared=shared, clip=clip)
    params = constructions.gd_plus_plus_weights(config, D, N, etas, gammas)
    layout = tokens.concatenated(D, m)
    expected = learners.layerwise_gd_plus_plus(etas, gammas, clip)(x, y, q)
    built = models.layerwise_predictor(config, params, layout)(x, y, q)
    assert expected.shape == (k + 1, m)
    assert float(jnp.abs(built - expected).max() / jnp.abs(expected).max()) < 1e-12


def test_without_gamma_it_is_gradient_descent(x64):
    x, y, q = problem(3)
    expected = learners.layerwise_gradient_descent(RATES[0])(x, y, q)
    np.testing.assert_allclose(learners.layerwise_gd_plus_plus(RATES[0], [0.0] * 3)(x, y, q), expected, rtol=1e-12)


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
    """Along an eigenvector of S, GD++ leaves r of the error, and a^2 lambda of the eigenvalue."""
    x, _, _ = problem(5, m=1)
    eigenvalues, vectors = np.linalg.eigh(x.T @ x / N)
    w = np.random.default_rng(0).normal(size=(2, D))
    factors = np.asarray(learners.residual_factors(*RATES, jnp.asarray(eigenvalues)))  # [iterate d]
    for k, vector in enumerate(vectors.T):
        y_hat = learners.layerwise_gd_plus_plus(*RATES)(x, x @ w.T, jnp.asarray(vector))
        np.testing.assert_allclose(y_hat, (1 - factors[:, k, None]) * (w @ vector)[None], rtol=1e-9, atol=1e-12)
    config = TransformerConfig(D + 2, 3)
    params = constructions.gd_plus_plus_weights(config, D, N, *RATES)
    residual = models.apply(config, params, tokens.concatenated(D, 2).encode(x, x @ w.T, x[0])).residual
    spectrum = analysis.context_spectrum(residual, D)
    expected = np.asarray(learners.input_factors(*RATES, jnp.asarray(eigenvalues))) ** 2 * eigenvalues
    np.testing.assert_allclose(spectrum, np.sort(expected, axis=1), rtol=1e-9, atol=1e-13)


SKEWED = ((1.0, 0.4, 0.1), (0.4, 0.3, 0.0), (0.1, 0.0, 0.2))  # of two dimensions eigenvectors form symmetric matrices
TASKS = {
    "uniform": LinearRegression(D, 1, N, input_scale=2.0),
    "noisy": LinearRegression(D, 1, N, input_scale=2.0, noise_std=0.3, weight_scale=1.5),
    "skewed": LinearRegression(3, 1, N, "normal", covariance=SKEWED, noise_std=0.2),
}


@pytest.mark.parametrize("name", TASKS)
def test_spectral_risk_meets_sampling(name, x64):
    task = TASKS[name]
    prompts = sample(task, 50_000)
    ratio = (task.noise_std / task.weight_scale) ** 2
    spectrum = Spectrum.of(prompts.x, task.second_moment, ratio)
    for gammas in (None, np.array([0.3, 0.2])):
        etas = np.array([0.4, 0.5])
        exact = float(learners.spectral_risk(spectrum, etas, gammas)) * task.weight_scale**2
        learner = learners.gradient_descent(etas) if gammas is None else learners.gd_plus_plus(etas, gammas)
        sampled = losses(learner, prompts)
        assert abs(float(sampled.mean()) - exact) < 5 * float(sampled.std()) / 50_000**0.5


@pytest.mark.parametrize("name", TASKS)
def test_spectral_risk_is_exact_over_weights_noise_and_queries(name, x64):
    """A learner is linear in the labels, y_hat = y^T C x_query, so on given contexts its risk is a trace."""
    task = TASKS[name]
    contexts, moment = sample(task, 20).x, task.second_moment
    learner = learners.gd_plus_plus([0.4, 0.5], [0.3, 0.2])
    d, labels = task.d_input, jnp.eye(N)
    c = jax.vmap(lambda x: jax.vmap(lambda q: learner(x, labels, q))(jnp.eye(d)).T)(contexts)  # [prompt n d]
    left = np.eye(d) - np.einsum("pni,pnj->pij", contexts, c)
    expected = task.weight_scale**2 * np.einsum("pij,jk,pik->p", left, moment, left)
    expected += task.noise_std**2 * np.einsum("pnj,jk,pnk->p", c, moment, c)
    spectrum = Spectrum.of(contexts, moment, (task.noise_std / task.weight_scale) ** 2)
    found = task.weight_scale**2 * float(learners.spectral_risk(spectrum, [0.4, 0.5], [0.3, 0.2]))
    assert found == pytest.approx(0.5 * expected.mean(), rel=1e-10)


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_best_rates_are_minima(steps, free, x64):
    task = TASKS["uniform"]
    spectrum = Spectrum.of(sample(task, 500).x, task.second_moment)
    etas = learners.best_step_sizes(spectrum, steps, free)
    pairs = learners.best_gd_plus_plus(spectrum, steps, free)
    assert len(set(etas)) == len(set(pairs.step_sizes)) == (steps if free else 1)
    descent, plus_plus = (jax.jit(lambda *z: learners.spectral_risk(spectrum, *z)) for _ in range(2))
    assert plus_plus(*map(jnp.asarray, pairs)) <= descent(jnp.asarray(etas)) + 1e-12
    groups = [np.arange(steps) == i for i in range(steps)] if free else [np.full(steps, True)]
    for group in groups:
        for factor in (0.98, 1.02):
            moved = lambda rates, g=group, f=factor: jnp.asarray(np.where(g, f * rates, rates))
            assert descent(moved(etas)) > descent(jnp.asarray(etas))
            assert plus_plus(moved(pairs.step_sizes), jnp.asarray(pairs.gammas)) > plus_plus(*map(jnp.asarray, pairs))
            if steps > 1 and not group[-1] | (group.sum() > 1):  # the last gamma changes nothing
                assert plus_plus(jnp.asarray(pairs.step_sizes), moved(pairs.gammas)) > plus_plus(
                    *map(jnp.asarray, pairs)
                )


@pytest.mark.parametrize("free", [False, True])
def test_best_rates_under_a_clip(free, x64):
    """Where it never binds they are those of the spectrum; where it does they are minima, and others."""
    task = LinearRegression(2, n_context=3)
    prompts = sample(task, 400)
    spectrum = Spectrum.of(prompts.x, np.asarray(prompts.x_query.T @ prompts.x_query) / 400)
    unclipped = learners.best_gd_plus_plus(spectrum, 2, free)

    def risk(step_sizes, gammas, clip=0.6):
        learner = learners.gd_plus_plus(step_sizes, gammas, clip)
        return 0.5 * float(jnp.mean((jax.vmap(learner)(prompts.x, prompts.y, prompts.x_query) - prompts.y_query) ** 2))

    wide = learners.best_gd_plus_plus_on(prompts, unclipped, 1e6, free)
    best = learners.best_gd_plus_plus_on(prompts, unclipped, 0.6, free)
    assert len(set(best.step_sizes)) == (2 if free else 1)
    assert risk(*wide, clip=None) <= risk(*unclipped, clip=None)
    assert risk(*best) < risk(*unclipped)
    for group in np.eye(2, dtype=bool) if free else [np.full(2, True)]:
        for factor in (0.97, 1.03):
            moved = lambda rates, g=group, f=factor: np.where(g, f * rates, rates)
            assert risk(moved(best.step_sizes), best.gammas) > risk(*best)
            if not free or group[0]:
                assert risk(best.step_sizes, moved(best.gammas)) > risk(*best)


@pytest.mark.parametrize("m", [1, 2])
def test_published_rates_are_learned_on_the_learner(m, x64):
    """On moments without a clip, on prompts with one: the same predictions where it never binds."""
    task = LinearRegression(3, m, 5)
    prompts, labels = by_prompts(task, 1e6)[0](jax.random.key(1), 7)
    encoded = jax.vmap(tokens.concatenated(3, m).encode, out_axes=-1)(prompts.x, prompts.y, prompts.x_query)
    in_x, in_y = -jnp.asarray([0.3, 0.2]) / 5, -jnp.asarray([1.0, 2.0]) / 5
    found = by_prompts(task, 1e6)[1](in_x, in_y, prompts)
    assert found.shape == labels.shape == (m, 7)
    np.testing.assert_allclose(by_moments(task)[1](in_x, in_y, Moments.of(encoded)), found, rtol=1e-12)
    assert jnp.abs(by_prompts(task, 0.1)[1](in_x, in_y, prompts)).max() <= 0.1


def test_published_optima(x64):
    """d = n = 10, uniform inputs: rates optimised on the published settings by others, and a lower optimum."""
    spectrum = Spectrum.of(sample(LinearRegression(), 2**14).x, LinearRegression().second_moment)
    risk = lambda *rates: float(learners.spectral_risk(spectrum, *rates))
    assert risk(learners.best_step_sizes(spectrum, 1)) == pytest.approx(0.206229, rel=0.01)
    assert risk(learners.best_step_sizes(spectrum, 2)) == pytest.approx(0.1567, rel=0.01)
    assert risk(learners.best_step_sizes(spectrum, 2, free=True)) == pytest.approx(0.1414, rel=0.01)
    assert risk(*learners.best_gd_plus_plus(spectrum, 2)) == pytest.approx(0.1106, rel=0.01)
    assert risk(*learners.best_gd_plus_plus(spectrum, 2, free=True)) < 0.1040
    tied = learners.tied_step_size(spectrum, 2, 10)
    ours = risk([tied] * 2, [tied / 10] * 2)
    assert ours < min(risk([f * tied] * 2, [f * tied / 10] * 2) for f in (0.98, 1.02))


def test_layer_map_of_a_construction_is_that_of_its_learner(x64):
    """Its diagonal is that of two learners that are the same, and no other step is as near to a layer."""
    prompts = sample(LinearRegression(D, 2, N), 64)
    config = TransformerConfig(D + 2, 3)
    params = constructions.gd_plus_plus_weights(config, D, N, *RATES)
    layerwise = models.layerwise_predictor(config, params, tokens.concatenated(D, 2))
    reference = learners.layerwise_gd_plus_plus(*RATES)
    found = analysis.alignment_map(layerwise, reference, prompts)
    own = np.arange(1, 4)
    np.testing.assert_allclose(found.sensitivity_cosine[own, own], 1.0, rtol=1e-9)
    np.testing.assert_allclose(found.sensitivity_difference[own, own], 0.0, atol=1e-9)
    np.testing.assert_allclose(found.prediction_difference[own, own], 0.0, atol=1e-9)
    assert np.array_equal(np.asarray(found.sensitivity_cosine).argmax(1)[1:], own)
    last = analysis.alignment(learners.gradient_descent([1.0]), learners.gd_plus_plus(*RATES), prompts)
    other = analysis.alignment_map(learners.layerwise_gradient_descent([1.0]), reference, prompts)
    np.testing.assert_allclose([leaf[1, 3] for leaf in other], last, rtol=1e-9)


@pytest.mark.parametrize("identity", [True, False])
def test_input_transforms_are_found(identity, x64):
    """Of a construction the fit gives back its gammas and explains everything; of another transform it does not."""
    prompts = sample(LinearRegression(D, 1, N, input_scale=2.0), 64)
    config, layout = TransformerConfig(D + 1, 3), tokens.concatenated(D, 1)
    params = constructions.gd_plus_plus_weights(config, D, N, *RATES)
    run = lambda x, y, q: models.apply(config, params, layout.encode(x, y, q)).residual
    residuals = jax.vmap(run)(prompts.x, prompts.y, prompts.x_query)
    fit = analysis.input_transform(residuals, D, 1 if identity else 3, identity)
    np.testing.assert_allclose(fit.gamma, RATES[1], rtol=1e-6)
    np.testing.assert_allclose(fit.coefficients[:, 0], 1.0, rtol=1e-6)
    np.testing.assert_allclose(fit.coefficients[:, 2:], 0.0, atol=1e-5)
    np.testing.assert_allclose(fit.explained, 1.0, rtol=1e-9)
    noise = 0.1 * jax.random.normal(jax.random.key(1), residuals.shape)
    assert np.all(analysis.input_transform(residuals + noise, D).explained < 0.9)


def test_condition_numbers():
    spectrum = jnp.asarray([[1e-9, 0.5, 2.0], [1.0, 2.0, 4.0]])
    np.testing.assert_allclose(analysis.condition_numbers(spectrum, 2), [4.0, 2.0])
    np.testing.assert_allclose(analysis.condition_numbers(spectrum, 3), [2e9, 4.0], rtol=1e-6)


def test_spectral_filter_of_a_learner_is_its_polynomial(x64):
    """With one eigenvalue a bin it is exact; a bin below all eigenvalues is empty."""
    prompts = sample(LinearRegression(D, 2, N, input_scale=2.0), 5)
    eigenvalues = np.sort(np.linalg.eigvalsh(np.einsum("pni,pnj->pij", prompts.x, prompts.x) / N).ravel())
    middles = (eigenvalues[1:] + eigenvalues[:-1]) / 2
    edges = jnp.asarray([-2.0, -1.0, *middles, 1e3])
    found = analysis.spectral_filter(learners.gd_plus_plus(*RATES), prompts, edges)
    expected = 1 - learners.residual_factors(*RATES, jnp.asarray(eigenvalues))[-1]
    assert np.isnan(found[0])
    np.testing.assert_allclose(found[1:], expected, rtol=1e-8, atol=1e-12)


def test_nothing_is_learned_along_empty_directions(x64):
    """Of a context with fewer examples than dimensions, in the bin that begins at zero."""
    prompts = sample(LinearRegression(D, 2, D - 2, input_scale=2.0), 50)
    found = analysis.spectral_filter(learners.gradient_descent([1.0]), prompts, jnp.asarray([0.0, 1e-300, 10.0]))
    assert float(found[0]) == pytest.approx(0.0, abs=1e-12)
    assert found[1] > 0.1


@pytest.mark.parametrize("clip", [None, 0.4])
@pytest.mark.parametrize("main", ["gd", "gd_plus_plus"])
def test_one_program_measures_every_learner(main, clip, x64):
    task, model = LinearRegression(3, n_context=5), TransformerConfig(4, 2, shared=True, clip=clip)
    found = references(task, model, jax.random.key(0), 256, main, published_steps=5)
    x, y, q = problem(0, 3, 5, 1)
    measured = found.over_learners(lambda learner: learner(x, y, q))
    assert set(measured) == set(found.rates)
    assert len(measured) == (1 if main == "gd" else 5)
    for name, (step_sizes, gammas) in found.rates.items():
        expected = learners.layerwise_gd_plus_plus(step_sizes, gammas, clip)(x, y, q)
        np.testing.assert_allclose(measured[name], expected, rtol=1e-12)
        np.testing.assert_allclose(found.learner(name)(x, y, q), expected[-1], rtol=1e-12)
    np.testing.assert_allclose(found.construction(x, y, q), found.learner(main)(x, y, q), rtol=1e-12)
    half = learners.gd_plus_plus(0.5 * found.rates["gd"].step_sizes, np.zeros(2), clip)
    np.testing.assert_allclose(found.wrong_step(x, y, q), half(x, y, q), rtol=1e-12)
