"""Law 5, one layer more: of the query alone, or token by token, a layer is one function with one gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import models, tokens
from icl_gd.models import TransformerConfig, fastest_predictor
from icl_gd.tasks import LinearRegression
from icl_gd.training import TrainSettings
from icl_gd.training.problem import learning_problem

D, M, N = 3, 2, 6
LAYOUT = tokens.concatenated(D, M)
LAYERS = {
    "softmax": TransformerConfig(D + M, n_heads=2, attention="softmax"),
    "narrow": TransformerConfig(D + M, n_heads=3, d_head=2, attention="softmax"),
    "mixed": TransformerConfig(D + M, attention="mixed"),
    "layer_norm": TransformerConfig(D + M, shared=True, layer_norm=True),
    "normalised": TransformerConfig(D + M, n_heads=2, normalised=True),
    "clipped": TransformerConfig(D + M, clip=0.3),
    "embedded": TransformerConfig(D + M, n_heads=2, d_embed=7, mlp_width=6),
    "perceptron": TransformerConfig(D + M, attention="softmax", mlp_width=6),
    "query_read": TransformerConfig(D + M, n_heads=2, attention="softmax", reads_query=True),
    "linear_query_read": TransformerConfig(D + M, reads_query=True),
    "alpha": TransformerConfig(D + M, attention="softmax", reads_query=True, alpha=-0.4),
    "beta": TransformerConfig(D + M, n_heads=2, attention="softmax", reads_query=True, beta=0.7, share=0.3),
    "keys": TransformerConfig(D + M, n_heads=2, attention="softmax", reads_query=True, augment_keys=0.5),
    "modified": TransformerConfig(
        D + M,
        1,
        2,
        3,
        attention="softmax",
        reads_query=True,
        alpha=0.6,
        beta=0.7,
        share=0.3,
        augment_keys=0.5,
        augment_values=1.0,
    ),
    "all": TransformerConfig(D + M, 1, 2, None, True, 0.5, 1.0, "mixed", True, True),
}


def params_of(config):
    """Random weights, those that start as zero or one among them."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), models.init(config, jax.random.key(0)))


@pytest.mark.parametrize("name", LAYERS)
def test_the_query_alone_is_the_token_form(name, x64):
    config = LAYERS[name]
    params, task = params_of(config), LinearRegression(D, M, N)
    batch = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), task.sample(jax.random.key(1), (7,)))
    assert models.has_query_form(config)
    predict = lambda f: jax.vmap(f(config, params, LAYOUT))(batch.x, batch.y, batch.x_query)
    expected = predict(models.predictor)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(predict(models.query_predictor), expected, rtol=1e-9)
    np.testing.assert_allclose(predict(fastest_predictor), expected, rtol=1e-9)
    encoded = jnp.moveaxis(jax.vmap(LAYOUT.encode)(batch.x, batch.y, batch.x_query), 0, -1)
    np.testing.assert_allclose(models.read_query(config, params, encoded, M).T, expected, rtol=1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_training_takes_the_same_gradient(name, x64):
    config, task = LAYERS[name], LinearRegression(D, M, N)
    found = {}
    for form in ("auto", "tokens"):
        draw, loss = learning_problem(task, config, LAYOUT, TrainSettings(batch_size=5, form=form))
        found[form] = jax.grad(loss)(params_of(config), draw(jax.random.key(2), 0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12), found["auto"], found["tokens"])


def test_several_layers_have_no_query_form():
    assert not models.has_query_form(TransformerConfig(5, 2))
