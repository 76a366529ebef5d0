"""A batch in trailing axes equals one problem at a time: for layouts, Predictors with a batched form, and responses."""

import chex
import jax
import numpy as np
import pytest

from icl_gd import analysis, models, tokens
from icl_gd.models import TransformerConfig
from icl_gd.tasks import LinearRegression, draw_prompts
from icl_gd.types import batched

D, M, N, COUNT = 3, 2, 4, 5
W0 = np.arange(M * D).reshape(M, D) / 7.0
LAYOUTS = {
    "concatenated": tokens.concatenated(D, M),
    "from_w0": tokens.concatenated(D, M, W0),
    "interleaved": tokens.interleaved(D, M, 4),
    "own_slots": tokens.interleaved(D, M, 4, own_slots=True),
    "alternating": tokens.alternating(D, M),
}
CONFIGS = {
    "linear": TransformerConfig(D + M, 2, 2, init_scale=1.0),
    "softmax": TransformerConfig(D + M, 1, 2, attention="softmax", init_scale=1.0),
    "embedded": TransformerConfig(D + M, 1, 1, d_embed=7, input_mlp_width=6, init_scale=1.0),
    "clipped": TransformerConfig(D + M, 1, 1, layer_norm=True, shared=True, clip=0.5, init_scale=1.0),
}


def batch_last(prompts):
    """x, y and x_query with the batch axis last."""
    return [np.moveaxis(np.asarray(leaf), 0, -1) for leaf in prompts[:3]]


def prompts():
    return draw_prompts(LinearRegression(D, M, N).sample, jax.random.key(0), COUNT)


@pytest.mark.parametrize("name", LAYOUTS)
def test_tokens(name, x64):
    encode, batch = jax.jit(LAYOUTS[name].encode), prompts()
    one_by_one = [encode(*map(np.asarray, problem)) for problem in zip(*batch[:3], strict=True)]
    np.testing.assert_array_equal(encode(*batch_last(batch)), np.stack(one_by_one, -1))


@pytest.mark.parametrize("name", CONFIGS)
def test_predictions_and_responses(name, x64):
    """The fastest form on a batch equals the token form on one prompt at a time."""
    config, layout, batch = CONFIGS[name], LAYOUTS["concatenated"], prompts()
    params = models.init(config, jax.random.key(1))
    fast, plain = (
        make_predictor(config, params, layout) for make_predictor in (models.fastest_predictor, models.predictor)
    )
    assert batched(plain) is None
    fast_response, plain_response = analysis.response(fast, batch), analysis.response(plain, batch)
    assert plain_response.sensitivity.shape == (COUNT, M * D)
    chex.assert_trees_all_close(fast_response, plain_response, rtol=1e-9, atol=1e-12)
    y_hat = jax.jit(batched(fast))(*batch_last(batch))
    np.testing.assert_allclose(y_hat, np.asarray(plain_response.y_hat).T, rtol=1e-9, atol=1e-12)
    two_axes = [np.reshape(leaf, (*leaf.shape[:-1], 1, COUNT)) for leaf in batch_last(batch)]
    np.testing.assert_allclose(jax.jit(batched(fast))(*two_axes)[:, 0], y_hat, rtol=1e-12, atol=1e-14)
