"""Laws 4 and 5: forms of one model agree, gauge changes nothing, different functions differ."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import analysis, constructions, models, tokens
from icl_gd.models import TransformerConfig
from icl_gd.tasks import LinearRegression
from icl_gd.types import Circuits, Moments

D, M, N = 3, 2, 6
LAYOUT = tokens.concatenated(D, M)
CONFIGS = {
    "one": TransformerConfig(5, init_scale=2.0),
    "heads": TransformerConfig(5, 2, 3, d_head=2, init_scale=2.0),
    "shared": TransformerConfig(5, 3, 2, shared=True, init_scale=2.0),
}


def prompt(seed=0):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=shape)) for shape in ((N, D), (N, M), (D,)))


def params_of(config, seed=0):
    return models.init(config, jax.random.key(seed))


@pytest.mark.parametrize("name", CONFIGS)
def test_moment_form_is_token_form(name, x64):
    config = CONFIGS[name]
    params, x = params_of(config), prompt()
    circuits = models.circuits(config, params)
    of_tokens, of_moments = (
        models.layerwise_predictor(config, params, LAYOUT), models.layerwise_circuit_predictor(circuits, LAYOUT)
    )  # fmt: skip
    np.testing.assert_allclose(of_moments(*x), of_tokens(*x), rtol=1e-10)
    backward, forward = jax.jacrev(of_tokens, 2)(*x), jax.jacfwd(of_moments, 2)(*x)
    np.testing.assert_allclose(forward, backward, rtol=1e-9, atol=1e-12)
    residual = models.apply(config, params, LAYOUT.encode(*x)).residual
    _, contexts = models.apply_moments(circuits, Moments.of(LAYOUT.encode(*x)))
    np.testing.assert_allclose(contexts, jnp.einsum("lta,ltb->lab", residual[:, :-1], residual[:, :-1]), rtol=1e-10)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("n", [3, 16, 37])  # around the blocks a sum over examples is written out in
def test_a_batch_of_moments_is_its_prompts(name, n, x64):
    """Drawn by the task and read at once, or encoded and run token by token."""
    config, task = CONFIGS[name], LinearRegression(D, M, n, noise_std=0.3)
    params, key = params_of(config), jax.random.key(1)
    moments, y_query = task.sample_moments(key, 5)
    batch = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), task.sample(key, (5,)))
    of_tokens = lambda params: jax.vmap(models.predictor(config, params, LAYOUT))(batch.x, batch.y, batch.x_query)
    of_moments = lambda params: models.read_moments(models.circuits(config, params), moments, M).T
    np.testing.assert_allclose(of_moments(params), of_tokens(params), rtol=1e-10)
    np.testing.assert_array_equal(y_query.T, batch.y_query)
    gradient = lambda form: jax.grad(lambda params: jnp.sum(form(params) ** 2))(params)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12 * float(jnp.abs(b).max()))
    jax.tree.map(close, gradient(of_moments), gradient(of_tokens))


def test_recurrent_is_stacked_with_tied_weights(x64):
    shared = CONFIGS["shared"]
    params = params_of(shared)
    stacked = replace(shared, shared=False)
    tied = {name: params["block_0"] for name in stacked.blocks}
    ours, theirs = (models.layerwise_predictor(c, p, LAYOUT)(*prompt()) for c, p in ((shared, params), (stacked, tied)))
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
def test_context_order_does_not_matter(name, x64):
    config = CONFIGS[name]
    x, y, q = prompt()
    order = np.random.default_rng(1).permutation(N)
    predict = models.predictor(config, params_of(config), LAYOUT)
    np.testing.assert_allclose(predict(x[order], y[order], q), predict(x, y, q), rtol=1e-10)


@pytest.mark.parametrize("heads", [1, 3])
def test_gradient_like_layers_are_linear_in_the_labels(heads, x64):
    """One layer whose values do not carry x x^T to y and whose scores ignore y: f(y + 2z) = f(y) + 2 f(z)."""
    config = TransformerConfig(5, 1, heads, init_scale=2.0)
    layer = params_of(config)["block_0"]["attention"]
    only_x = (jnp.arange(5) < D).astype(float)[None, None, :]
    layer = {**layer, "W_K": layer["W_K"] * only_x, "W_Q": layer["W_Q"] * only_x, "W_V": layer["W_V"] * (1 - only_x)}
    predict = models.predictor(config, {"block_0": {"attention": layer}}, LAYOUT)
    x, y, q = prompt()
    z = prompt(5)[1]
    np.testing.assert_allclose(predict(x, y + 2 * z, q), predict(x, y, q) + 2 * predict(x, z, q), rtol=1e-10)


def test_the_layer_by_hand(x64):
    """One layer against the sums of the paper's equation, head by head and token by token."""
    config = TransformerConfig(5, 1, 2, d_head=4, init_scale=2.0)
    params, tokens_in = params_of(config), np.asarray(LAYOUT.encode(*prompt()))
    w = {name: np.asarray(value) for name, value in params["block_0"]["attention"].items()}
    expected = tokens_in.copy()
    for i in range(N + 1):
        for h in range(2):
            for j in range(N):  # keys and values come from the context only
                score = (w["W_K"][h] @ tokens_in[j]) @ (w["W_Q"][h] @ tokens_in[i])
                expected[i] += w["P"][h] @ w["W_V"][h] @ tokens_in[j] * score
    found = models.apply(config, params, jnp.asarray(tokens_in))
    np.testing.assert_allclose(found.residual[-1], expected, rtol=1e-10)
    assert np.all(found.pattern[..., -1] == 0)
    assert np.all(found.scores[..., -1] == 0)
    assert np.all(found.scores[..., :-1] != 0)
    clipped = models.apply(replace(config, clip=0.5), params, jnp.asarray(tokens_in))
    np.testing.assert_allclose(clipped.residual[-1], np.clip(expected, -0.5, 0.5), rtol=1e-10)


def test_initial_weights_have_the_published_spread():
    weights = models.init(TransformerConfig(11, 2, 64, d_head=5), jax.random.key(0))["block_0"]["attention"]
    for name, value in weights.items():
        fan_in = 64 * 5 if name == "P" else 11
        assert float(jnp.std(value)) == pytest.approx((0.002 / 2 / fan_in) ** 0.5, rel=0.05), name


def random_gauge(params, rng):
    """Another point on the gauge orbit: GL(d_head) in each head, scale between circuits, heads in another order."""
    layer = {name: np.asarray(value) for name, value in params["block_0"]["attention"].items()}
    heads, width, _ = layer["W_K"].shape
    new = {name: np.empty_like(value) for name, value in layer.items()}
    for to, h in enumerate(rng.permutation(heads)):
        a, b, c = rng.normal(size=(width, width)), rng.normal(size=(width, width)), rng.uniform(0.5, 2.0)
        new["W_K"][to] = c * np.linalg.inv(a).T @ layer["W_K"][h]
        new["W_Q"][to] = a @ layer["W_Q"][h]
        new["W_V"][to] = b @ layer["W_V"][h]
        new["P"][to] = layer["P"][h] @ np.linalg.inv(b) / c
    return {"block_0": {"attention": {name: jnp.asarray(value) for name, value in new.items()}}}


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_gauge(heads, seed, x64):
    config = TransformerConfig(5, 1, heads, d_head=4, init_scale=2.0)
    params = params_of(config, seed)
    moved = random_gauge(params, np.random.default_rng(seed))
    ours, theirs = models.circuits(config, params), models.circuits(config, moved)
    predict = lambda p: models.predictor(config, p, LAYOUT)(*prompt(seed))
    np.testing.assert_allclose(predict(moved), predict(params), rtol=1e-9)
    form = analysis.canonical_form(ours, D)
    assert float(jnp.abs(analysis.canonical_form(theirs, D) - form).max() / jnp.abs(form).max()) < 1e-10
    assert float(analysis.gauge_distance(theirs, ours, D)) < 1e-10
    other = models.circuits(config, params_of(config, seed + 100))
    assert float(analysis.gauge_distance(other, ours, D)) > 0.1


def test_layers_that_read_the_labels_on_different_ways_are_one_function(x64):
    """A matrix of rank one can go either way to sum_i y_i x_i: other circuits, the same canonical form."""
    rng = np.random.default_rng(0)
    u, v = (jnp.asarray(np.append(rng.normal(size=4), 0.0)) for _ in range(2))
    y = jnp.zeros(5).at[4].set(1.0)
    direct = Circuits(jnp.outer(u, v)[None, None], jnp.outer(y, y)[None, None])
    exchanged = Circuits(jnp.outer(y, v)[None, None], jnp.outer(y, u)[None, None])
    x, labels, q = jnp.asarray(rng.normal(size=(6, 4))), jnp.asarray(rng.normal(size=(6, 1))), u[:4] + 1.0
    predict = lambda circuits: models.circuit_predictor(circuits, tokens.concatenated(4, 1))(x, labels, q)
    np.testing.assert_allclose(predict(direct), predict(exchanged), rtol=1e-12)
    assert float(analysis.gauge_distance(exchanged, direct, 4)) < 1e-12


def test_canonical_form_gives_the_prediction(x64):
    """The form is all of the function: y_hat = W_0 x - T[r, a, b, c] G[a, b] x_c, with W_0 in the layout too."""
    config = CONFIGS["heads"]
    config = replace(config, n_layers=1)
    circuits = models.circuits(config, params_of(config))
    w0 = jnp.asarray(np.random.default_rng(0).normal(size=(M, D)))
    x, y, q = prompt()
    for start in (None, w0):
        layout = tokens.concatenated(D, M, start)
        moments = Moments.of(layout.encode(x, y, q))
        form = analysis.canonical_form(circuits, D, w0=start)
        expected = -jnp.einsum("rabc,ab,c->r", form, moments.context, q) + (0 if start is None else start @ q)
        np.testing.assert_allclose(models.circuit_predictor(circuits, layout)(x, y, q), expected, rtol=1e-9)


def test_two_ways_to_the_labels(x64):
    """Gradient descent goes the direct way at full rank, a layer with roles exchanged the other at rank one."""
    config = constructions.gradient_descent_config(D, M, 1)
    direct = models.circuits(config, constructions.gradient_descent_weights(config, D, N, [0.7]))
    u, v, y = jnp.zeros(5).at[:D].set([1.0, 2.0, -1.0]), jnp.zeros(5).at[:D].set([0.5, 0.0, 1.0]), jnp.arange(5) == D
    exchanged = Circuits(jnp.outer(y, v)[None, None], -jnp.outer(y, u)[None, None])
    for circuits, shares, rank in ((direct, (1, 0, 0, 0), D), (exchanged, (0, 1, 0, 0), 1.0)):
        np.testing.assert_allclose(analysis.routes(circuits, D), shares, atol=1e-12)
        matrix = analysis.effective_preconditioner(circuits, D, N)[0]
        assert float(analysis.participation_ratio(matrix)) == pytest.approx(rank)
        x, labels, q = prompt()
        predicted = models.circuit_predictor(circuits, LAYOUT)(x, labels, q)[0]
        np.testing.assert_allclose(predicted, q @ matrix.T @ (x.T @ labels[:, 0]) / N, rtol=1e-10)


def test_interpolation_and_roll_out_have_right_ends(x64):
    config = TransformerConfig(5, init_scale=2.0)
    ours, theirs = (models.circuits(config, params_of(config, seed)) for seed in (0, 1))
    at = lambda t: models.circuit_predictor(analysis.interpolate(ours, theirs, t), LAYOUT)(*prompt())
    predict = lambda c: models.circuit_predictor(c, LAYOUT)(*prompt())
    np.testing.assert_allclose(at(0.0), predict(ours), rtol=1e-10)
    np.testing.assert_allclose(at(1.0), predict(theirs), rtol=1e-10)
    np.testing.assert_allclose(predict(analysis.roll_out(ours, D, 1)), predict(ours), rtol=1e-10)
    with pytest.raises(ValueError, match="single-head"):
        analysis.interpolate(Circuits(*(jnp.repeat(c, 2, 1) for c in ours)), theirs)
    with pytest.raises(ValueError, match="one-layer"):
        analysis.roll_out(Circuits(*(jnp.repeat(c, 2, 0) for c in ours)), D, 3)
