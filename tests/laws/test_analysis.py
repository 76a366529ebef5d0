"""Statistics of losses, and alignment of two Predictors, against direct formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from icl_gd import LinearRegression, analysis, constructions, learners, models, tokens
from icl_gd.types import Circuits

TASK = LinearRegression(3, 2, 5)
GD, HALF = learners.gradient_descent([0.8]), learners.gradient_descent([0.4])


def prompts_of(count, seed):
    """`count` prompts of TASK; call it inside jit."""
    return jax.vmap(TASK.sample)(jax.random.split(jax.random.key(seed), count))


def test_streamed_risks_are_those_of_all_prompts_together(x64):
    key = jax.random.key(3)

    def losses(prompts):
        return {"gd": analysis.losses(GD, prompts)}

    streamed = analysis.streamed_risks(losses, TASK.sample, key, 250, chunk=100)["gd"]

    @jax.jit
    def losses_in_one_pass(key):
        # Chunks are full, so 300 prompts are drawn for 250.
        keys = jnp.concatenate([jax.random.split(jax.random.fold_in(key, i), 100) for i in range(3)])
        return analysis.losses(GD, jax.vmap(TASK.sample)(keys))

    direct = np.asarray(losses_in_one_pass(key))
    np.testing.assert_allclose(streamed.mean, direct.mean(), rtol=1e-12)
    np.testing.assert_allclose(streamed.stderr, direct.std() / 300**0.5, rtol=1e-9)
    sampled = analysis.sampled_losses([losses], lambda key: (TASK.sample(key),), key, 250, chunk=100)[0]["gd"]
    np.testing.assert_allclose(sampled, direct, rtol=1e-12)


def test_a_tail_is_what_diverges_and_what_is_left():
    """With the limit 9, inf and nan are diverging and 9 is not; the median is over all losses."""
    rng, values = np.random.default_rng(0), np.array([1.0, np.nan, 4.0, 7.0, np.inf])
    rows = np.stack([rng.permutation(values), rng.permutation(values + 5.0)])
    diverging, bounded_mean, median = analysis.tail(rows, 9.0)
    np.testing.assert_allclose(diverging, [0.4, 0.6], rtol=1e-12)
    np.testing.assert_allclose(bounded_mean, [4.0, 7.5], rtol=1e-12)
    np.testing.assert_allclose(median, [7.0, 12.0], rtol=1e-12)


def test_a_sampler_with_arguments_is_compiled_once(x64):
    traced = []

    def scaled(scale, key):
        traced.append(scale)
        return LinearRegression(3, 2, 5, input_scale=scale).sample(key)

    def losses(prompts):
        return {"zero": analysis.losses(learners.predict_zero, prompts)}

    risks = [
        analysis.streamed_risks(losses, Partial(scaled, jnp.asarray(scale)), jax.random.key(0), 50)["zero"].mean
        for scale in (1.0, 3.0)
    ]
    np.testing.assert_allclose(risks[1], 9 * risks[0], rtol=1e-12)
    assert len(traced) == 1


def test_bootstrap_interval_has_the_width_of_the_sampling_error():
    values = jnp.asarray(np.random.default_rng(0).normal(2.0, size=4000), jnp.float32)
    host = np.asarray(values)
    interval = analysis.bootstrap_interval(values, jax.random.key(1), level=0.9)
    assert interval.mean == pytest.approx(float(host.mean()))
    assert interval.low < interval.mean < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.645 * float(host.std()) / 4000**0.5, rel=0.1)
    two_columns = jnp.asarray(np.stack([host, -host], axis=1))
    both = analysis.bootstrap_interval(two_columns, jax.random.key(1), level=0.9)
    for column in ((both.mean[0], both.low[0], both.high[0]), (-both.mean[1], -both.high[1], -both.low[1])):
        np.testing.assert_allclose(column, interval, rtol=1e-5)
    with pytest.raises(ValueError, match="level=1"):
        analysis.bootstrap_interval(values, jax.random.key(1), level=1.0)


def test_losses_and_those_of_members(x64):
    etas = np.linspace(0.1, 2.0, 2 * analysis.MEMBERS_AT_ONCE + 3)

    @jax.jit
    def run(seed, etas):
        prompts = prompts_of(6, seed)
        y_hat = jnp.stack([GD(*p) for p in zip(prompts.x, prompts.y, prompts.x_query, strict=True)])

        def losses_of_one_step(eta):
            return analysis.losses(learners.gradient_descent([eta]), prompts)

        return (
            y_hat,
            prompts.y_query,
            analysis.losses(GD, prompts),
            analysis.losses(learners.layerwise_gradient_descent([0.8]), prompts),
            analysis.member_losses(jax.vmap(lambda eta: learners.gradient_descent(eta[None]))(etas), prompts),
            jax.lax.map(losses_of_one_step, etas),
        )

    y_hat, y_query, losses, layerwise, by_member, expected = map(np.asarray, run(0, etas))
    np.testing.assert_allclose(losses, 0.5 * np.sum((y_hat - y_query) ** 2, -1))
    np.testing.assert_allclose(layerwise[:, 1], losses)
    np.testing.assert_allclose(by_member, expected, rtol=1e-12)


def test_alignment_of_half_the_step_size(x64):
    """Half the step size halves sensitivities and predictions: cosine 1, differences half of their norms."""

    @jax.jit
    def run(seed):
        prompts = prompts_of(20, seed)
        w = jax.vmap(lambda x, y: learners.gradient_descent_iterates(x, y, [0.8])[-1])(prompts.x, prompts.y)
        opposite = analysis.alignment(learners.gradient_descent([-0.8]), GD, prompts)
        return analysis.alignment(HALF, GD, prompts), opposite, w, prompts.x_query

    half, opposite, w, x_query = jax.tree.map(np.asarray, run(0))
    predictions = np.einsum("bmd,bd->bm", w, x_query)
    np.testing.assert_allclose(half.sensitivity_cosine, 1.0, rtol=1e-12)
    np.testing.assert_allclose(half.sensitivity_difference, np.linalg.norm(w, axis=(1, 2)).mean() / 2, rtol=1e-12)
    np.testing.assert_allclose(half.prediction_difference, np.linalg.norm(predictions, axis=1).mean() / 2, rtol=1e-12)
    np.testing.assert_allclose(opposite.sensitivity_cosine, -1.0, rtol=1e-12)


@jax.jit
def cosine_of_scaled(scale, seed):
    def scaled_gd(x, y, x_query):
        return scale * GD(x, y, x_query)

    return analysis.alignment(scaled_gd, GD, prompts_of(5, seed)).sensitivity_cosine


@pytest.mark.parametrize("scale", [0.0, 1e-25, 1e25])
def test_the_cosine_does_not_depend_on_scale(scale):
    cosine = float(cosine_of_scaled(scale, 0))
    assert cosine == pytest.approx(0.0 if scale == 0.0 else 1.0, abs=1e-5)


def test_matched_scale(x64):
    """`match_scale` removes a factor between the circuits; a layer without overlap with the reference stays finite."""
    config = constructions.gradient_descent_config(3, 2, 1)

    @jax.jit
    def run(seed, scales):
        built = models.circuits(config, constructions.gradient_descent_weights(config, 3, 5, [0.8]))

        def scaled(c):
            return analysis.match_scale(Circuits(c * built.W_KQ, built.W_PV / c), built)

        u = jnp.arange(1.0, 6.0)
        disjoint = Circuits(
            jnp.zeros_like(built.W_KQ).at[0, 0, 4].set(u), jnp.zeros_like(built.W_PV).at[0, 0, 3].set(u)
        )
        matched = analysis.match_scale(disjoint, built)
        layout, prompt = tokens.concatenated(3, 2), TASK.sample(jax.random.key(seed))
        predictions = [models.circuit_predictor(c, layout)(*prompt[:3]) for c in (matched, disjoint)]
        return built, [scaled(c) for c in scales], matched, predictions

    built, rescaled, matched, (matched_y_hat, disjoint_y_hat) = jax.tree.map(np.asarray, run(0, (7.0, -0.01)))
    for circuits in rescaled:
        for leaf, expected in zip(circuits, built, strict=True):
            np.testing.assert_allclose(leaf, expected, atol=1e-12)
    np.testing.assert_allclose(matched_y_hat, disjoint_y_hat, rtol=1e-10)
    assert float(np.abs(matched.W_KQ).max()) < 100
