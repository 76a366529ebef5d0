"""Law 1: a construction of K steps is K steps of its learner."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_gd import constructions, learners, models, tokens
from icl_gd.models import TransformerConfig

SIZES = {"d": st.integers(1, 6), "n": st.integers(1, 8), "m": st.integers(1, 3), "k": st.integers(1, 4)}


def problems(rng, d, n, m, dtype, count=8):
    """A batch of contexts and queries, W_0, a preconditioner, and a bound below which step sizes are stable."""
    x, y, q = (rng.normal(size=(count, *shape)) for shape in ((n, d), (n, m), (d,)))
    a = rng.normal(size=(d, d))
    preconditioner = a @ a.T + 0.1 * np.eye(d)
    root = np.linalg.cholesky(preconditioner)
    top = {
        name: max(np.linalg.eigvalsh(r.T @ x_i.T @ x_i @ r / n)[-1] for x_i in x)
        for name, r in (("plain", np.eye(d)), ("preconditioned", root))
    }
    arrays = (jnp.asarray(v, dtype) for v in (x, y, q, rng.normal(size=(m, d)), preconditioner))
    return *arrays, top


def check(d, n, m, k, seed, kind, shared, extra, dtype, tolerance):
    rng = np.random.default_rng(seed)
    x, y, q, w0, a, top = problems(rng, d, n, m, dtype)
    fractions = np.full(k, rng.uniform(0.05, 2.0)) if shared else rng.uniform(0.05, 2.0, k)
    etas = fractions / top[kind]
    a = a if kind == "preconditioned" else None
    config = TransformerConfig(d + m, k, n_heads=1 + extra, d_head=max(d, m) + extra, shared=shared)

    @jax.jit  # one compilation an example
    def predictions(x, y, q, w0, a):
        params = constructions.gradient_descent_weights(config, d, n, etas, w0, a)
        layout = tokens.concatenated(d, m, w0)
        forms = (
            learners.layerwise_gradient_descent(etas, w0, a),
            models.layerwise_predictor(config, params, layout),
            models.layerwise_circuit_predictor(models.circuits(config, params), layout),
        )
        return [jax.vmap(form)(x, y, q) for form in forms]

    learner, *built = map(np.asarray, predictions(x, y, q, w0, a))
    assert learner.shape == (len(x), k + 1, m)
    assert learner.dtype == dtype
    for form in built:
        assert np.abs(form - learner).max() / np.abs(learner).max() < tolerance
        last = learner[:, -1]
        assert np.abs(form[:, -1] - last).max() / np.abs(last).max() < tolerance


DRAWN = {
    **SIZES,
    "seed": st.integers(0, 2**31),
    "kind": st.sampled_from(["plain", "preconditioned"]),
    "shared": st.booleans(),
    "extra": st.integers(0, 2),
}


@settings(max_examples=15, deadline=None, derandomize=True)
@given(**DRAWN)
def test_construction_is_its_learner_in_float64(**drawn):
    with jax.enable_x64(True):
        check(**drawn, dtype=jnp.float64, tolerance=1e-12)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(**DRAWN)
def test_construction_is_its_learner_in_float32(**drawn):
    check(**drawn, dtype=jnp.float32, tolerance=1e-5)


@pytest.mark.parametrize(
    ("config", "etas", "words"),
    [
        (TransformerConfig(4, 2), [1.0], "step sizes"),
        (TransformerConfig(4, 2, shared=True), [1.0, 2.0], "shared"),
        (TransformerConfig(4, 1, d_head=2), [1.0], "d_head"),
        (TransformerConfig(3, 1), [1.0], "width=3"),
    ],
)
def test_what_a_config_cannot_hold_is_refused(config, etas, words):
    with pytest.raises(ValueError, match=words):
        constructions.gradient_descent_weights(config, 3, 5, etas)
