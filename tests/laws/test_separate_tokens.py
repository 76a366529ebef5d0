"""Separate tokens for x and y: layout, copying construction, measures of copying, layers at the query alone."""

import functools
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import LinearRegression, analysis, constructions, learners, models, tokens
from icl_gd.models import TransformerConfig
from icl_gd.training import TrainSettings
from icl_gd.training.problem import learning_problem

KINDS = {
    "linear": {},
    "softmax": {"attention": "softmax"},
    "mixed": {"attention": "mixed"},
    "relu": {"attention": "relu", "n_heads": 2},
    "by_layer": {"attention": ("softmax", "linear")},
    "heads": {"attention": "softmax", "n_heads": 3, "d_head": 2},
    "clip": {"clip": 0.5},
    "layer_norm": {"layer_norm": True, "shared": True},
    "normalised": {"sum_normalised": True},
    "embedded": {"attention": "softmax", "d_embed": 7, "input_mlp_width": 9},
}


def problems(d, n, m, seed=0, count=4):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(count, *shape)) for shape in ((n, d), (n, m), (d,)))


def problem(d, n, m):
    return tuple(part[0] for part in problems(d, n, m))


def params_of(config, seed=1):
    """Random parameters, as large as with init_scale >= 10, including those that are initialised to 0 or 1."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), models.shapes(config))


@pytest.mark.parametrize(("d", "n", "m"), [(1, 1, 1), (3, 4, 2), (10, 10, 1), (4, 2, 4)])
@pytest.mark.parametrize("own_slots", [False, True])
def test_every_example_is_two_tokens_and_every_token_has_its_place(d, n, m, own_slots, x64):
    x, y, q = problem(d, n, m)
    layout = tokens.interleaved(d, m, 6, own_slots)
    slots = np.arange(layout.d_token) + 1.0
    encoded, read = map(
        np.asarray, jax.jit(lambda *xyq: (layout.encode(*xyq), layout.read_out(jnp.asarray(slots))))(x, y, q)
    )
    content = d + m if own_slots else d
    assert encoded.shape == (2 * n + 1, layout.d_token)
    for j in range(n):
        np.testing.assert_array_equal(encoded[2 * j, :d], x[j])
        np.testing.assert_array_equal(encoded[2 * j + 1, content - m : content], y[j])
        assert not encoded[2 * j, d:content].any()
        assert not encoded[2 * j + 1, : content - m].any()
    np.testing.assert_array_equal(encoded[-1, :d], q)
    for position, code in enumerate(encoded[:, content : content + 6]):
        angles = position / 10000 ** (np.array([0, 2, 4]) / 6)
        np.testing.assert_allclose(code, np.ravel(np.stack([np.sin(angles), np.cos(angles)], -1)), atol=1e-12)
    assert not encoded[:, content + 6 :].any()
    np.testing.assert_array_equal(read, -slots[-m:])


def test_what_separate_tokens_cannot_hold_is_refused():
    with pytest.raises(ValueError, match=r"d_output=3.*at most 2"):
        tokens.interleaved(2, 3)
    with pytest.raises(ValueError, match="d_positions=7"):
        tokens.interleaved(3, 1, 7)
    with pytest.raises(ValueError, match=r"d_output=5.*at most 4"):
        tokens.interleaved(8, 5, 4)
    tokens.interleaved(8, 5, 4, own_slots=True)


@pytest.mark.parametrize("name", tokens.LAYOUTS)
def test_layouts_take_one_problem_of_their_sizes(name):
    """Without this check, layouts that pad with zeros would accept a narrower problem."""
    x, y, q = problem(5, 4, 2)
    layout = tokens.LAYOUTS[name](5, 2)
    assert jax.eval_shape(layout.encode, x, y, q).shape[1] == layout.d_token
    wider = np.concatenate([x, x], axis=1), y, np.concatenate([q, q])
    for wrong in ((x[:, 1:], y, q[1:]), (x, y[:, 1:], q), wider):
        with pytest.raises(ValueError, match=r"do not form a prompt with d_input=5, d_output=2; give x \[n 5\]"):
            layout.encode(*map(jnp.asarray, wrong))


@pytest.mark.parametrize("distance", [-2, 0, 1, 5])
def test_a_shift_takes_every_place_to_another(distance):
    codes = tokens.positions(30, 8)
    np.testing.assert_allclose(
        codes[5:20] @ tokens.shift(8, distance).T, codes[5 + distance : 20 + distance], atol=1e-12
    )


BUILT = [  # d, n, m, k steps, frequencies of the encoding, extra heads and extra d_head, preconditioned
    (1, 1, 1, 1, 1, 0, False),
    (2, 8, 1, 3, 4, 2, True),
    (3, 5, 2, 2, 3, 1, False),
    (4, 3, 3, 1, 2, 1, True),
    (5, 6, 1, 2, 1, 2, False),
    (5, 2, 3, 3, 4, 0, True),
]


@pytest.mark.parametrize(("d", "n", "m", "k", "frequencies", "extra", "preconditioned"), BUILT)
def test_copying_and_steps_are_the_learner_at_large_scale(d, n, m, k, frequencies, extra, preconditioned, x64):
    x, y, q = problems(d, n, m, seed=d + n, count=12)
    rng = np.random.default_rng(d + n)
    a = rng.normal(size=(d, d)) if preconditioned else np.eye(d)
    largest = max(np.linalg.norm(x_i.T @ x_i / n @ a, 2) for x_i in x)
    etas = rng.uniform(0.05, 1.0, k) / largest
    config = constructions.copying_config(d, m, 2 * frequencies, k)
    config = replace(config, n_heads=1 + extra, d_head=config.head_width + extra)

    @jax.jit  # one compilation per case
    def predictions(x, y, q, a):
        a = a if preconditioned else None
        weights = constructions.copying_weights(config, d, n, etas, tokens.shift(2 * frequencies, 1), 1e4, a)
        layout = tokens.interleaved(d, m, 2 * frequencies, own_slots=True)
        built = models.layerwise_predictor(config, weights, layout)
        learner = learners.layerwise_gradient_descent(etas, preconditioner=a)
        return [jax.vmap(form)(x, y, q) for form in (built, learner)]

    built, learned = map(np.asarray, predictions(x, y, q, a))
    assert np.abs(built[:, 1:] - learned).max() / np.abs(learned).max() < 1e-12


def test_the_error_of_copying_falls_exponentially_with_scale(x64):
    """The rate is the smallest gap between the score of the next position and any other, until rounding dominates."""
    d, n, m, d_positions = 4, 6, 2, 10
    x, y, q = problems(d, n, m)
    config, layout = constructions.copying_config(d, m, d_positions), tokens.interleaved(d, m, d_positions, True)
    step = tokens.shift(d_positions, 1)

    @jax.jit
    def squared_errors(scales, x, y, q):
        learned = jax.vmap(learners.gradient_descent([0.5]))(x, y, q)

        def error(scale):
            weights = constructions.copying_weights(config, d, n, [0.5], step, scale)
            built = jax.vmap(models.predictor(config, weights, layout))(x, y, q)
            return jnp.abs(built - learned).max() / jnp.abs(learned).max()

        return jax.vmap(error)(scales)

    codes = tokens.positions(2 * n, d_positions)
    scores = codes[:-1:2] @ step.T @ codes.T  # [input token, context token]
    gap = min(row[2 * i + 1] - np.delete(row, 2 * i + 1).max() for i, row in enumerate(scores))
    errors = np.asarray(squared_errors(np.array([15.0, 25.0, 35.0, 500.0]), x, y, q))
    np.testing.assert_allclose(np.diff(np.log(errors[:3])) / 10, -gap, rtol=0.02)
    assert errors[0] > 1e-4
    assert errors[-1] < 1e-14


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"d_token": 14}, "d_token=14"),
        ({"d_head": 5}, "d_head=5"),
        ({"attention": ("linear", "linear")}, "needs softmax"),
        ({"n_layers": 3, "attention": ("softmax", "linear", "linear")}, "of 1 steps"),
    ],
)
def test_what_a_config_cannot_copy_is_refused(changes, words):
    config = replace(constructions.copying_config(3, 2, 6), **changes)
    with pytest.raises(ValueError, match=words):
        constructions.copying_weights(config, 3, 5, [1.0], tokens.shift(6, 1), 1.0)


def built_copier(d, n, m, scale=1e3, d_positions=6):
    config = constructions.copying_config(d, m, d_positions)
    weights = constructions.copying_weights(config, d, n, [0.5], tokens.shift(d_positions, 1), scale)
    return config, weights, tokens.interleaved(d, m, d_positions, own_slots=True)


def test_derivatives_are_finite_differences(x64):
    config = TransformerConfig(9, 2, attention=("softmax", "linear"))
    slots = np.array([(0, 0), (3, 2), (7, 1), (8, 0)])

    @jax.jit
    def both(params, x, y, q):
        encoded = tokens.interleaved(3, 1, 6).encode(x, y, q)

        def layer(t):
            return models.apply(config, params, t).residual[1]

        def output(slot, change):
            return layer(encoded.at[slot[0], slot[1]].add(change))[:-1].sum(-1)

        def difference(slot):
            return (output(slot, 1e-5) - output(slot, -1e-5)) / 2e-5

        return analysis.derivatives(layer, encoded, 3), jax.vmap(difference)(jnp.asarray(slots))

    derivatives, differences = map(np.asarray, both(params_of(config), *problem(3, 4, 1)))
    assert derivatives.shape == (8, 9, 3)
    for (j, c), difference in zip(slots, differences, strict=True):
        np.testing.assert_allclose(derivatives[:, j, c], difference, rtol=1e-6, atol=1e-8)
    assert not derivatives[:, -1].any()  # no token attends to the query


def test_norms_of_derivatives_are_those_of_the_published_loops(x64):
    n, d = 4, 3
    derivatives = np.random.default_rng(0).normal(size=(5, 2 * n, 2 * n + 1, d))
    derivatives[:, :, -1] = 0
    own, following, others, norms_by_prompt = 0.0, 0.0, 0.0, []
    for k in range(2 * n - 1):
        norms = np.linalg.norm(derivatives[:, k].mean(0), axis=-1)
        own, following = own + norms[k], following + norms[k + 1]
        others += (norms[:k].sum() + norms[k + 1 :].sum()) / len(norms[:-2])
        by_prompt = np.linalg.norm(derivatives[:, k], axis=-1)
        norms_by_prompt.append(
            [by_prompt[:, k], by_prompt[:, k + 1], np.delete(by_prompt, (k, k + 1, 2 * n), axis=1).mean(1)]
        )
    norms = jax.jit(
        lambda derivatives: [analysis.derivative_norms(derivatives, faithful=faithful) for faithful in (True, False)]
    )
    as_published, by_prompts = map(np.asarray, norms(derivatives))
    np.testing.assert_allclose(as_published, np.array([own, following, others]) / (2 * n - 1), rtol=1e-12)
    np.testing.assert_allclose(by_prompts, np.mean(norms_by_prompt, axis=(0, 2)), rtol=1e-12)


def test_a_copier_depends_on_the_next_token_alone(x64):
    """A copier adds the y slots of the next token, so the derivative in each of these m slots is 1."""

    @jax.jit
    def norms(x, y, q):
        config, weights, layout = built_copier(3, 4, 2)
        encoded = jax.vmap(layout.encode)(x, y, q)

        def layer(t):
            return models.apply(config, weights, t).residual[1]

        return analysis.derivative_norms(jax.vmap(lambda t: analysis.derivatives(layer, t, 5))(encoded))

    np.testing.assert_allclose(norms(*problems(3, 4, 2)), [5**0.5, 2**0.5, 0.0], atol=1e-10)


def test_scores_of_a_copier_and_of_a_layer_that_reads_everything(x64):
    d, n, m = 3, 5, 2

    @jax.jit
    def scores(x, y, q):
        config, weights, layout = built_copier(d, n, m)
        encoded = layout.encode(x, y, q)

        def scores_with(weights):
            return analysis.neighbour_scores(models.apply(config, weights, encoded).pattern[0])

        return scores_with(weights), scores_with(jax.tree.map(jnp.zeros_like, weights))

    copier, uniform = scores(*problem(d, n, m))
    np.testing.assert_allclose(copier.following, [1.0], rtol=1e-10)
    np.testing.assert_allclose(copier.label, [1.0], rtol=1e-10)
    # The last label and the query have no next token. They attend to the position with the most similar encoding.
    np.testing.assert_allclose(copier.previous, [0.0], atol=1e-10)
    for score in uniform:
        np.testing.assert_allclose(score, [1 / (2 * n)], rtol=1e-12)


def test_scores_by_hand():
    """Two examples: weight 3/4 from inputs to their label, 1/2 from y_1 to x_2, 1/5 from the query to y_2."""
    pattern = np.array(
        [
            [1.0, -3.0, 0.0, 0.0, 0.0],
            [4.0, 1.0, 5.0, 0.0, 0.0],
            [0.0, 1.0, 0.0, 3.0, 0.0],
            [0.0, 0.0, 2.0, 8.0, 0.0],
            [2.0, 0.0, 2.0, 1.0, 0.0],
        ]
    )
    scores = jax.jit(analysis.neighbour_scores)(np.stack([pattern, -2.0 * pattern]))
    for score, expected in zip(scores, ((0.4 + 0.25 + 0.2 + 0.2) / 4, (0.75 + 0.5 + 0.75) / 3, 0.75), strict=True):
        np.testing.assert_allclose(score, 2 * [expected], rtol=1e-6)


def test_induction_scores(x64):
    """The score is 1 for a head that attends to tokens with equal x, and 1 / n for a uniform pattern."""
    d, n, scale = 3, 5, 300.0
    x, y, q = problem(d, n, 1)
    layout = tokens.interleaved(d, 1, 6, own_slots=True)
    config = TransformerConfig(layout.d_token, attention="softmax")
    only_x = np.diag((np.arange(layout.d_token) < d).astype(float))

    @jax.jit
    def scores(x, y, q):
        prompt = LinearRegression(d, 1, n).sample(jax.random.key(0))
        prompt = prompt._replace(x=x / jnp.linalg.norm(x, axis=1, keepdims=True), y=y, x_query=q)
        zeros = jax.tree.map(jnp.zeros_like, models.init(config, jax.random.key(0)))["block_0"]["attention"]
        matching = {**zeros, "W_K": jnp.asarray(scale * only_x[None]), "W_Q": jnp.asarray(only_x[None])}

        def run(attention):
            return lambda t: models.apply(config, {"block_0": {"attention": attention}}, t).pattern

        return [analysis.induction_score(run(attention), layout, prompt) for attention in (matching, zeros)]

    of_matching, of_zeros = scores(x, y, q)
    np.testing.assert_allclose(of_matching, [[1.0]], rtol=1e-6)
    np.testing.assert_allclose(of_zeros, [[1 / n]], rtol=1e-12)


@pytest.mark.parametrize("name", KINDS)
def test_the_query_on_its_own_is_the_query_among_all(name, x64):
    """Equal values, and equal gradients with respect to weights and tokens."""
    config = TransformerConfig(5, 2, **{"n_heads": 2} | KINDS[name])

    def alone(params, t):
        return models.apply_to_query(config, params, t)

    def with_all(params, t):
        return models.apply(config, params, t).residual[-1, -1]

    output_weights = np.arange(1.0, config.width + 1)

    def value_and_gradient(form, params, encoded):
        def weighted_sum(*inputs):
            value = form(*inputs)
            return jnp.sum(jnp.asarray(output_weights) * value), value

        (_, value), gradient = jax.value_and_grad(weighted_sum, argnums=(0, 1), has_aux=True)(params, encoded)
        return value, gradient

    @jax.jit
    def run(params, encoded):
        return [value_and_gradient(form, params, encoded) for form in (alone, with_all)]

    encoded = np.random.default_rng(2).normal(size=(7, 5))
    (actual, gradient), (expected, expected_gradient) = run(params_of(config), encoded)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
    chex.assert_trees_all_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["softmax", "mixed", "relu", "normalised", "heads"])
def test_attention_by_hand(name, x64):
    """A layer equals its formula in keys, queries and values, computed token by token and head by head."""
    config = replace(TransformerConfig(5, 1, 2), **KINDS[name])
    params, encoded = params_of(config), np.random.default_rng(2).normal(size=(7, 5))
    run = jax.tree.map(np.asarray, jax.jit(functools.partial(models.apply, config))(params, encoded))
    w = params["block_0"]["attention"]
    expected = encoded.copy()
    for i in range(7):
        for h in range(config.n_heads):
            query, keys = w["W_Q"][h] @ encoded[i], encoded[:-1] @ w["W_K"][h].T
            if config.sum_normalised:
                query, keys = query / (query.sum() + 1e-6), keys / (keys.sum(1, keepdims=True) + 1e-6)
            scores = keys @ query
            soft = np.exp(scores / config.head_width**0.5)
            mix = 1 / (1 + np.exp(-10 * w["mix"][0, 0, 0])) if name == "mixed" else float("softmax" in config.kinds)
            pattern = mix * soft / soft.sum() + (1 - mix) * scores
            pattern = np.maximum(scores, 0.0) / 6 if name == "relu" else pattern
            expected[i] += w["P"][h] @ w["W_V"][h] @ (pattern @ encoded[:-1])
    np.testing.assert_allclose(run.residual[-1], expected, rtol=1e-9)
    assert not run.pattern[..., -1].any()
    assert not run.scores[..., -1].any()


def test_moments_of_separate_tokens_are_those_of_the_layout(x64):
    """`sample_gram` is for tokens (x, y), so for separate tokens the Gram form is computed from encoded prompts."""
    task, config = LinearRegression(3, 2, 4), TransformerConfig(13, 2)

    @jax.jit
    def losses(params):
        by_form = []
        for form in ("tokens", "gram"):
            settings = TrainSettings(batch_size=6, form=form)
            draw, loss = learning_problem(task, config, tokens.interleaved(3, 2), settings, concatenated=False)
            by_form.append(loss(params, draw(jax.random.key(1), 0)))
        return by_form

    token_form, gram_form = losses(params_of(config))
    np.testing.assert_allclose(token_form, gram_form, rtol=1e-10)
