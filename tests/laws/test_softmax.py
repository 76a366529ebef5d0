"""Softmax heads to first order, and learners on prompts that are centred or standardised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import analysis, constructions, learners, models, tokens
from icl_gd.models import TransformerConfig
from icl_gd.types import Circuits, Prompt

D, M, N = 3, 2, 6
LAYOUT = tokens.concatenated(D, M)


def prompt(seed=0):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=shape)) for shape in ((N, D), (N, M), (D,)))


@pytest.mark.parametrize("d_head", [2, 5])
def test_small_scores_make_a_mean_and_a_linear_layer(d_head, x64):
    """The remainder falls with the square of the scores' scale."""
    config = TransformerConfig(D + M, n_heads=3, d_head=d_head, attention="softmax", init_scale=3.0)
    params, (x, y, q) = models.init(config, jax.random.key(0)), prompt()
    mean = LAYOUT.encode(x, y, q)[:-1].mean(0)
    remainders = []
    for scale in (1e-2, 1e-3):
        small = {"block_0": {"attention": {**params["block_0"]["attention"]}}}
        small["block_0"]["attention"]["W_K"] = scale * params["block_0"]["attention"]["W_K"]
        circuits = models.circuits(config, small)
        constant = -(circuits.W_PV[0].sum(0) @ mean)[D:]
        linear = learners.centred(models.circuit_predictor(analysis.first_order(circuits, d_head, N), LAYOUT))
        remainder = models.predictor(config, small, LAYOUT)(x, y, q) - constant - linear(x, y, q)
        assert jnp.abs(linear(x, y, q)).max() > 10 * jnp.abs(remainder).max()
        remainders.append(float(jnp.abs(remainder).max()))
    assert remainders[1] < 0.02 * remainders[0]


def test_the_share_of_the_mean():
    rng = np.random.default_rng(1)
    one = jnp.asarray(rng.normal(size=(1, 1, D + M, D + M)))
    kq = jnp.zeros((1, 2, D + M, D + M))
    assert float(analysis.mean_share(Circuits(kq[:, :1], one), D)[0]) == pytest.approx(1.0)
    assert float(analysis.mean_share(Circuits(kq, jnp.concatenate([one, -one], 1)), D)[0]) == pytest.approx(0.0)
    inputs = one.at[:, :, D:].set(0.0)  # what is written into x slots is not counted
    both = jnp.concatenate([one, inputs - one], 1)
    assert float(analysis.mean_share(Circuits(kq, both), D)[0]) == pytest.approx(0.0, abs=1e-6)


def test_what_heads_have_in_common_is_taken_away_and_their_products_stay(x64):
    rng = np.random.default_rng(2)
    kq, pv = (jnp.asarray(rng.normal(size=(1, heads, 4, 4))) for heads in (2, 1))
    opposite = Circuits(kq, jnp.concatenate([pv, -pv], 1))
    least = analysis.without_common(opposite, 3)
    half = (kq[:, 0] - kq[:, 1]) / 2
    np.testing.assert_allclose(least.W_KQ, jnp.stack([half, -half], 1), rtol=1e-10)
    two_outputs = Circuits(*(jnp.asarray(rng.normal(size=(1, 5, D + M, D + M))) for _ in range(2)))
    found = analysis.without_common(two_outputs, D)
    products = lambda c: jnp.einsum("hrs,hab->rsab", c.W_PV[0, :, D:, D:], c.W_KQ[0])
    np.testing.assert_allclose(products(found), products(two_outputs), rtol=1e-9, atol=1e-12)
    assert jnp.linalg.norm(found.W_KQ.ravel()) < jnp.linalg.norm(two_outputs.W_KQ.ravel())


def test_anisotropy_is_the_distance_to_a_multiple_of_the_identity(x64):
    assert float(analysis.anisotropy(-3.0 * jnp.eye(4))) == pytest.approx(0.0, abs=1e-12)
    assert float(analysis.anisotropy(jnp.diag(jnp.array([1.0, -1.0])))) == pytest.approx(1.0)
    assert float(analysis.anisotropy(jnp.diag(jnp.array([3.0, 1.0])))) == pytest.approx((2 / 10) ** 0.5)


def test_centred_learners_do_not_see_the_mean(x64):
    x, y, q = prompt()
    learner = learners.centred(learners.gradient_descent([0.3]))
    expected = learner(x, y, q)
    np.testing.assert_allclose(learner(x + 2.0, y - 1.0, q), expected, rtol=1e-10)
    centre = lambda v: v - v.mean(0, keepdims=True)
    np.testing.assert_allclose(0.3 / N * centre(y).T @ centre(x) @ q, expected, rtol=1e-10)


def test_a_gradient_step_behind_a_layer_norm_is_one_on_standardised_tokens(x64):
    x, y, q = (1e4 * part for part in prompt())  # against which the epsilon of LayerNorm is nothing
    config = TransformerConfig(D + M, shared=True, layer_norm=True)
    built = constructions.gradient_descent_weights(config, D, N, [0.3])
    norm = {"scale": jnp.ones(D + M), "bias": jnp.zeros(D + M)}
    layer = models.predictor(config, {"block_0": {**built["block_0"], "norm": norm}}, LAYOUT)
    learner = learners.standardised(learners.gradient_descent([0.3]))
    np.testing.assert_allclose(learner(x, y, q), layer(x, y, q), rtol=1e-10)
    np.testing.assert_allclose(learner(3 * x, 3 * y, 5 * q), learner(x, y, q), rtol=1e-10)


def test_a_batch_is_transformed_as_learners_do(x64):
    batch = Prompt(
        *(jnp.stack(parts) for parts in zip(prompt(0), prompt(1), strict=True)), jnp.ones((2, M)), jnp.ones((2, M, D))
    )
    step = learners.gradient_descent([0.3])
    for learner, view in ((learners.centred, learners.centre), (learners.standardised, learners.standardise)):
        seen = view(batch)
        expected = jax.vmap(learner(step))(batch.x, batch.y, batch.x_query)
        np.testing.assert_allclose(jax.vmap(step)(seen.x, seen.y, seen.x_query), expected, rtol=1e-12)
        np.testing.assert_array_equal(seen.y_query, batch.y_query)
