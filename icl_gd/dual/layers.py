"""From a Transformer's attention layer to the dual models of its heads (Ren & Liu 2310.13220, sections 3 and 4).

Every head of every layer, at every token that reads, has a dual model of its own. What follows attention in a block is
linear in what it has written once the gates that were realised are held fixed: those of the perceptron, gelu(z)/z,
where Ren & Liu have the mask of a ReLU, the deviation of LayerNorm, and the entries that a clip leaves alone.
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
    """The dual model of a head, as a function `(tokens [t e], reading=-1) -> Dual` of a prompt and of who reads.

    Softmax and linear attention have one, not a mix of both, nor keys that are divided by their sums. `prediction` of
    the dual is what the head computes, values weighted by the pattern, before `P` writes it. Demonstrations are
    the tokens of the context; in a causal layer those before the one that reads. That one is the other token of the
    dual model, where the layer lets it read itself.

    Args:
      kernel: what the layer must be: "softmax", or "linear", whose feature map is the identity.

    Raises:
      ValueError: if there is no such layer or head, the layer is of another kind, or parameters do not fit the model;
        by the function, if tokens do not, or there is no such token.
    """
    _check_model(config, params, layer)
    _check_place("head", head, config.n_heads)
    if config.kinds[layer] != kernel:
        hint = f"; hand it in with kernel={config.kinds[layer]!r}" if config.kinds[layer] in KERNELS else ""
        raise ValueError(f"layer {layer} is {config.kinds[layer]} attention, not {kernel}{hint}")
    if config.sum_normalised:
        raise ValueError("normalised=True: keys that are divided by their sums have no dual model here")
    attention = params[config.blocks[layer]]["attention"]

    def of_prompt(tokens: Float[Array, "t e"], reading: int = -1) -> Dual:
        t = _check_tokens(config, tokens, reading)
        residual = apply(config, params, tokens).residual[layer]
        read = _normalised(config, params, layer, residual)
        keys, queries, values = (_in_head(attention, name, head, read) for name in "KQV")
        keys, values = _grown(attention, "keys", keys), _grown(attention, "values", values)
        place, own = jnp.arange(t), reading % t
        is_demonstration = demonstrations(t, config.causal)[own]
        reads_own = config.causal or config.attend_to_query
        is_read = is_demonstration | (reads_own & (place == (own if config.causal else t - 1)))
        if "beta" in attention:
            negative = negative_samples((queries @ keys.T)[None], attention["share"], config.causal)[0]
            values = values - jnp.where(is_demonstration[:, None], attention["beta"] * (negative @ values), 0.0)
        scale = config.head_width**-0.25 if kernel == "softmax" else 1.0
        alpha = jnp.asarray(attention.get("alpha", 0.0), values.dtype)
        return Dual(scale * keys, values, scale * queries[own], is_demonstration, is_read, alpha, kernel)

    return of_prompt


class Block(NamedTuple):
    """What a block makes of the outputs of its heads, gates as they were realised: `A sum_head P z + c`."""

    writes: Float[Array, "head e d_head"]  # P, after what follows it: A P
    rest: Float[Array, " e"]  # c, with the residual that came in

    def __call__(self, outputs: Float[Array, "head d_head"]) -> Float[Array, " e"]:
        """The residual that leaves the block."""
        return jnp.einsum("hek,hk->e", self.writes, outputs) + self.rest


@checked
def block_of(
    config: TransformerConfig, params: Params, layer: Count, tokens: Float[Array, "t e"], reading: int = -1
) -> Block:
    """What follows the heads of a layer, at the token that reads: `W_2 M W_1` of the perceptron and all beside it.

    Given the heads' outputs, those of their dual models say, it gives the token's residual after the block.

    Raises:
      ValueError: if there is no such layer or token, or tokens or parameters do not fit the model.
    """
    _check_model(config, params, layer)
    _check_tokens(config, tokens, reading)
    block, before_and_after = params[config.blocks[layer]], apply(config, params, tokens)
    residual, pattern = before_and_after.residual[layer], before_and_after.pattern[layer, :, reading]
    attention = block["attention"]
    read = _normalised(config, params, layer, residual)
    values = jnp.stack([_grown(attention, "values", _in_head(attention, "V", h, read)) for h in range(config.n_heads)])
    z = jnp.einsum("ht,htk->hk", pattern, values)
    p, start = attention["P"], residual[reading] + attention.get("b_P", 0.0)
    e = len(start)
    after = start + jnp.einsum("hek,hk->e", p, z)
    matrix, offset = jnp.eye(e, dtype=start.dtype), jnp.zeros(e, start.dtype)  # the block is matrix @ after + offset
    if config.block_mlp_width is not None:
        mlp = block["mlp"]
        norm, norm_offset = _norm_as_it_was(block["mlp_norm"], after) if config.pre_norm else (matrix, offset)
        hidden = mlp["W_1"] @ (norm @ after + norm_offset) + mlp["b_1"]
        gate = jnp.where(hidden == 0.0, 0.5, jax.nn.gelu(hidden) / jnp.where(hidden == 0.0, 1.0, hidden))
        through = (mlp["W_2"] * gate[None]) @ mlp["W_1"]
        matrix, offset = matrix + through @ norm, (mlp["W_2"] * gate[None]) @ (mlp["W_1"] @ norm_offset + mlp["b_1"])
        offset = offset + mlp["b_2"]
    if config.clip is not None:
        out = matrix @ after + offset
        inside = jnp.abs(out) <= config.clip
        matrix = jnp.where(inside[:, None], matrix, 0.0)
        offset = jnp.where(inside, offset, jnp.sign(out) * config.clip)
    return Block(jnp.einsum("ef,hfk->hek", matrix, p), matrix @ start + offset)


def _check_place(name: str, value: int, count: int) -> None:
    if value >= count:
        raise ValueError(f"{name}={value}: the model has {count}, numbered from 0")


def _check_model(config: TransformerConfig, params: Params, layer: int) -> None:
    _check_place("layer", layer, config.n_layers)
    block = params.get(config.blocks[layer]) if isinstance(params, Mapping) else None
    if block is None:
        raise ValueError(f"params have no {config.blocks[layer]!r}: they are a mapping of blocks, as of models.init")
    if (shape := block["attention"]["P"].shape)[0] != config.n_heads or len(shape) != 3:
        raise ValueError(
            f"P of layer {layer} has shape {shape}, not [{config.n_heads} heads, e, d_head]: parameters are those of "
            "one model, as of `Population.member(i)`, and of this config"
        )
    if config.dtype == "bfloat16":
        raise ValueError("dtype='bfloat16' rounds what the layer computes; replace it by None for an exact dual model")


def _check_tokens(config: TransformerConfig, tokens: Array, reading: int) -> int:
    """The number of tokens."""
    if not hasattr(tokens, "shape") or len(tokens.shape) != 2 or tokens.shape[1] != config.d_token:
        found = f"of shape {tokens.shape}" if hasattr(tokens, "shape") else f"a {type(tokens).__name__}"
        raise ValueError(
            f"tokens are {found}; the model takes an array [t {config.d_token}], as a layout's encode makes"
        )
    t = len(tokens)
    if not isinstance(reading, int | np.integer) or not -t <= reading < t:
        raise ValueError(f"reading={reading!r}: the prompt has {t} tokens")
    return t


def _normalised(config: TransformerConfig, params: Params, layer: int, residual: Array) -> Array:
    """What the attention of a layer reads."""
    if not config.reads_normalised(layer):
        return residual
    norm = params[config.blocks[layer]]["norm"]
    centred = residual - residual.mean(-1, keepdims=True)
    return centred / _deviation(centred)[..., None] * norm["scale"][None] + norm["bias"][None]


def _norm_as_it_was(norm: Params, residual: Float[Array, " e"]) -> tuple[Array, Array]:
    """LayerNorm as a matrix and an offset, its deviation held at that of this residual."""
    e = len(residual)
    centre = jnp.eye(e, dtype=residual.dtype) - 1.0 / e
    return norm["scale"][:, None] / _deviation(centre @ residual) * centre, norm["bias"]


def _deviation(centred: Array) -> Array:
    return jnp.sqrt(jnp.mean(centred**2, axis=-1) + LAYER_NORM_EPSILON)


def _in_head(attention: Params, name: str, head: int, tokens: Array) -> Float[Array, "t d_head"]:
    found = tokens @ attention[f"W_{name}"][head].T
    return found + attention[f"b_{name}"][head][None] if f"b_{name}" in attention else found


def _grown(attention: Params, name: str, inner: Array) -> Array:
    """Keys or values as they are augmented, where they are: by itself, so that a law holds `models` to it."""
    if f"augment_{name}" not in attention:
        return inner
    w_1, w_2 = (attention[f"g_{name[0].upper()}_{i}"] for i in (1, 2))
    return inner + attention[f"augment_{name}"] * (jax.nn.gelu(inner @ w_1.T) @ w_2.T)
