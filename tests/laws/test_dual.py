"""The dual model of an attention head: one gradient step gives the output of the head (Ren & Liu 2310.13220)."""

import functools
from dataclasses import replace

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import dual, models
from icl_gd.dual import features
from icl_gd.models import Modification, TransformerConfig
from icl_gd.schema import hints

E, T = 4, 6
PLAIN = TransformerConfig(E, 2, 2, attention="softmax", init_scale=6.0)
GPT2 = TransformerConfig(
    E,
    2,
    2,
    d_head=3,
    d_embed=6,
    attention="softmax",
    init="gpt2",
    init_scale=0.5,
    causal=True,
    pre_norm=True,
    biases=True,
    block_mlp_width=8,
    n_positions=T,
)
MODIFIED = {
    "alpha": Modification(query_damping=-0.7),
    "beta": Modification(negative_weight=0.6, negative_fraction=0.5),
    "keys": Modification(augment_keys=0.8),
    "values": Modification(augment_values=0.8),
    "all": Modification(0.4, 0.9, 0.3, augment_keys=1.0, augment_values=0.5),
}
CONFIGS = {
    "plain": PLAIN,
    "narrow": replace(PLAIN, d_head=3),
    "query_read": replace(PLAIN, attend_to_query=True),
    "clip": replace(PLAIN, attend_to_query=True, clip=0.6),
    "layer_norm": replace(PLAIN, layer_norm=True),
    "shared": replace(PLAIN, shared=True, layer_norm=True),
    "embedded": replace(PLAIN, d_embed=5, input_mlp_width=7),
    "perceptron": replace(PLAIN, block_mlp_width=7, d_head=2),
    "gpt2": GPT2,
    "linear": replace(PLAIN, attention="linear", init_scale=1.0),
    "linear_query_read": replace(PLAIN, attention="linear", init_scale=1.0, attend_to_query=True, d_head=3),
    **{name: replace(PLAIN, attend_to_query=True, modification=what) for name, what in MODIFIED.items()},
    **{f"causal_{name}": replace(GPT2, modification=what) for name, what in MODIFIED.items()},
    "linear_all": replace(
        PLAIN, attention="linear", init_scale=1.0, attend_to_query=True, modification=MODIFIED["all"]
    ),
}


shapes = functools.cache(models.shapes)


def model(config, seed):
    """Random parameters, of the scale of `models.init` and none of them zero, and random tokens."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if not leaf.shape:  # a modification strength: the value in the config
            return np.asarray(getattr(config.modification, name))
        if leaf.ndim == 1 or leaf.shape[:-1] == (config.n_heads,):  # a bias or a norm
            return (name == "scale") + 0.3 * rng.normal(size=leaf.shape)
        fan_in = leaf.shape[-1] * (config.n_heads if name == "P" else 1)
        return (config.init_scale / config.n_layers / fan_in) ** 0.5 * rng.normal(size=leaf.shape)

    params = jax.tree_util.tree_map_with_path(draw, shapes(config))
    return params, rng.normal(size=(T, E))


def duals(config, params, tokens, layer, query):
    kind = config.kinds[layer]
    return [dual.dual_of(config, params, layer, head, kind)(tokens, query) for head in range(config.n_heads)]


def residuals_of(config, params, tokens, layer, query):
    """Two residuals of a token after a layer, from the dual models and from the model; and the dual models."""
    heads = duals(config, params, tokens, layer, query)
    outputs = jnp.stack([dual.prediction(one) for one in heads])
    from_duals = dual.block_of(config, params, layer, tokens, query)(outputs)
    return (from_duals, models.apply(config, params, tokens).residual[layer + 1, query]), heads


def map_over_heads(f, heads):
    """Applies f to the dual models of all heads; results have a leading head axis. All shapes must be equal."""
    tree = jax.tree.structure(heads[0])
    leaves = [jnp.stack(leaf) for leaf in zip(*map(jax.tree.leaves, heads), strict=True)]
    return jax.vmap(lambda *leaves: f(jax.tree.unflatten(tree, leaves)))(*leaves)


def check(actual, expected, tolerance):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@functools.cache
def program(name, layer, query):
    """A compiled function: the residual of token `query` after `layer`, from the dual models and from the model."""
    return jax.jit(lambda params, tokens: residuals_of(CONFIGS[name], params, tokens, layer, query)[0])


@functools.cache
def whole_program(name):
    """A compiled function that measures the last token.

    It returns the residuals of `residuals_of` for both layers, the trajectory and the prediction of every head of
    layer 1, and `explicit_weights` of every head of layer 0.
    """
    config = CONFIGS[name]

    @jax.jit
    def run(params, tokens):
        residuals, heads = zip(*(residuals_of(config, params, tokens, layer, -1) for layer in (0, 1)), strict=True)
        single_steps = map_over_heads(lambda one: (dual.trajectory(one), dual.prediction(one)), heads[1])
        return residuals, single_steps, map_over_heads(explicit_weights, heads[0])

    return run


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("layer", [0, 1])
def test_the_dual_model_is_the_layer(name, layer, x64):
    residuals, *_ = whole_program(name)(*model(CONFIGS[name], 0))
    check(*map(np.asarray, residuals[layer]), 1e-12)


IN_SINGLE = ("plain", "gpt2", "linear", "all", "causal_all")  # each config is a program of its own


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in IN_SINGLE else pytest.mark.slow) for name in CONFIGS]
)
def test_the_dual_model_is_the_layer_in_single_precision(name):
    actual, expected = map(np.asarray, program(name, 1, -1)(*model(CONFIGS[name], 1)))
    assert actual.dtype == expected.dtype == np.float32
    check(actual, expected, 1e-5)


def check_query(name, seed, layer, query):
    """The dual model equals the layer at any query token."""
    with jax.enable_x64(True):
        check(*map(np.asarray, program(name, layer, query)(*model(CONFIGS[name], seed))), 1e-12)


QUERIES = st.sampled_from(sorted(CONFIGS)), st.integers(0, 10**6), st.integers(0, 1), st.integers(0, T - 1)


@hypothesis.given(*QUERIES)
@hypothesis.settings(max_examples=4, deadline=None)
def test_at_every_token_that_reads(name, seed, layer, query):
    check_query(name, seed, layer, query)


@pytest.mark.slow
@hypothesis.given(*QUERIES)
@hypothesis.settings(max_examples=20, deadline=None)
def test_at_more_tokens_that_read(name, seed, layer, query):
    check_query(name, seed, layer, query)


@pytest.mark.parametrize("name", CONFIGS)
def test_single_steps_arrive_where_one_step_on_all_does(name, x64):
    _, (trajectory, predictions), _ = jax.tree.map(np.asarray, whole_program(name)(*model(CONFIGS[name], 4)))
    for iterates, prediction in zip(trajectory.prediction, predictions, strict=True):
        np.testing.assert_allclose(iterates[-1], prediction, rtol=1e-12, atol=1e-13)
        assert np.abs(iterates[0] - prediction).max() > 1e-3 * np.abs(prediction).max()


def features_of(head):
    """A finite feature map whose inner products are the kernel at the keys and the query of a dual model."""
    if head.kernel == "linear":
        return features.identity
    points = jnp.concatenate([head.keys, head.query[None]])
    factor = jnp.linalg.cholesky(jnp.exp(points @ points.T))
    return lambda z: jax.scipy.linalg.solve_triangular(factor, jnp.exp(points @ z.T), lower=True).T


def explicit_weights(head):
    """Compares explicit weights, whose gradients are computed by automatic differentiation, with the kernel form.

    Returns the Trajectory of explicit weights after steps on one demonstration each, the Trajectory of the kernel form,
    the prediction of explicit weights after one step on all demonstrations, and the prediction of the dual model.
    """
    if head.kernel == "softmax":  # exponentials of long keys span more digits than float64 has
        scale = jnp.maximum(jnp.linalg.norm(jnp.concatenate([head.keys, head.query[None]]), axis=1).max() / 2, 1.0)
        head = replace(head, keys=head.keys / scale, query=head.query / scale)
    phi = features_of(head)

    def step(weights, t):
        iterate = dual.Trajectory(
            weights @ phi(head.query), features.loss(head, phi, weights), jnp.linalg.norm(weights)
        )
        single = replace(
            head, is_demonstration=jnp.arange(T) == t, is_attended=head.is_attended, alpha=head.alpha * (t == 0)
        )
        updated = weights - jax.grad(features.loss, 2)(single, phi, weights)
        return jnp.where(jnp.any(head.is_demonstration & (jnp.arange(T) == t)), updated, weights), iterate

    _, iterates = jax.lax.scan(step, features.start(head, phi), jnp.arange(T + 1))
    after_one_step = features.step(head, phi, step_size=0.3) @ phi(head.query)
    return iterates, dual.trajectory(head), after_one_step, dual.prediction(head)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_kernel_is_gradient_descent_with_weights_written_out(name, x64):
    """Explicit weights are trained by automatic differentiation, on one demonstration at a time and on all of them."""
    *_, (iterates, trajectory, after_one_step, predictions) = jax.tree.map(
        np.asarray, whole_program(name)(*model(CONFIGS[name], 3))
    )
    for head, prediction in enumerate(predictions):
        for actual, expected in zip(trajectory, iterates, strict=True):
            np.testing.assert_allclose(actual[head], expected[head], rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(after_one_step[head], prediction, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [{}, {"hyperbolic": True}, {"orthogonal": True}])
def test_with_any_features_a_step_gives_what_their_pattern_does(kind, x64):
    """One gradient step predicts the values, weighted by the pattern of the features."""

    @jax.jit
    def both(params, tokens):
        head, phi = (
            duals(CONFIGS["all"], params, tokens, 0, -1)[0],
            dual.positive_features(jax.random.key(0), E, 32, **kind),
        )
        factors = jnp.where(head.is_demonstration, 1.0, 1.0 - head.alpha)
        pattern = features.pattern(head, phi)
        return pattern, features.step(head, phi, 0.7) @ phi(head.query), (factors * pattern) @ head.values

    pattern, stepped, expected = map(np.asarray, both(*model(CONFIGS["all"], 4)))
    assert pattern.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(stepped, expected, rtol=1e-10)


@pytest.mark.parametrize(
    "kind", [{}, {"hyperbolic": True}, {"orthogonal": True}, {"hyperbolic": True, "orthogonal": True}]
)
def test_features_have_the_kernel_in_the_mean(kind, x64):
    a, b = np.array([0.3, -0.2, 0.5]), np.array([-0.4, 0.1, 0.6])
    draws = 20_000

    @jax.jit
    def products(a, b):
        def product(key):
            phi = dual.positive_features(key, 3, 8, **kind)
            return phi(a) @ phi(b)

        return jax.vmap(product)(jax.random.split(jax.random.key(5), draws))

    products_drawn = np.asarray(products(a, b))
    assert abs(products_drawn.mean() - np.exp(a @ b)) < 4 * products_drawn.std() / draws**0.5


def test_orthogonal_directions_are_orthogonal_and_do_better(x64):
    a, b = np.array([0.7, -0.5, 0.3, 0.4]), np.array([0.2, 0.6, -0.1, 0.5])

    @jax.jit
    def run(a, b):
        keys = jax.random.split(jax.random.key(6), 4000)

        def error(orthogonal):
            def product(key):
                phi = dual.positive_features(key, 4, 16, True, orthogonal)
                return phi(a) @ phi(b)

            return jnp.std(jax.vmap(product)(keys))

        phi = dual.positive_features(keys[0], 4, 8, orthogonal=True)
        return error(True), error(False), jax.vmap(phi)(jnp.eye(4))

    orthogonal, independent, phi = map(np.asarray, run(a, b))
    assert orthogonal < 0.95 * independent
    # log phi(z) + |z|^2/2 + log(m)/2 = w^T z, so the four unit vectors z give the coordinates of the directions w.
    w = (np.log(phi) + 0.5 + 0.5 * np.log(8.0)).T
    for block in (w[:4], w[4:]):
        gram = block @ block.T
        np.testing.assert_allclose(gram - np.diag(np.diag(gram)), 0.0, atol=1e-9)


def test_the_error_of_random_features_falls_with_the_root_of_their_number(x64):
    ms = (64, 256, 1024, 4096)

    @jax.jit
    def run(params, tokens):
        head = dual.dual_of(PLAIN, params, 0)(0.2 * tokens)  # longer vectors follow 1/sqrt(m) only at larger m
        exact, keys = dual.attention_weights(head), jax.random.split(jax.random.key(8), 400)

        def error(key, m):
            return jnp.linalg.norm(features.pattern(head, dual.positive_features(key, E, m)) - exact)

        return [jax.vmap(functools.partial(error, m=m))(keys).mean() for m in ms]

    assert np.polyfit(np.log(ms), np.log(run(*model(PLAIN, 7))), 1)[0] == pytest.approx(-0.5, abs=0.05)


@pytest.mark.parametrize("name", ["plain", "query_read", "alpha", "gpt2", "linear"])
def test_the_mean_loss_on_its_own_demonstrations_is_the_loss(name, x64):
    @jax.jit
    def both(params, tokens):
        (head, *_), context = duals(CONFIGS[name], params, tokens, 0, -1), slice(0, T - 1)
        trajectory, count = dual.trajectory(head), T - 1
        regulariser = 0.5 * head.alpha * trajectory.norm[-1] ** 2
        mean_loss = dual.mean_loss(head, head.keys[context], head.values[context])
        return mean_loss * count / jnp.exp(dual.kernel.log_divisor(head)), trajectory.loss[-1] - regulariser

    mean_loss, loss = both(*model(CONFIGS[name], 9))
    np.testing.assert_allclose(mean_loss, loss, rtol=1e-10)


negative_samples = jax.jit(models.modifications.negative_samples, static_argnums=2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("share", [0.01, 0.25, 0.5])
def test_negative_samples_are_those_of_the_lowest_scores(causal, share):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, (2, T, T)).astype(np.float32)  # with ties
    actual = np.asarray(negative_samples(scores, np.float32(share), causal))
    for head, i in np.ndindex(2, T):
        others = [j for j in range(T if causal else T - 1) if j != i and (j < i or not causal)]
        expected = np.zeros(T)
        if others and (causal or i < T - 1):
            count = max(round(share * len(others)), 1)
            expected[sorted(others, key=lambda j: (scores[head, i, j], j))[:count]] = 1 / count
        np.testing.assert_allclose(actual[head, i], expected, rtol=1e-6)


NOTHING = {
    "alpha": Modification(0.0),
    "beta": Modification(negative_weight=0.0, negative_fraction=0.5),
    "both": Modification(0.0, 0.0, 0.2),
    "augmented": Modification(augment_keys=0.0, augment_values=0.0),
}


@functools.cache
def applied(config):
    """A compiled function: all activations of a model, and the residual of the query from `apply_to_query`."""
    return jax.jit(lambda *inputs: (models.apply(config, *inputs), models.apply_to_query(config, *inputs)))


@pytest.mark.parametrize("name", NOTHING)
@pytest.mark.parametrize("base", ["attend_to_query", "narrow", "causal"])
def test_modifications_of_nothing_are_the_layer_to_the_bit(name, base):
    """Modifications of strength 0 leave all outputs bit-for-bit equal."""
    plain = {
        "attend_to_query": replace(PLAIN, attend_to_query=True),
        "narrow": replace(PLAIN, attend_to_query=True, d_head=3),
        "causal": GPT2,
    }[base]
    if name == "augmented" and base == "attend_to_query":
        pytest.skip("heads as wide as a token have no keys of their own, unless they are augmented")
    modified = replace(plain, modification=NOTHING[name])
    params, tokens = model(modified, 10)
    strengths = set(hints(Modification)) - {"negative_fraction"}
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.zeros_like(leaf) if path[-1].key in strengths else leaf, params
    )
    modified_outputs, plain_outputs = (applied(config)(params, tokens) for config in (modified, plain))
    chex.assert_trees_all_equal(modified_outputs, plain_outputs, strict=True)


@pytest.mark.parametrize("name", MODIFIED)
def test_modifications_change_what_the_query_is_told_and_it_alone_is_computed_alike(name, x64):
    """Modifications change the residual of the query, and `apply_to_query` computes the same residual."""
    config = replace(PLAIN, attend_to_query=True, modification=MODIFIED[name])
    inputs = model(config, 11)
    activations, query_alone = jax.tree.map(np.asarray, applied(config)(*inputs))
    residual = activations.residual[-1, -1]
    np.testing.assert_allclose(query_alone, residual, rtol=1e-12)
    plain = np.asarray(applied(replace(PLAIN, attend_to_query=True))(*inputs)[0].residual)[-1, -1]
    assert np.abs(residual - plain).max() > 1e-3 * np.abs(plain).max()


BAD = {
    "layer": (lambda p, x: dual.dual_of(PLAIN, p, 2), "layer=2: the model has 2"),
    "head": (lambda p, x: dual.dual_of(PLAIN, p, 0, 2), "head=2: the model has 2"),
    "linear": (lambda p, x: dual.dual_of(replace(PLAIN, attention="linear"), p, 0), "layer 0 is linear.*not softmax"),
    "softmax": (lambda p, x: dual.dual_of(PLAIN, p, 0, 0, "linear"), "layer 0 is softmax attention, not linear"),
    "mixed": (lambda p, x: dual.dual_of(replace(PLAIN, attention="mixed"), p, 0), "layer 0 is mixed"),
    "kernel": (lambda p, x: dual.dual_of(PLAIN, p, 0, 0, "exp"), "kernel='exp' must be one of softmax, linear"),
    "normalised": (lambda p, x: dual.dual_of(replace(PLAIN, sum_normalised=True), p, 0), "normalised=True"),
    "width": (lambda p, x: dual.dual_of(PLAIN, p, 0)(x[:, :3]), r"shape \(6, 3\); the model takes an array \[t 4\]"),
    "query": (lambda p, x: dual.dual_of(PLAIN, p, 0)(x, 6), "query=6: the prompt has 6 tokens"),
    "negative": (lambda p, x: dual.block_of(PLAIN, p, -1, x), "layer=-1 must be a whole number of at least 0"),
    "beyond": (lambda p, x: dual.block_of(PLAIN, p, 0, x, 6), "query=6: the prompt has 6 tokens"),
    "wide": (lambda p, x: dual.block_of(PLAIN, p, 0, jnp.ones((6, 5))), r"shape \(6, 5\); the model takes"),
    "boxed": (lambda p, x: dual.dual_of(PLAIN, {"params": p}, 0), "params have no 'block_0'"),
    "members": (
        lambda p, x: dual.dual_of(PLAIN, jax.tree.map(lambda leaf: leaf[None], p), 0),
        "the parameters of one model",
    ),
    "heads": (lambda p, x: dual.dual_of(replace(PLAIN, n_heads=3), p, 0), r"not \[3 heads, e, d_head\]"),
    "dtype": (lambda p, x: dual.dual_of(replace(PLAIN, dtype="bfloat16"), p, 0), "dtype='bfloat16' rounds"),
    "none": (lambda p, x: dual.positive_features(jax.random.key(0), 4, 0), "m=0 must be a whole number of at least 1"),
    "odd": (lambda p, x: dual.positive_features(jax.random.key(0), 4, 5, hyperbolic=True), "m=5: .* even"),
    "beta": (
        lambda p, x: Modification(negative_weight=1.5, negative_fraction=0.5),
        "negative_weight=1.5 must be a number of at least 0 and at most 1",
    ),
    "alpha": (
        lambda p, x: Modification(query_damping=(0.0, -2.0)),
        r"query_damping=\(0.0, -2.0\) must be a number of at least -1 and at most 1",
    ),
    "share": (
        lambda p, x: Modification(negative_weight=1.0, negative_fraction=0.0),
        "negative_fraction=0.0 must be a number above 0",
    ),
    "alone": (lambda p, x: Modification(negative_weight=1.0), "set both or neither"),
    "unread": (lambda p, x: replace(PLAIN, modification=Modification(0.5)), "set attend_to_query=True or causal=True"),
    "twice": (
        lambda p, x: replace(GPT2, attend_to_query=True),
        "attend_to_query=True is not accepted with causal=True",
    ),
}


@pytest.mark.parametrize("attend_to_query", [False, True])
def test_without_demonstrations_the_start_is_all(attend_to_query, x64):
    """The prompt is the query alone: it attends to itself, or to no token."""
    config = replace(PLAIN, attend_to_query=attend_to_query)

    @jax.jit
    def run(params, query_token):
        head = dual.dual_of(config, params, 0)(query_token)
        return dual.prediction(head), head.values[0], residuals_of(config, params, query_token, 0, -1)[0]

    params, tokens = model(config, 5)
    prediction, value, (actual, expected) = jax.tree.map(np.asarray, run(params, tokens[-1:]))
    np.testing.assert_array_equal(prediction, value * attend_to_query)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_clear_line(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message) as error:
        call(*jax.tree.map(jnp.asarray, model(PLAIN, 0)))
    assert "\n" not in str(error.value)
