"""Dual models of the attention heads of a Transformer layer (Ren & Liu 2310.13220, sections 3 and 4).

Every head of every layer has one dual model for each query token (`dual_of`). The residual after the block is a
function of the heads' outputs. This function is affine if its data-dependent factors are fixed at the values that the
prompt gives (`block_of`). The factors are the gates gelu(z)/z of the MLP (Ren & Liu use the mask of a ReLU), the
standard deviation of LayerNorm, and the set of clipped entries.

Applied to the prediction of the dual model, the affine map gives the residual after the block:

    >>> from icl_gd import dual, models
    >>> config = TransformerConfig(d_token=3, attention="softmax", init_scale=1.0)
    >>> def difference(key):
    ...     params, tokens = models.init(config, key), jax.random.normal(key, (5, 3))
    ...     outputs = dual.prediction(dual_of(config, params, layer=0)(tokens))[None]  # [head d_head]
    ...     residual = models.apply(config, params, tokens).residual[1, -1]
    ...     return block_of(config, params, 0, tokens)(outputs) - residual
    >>> bool(abs(jax.jit(difference)(jax.random.key(0))).max() < 1e-5)
    True
"""

from collections.abc import Callable, Mapping
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from icl_gd.dual.kernel import KERNELS, Dual
from icl_gd.models.config import TransformerConfig
from icl_gd.models.modifications import demonstrations, negative_samples
from icl_gd.models.transformer import LAYER_NORM_EPSILON, Params, apply
from icl_gd.schema import Count, OneOf, checked
from icl_gd.types import Array

Kernel = Annotated[str, OneOf(KERNELS)]


@checked
def dual_of(
    config: TransformerConfig, params: Params, layer: Count, head: Count = 0, kernel: Kernel = "softmax"
) -> Callable[..., Dual]:
    """Builds the dual model of one attention head, as a function of the prompt and of the query token.

    Softmax attention and linear attention have dual models. Mixed attention and attention with `sum_normalised=True`
    have none. `prediction` of the dual model is the output of the head before the multiplication by `P`: the values
    weighted by the attention pattern.

    The demonstrations are the context tokens; in a causal layer, the tokens before the query token. Besides the
    demonstrations, the query token may attend to one token, which determines the initial weights: to itself in a causal
    layer, and to the last token with `attend_to_query`.

    Source: Ren & Liu (2310.13220), section 3, and section 4 for the modifications.

    Args:
      config: the model's config.
      params: the parameters of one model, as `models.init` returns them.
      layer, head: indices from 0. Default of `head`: 0.
      kernel: the kind of attention expected in this layer, "softmax" or "linear". Default: "softmax".

    Returns:
      A function `(tokens [t e], query=-1) -> Dual`, where `query` is the index of the query token.

    Raises:
      ValueError: if the layer or the head does not exist, the layer is of another kind, or the parameters do not fit
        the config. The returned function raises ValueError if the tokens do not fit the model or `query` is out of
        range.
    """
    _check_model(config, params, layer)
    _check_index("head", head, config.n_heads)
    kind = config.kinds[layer]
    if kind != kernel:
        advice = f"use kernel={kind!r}" if kind in KERNELS else f"only {' and '.join(KERNELS)} have a dual model"
        raise ValueError(f"layer {layer} is {kind} attention, not {kernel}; {advice}")
    if config.sum_normalised:
        raise ValueError(
            "sum_normalised=True divides keys and queries by their sums, so there is no dual model; "
            "use a model with sum_normalised=False"
        )
    attention = params[config.blocks[layer]]["attention"]

    def build_dual(tokens: Float[Array, "t e"], query: int = -1) -> Dual:
        t = _check_tokens(config, tokens, query)
        inputs = _attention_inputs(config, params, layer, apply(config, params, tokens).residual[layer])
        keys, queries, values = (_project(attention, name, head, inputs) for name in "KQV")
        keys, values = _augment(attention, "keys", keys), _augment(attention, "values", values)
        position = query % t
        is_demonstration = demonstrations(t, config.causal)[position]
        other = position if config.causal else t - 1
        attends_to_other = config.causal or config.attend_to_query
        is_attended = is_demonstration | (attends_to_other & (jnp.arange(t) == other))
        if "negative_weight" in attention:
            fraction, weight = attention["negative_fraction"], attention["negative_weight"]
            negative = negative_samples((queries @ keys.T)[None], fraction, config.causal)[0]
            values = values - jnp.where(is_demonstration[:, None], weight * (negative @ values), 0.0)
        scale = config.head_width**-0.25 if kernel == "softmax" else 1.0
        alpha = jnp.asarray(attention.get("query_damping", 0.0), values.dtype)
        return Dual(scale * keys, values, scale * queries[position], is_demonstration, is_attended, alpha, kernel)

    return build_dual


class Block(NamedTuple):
    """A block as an affine map of its heads' outputs z: `A sum_head P z + c`. See `block_of`.

    Attributes:
      writes: the matrices A P.
      rest: the offset c, which includes the residual before the block.
    """

    writes: Float[Array, "head e d_head"]
    rest: Float[Array, " e"]

    def __call__(self, outputs: Float[Array, "head d_head"]) -> Float[Array, " e"]:
        """The residual after the block."""
        return jnp.einsum("hek,hk->e", self.writes, outputs) + self.rest


@checked
def block_of(
    config: TransformerConfig, params: Params, layer: Count, tokens: Float[Array, "t e"], query: int = -1
) -> Block:
    """The affine map from head outputs of a layer (such as those of the dual models) to the residual after the block.

    Gates, standard deviations and the set of clipped entries are fixed at their values for this prompt. The map is
    exact for the head outputs of this prompt.

    Source: Ren & Liu (2310.13220), section 4, where the MLP is `W_2 M W_1` with the mask M of a ReLU.

    Args:
      config: the model's config.
      params: the parameters of one model, as `models.init` returns them.
      layer: index of the layer, from 0.
      tokens: the prompt, as a layout's `encode` returns it.
      query: index of the query token. Default: -1, the last.

    Returns:
      The affine map, a `Block`: call it with the outputs `[head d_head]`.

    Raises:
      ValueError: if the layer or the token does not exist, or if tokens or parameters do not fit the config.
    """
    _check_model(config, params, layer)
    _check_tokens(config, tokens, query)
    block, activations = params[config.blocks[layer]], apply(config, params, tokens)
    residual, pattern = activations.residual[layer], activations.pattern[layer, :, query]
    attention = block["attention"]
    inputs = _attention_inputs(config, params, layer, residual)
    values = [_augment(attention, "values", _project(attention, "V", head, inputs)) for head in range(config.n_heads)]
    z = jnp.einsum("ht,htk->hk", pattern, jnp.stack(values))
    p, start = attention["P"], residual[query] + attention.get("b_P", 0.0)
    after = start + jnp.einsum("hek,hk->e", p, z)  # the residual after attention
    # The rest of the block maps `after` to matrix @ after + offset.
    matrix, offset = jnp.eye(len(start), dtype=start.dtype), jnp.zeros(len(start), start.dtype)
    if config.block_mlp_width is not None:
        matrix, offset = _affine_mlp(config, block, after)
    if config.clip is not None:
        out = matrix @ after + offset
        inside = jnp.abs(out) <= config.clip
        matrix = jnp.where(inside[:, None], matrix, 0.0)
        offset = jnp.where(inside, offset, jnp.sign(out) * config.clip)
    return Block(jnp.einsum("ef,hfk->hek", matrix, p), matrix @ start + offset)


def _affine_mlp(config: TransformerConfig, block: Params, residual: Float[Array, " e"]) -> tuple[Array, Array]:
    """The MLP with its skip connection as a matrix and an offset; gates are fixed at their values for this residual."""
    identity, zeros = jnp.eye(len(residual), dtype=residual.dtype), jnp.zeros(len(residual), residual.dtype)
    mlp = block["mlp"]
    norm, norm_offset = _affine_norm(block["mlp_norm"], residual) if config.pre_norm else (identity, zeros)
    hidden = mlp["W_1"] @ (norm @ residual + norm_offset) + mlp["b_1"]
    is_zero = hidden == 0.0
    gate = jnp.where(is_zero, 0.5, jax.nn.gelu(hidden) / jnp.where(is_zero, 1.0, hidden))  # 1/2 is the limit at zero
    gated = mlp["W_2"] * gate[None]
    through = gated @ mlp["W_1"]
    return identity + through @ norm, gated @ (mlp["W_1"] @ norm_offset + mlp["b_1"]) + mlp["b_2"]


def _check_index(name: str, value: int, count: int) -> None:
    if value >= count:
        raise ValueError(f"{name}={value}: the model has {count} {name}s, numbered from 0")


def _check_model(config: TransformerConfig, params: Params, layer: int) -> None:
    _check_index("layer", layer, config.n_layers)
    block = params.get(config.blocks[layer]) if isinstance(params, Mapping) else None
    if block is None:
        raise ValueError(
            f"params have no {config.blocks[layer]!r}; pass a mapping from blocks to parameters, as models.init returns"
        )
    shape = block["attention"]["P"].shape
    if len(shape) != 3 or shape[0] != config.n_heads:
        raise ValueError(
            f"P of layer {layer} has shape {shape}, not [{config.n_heads} heads, e, d_head]; pass the parameters of "
            "one model with this config, such as `Population.member(i)`"
        )
    if config.dtype == "bfloat16":
        raise ValueError("dtype='bfloat16' rounds the layer's activations; use dtype=None for an exact dual model")


def _check_tokens(config: TransformerConfig, tokens: Array, query: int) -> int:
    """Checks a prompt and the index of its query token, and returns the number of tokens."""
    if not hasattr(tokens, "shape") or len(tokens.shape) != 2 or tokens.shape[1] != config.d_token:
        actual = f"have shape {tokens.shape}" if hasattr(tokens, "shape") else f"are a {type(tokens).__name__}"
        raise ValueError(
            f"tokens {actual}; the model takes an array [t {config.d_token}], as a layout's encode returns"
        )
    t = len(tokens)
    if not isinstance(query, int | np.integer) or not -t <= query < t:
        raise ValueError(f"query={query!r}: the prompt has {t} tokens; use a whole number from {-t} to {t - 1}")
    return t


def _attention_inputs(config: TransformerConfig, params: Params, layer: int, residual: Array) -> Array:
    """The input of a layer's attention: the residual, after LayerNorm if the layer has one."""
    if not config.has_norm(layer):
        return residual
    norm = params[config.blocks[layer]]["norm"]
    centred = residual - residual.mean(-1, keepdims=True)
    return centred / _deviation(centred)[..., None] * norm["scale"][None] + norm["bias"][None]


def _affine_norm(norm: Params, residual: Float[Array, " e"]) -> tuple[Array, Array]:
    """LayerNorm as a matrix and an offset, with the standard deviation fixed at its value for this residual."""
    e = len(residual)
    centre = jnp.eye(e, dtype=residual.dtype) - 1.0 / e
    return norm["scale"][:, None] / _deviation(centre @ residual) * centre, norm["bias"]


def _deviation(centred: Array) -> Array:
    return jnp.sqrt(jnp.mean(centred**2, axis=-1) + LAYER_NORM_EPSILON)


def _project(attention: Params, name: str, head: int, tokens: Array) -> Float[Array, "t d_head"]:
    """Keys, queries or values of one head; `name` is "K", "Q" or "V"."""
    projected = tokens @ attention[f"W_{name}"][head].T
    return projected + attention[f"b_{name}"][head][None] if f"b_{name}" in attention else projected


def _augment(attention: Params, name: str, inner: Array) -> Array:
    """Augments "keys" or "values" (the argument `name`) if the layer has this augmentation.

    The formula is repeated here instead of imported from `models.modifications`, so that a test compares the two.
    """
    if f"augment_{name}" not in attention:
        return inner
    w_1, w_2 = (attention[f"g_{name[0].upper()}_{i}"] for i in (1, 2))
    return inner + attention[f"augment_{name}"] * (jax.nn.gelu(inner @ w_1.T) @ w_2.T)
