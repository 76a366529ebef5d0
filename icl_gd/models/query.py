"""One layer of which the query's token alone is computed: all that a prediction needs, in whatever kind of attention.

With u = W_KQ q the scores of the query are e_j^T u, and its update is sum_heads W_PV sum_j pattern_j e_j: no key, value
or update of the context is made. A batch stands in trailing axes, as in the moment form.
"""

import jax.numpy as jnp
from jaxtyping import Float

from icl_gd.models.attention import KINDS, TINY
from icl_gd.models.config import TransformerConfig
from icl_gd.models.modifications import augmented, modified
from icl_gd.models.transformer import LAYER_NORM_EPSILON, Params, circuits, embed, softmax_share
from icl_gd.schema import Size, checked
from icl_gd.types import Array


def has_query_form(config: TransformerConfig) -> bool:
    """Whether the context reaches the prediction through one attention layer."""
    return config.n_layers == 1 and config.is_plain


@checked
def read_query(
    config: TransformerConfig, params: Params, tokens: Float[Array, "t e *batch"], d_output: Size
) -> Float[Array, " m *batch"]:
    """The prediction of a one-layer network, minus the last `d_output` slots of the query token."""
    block = params[config.blocks[0]]
    attention = block["attention"]
    tokens = jnp.moveaxis(embed(config, params, jnp.moveaxis(tokens, 1, -1)), -1, 1)
    read = _layer_norm(tokens, block["norm"]) if config.layer_norm else tokens
    context, batch = read if config.attend_to_query else read[:-1], tokens.shape[2:]
    (w_kq,), (w_pv,) = circuits(config, params)
    keys = None if config.augment_keys is None else augmented(attention, "K", _in_heads(attention["W_K"], context))

    def scores_of(queries: Float[Array, "i e *batch"]) -> Float[Array, "head i n *batch"]:
        if keys is not None:
            return jnp.einsum("hkn...,hki...->hin...", keys, _in_heads(attention["W_Q"], queries))
        return jnp.einsum("ne...,hei...->hin...", context, _in_heads(w_kq, queries))

    scores = scores_of(read[-1:])[:, 0]
    if config.sum_normalised:
        scores = scores / (_sums(attention["W_K"], context) * _sums(attention["W_Q"], read[-1:]))
    (kind,) = config.kinds
    mix = softmax_share(params).get(config.blocks[0], jnp.zeros(()))  # of a kind that learns one
    pattern = KINDS[kind](scores, config.head_width, mix, None, 1)
    if config.modification.there:
        own = None if config.beta is None else scores_of(context)
        pattern = modified(attention, pattern[:, None], own, causal=False)[:, 0]
    if config.augment_values is None:
        rows, seen = w_pv[:, -d_output:], jnp.einsum("hn...,ne...->he...", pattern, context)
    else:
        values = augmented(attention, "V", _in_heads(attention["W_V"], context))
        rows, seen = attention["P"][:, -d_output:], jnp.einsum("hn...,hkn...->hk...", pattern, values)
    rows = rows.swapaxes(0, 1).reshape(d_output, -1)
    query = tokens[-1, -d_output:] + (rows @ seen.reshape(rows.shape[1], -1)).reshape(d_output, *batch)
    return -query if config.clip is None else -jnp.clip(query, -config.clip, config.clip)


def _in_heads(weights: Float[Array, "head out e"], tokens: Float[Array, "n e *batch"]) -> Array:
    """`[head out n *batch]`, as one product of matrices."""
    (heads, out, e), (n, _, *batch) = weights.shape, tokens.shape
    found = weights.reshape(heads * out, e) @ jnp.moveaxis(tokens, 1, 0).reshape(e, -1)
    return found.reshape(heads, out, n, *batch)


def _sums(weights: Float[Array, "head d_head e"], tokens: Float[Array, "n e *batch"]) -> Array:
    """The sum over a key's or a query's entries, for all heads and tokens `[head n *batch]`."""
    summed = jnp.sum(weights, axis=1)  # [head e]
    return jnp.einsum("ha,na...->hn...", summed, tokens) + TINY


def _layer_norm(tokens: Float[Array, "t e *batch"], norm: Params) -> Float[Array, "t e *batch"]:
    entries = (1, -1) + (1,) * (tokens.ndim - 2)
    centred = tokens - jnp.mean(tokens, axis=1, keepdims=True)
    deviation = jnp.sqrt(jnp.mean(centred**2, axis=1, keepdims=True) + LAYER_NORM_EPSILON)
    return centred / deviation * norm["scale"].reshape(entries) + norm["bias"].reshape(entries)
