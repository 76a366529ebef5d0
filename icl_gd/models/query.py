"""The query form: one attention layer of any kind, computed for the query token only.

The score of key token j for the query q is e_j^T W_KQ q, and the update of the query is
sum_heads W_PV sum_j pattern_j e_j. So updates of the context are not computed. Keys or values are computed only if a
modification augments them. Batch axes come last, as in the Gram form.

    >>> import jax
    >>> from icl_gd import models
    >>> config = TransformerConfig(d_token=4, attention="softmax", init_scale=1.0)
    >>> params = models.init(config, jax.random.key(0))
    >>> tokens = jax.random.normal(jax.random.key(1), (5, 4))
    >>> expected = -models.apply(config, params, tokens).residual[-1, -1, -1]
    >>> bool(jnp.allclose(read_query(config, params, tokens, d_output=1)[0], expected, rtol=1e-4))
    True
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
    """Whether `read_query` is exact: the prediction depends on the context through one attention layer only.

    Returns:
      True for one layer without a causal mask, pre_norm, biases, positions, a block MLP or a learned read-out.
    """
    return config.n_layers == 1 and config.is_plain


@checked
def read_query(
    config: TransformerConfig, params: Params, tokens: Float[Array, "t e *batch"], d_output: Size
) -> Float[Array, " m *batch"]:
    """The prediction of a one-layer network, computed for the query token only.

    Args:
      config: an architecture with `has_query_form(config)`.
      params: parameters of one member.
      tokens: `[t e *batch]`, the query last.
      d_output: width m of the prediction.

    Returns:
      y_hat `[m *batch]`: minus the last `d_output` slots of the query token.
    """
    block = params[config.blocks[0]]
    attention = block["attention"]
    tokens = jnp.moveaxis(embed(config, params, jnp.moveaxis(tokens, 1, -1)), -1, 1)
    inputs = _layer_norm(tokens, block["norm"]) if config.layer_norm else tokens
    key_tokens = inputs if config.attend_to_query else inputs[:-1]
    batch = tokens.shape[2:]
    (w_kq,), (w_pv,) = circuits(config, params)
    keys = None
    if config.modification.augment_keys is not None:
        keys = augmented(attention, "K", _in_heads(attention["W_K"], key_tokens))

    def scores_of(queries: Float[Array, "i e *batch"]) -> Float[Array, "head i n *batch"]:
        if keys is not None:
            return jnp.einsum("hkn...,hki...->hin...", keys, _in_heads(attention["W_Q"], queries))
        return jnp.einsum("ne...,hei...->hin...", key_tokens, _in_heads(w_kq, queries))

    scores = scores_of(inputs[-1:])[:, 0]
    if config.sum_normalised:
        scores = scores / (_sums(attention["W_K"], key_tokens) * _sums(attention["W_Q"], inputs[-1:]))
    (kind,) = config.kinds
    mix = softmax_share(params).get(config.blocks[0], jnp.zeros(()))  # the default is not used: only "mixed" has a mix
    pattern = KINDS[kind](scores, config.head_width, mix, None, 1)
    if config.modification.enabled:
        all_scores = None if config.modification.negative_weight is None else scores_of(key_tokens)
        pattern = modified(attention, pattern[:, None], all_scores, causal=False)[:, 0]
    if config.modification.augment_values is None:
        rows = w_pv[:, -d_output:]
        attended = jnp.einsum("hn...,ne...->he...", pattern, key_tokens)
    else:
        values = augmented(attention, "V", _in_heads(attention["W_V"], key_tokens))
        rows = attention["P"][:, -d_output:]
        attended = jnp.einsum("hn...,hkn...->hk...", pattern, values)
    # One matrix product sums over heads and entries; its columns are the prompts.
    rows = rows.swapaxes(0, 1).reshape(d_output, -1)
    query = tokens[-1, -d_output:] + (rows @ attended.reshape(rows.shape[1], -1)).reshape(d_output, *batch)
    return -query if config.clip is None else -jnp.clip(query, -config.clip, config.clip)


def _in_heads(weights: Float[Array, "head out e"], tokens: Float[Array, "n e *batch"]) -> Array:
    """Applies the weights of every head to every token, in one matrix product: `[head out n *batch]`."""
    (heads, out, e), (n, _, *batch) = weights.shape, tokens.shape
    product = weights.reshape(heads * out, e) @ jnp.moveaxis(tokens, 1, 0).reshape(e, -1)
    return product.reshape(heads, out, n, *batch)


def _sums(weights: Float[Array, "head d_head e"], tokens: Float[Array, "n e *batch"]) -> Array:
    """Sums `[head n *batch]` over the entries of each key or query; `weights` are W_K or W_Q."""
    summed = jnp.sum(weights, axis=1)  # [head e]
    return jnp.einsum("ha,na...->hn...", summed, tokens) + TINY


def _layer_norm(tokens: Float[Array, "t e *batch"], norm: Params) -> Float[Array, "t e *batch"]:
    """LayerNorm over the second axis, with scale and bias `[e]`."""
    shape = (1, -1) + (1,) * (tokens.ndim - 2)
    centred = tokens - jnp.mean(tokens, axis=1, keepdims=True)
    deviation = jnp.sqrt(jnp.mean(centred**2, axis=1, keepdims=True) + LAYER_NORM_EPSILON)
    return centred / deviation * norm["scale"].reshape(shape) + norm["bias"].reshape(shape)
