"""What one prompt looks like inside a model: patterns, values, shares of the prediction, and the lens."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from icl_gd.analysis.attribution import attribution, attribution_by_key, lens
from icl_gd.models import Model, TransformerConfig
from icl_gd.types import Array


class Look(NamedTuple):
    """Values of one prompt.

    Attributes:
      prediction: the prediction.
      lens: the read-out of every residual of the query token, in the order of `lens_names`.
      shares: the shares of the prediction, in the order of `share_names`; they add up to the prediction.
      pattern: attention weights.
      scores: attention logits.
      values: value vectors.
      by_key: the part of each head's share that comes from each key token; they add up to the share of the head.
    """

    prediction: Float[Array, " m"]
    lens: Float[Array, "residual m"]
    shares: Float[Array, "share m"]
    pattern: Float[Array, "layer head t t"]
    scores: Float[Array, "layer head t t"]
    values: Float[Array, "layer head t d_head"]
    by_key: Float[Array, "layer head t m"]


@jax.jit
def look(model: Model, x: Array, y: Array, x_query: Array) -> Look:
    """Runs a model on one prompt.

    Args:
      model: the model, without edits.
      x: inputs `[n d]`.
      y: labels `[n m]`.
      x_query: query `[d]`.

    Returns:
      The values of the prompt.
    """
    prompt = x, y, x_query
    recorded = model.run(*prompt, ("attn.pattern", "attn.scores", "attn.v", "prediction"))
    return Look(
        prediction=recorded["prediction"],
        lens=_by_depth(model, *prompt),
        shares=_in_order(model, *prompt),
        pattern=recorded.stack("attn.pattern"),
        scores=recorded.stack("attn.scores"),
        values=recorded.stack("attn.v").swapaxes(1, 2),
        by_key=attribution_by_key(model, *prompt),
    )


def _by_depth(model: Model, x: Array, y: Array, x_query: Array) -> Array:
    """The lens `[residual m]`. The residual before a layer is that after the layer before it."""
    config, read = model.config, lens(model, x, y, x_query)
    result = [read["resid_pre", 0]]
    for layer in range(config.n_layers):
        result += [read["resid_mid", layer]] if _has_mlp(config) else []
        result.append(read["resid_post", layer])
    return jnp.stack(result)


def lens_names(config: TransformerConfig) -> list[str]:
    """The names of the residuals that the lens reads out."""
    result = ["embedding"]
    for layer in range(config.n_layers):
        result += [f"layer {layer}, attention", f"layer {layer}, MLP"] if _has_mlp(config) else [f"layer {layer}"]
    return result


def _in_order(model: Model, x: Array, y: Array, x_query: Array) -> Array:
    """The shares `[share m]`."""
    config, shares = model.config, attribution(model, x, y, x_query)
    result = [shares.embed[None]] + [shares.pos_embed[None]] * (config.n_positions is not None)
    for layer in range(config.n_layers):
        result.append(shares.heads[layer])
        result += [shares.mlps[layer][None]] * _has_mlp(config)
        result += [shares.clip[layer][None]] * (config.clip is not None)
    return jnp.concatenate(result + [shares.constant[None]] * _has_biases(config))


def share_names(config: TransformerConfig) -> list[str]:
    """The names of the shares."""
    result = ["embedding"] + ["positions"] * (config.n_positions is not None)
    for layer in range(config.n_layers):
        result += [f"layer {layer}, head {head}" for head in range(config.n_heads)]
        result += [f"layer {layer}, MLP"] * _has_mlp(config)
        result += [f"layer {layer}, clip"] * (config.clip is not None)
    return result + ["all biases"] * _has_biases(config)


def _has_biases(config: TransformerConfig) -> bool:
    """Whether the query's residual or its read-out has a constant summand."""
    return config.biases or _has_mlp(config) or config.input_mlp_width is not None or config.d_read_out is not None


def _has_mlp(config: TransformerConfig) -> bool:
    return config.block_mlp_width is not None
