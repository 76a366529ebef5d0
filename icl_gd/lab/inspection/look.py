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
    read, shares = lens(model, *prompt), attribution(model, *prompt)
    recorded = model.run(*prompt, ("attn.pattern", "attn.scores", "attn.v", "prediction"))
    return Look(
        prediction=recorded["prediction"],
        lens=jnp.stack([read[residual] for residual in _residuals(model.config).values()]),
        shares=jnp.stack([getattr(shares, field)[index] for field, index in _parts(model.config).values()]),
        pattern=recorded.stack("attn.pattern"),
        scores=recorded.stack("attn.scores"),
        values=recorded.stack("attn.v").swapaxes(1, 2),
        by_key=attribution_by_key(model, *prompt),
    )


def lens_names(config: TransformerConfig) -> list[str]:
    """The names of the residuals that the lens reads out."""
    return list(_residuals(config))


def share_names(config: TransformerConfig) -> list[str]:
    """The names of the shares."""
    return list(_parts(config))


def _residuals(config: TransformerConfig) -> dict[str, tuple[str, int]]:
    """The site and layer of every residual that the lens reads out, by its name on the page.

    The residual before a layer is that after the layer before it.
    """
    result = {"embedding": ("resid_pre", 0)}
    for layer in range(config.n_layers):
        if _has_mlp(config):
            result[f"layer {layer}, attention"] = "resid_mid", layer
        result[f"layer {layer}, MLP" if _has_mlp(config) else f"layer {layer}"] = "resid_post", layer
    return result


def _parts(config: TransformerConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The field of `Attribution` and the index in it of every share, by its name on the page."""
    result: dict[str, tuple[str, tuple[int, ...]]] = {"embedding": ("embed", ())}
    if config.n_positions is not None:
        result["positions"] = "pos_embed", ()
    for layer in range(config.n_layers):
        result |= {f"layer {layer}, head {head}": ("heads", (layer, head)) for head in range(config.n_heads)}
        if _has_mlp(config):
            result[f"layer {layer}, MLP"] = "mlps", (layer,)
        if config.clip is not None:
            result[f"layer {layer}, clip"] = "clip", (layer,)
    if _has_biases(config):
        result["all biases"] = "constant", ()
    return result


def _has_biases(config: TransformerConfig) -> bool:
    """Whether the query's residual or its read-out has a constant summand."""
    return config.biases or _has_mlp(config) or config.input_mlp_width is not None or config.d_read_out is not None


def _has_mlp(config: TransformerConfig) -> bool:
    return config.block_mlp_width is not None
