"""The dual model of a softmax layer: what its gradient step says is what the layer computes (Ren & Liu 2310.13220)."""

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
from icl_gd.models import TransformerConfig

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
    "alpha": {"alpha": -0.7},
    "beta": {"beta": 0.6, "share": 0.5},
    "keys": {"augment_keys": 0.8},
    "values": {"augment_values": 0.8},
    "all": {"alpha": 0.4, "beta": 0.9, "share": 0.3, "augment_keys": 1.0, "augment_values": 0.5},
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
    **{name: replace(PLAIN, attend_to_query=True, **what) for name, what in MODIFIED.items()},
    **{f"causal_{name}": replace(GPT2, **what) for name, what in MODIFIED.items()},
    "linear_all": replace(PLAIN, attention="linear", init_scale=1.0, attend_to_query=True, **MODIFIED["all"]),
}


shapes = functools.cache(models.shapes)


def model(config, seed):
    """Parameters none of which is zero, as large as those of `models.init`, and tokens."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if not leaf.shape:  # of a modification, as the config has it
            return np.asarray(getattr(config, name))
        if leaf.ndim == 1 or leaf.shape[:-1] == (config.n_heads,):  # of a bias, or a norm
            return (name == "scale") + 0.3 * rng.normal(size=leaf.shape)
        fan_in = leaf.shape[-1] * (config.n_heads if name == "P" else 1)
        return (config.init_scale / config.n_layers / fan_in) ** 0.5 * rng.normal(size=leaf.shape)

    params = jax.tree_util.tree_map_with_path(draw, shapes(config))
    return params, rng.normal(size=(T, E))


def duals(config, params, tokens, layer, reading):
    kind = config.kinds[layer]
    return [dual.dual_of(config, params, layer, head, kind)(tokens, reading) for head in range(config.n_heads)]


def left_of(config, params, tokens, layer, reading):
    """What heads' dual models give, through what follows them, and what the layer left of the token; the duals."""
    found = duals(config, params, tokens, layer, reading)
    outputs = jnp.stack([dual.prediction(one) for one in found])
    given = dual.block_of(config, params, layer, tokens, reading)(outputs)
    return (given, models.apply(config, params, tokens).residual[layer + 1, reading]), found


def of_each(f, heads):
    """What f says of dual models of one shape; heads are a leading axis."""
    tree = jax.tree.structure(heads[0])
    leaves = [jnp.stack(leaf) for leaf in zip(*map(jax.tree.leaves, heads), strict=True)]
    return jax.vmap(lambda *leaves: f(jax.tree.unflatten(tree, leaves)))(*leaves)


def check(given, left, tolerance):
    np.testing.assert_allclose(given, left, rtol=0, atol=tolerance * np.abs(left).max())


@functools.cache
def program(name, layer, reading):
    """What one layer's dual models give the token that reads, and what the layer left of it."""
    return jax.jit(lambda params, tokens: left_of(CONFIGS[name], params, tokens, layer, reading)[0])


@functools.cache
def whole_program(name):
    """What the dual models give and the layer left at the last token, for both layers; single steps of the
    second layer's heads; and those of the first with weights written out."""
    config = CONFIGS[name]

    @jax.jit
    def run(params, tokens):
        sides, found = zip(*(left_of(config, params, tokens, layer, -1) for layer in (0, 1)), strict=True)
        single_steps = of_each(lambda one: (dual.trajectory(one), dual.prediction(one)), found[1])
        return sides, single_steps, of_each(written_out, found[0])

    return run


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("layer", [0, 1])
def test_the_dual_model_is_the_layer(name, layer, x64):
    sides, *_ = whole_program(name)(*model(CONFIGS[name], 0))
    check(*map(np.asarray, sides[layer]), 1e-12)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_dual_model_is_the_layer_in_single_precision(name):
    given, left = map(np.asarray, program(name, 1, -1)(*model(CONFIGS[name], 1)))
    assert given.dtype == left.dtype == np.float32
    check(given, left, 1e-5)


@hypothesis.given(st.sampled_from(sorted(CONFIGS)), st.integers(0, 10**6), st.integers(0, 1), st.integers(0, T - 1))
@hypothesis.settings(max_examples=10, deadline=None)
def test_at_every_token_that_reads(name, seed, layer, reading):
    with jax.enable_x64(True):
        check(*map(np.asarray, program(name, layer, reading)(*model(CONFIGS[name], seed))), 1e-12)


@pytest.mark.parametrize("name", CONFIGS)
def test_single_steps_arrive_where_one_step_on_all_does(name, x64):
    _, (process, predictions), _ = jax.tree.map(np.asarray, whole_program(name)(*model(CONFIGS[name], 4)))
    for on_the_way, whole in zip(process.prediction, predictions, strict=True):
        np.testing.assert_allclose(on_the_way[-1], whole, rtol=1e-12, atol=1e-13)
        assert np.abs(on_the_way[0] - whole).max() > 1e-3 * np.abs(whole).max()


def features_of(one):
    """A finite feature map that is exact at the keys and query of a dual model."""
    if one.kernel == "linear":
        return features.identity
    points = jnp.concatenate([one.keys, one.query[None]])
    root = jnp.linalg.cholesky(jnp.exp(points @ points.T))
    return lambda z: jax.scipy.linalg.solve_triangular(root, jnp.exp(points @ z.T), lower=True).T


def written_out(one):
    """Steps by automatic differentiation, one demonstration at a time, as a Trajectory; the Trajectory of the kernel;
    what one step on all says at the query, and what the dual model predicts there."""
    if one.kernel == "softmax":  # the exponentials of long keys span more than the digits there are
        reach = jnp.maximum(jnp.linalg.norm(jnp.concatenate([one.keys, one.query[None]]), axis=1).max() / 2, 1.0)
        one = replace(one, keys=one.keys / reach, query=one.query / reach)
    phi = features_of(one)

    def step(weights, t):
        before = dual.Trajectory(weights @ phi(one.query), features.loss(one, phi, weights), jnp.linalg.norm(weights))
        alone = replace(one, is_demonstration=jnp.arange(T) == t, is_read=one.is_read, alpha=one.alpha * (t == 0))
        moved = weights - jax.grad(features.loss, 2)(alone, phi, weights)
        return jnp.where(jnp.any(one.is_demonstration & (jnp.arange(T) == t)), moved, weights), before

    _, iterates = jax.lax.scan(step, features.start(one, phi), jnp.arange(T + 1))
    at_once = features.step(one, phi, step_size=0.3) @ phi(one.query)
    return iterates, dual.trajectory(one), at_once, dual.prediction(one)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_kernel_is_gradient_descent_with_weights_written_out(name, x64):
    """Steps by automatic differentiation, one demonstration at a time."""
    *_, (iterates, process, at_once, predictions) = jax.tree.map(
        np.asarray, whole_program(name)(*model(CONFIGS[name], 3))
    )
    for head, whole in enumerate(predictions):
        for found, expected in zip(process, iterates, strict=True):
            np.testing.assert_allclose(found[head], expected[head], rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(at_once[head], whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [{}, {"hyperbolic": True}, {"orthogonal": True}])
def test_with_any_features_a_step_gives_what_their_pattern_does(kind, x64):
    @jax.jit
    def both(params, tokens):
        one, phi = (
            duals(CONFIGS["all"], params, tokens, 0, -1)[0],
            dual.positive_features(jax.random.key(0), E, 32, **kind),
        )
        alone = jnp.where(one.is_demonstration, 1.0, 1.0 - one.alpha)
        pattern = features.pattern(one, phi)
        return pattern, features.step(one, phi, 0.7) @ phi(one.query), (alone * pattern) @ one.values

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

    found = np.asarray(products(a, b))
    assert abs(found.mean() - np.exp(a @ b)) < 4 * found.std() / draws**0.5


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
    # log phi(z) + |z|^2/2 + log(m)/2 is w^T z: the directions themselves, of the four unit vectors z.
    w = (np.log(phi) + 0.5 + 0.5 * np.log(8.0)).T
    for block in (w[:4], w[4:]):
        gram = block @ block.T
        np.testing.assert_allclose(gram - np.diag(np.diag(gram)), 0.0, atol=1e-9)


def test_the_error_of_random_features_falls_with_the_root_of_their_number(x64):
    ms = (64, 256, 1024, 4096)

    @jax.jit
    def run(params, tokens):
        one = dual.dual_of(PLAIN, params, 0)(0.2 * tokens)  # of large vectors the root is seen at huge numbers only
        exact, keys = dual.attention_weights(one), jax.random.split(jax.random.key(8), 400)

        def error(key, m):
            return jnp.linalg.norm(features.pattern(one, dual.positive_features(key, E, m)) - exact)

        return [jax.vmap(functools.partial(error, m=m))(keys).mean() for m in ms]

    assert np.polyfit(np.log(ms), np.log(run(*model(PLAIN, 7))), 1)[0] == pytest.approx(-0.5, abs=0.05)


@pytest.mark.parametrize("name", ["plain", "query_read", "alpha", "gpt2", "linear"])
def test_the_mean_loss_on_its_own_demonstrations_is_the_loss(name, x64):
    @jax.jit
    def both(params, tokens):
        (one, *_), kept = duals(CONFIGS[name], params, tokens, 0, -1), slice(0, T - 1)
        process, count = dual.trajectory(one), T - 1
        regulariser = 0.5 * one.alpha * process.norm[-1] ** 2
        own = dual.mean_loss(one, one.keys[kept], one.values[kept])
        return own * count / jnp.exp(dual.kernel.log_divisor(one)), process.loss[-1] - regulariser

    own, loss = both(*model(CONFIGS[name], 9))
    np.testing.assert_allclose(own, loss, rtol=1e-10)


negative_samples = jax.jit(models.modifications.negative_samples, static_argnums=2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("share", [0.01, 0.25, 0.5])
def test_negative_samples_are_those_of_the_lowest_scores(causal, share):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, (2, T, T)).astype(np.float32)  # with equal ones
    found = np.asarray(negative_samples(scores, np.float32(share), causal))
    for head, i in np.ndindex(2, T):
        others = [j for j in range(T if causal else T - 1) if j != i and (j < i or not causal)]
        expected = np.zeros(T)
        if others and (causal or i < T - 1):
            count = max(round(share * len(others)), 1)
            expected[sorted(others, key=lambda j: (scores[head, i, j], j))[:count]] = 1 / count
        np.testing.assert_allclose(found[head, i], expected, rtol=1e-6)


NOTHING = {
    "alpha": {"alpha": 0.0},
    "beta": {"beta": 0.0, "share": 0.5},
    "both": {"alpha": 0.0, "beta": 0.0, "share": 0.2},
}
NO_GROWTH = {"augment_keys": 0.0, "augment_values": 0.0}


@functools.cache
def applied(config):
    """All that a model computes, and the query's residual by itself."""
    return jax.jit(lambda *given: (models.apply(config, *given), models.apply_to_query(config, *given)))


@pytest.mark.parametrize("name", [*NOTHING, "augmented"])
@pytest.mark.parametrize("base", ["attend_to_query", "narrow", "causal"])
def test_modifications_of_nothing_are_the_layer_to_the_bit(name, base):
    plain = {
        "attend_to_query": replace(PLAIN, attend_to_query=True),
        "narrow": replace(PLAIN, attend_to_query=True, d_head=3),
        "causal": GPT2,
    }[base]
    if name == "augmented" and base == "attend_to_query":
        pytest.skip("heads as wide as a token have no keys of their own, unless they are augmented")
    modified = replace(plain, **(NO_GROWTH if name == "augmented" else NOTHING[name]))
    params, tokens = model(modified, 10)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.zeros_like(leaf) if path[-1].key in ("alpha", "beta", *NO_GROWTH) else leaf, params
    )
    with_it, without = (applied(config)(params, tokens) for config in (modified, plain))
    chex.assert_trees_all_equal(with_it, without, strict=True)


@pytest.mark.parametrize("name", MODIFIED)
def test_modifications_change_what_the_query_is_told_and_it_alone_is_computed_alike(name, x64):
    config = replace(PLAIN, attend_to_query=True, **MODIFIED[name])
    given = model(config, 11)
    found, of_query = jax.tree.map(np.asarray, applied(config)(*given))
    whole = found.residual[-1, -1]
    np.testing.assert_allclose(of_query, whole, rtol=1e-12)
    plain = np.asarray(applied(replace(PLAIN, attend_to_query=True))(*given)[0].residual)[-1, -1]
    assert np.abs(whole - plain).max() > 1e-3 * np.abs(plain).max()


BAD = {
    "layer": (lambda p, x: dual.dual_of(PLAIN, p, 2), "layer=2: the model has 2"),
    "head": (lambda p, x: dual.dual_of(PLAIN, p, 0, 2), "head=2: the model has 2"),
    "linear": (lambda p, x: dual.dual_of(replace(PLAIN, attention="linear"), p, 0), "layer 0 is linear.*not softmax"),
    "softmax": (lambda p, x: dual.dual_of(PLAIN, p, 0, 0, "linear"), "layer 0 is softmax attention, not linear"),
    "mixed": (lambda p, x: dual.dual_of(replace(PLAIN, attention="mixed"), p, 0), "layer 0 is mixed"),
    "kernel": (lambda p, x: dual.dual_of(PLAIN, p, 0, 0, "exp"), "kernel='exp' must be one of softmax, linear"),
    "normalised": (lambda p, x: dual.dual_of(replace(PLAIN, sum_normalised=True), p, 0), "normalised=True"),
    "width": (lambda p, x: dual.dual_of(PLAIN, p, 0)(x[:, :3]), r"shape \(6, 3\); the model takes an array \[t 4\]"),
    "reading": (lambda p, x: dual.dual_of(PLAIN, p, 0)(x, 6), "reading=6: the prompt has 6 tokens"),
    "negative": (lambda p, x: dual.block_of(PLAIN, p, -1, x), "layer=-1 must be a whole number of at least 0"),
    "beyond": (lambda p, x: dual.block_of(PLAIN, p, 0, x, 6), "reading=6: the prompt has 6 tokens"),
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
        lambda p, x: replace(PLAIN, attend_to_query=True, beta=1.5, share=0.5),
        "beta=1.5 must be a number of at least 0 and at most 1",
    ),
    "alpha": (
        lambda p, x: replace(PLAIN, attend_to_query=True, alpha=(0.0, -2.0)),
        r"alpha=\(0.0, -2.0\) must be a number of at least -1 and at most 1",
    ),
    "share": (
        lambda p, x: replace(PLAIN, attend_to_query=True, beta=1.0, share=0.0),
        "share=0.0 must be a number above 0",
    ),
    "alone": (lambda p, x: replace(PLAIN, attend_to_query=True, beta=1.0), "set both or neither"),
    "unread": (lambda p, x: replace(PLAIN, alpha=0.5), "set attend_to_query=True or causal=True"),
    "twice": (
        lambda p, x: replace(GPT2, attend_to_query=True),
        "attend_to_query=True is not accepted with causal=True",
    ),
}


@pytest.mark.parametrize("attend_to_query", [False, True])
def test_without_demonstrations_the_start_is_all(attend_to_query, x64):
    """A prompt of the query alone: it hears itself, or nobody."""
    config = replace(PLAIN, attend_to_query=attend_to_query)

    @jax.jit
    def run(params, alone):
        one = dual.dual_of(config, params, 0)(alone)
        return dual.prediction(one), one.values[0], left_of(config, params, alone, 0, -1)[0]

    params, tokens = model(config, 5)
    prediction, value, (given, left) = jax.tree.map(np.asarray, run(params, tokens[-1:]))
    np.testing.assert_array_equal(prediction, value * attend_to_query)
    np.testing.assert_allclose(given, left, rtol=1e-12)


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_clear_line(name):
    call, said = BAD[name]
    with pytest.raises(ValueError, match=said) as error:
        call(*jax.tree.map(jnp.asarray, model(PLAIN, 0)))
    assert "\n" not in str(error.value)
