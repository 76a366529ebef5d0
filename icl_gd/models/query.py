"""One layer of which the query's token alone is computed: all that a prediction needs, in whatever kind of attention.

With u = W_KQ q the scores of the query are e_j^T u, and its update is sum_heads W_PV sum_j pattern_j e_j: no key, value
or update of the context is made. A batch stands in trailing axes, as in the moment form.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from icl_gd.models.attention import TINY
from icl_gd.models.transformer import LAYER_NORM_EPSILON, Params, TransformerConfig, circuits, embed, softmax_share
from icl_gd.types import Array, Layout, Predictor


def has_query_form(config: TransformerConfig) -> bool:
    """Whether the context reaches the prediction through one attention layer."""
    return config.n_layers == 1 and config.is_plain


def read_query(
    config: TransformerConfig, params: Params, tokens: Float[Array, "t e *batch"], d_output: int
) -> Float[Array, " m *batch"]:
    """The prediction of a one-layer network, minus the last `d_output` slots of the query token."""
    block = params[config.blocks[0]]
    tokens = jnp.moveaxis(embed(config, params, jnp.moveaxis(tokens, 1, -1)), -1, 1)
    read = _layer_norm(tokens, block["norm"]) if config.layer_norm else tokens
    context, query = read[:-1], read[-1]
    (w_kq,), (w_pv,) = circuits(config, params)
    heads, e, batch = config.n_heads, query.shape[0], query.shape[1:]
    asked = (w_kq.reshape(heads * e, e) @ query.reshape(e, -1)).reshape(heads, e, *batch)
    scores = jnp.einsum("ne...,he...->hn...", context, asked)
    if config.normalised:
        scores = scores / (_sums(block["attention"]["W_K"], context) * _sums(block["attention"]["W_Q"], query[None]))
    pattern = scores
    if config.kinds[0] != "linear":
        pattern = jax.nn.softmax(scores / config.head_width**0.5, axis=1)
    if config.kinds[0] == "mixed":
        share = softmax_share(params)[config.blocks[0]]
        pattern = share * pattern + (1 - share) * scores
    seen = jnp.einsum("hn...,ne...->he...", pattern, context)
    rows = w_pv[:, -d_output:].swapaxes(0, 1).reshape(d_output, heads * e)
    query = tokens[-1, -d_output:] + (rows @ seen.reshape(heads * e, -1)).reshape(d_output, *batch)
    return -query if config.clip is None else -jnp.clip(query, -config.clip, config.clip)


def query_predictor(config: TransformerConfig, params: Params, layout: Layout) -> Predictor:
    """A one-layer Transformer as a Predictor."""
    return lambda x, y, x_query: read_query(config, params, layout.encode(x, y, x_query), y.shape[-1])


def _sums(weights: Float[Array, "head d_head e"], tokens: Float[Array, "n e *batch"]) -> Array:
    """The sum over a key's or a query's entries, for all heads and tokens `[head n *batch]`."""
    summed = jnp.sum(weights, axis=1)  # [head e]
    return jnp.einsum("ha,na...->hn...", summed, tokens) + TINY


def _layer_norm(tokens: Float[Array, "t e *batch"], norm: Params) -> Float[Array, "t e *batch"]:
    entries = (1, -1) + (1,) * (tokens.ndim - 2)
    centred = tokens - jnp.mean(tokens, axis=1, keepdims=True)
    deviation = jnp.sqrt(jnp.mean(centred**2, axis=1, keepdims=True) + LAYER_NORM_EPSILON)
    return centred / deviation * norm["scale"].reshape(entries) + norm["bias"].reshape(entries)
