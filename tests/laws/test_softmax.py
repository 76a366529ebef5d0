"""First-order expansion of softmax heads; learners on centred and on standardised prompts."""

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
    return tuple(rng.normal(size=shape) for shape in ((N, D), (N, M), (D,)))


@pytest.mark.parametrize("d_head", [2, 5])
def test_small_scores_make_a_mean_and_a_linear_layer(d_head, x64):
    """The remainder is quadratic in the scale of the scores."""
    config = TransformerConfig(D + M, n_heads=3, d_head=d_head, attention="softmax")

    @jax.jit
    def of_scale(scale, attention, x, y, q):
        small = {"block_0": {"attention": {**attention, "W_K": scale * attention["W_K"]}}}
        circuits = models.circuits(config, small)
        constant = -(circuits.W_PV[0].sum(0) @ LAYOUT.encode(x, y, q)[:-1].mean(0))[D:]
        linear = learners.centred(models.circuit_predictor(analysis.first_order(circuits, d_head, N), LAYOUT))
        return linear(x, y, q), models.predictor(config, small, LAYOUT)(x, y, q) - constant - linear(x, y, q)

    rng = np.random.default_rng(0)
    attention = jax.tree.map(lambda leaf: 0.6 * rng.normal(size=leaf.shape), models.shapes(config))["block_0"][
        "attention"
    ]
    remainders = []
    for scale in (1e-2, 1e-3):
        linear, remainder = map(np.abs, of_scale(scale, attention, *prompt()))
        assert linear.max() > 10 * remainder.max()
        remainders.append(remainder.max())
    assert remainders[1] < 0.02 * remainders[0]


def test_the_share_of_the_mean():
    """`mean_pattern_residue` is 1 for one head, and 0 if the heads' writes to y slots cancel."""
    rng = np.random.default_rng(1)
    one = rng.normal(size=(1, 1, D + M, D + M))
    x_only = one.copy()
    x_only[:, :, D:] = 0.0  # writes into x slots only, which are not counted

    @jax.jit
    def shares(*written):
        return [analysis.mean_pattern_residue(Circuits(jnp.zeros(pv.shape), pv), D)[0] for pv in written]

    by_one, *by_two = shares(one, *(np.concatenate([one, other], 1) for other in (-one, x_only - one)))
    assert float(by_one) == pytest.approx(1.0)
    assert float(by_two[0]) == pytest.approx(0.0)
    assert float(by_two[1]) == pytest.approx(0.0, abs=1e-6)


def test_what_heads_have_in_common_is_taken_away_and_their_products_stay(x64):
    """`minimal_norm_qk` removes what W_KQ of all heads have in common, and keeps sum_heads W_PV[y, y] W_KQ."""
    rng = np.random.default_rng(2)
    kq, pv = (rng.normal(size=(1, heads, 4, 4)) for heads in (2, 1))
    two_outputs = Circuits(*(rng.normal(size=(1, 5, D + M, D + M)) for _ in range(2)))

    @jax.jit
    def run(kq, pv, two_outputs):
        opposite = Circuits(kq, jnp.concatenate([pv, -pv], 1))
        return analysis.minimal_norm_qk(opposite, 3), analysis.minimal_norm_qk(two_outputs, D)

    opposite_heads, reduced = jax.tree.map(np.asarray, run(kq, pv, two_outputs))
    half = (kq[:, 0] - kq[:, 1]) / 2
    np.testing.assert_allclose(opposite_heads.W_KQ, np.stack([half, -half], 1), rtol=1e-10)

    def products(c):
        return np.einsum("hrs,hab->rsab", c.W_PV[0, :, D:, D:], c.W_KQ[0])

    np.testing.assert_allclose(products(reduced), products(two_outputs), rtol=1e-9, atol=1e-12)
    assert np.linalg.norm(reduced.W_KQ.ravel()) < np.linalg.norm(two_outputs.W_KQ.ravel())


def test_anisotropy_is_the_distance_to_a_multiple_of_the_identity(x64):
    anisotropies = jax.jit(lambda *matrices: [analysis.anisotropy(matrix) for matrix in matrices])
    multiple, opposite, other = map(float, anisotropies(-3.0 * np.eye(4), np.diag([1.0, -1.0]), np.diag([3.0, 1.0])))
    assert multiple == pytest.approx(0.0, abs=1e-12)
    assert opposite == pytest.approx(1.0)
    assert other == pytest.approx((2 / 10) ** 0.5)


def test_centred_learners_do_not_see_the_mean(x64):
    x, y, q = prompt()
    learner = jax.jit(learners.centred(learners.gradient_descent([0.3])))
    expected = learner(x, y, q)
    np.testing.assert_allclose(learner(x + 2.0, y - 1.0, q), expected, rtol=1e-10)

    def centre(v):
        return v - v.mean(0, keepdims=True)

    np.testing.assert_allclose(0.3 / N * centre(y).T @ centre(x) @ q, expected, rtol=1e-10)


def test_a_gradient_step_behind_a_layer_norm_is_one_on_standardised_tokens(x64):
    x, y, q = (1e4 * part for part in prompt())  # so large that the epsilon of LayerNorm is negligible
    config = TransformerConfig(D + M, shared=True, layer_norm=True)

    @jax.jit
    def both(x, y, q):
        built = constructions.gradient_descent_weights(config, D, N, [0.3])
        norm = {"scale": jnp.ones(D + M), "bias": jnp.zeros(D + M)}
        layer = models.predictor(config, {"block_0": {**built["block_0"], "norm": norm}}, LAYOUT)
        learner = learners.standardised(learners.gradient_descent([0.3]))
        return learner(x, y, q), layer(x, y, q), learner(3 * x, 3 * y, 5 * q)

    learned, layer, of_scaled = both(x, y, q)
    np.testing.assert_allclose(learned, layer, rtol=1e-10)
    np.testing.assert_allclose(of_scaled, learned, rtol=1e-10)


def test_a_batch_is_transformed_as_learners_do(x64):
    batch = Prompt(*map(np.stack, zip(prompt(0), prompt(1), strict=True)), np.ones((2, M)), np.ones((2, M, D)))

    @jax.jit
    def run(batch):
        step, results = learners.gradient_descent([0.3]), []
        for learner, transform in ((learners.centred, learners.centre), (learners.standardised, learners.standardise)):
            transformed = transform(batch)
            actual = jax.vmap(step)(transformed.x, transformed.y, transformed.x_query)
            results.append((actual, jax.vmap(learner(step))(batch.x, batch.y, batch.x_query), transformed.y_query))
        return results

    for actual, expected, y_query in run(batch):
        np.testing.assert_allclose(actual, expected, rtol=1e-12)
        np.testing.assert_array_equal(y_query, batch.y_query)
