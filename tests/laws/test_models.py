"""Laws 4 and 5: forms of one model agree; gauge does not change the function; different functions differ."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import analysis, constructions, models, tokens
from icl_gd.models import TransformerConfig
from icl_gd.tasks import LinearRegression
from icl_gd.types import Circuits, Gram

D, M, N = 3, 2, 6
LAYOUT = tokens.concatenated(D, M)
CONFIGS = {
    "one": TransformerConfig(5, init_scale=2.0),
    "heads": TransformerConfig(5, 2, 3, d_head=2, init_scale=2.0),
    "shared": TransformerConfig(5, 3, 2, shared=True, init_scale=2.0),
}


def prompt(seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=shape) for shape in ((N, D), (N, M), (D,)))


shapes = functools.cache(models.shapes)


def params_of(config, seed=0):
    """Random parameters of the scale of `models.init`."""
    rng, variance = np.random.default_rng(seed), config.init_scale / config.n_layers

    def fan_in(path, leaf):
        return leaf.shape[-1] * (config.n_heads if path[-1].key == "P" else 1)

    def draw(path, leaf):
        return (variance / fan_in(path, leaf)) ** 0.5 * rng.normal(size=leaf.shape)

    return jax.tree_util.tree_map_with_path(draw, shapes(config))


@pytest.mark.parametrize("name", CONFIGS)
def test_moment_form_is_token_form(name, x64):
    config = CONFIGS[name]

    @jax.jit
    def both(params, *x):
        circuits = models.circuits(config, params)
        token_form, gram_form = (
            models.layerwise_predictor(config, params, LAYOUT),
            models.layerwise_circuit_predictor(circuits, LAYOUT),
        )
        jacobians = jax.jacfwd(gram_form, 2)(*x), jax.jacrev(token_form, 2)(*x)
        residual = models.apply(config, params, LAYOUT.encode(*x)).residual
        _, contexts = models.apply_gram(circuits, Gram.of(LAYOUT.encode(*x)))
        return (gram_form(*x), token_form(*x)), jacobians, (contexts, residual)

    predictions, jacobians, (contexts, residual) = jax.tree.map(np.asarray, both(params_of(config), *prompt()))
    np.testing.assert_allclose(*predictions, rtol=1e-10)
    np.testing.assert_allclose(*jacobians, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(contexts, np.einsum("lta,ltb->lab", residual[:, :-1], residual[:, :-1]), rtol=1e-10)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("n", [3, 16, 37])  # below, at and above the 16 examples of one loop iteration
def test_a_batch_of_moments_is_its_prompts(name, n, x64):
    """Gram matrices drawn for a batch give the predictions and gradients of its prompts in token form."""
    config, task = CONFIGS[name], LinearRegression(D, M, n, noise_std=0.3)

    @jax.jit
    def both(params):
        key = jax.random.key(1)
        gram, y_query = task.sample_gram(key, 5)
        batch = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), task.sample(key, (5,)))

        def token_form(params):
            return jax.vmap(models.predictor(config, params, LAYOUT))(batch.x, batch.y, batch.x_query)

        def gram_form(params):
            return models.read_gram(models.circuits(config, params), gram, M).T

        def gradient(form):
            return jax.grad(lambda params: jnp.sum(form(params) ** 2))(params)

        forms = [(form(params), gradient(form)) for form in (gram_form, token_form)]
        return forms, (y_query.T, batch.y_query)

    ((actual, gradient), (expected, expected_gradient)), targets = jax.tree.map(np.asarray, both(params_of(config)))
    np.testing.assert_allclose(actual, expected, rtol=1e-10)
    np.testing.assert_array_equal(*targets)

    def close(a, b):
        return np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12 * np.abs(b).max())

    jax.tree.map(close, gradient, expected_gradient)


def test_recurrent_is_stacked_with_tied_weights(x64):
    shared = CONFIGS["shared"]
    params = params_of(shared)
    stacked = replace(shared, shared=False)
    tied = {name: params["block_0"] for name in stacked.blocks}
    predict = jax.jit(lambda c, p, *x: models.layerwise_predictor(c, p, LAYOUT)(*x), static_argnums=0)
    recurrent_y_hat, stacked_y_hat = (predict(c, p, *prompt()) for c, p in ((shared, params), (stacked, tied)))
    np.testing.assert_allclose(recurrent_y_hat, stacked_y_hat, rtol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
def test_context_order_does_not_matter(name, x64):
    config = CONFIGS[name]
    x, y, q = prompt()
    order = np.random.default_rng(1).permutation(N)
    predict = jax.jit(models.predictor(config, params_of(config), LAYOUT))
    np.testing.assert_allclose(predict(x[order], y[order], q), predict(x, y, q), rtol=1e-10)


@pytest.mark.parametrize("heads", [1, 3])
def test_gradient_like_layers_are_linear_in_the_labels(heads, x64):
    """If values ignore x, and keys and queries ignore y, then f(y + 2z) = f(y) + 2 f(z) for one layer."""
    config = TransformerConfig(5, 1, heads, init_scale=2.0)
    layer = params_of(config)["block_0"]["attention"]
    only_x = (np.arange(5) < D).astype(float)[None, None, :]
    layer = {**layer, "W_K": layer["W_K"] * only_x, "W_Q": layer["W_Q"] * only_x, "W_V": layer["W_V"] * (1 - only_x)}
    predict = jax.jit(models.predictor(config, {"block_0": {"attention": layer}}, LAYOUT))
    x, y, q = prompt()
    z = prompt(5)[1]
    of_sum, of_y, of_z = (np.asarray(predict(x, labels, q)) for labels in (y + 2 * z, y, z))
    np.testing.assert_allclose(of_sum, of_y + 2 * of_z, rtol=1e-10)


def test_the_layer_by_hand(x64):
    """One layer equals the sums of the paper's equation, computed head by head and token by token."""
    config = TransformerConfig(5, 1, 2, d_head=4, init_scale=2.0)
    params = params_of(config)

    @jax.jit
    def run(params, *x):
        tokens_in = LAYOUT.encode(*x)
        return tokens_in, [models.apply(c, params, tokens_in) for c in (config, replace(config, clip=0.5))]

    tokens_in, (run_without_clip, clipped) = jax.tree.map(np.asarray, run(params, *prompt()))
    w = params["block_0"]["attention"]
    expected = tokens_in.copy()
    for i in range(N + 1):
        for h in range(2):
            for j in range(N):  # keys and values come from the context only
                score = (w["W_K"][h] @ tokens_in[j]) @ (w["W_Q"][h] @ tokens_in[i])
                expected[i] += w["P"][h] @ w["W_V"][h] @ tokens_in[j] * score
    np.testing.assert_allclose(run_without_clip.residual[-1], expected, rtol=1e-10)
    assert np.all(run_without_clip.pattern[..., -1] == 0)
    assert np.all(run_without_clip.scores[..., -1] == 0)
    assert np.all(run_without_clip.scores[..., :-1] != 0)
    np.testing.assert_allclose(clipped.residual[-1], np.clip(expected, -0.5, 0.5), rtol=1e-10)


def test_initial_weights_have_the_published_spread():
    init = jax.jit(functools.partial(models.init, TransformerConfig(11, 2, 64, d_head=5)))
    weights = init(jax.random.key(0))["block_0"]["attention"]
    for name, value in weights.items():
        fan_in = 64 * 5 if name == "P" else 11
        assert float(np.std(value)) == pytest.approx((0.002 / 2 / fan_in) ** 0.5, rel=0.05), name


def random_gauge(params, rng):
    """Other weights of the same function: random invertible matrices in every head, scaled circuits, permuted heads."""
    layer = params["block_0"]["attention"]
    heads, width, _ = layer["W_K"].shape
    new = {name: np.empty_like(value) for name, value in layer.items()}
    for new_head, head in enumerate(rng.permutation(heads)):
        a, b, c = rng.normal(size=(width, width)), rng.normal(size=(width, width)), rng.uniform(0.5, 2.0)
        new["W_K"][new_head] = c * np.linalg.inv(a).T @ layer["W_K"][head]
        new["W_Q"][new_head] = a @ layer["W_Q"][head]
        new["W_V"][new_head] = b @ layer["W_V"][head]
        new["P"][new_head] = layer["P"][head] @ np.linalg.inv(b) / c
    return {"block_0": {"attention": new}}


@functools.cache
def gauge_measures(heads):
    """A compiled function: predictions, canonical forms, distance of two layers; distance of a third to the first."""
    config = TransformerConfig(5, 1, heads, d_head=4)

    @jax.jit
    def run(params, second_params, third_params, *x):
        first, second, third = (models.circuits(config, p) for p in (params, second_params, third_params))
        predictions = [models.predictor(config, p, LAYOUT)(*x) for p in (params, second_params)]
        forms = [analysis.canonical_form(c, D) for c in (first, second)]
        distance, to_third = (analysis.gauge_distance(c, first, D) for c in (second, third))
        return (predictions, forms, distance), to_third

    return run


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_gauge(heads, seed, x64):
    config = TransformerConfig(5, 1, heads, d_head=4, init_scale=2.0)
    params, other = params_of(config, seed), params_of(config, seed + 100)
    moved = random_gauge(params, np.random.default_rng(seed))
    two_layers, to_other = gauge_measures(heads)(params, moved, other, *prompt(seed))
    predictions, forms, distance = jax.tree.map(np.asarray, two_layers)
    np.testing.assert_allclose(predictions[1], predictions[0], rtol=1e-9)
    assert np.abs(forms[1] - forms[0]).max() / np.abs(forms[0]).max() < 1e-10
    assert distance < 1e-10
    assert to_other > 0.1


def test_layers_that_read_the_labels_on_different_ways_are_one_function(x64):
    """If W_KQ has rank one, labels can enter by keys or by values: other circuits, the same canonical form."""
    rng = np.random.default_rng(0)
    u, v = (np.append(rng.normal(size=4), 0.0) for _ in range(2))
    y = np.eye(5)[4]
    x, labels, q = rng.normal(size=(6, 4)), rng.normal(size=(6, 1)), u[:4] + 1.0

    @jax.jit
    def run(u, v, y, *x):
        direct = Circuits(jnp.outer(u, v)[None, None], jnp.outer(y, y)[None, None])
        exchanged = Circuits(jnp.outer(y, v)[None, None], jnp.outer(y, u)[None, None])

        def predict(circuits):
            return models.circuit_predictor(circuits, tokens.concatenated(4, 1))(*x)

        return predict(direct), predict(exchanged), analysis.gauge_distance(exchanged, direct, 4)

    direct_y_hat, exchanged_y_hat, distance = run(u, v, y, x, labels, q)
    np.testing.assert_allclose(direct_y_hat, exchanged_y_hat, rtol=1e-12)
    assert float(distance) < 1e-12


def test_canonical_form_gives_the_prediction(x64):
    """The canonical form T determines y_hat_r = (W_0 x)_r - T[r, a, b, c] G[a, b] x_c, also with W_0 in the layout."""
    config = CONFIGS["heads"]
    config = replace(config, n_layers=1)
    w0 = np.random.default_rng(0).normal(size=(M, D))

    @jax.jit
    def run(params, w0, x, y, q):
        circuits, results = models.circuits(config, params), []
        for start in (None, w0):
            layout = tokens.concatenated(D, M, start)
            context = Gram.of(layout.encode(x, y, q)).context
            form = analysis.canonical_form(circuits, D, w0=start)
            results.append((models.circuit_predictor(circuits, layout)(x, y, q), form, context))
        return results

    x, y, q = prompt()
    results = jax.tree.map(np.asarray, run(params_of(config), w0, x, y, q))
    for start, (prediction, form, context) in zip((0.0 * w0, w0), results, strict=True):
        np.testing.assert_allclose(prediction, start @ q - np.einsum("rabc,ab,c->r", form, context, q), rtol=1e-9)


def test_two_ways_to_the_labels(x64):
    """Gradient descent uses the direct path at full rank; the exchanged circuits use the exchanged path at rank one."""
    config = constructions.gradient_descent_config(D, M, 1)
    u, v, y = np.array([1.0, 2.0, -1.0, 0, 0]), np.array([0.5, 0.0, 1.0, 0, 0]), np.eye(5)[D]

    @jax.jit
    def run(u, v, y, *x):
        direct = models.circuits(config, constructions.gradient_descent_weights(config, D, N, [0.7]))
        results = []
        for circuits in (direct, Circuits(jnp.outer(y, v)[None, None], -jnp.outer(y, u)[None, None])):
            matrix = analysis.effective_preconditioner(circuits, D, N)[0]
            predicted = models.circuit_predictor(circuits, LAYOUT)(*x)[0]
            results.append((analysis.label_paths(circuits, D), matrix, analysis.participation_ratio(matrix), predicted))
        return results

    x, labels, q = prompt()
    results = jax.tree.map(np.asarray, run(u, v, y, x, labels, q))
    for (paths, matrix, ratio, predicted), shares, rank in zip(
        results, ((1, 0, 0, 0), (0, 1, 0, 0)), (D, 1), strict=True
    ):
        np.testing.assert_allclose(paths, shares, atol=1e-12)
        assert ratio == pytest.approx(rank)
        np.testing.assert_allclose(predicted, q @ matrix.T @ (x.T @ labels[:, 0]) / N, rtol=1e-10)


def test_interpolation_and_roll_out_have_right_ends(x64):
    config = TransformerConfig(5, init_scale=2.0)

    @jax.jit
    def run(params, other, *x):
        first, second = (models.circuits(config, p) for p in (params, other))

        def predict(c):
            return models.circuit_predictor(c, LAYOUT)(*x)

        ends = [predict(analysis.interpolate(first, second, t)) for t in (0.0, 1.0)]
        return (first, second), ends, predict(first), predict(second), predict(analysis.roll_out(first, D, 1))

    (first, second), ends, first_y_hat, second_y_hat, rolled = run(
        *(params_of(config, seed) for seed in (0, 1)), *prompt()
    )
    np.testing.assert_allclose(ends[0], first_y_hat, rtol=1e-10)
    np.testing.assert_allclose(ends[1], second_y_hat, rtol=1e-10)
    np.testing.assert_allclose(rolled, first_y_hat, rtol=1e-10)
    with pytest.raises(ValueError, match="single-head"):
        analysis.interpolate(Circuits(*(jnp.asarray(np.repeat(c, 2, 1)) for c in first)), second)
    with pytest.raises(ValueError, match="one-layer"):
        analysis.roll_out(Circuits(*(jnp.asarray(np.repeat(c, 2, 0)) for c in first)), D, 3)
