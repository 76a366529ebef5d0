"""Law 5 for one layer: the query form has the predictions and the gradients of the token form."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import models, tokens
from icl_gd.models import Modification, TransformerConfig, fastest_predictor
from icl_gd.models.attention import KINDS
from icl_gd.tasks import LinearRegression
from icl_gd.training import TrainSettings
from icl_gd.training.problem import learning_problem

D, M, N = 3, 2, 6
LAYOUT = tokens.concatenated(D, M)
NEGATIVE, KEYS = Modification(negative_weight=0.7, negative_fraction=0.3), Modification(augment_keys=0.5)
LAYERS = {
    "softmax": TransformerConfig(D + M, n_heads=2, attention="softmax"),
    "narrow": TransformerConfig(D + M, n_heads=3, d_head=2, attention="softmax"),
    "mixed": TransformerConfig(D + M, attention="mixed"),
    "layer_norm": TransformerConfig(D + M, shared=True, layer_norm=True),
    "normalised": TransformerConfig(D + M, n_heads=2, sum_normalised=True),
    "clipped": TransformerConfig(D + M, clip=0.3),
    "embedded": TransformerConfig(D + M, n_heads=2, d_embed=7, input_mlp_width=6),
    "perceptron": TransformerConfig(D + M, attention="softmax", input_mlp_width=6),
    "query_read": TransformerConfig(D + M, n_heads=2, attention="softmax", attend_to_query=True),
    "linear_query_read": TransformerConfig(D + M, attend_to_query=True),
    "alpha": TransformerConfig(D + M, attention="softmax", attend_to_query=True, modification=Modification(-0.4)),
    "beta": TransformerConfig(D + M, n_heads=2, attention="softmax", attend_to_query=True, modification=NEGATIVE),
    "keys": TransformerConfig(D + M, n_heads=2, attention="softmax", attend_to_query=True, modification=KEYS),
    "modified": TransformerConfig(
        D + M,
        1,
        2,
        3,
        attention="softmax",
        attend_to_query=True,
        modification=Modification(0.6, 0.7, 0.3, augment_keys=0.5, augment_values=1.0),
    ),
    "all": TransformerConfig(D + M, 1, 2, None, True, 0.5, 1.0, "mixed", True, True),
}


def params_of(config):
    """Random parameters, including those that are initialised to 0 or 1."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), models.shapes(config))


@functools.cache
def forms(name):
    """Predictions of all forms for a batch, and gradients of the training loss, computed by one program per layer."""
    config, task = LAYERS[name], LinearRegression(D, M, N)

    @jax.jit
    def run(params):
        batch = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), task.sample(jax.random.key(1), (7,)))

        def predict(make_predictor):
            return jax.vmap(make_predictor(config, params, LAYOUT))(batch.x, batch.y, batch.x_query)

        encoded = jnp.moveaxis(jax.vmap(LAYOUT.encode)(batch.x, batch.y, batch.x_query), 0, -1)
        predicted = {
            "predictor": predict(models.predictor),
            "query_predictor": predict(models.query_predictor),
            "fastest_predictor": predict(fastest_predictor),
            "read_query": models.read_query(config, params, encoded, M).T,
        }
        gradients = {}
        for form in ("auto", "tokens", "query"):
            draw, loss = learning_problem(task, config, LAYOUT, TrainSettings(batch_size=5, form=form))
            gradients[form] = jax.grad(loss)(params, draw(jax.random.key(2), 0))
        return predicted, gradients

    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, run(params_of(config)))


@pytest.mark.parametrize("name", LAYERS)
def test_the_query_alone_is_the_token_form(name):
    assert models.has_query_form(LAYERS[name])
    predicted, _ = forms(name)
    expected = predicted["predictor"]
    assert expected.dtype == np.float64
    assert np.abs(expected).max() > 0.1
    for form in ("query_predictor", "fastest_predictor", "read_query"):
        np.testing.assert_allclose(predicted[form], expected, rtol=1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_training_takes_the_same_gradient(name):
    _, gradients = forms(name)
    for form in ("auto", "query"):
        chex.assert_trees_all_close(gradients[form], gradients["tokens"], rtol=1e-8, atol=1e-12, custom_message=form)


def test_a_kind_of_attention_is_written_once(monkeypatch):
    monkeypatch.setitem(KINDS, "square", lambda scores, d_head, mix, seen, axis: scores**2 / scores.shape[axis])
    monkeypatch.setitem(LAYERS, "square", TransformerConfig(D + M, n_heads=2, attention="square"))
    predicted, gradients = forms("square")
    np.testing.assert_allclose(predicted["query_predictor"], predicted["predictor"], rtol=1e-9)
    chex.assert_trees_all_close(gradients["auto"], gradients["tokens"], rtol=1e-8, atol=1e-12)


def test_several_layers_have_no_query_form():
    config = TransformerConfig(5, 2)
    assert not models.has_query_form(config)
    with pytest.raises(ValueError, match="form='query' is exact only for one layer"):
        learning_problem(LinearRegression(D, M, N), config, LAYOUT, TrainSettings(batch_size=5, form="query"))
