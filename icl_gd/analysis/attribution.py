"""Direct attribution: the share that each component of a Transformer adds to the prediction of the query.

>>> from icl_gd import models, tokens
>>> config = models.TransformerConfig(d_token=3, n_layers=2, n_heads=2, init_scale=1.0)
>>> model = models.Model(config, models.init(config, jax.random.key(0)), tokens.concatenated(2, 1))
>>> prompt = jnp.eye(2), jnp.ones((2, 1)), jnp.ones(2)
>>> shares = attribution(model, *prompt)
>>> shares.heads.shape, bool(jnp.allclose(shares.total, model(*prompt), atol=1e-6))
((2, 2, 1), True)
>>> lens(model, *prompt).stack("resid_post").shape  # [layer m]
(2, 1)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from icl_gd.analysis.places import program_model
from icl_gd.models import sites
from icl_gd.models.activations import Activations
from icl_gd.models.model import Model
from icl_gd.models.transformer import read_out
from icl_gd.types import Array

AFTER_LAYERS = ("ln_final.scale", "ln_final.normalized", "prediction")
NOT_ADDED = ("attn_out", "resid_pre", "resid_mid", "resid_post", "ln_final.normalized", "prediction")


class Attribution(NamedTuple):
    """Shares of a prediction, which add up to it.

    Attributes:
      embed: share of the query's token after the embedding and the input MLP, without their biases.
      pos_embed: share of the query's learned position; zero without learned positions.
      heads: share of every head.
      mlps: share of the MLP of every layer, without its output bias; zero without MLPs.
      constant: share of all biases that are added to the residual or to the prediction: those of the embedding, of the
        outputs of the input MLP, of attention and of the MLPs, of the last LayerNorm and of the read-out. Biases of
        queries, keys, values and hidden units belong to the share of their head or MLP.
      clip: share of the change by the clip after every layer; zero without a clip.
    """

    embed: Float[Array, "*batch m"]
    pos_embed: Float[Array, "*batch m"]
    heads: Float[Array, "*batch layer head m"]
    mlps: Float[Array, "*batch layer m"]
    constant: Float[Array, "*batch m"]
    clip: Float[Array, "*batch layer m"]

    @property
    def total(self) -> Float[Array, "*batch m"]:
        """The sum of all shares, which is the prediction."""
        by_layer = jnp.sum(self.mlps + self.clip, axis=-2) + jnp.sum(self.heads, axis=(-3, -2))
        return self.embed + self.pos_embed + self.constant + by_layer


def attribution(model: Model, x: Array, y: Array, x_query: Array) -> Attribution:
    """Direct attribution of the prediction to embedding, position, heads, MLPs, biases and clips.

    The residual of the query is a sum, and the read-out is affine once the LayerNorm before it is held at its realised
    scale. The share of a component is the read-out of its summand alone; it leaves out the effects through later
    layers. The model's edits apply. Biases keep their share: if `embed` or `mlp_out` is edited, the share of the
    component is that of the edited value minus its bias.

    Args:
      model: the model.
      x: inputs `[n d]`.
      y: labels `[n m]`.
      x_query: query `[d]`.

    Returns:
      The shares, whose sum is the prediction up to rounding.

    Raises:
      ValueError: if the model has an edit of a residual, `attn_out`, the normalised input of the read-out or the
        prediction, which are then not sums of components.

    Source: Elhage et al., "A mathematical framework for Transformer circuits" (2021).
    """
    _refuse_edits(model, NOT_ADDED, "the prediction is not the sum of shares")
    return _attribution(program_model(model), x, y, x_query)


@jax.jit
def _attribution(model: Model, x: Array, y: Array, x_query: Array) -> Attribution:
    config, params = model.config, model.params
    recorded = model.run(x, y, x_query)
    linear, constant = _linear_read_out(model, recorded)
    biases, embed = jnp.zeros(config.width, recorded["embed"].dtype), recorded["embed"][-1]
    embedding = params.get("embedding", {})
    for name in ("b_E", "b_2"):
        if name in embedding:
            embed, biases = embed - embedding[name], biases + embedding[name]
    heads, mlps, clips = [], [], []
    for layer, block in enumerate(config.blocks):
        before_clip = recorded["resid_pre", layer][-1] + recorded["attn_out", layer][-1]
        heads.append(recorded["attn.result", layer][-1])
        mlp = jnp.zeros_like(embed)
        if config.biases:
            biases = biases + params[block]["attention"]["b_P"]
        if config.block_mlp_width is not None:
            output, bias = recorded["mlp_out", layer][-1], params[block]["mlp"]["b_2"]
            before_clip, mlp, biases = before_clip + output, output - bias, biases + bias
        mlps.append(mlp)
        clips.append(jnp.zeros_like(embed) if config.clip is None else recorded["resid_post", layer][-1] - before_clip)
    position = recorded["pos_embed"][-1] if config.n_positions is not None else jnp.zeros_like(embed)
    by_layer, by_head = jax.vmap(linear), jax.vmap(jax.vmap(linear))
    return Attribution(
        linear(embed),
        linear(position),
        by_head(jnp.stack(heads)),
        by_layer(jnp.stack(mlps)),
        linear(biases) + constant,
        by_layer(jnp.stack(clips)),
    )


def attribution_by_key(model: Model, x: Array, y: Array, x_query: Array) -> Float[Array, "layer head key m"]:
    """Direct attribution of every head's share to the key tokens that the query attends to.

    The share of a key is the read-out of `P v` times its attention weight, with the LayerNorm before the read-out held
    at its realised scale. The model's edits apply.

    Args:
      model: the model.
      x: inputs `[n d]`.
      y: labels `[n m]`.
      x_query: query `[d]`.

    Returns:
      `[layer head key m]`, whose sum over keys is `attribution(...).heads`. Masked keys have shares of zero.

    Raises:
      ValueError: if the model has an edit that `attribution` refuses, or one of `attn.z` or `attn.result`.
    """
    _refuse_edits(model, NOT_ADDED, "the prediction is not the sum of shares")
    _refuse_edits(model, ("attn.z", "attn.result"), "the share of a head is not the sum over keys")
    return _attribution_by_key(program_model(model), x, y, x_query)


@jax.jit
def _attribution_by_key(model: Model, x: Array, y: Array, x_query: Array) -> Array:
    names = [name for name in sites.names(model.config) if name.endswith(("attn.pattern", "attn.v", "ln_final.scale"))]
    recorded = model.run(x, y, x_query, names)
    linear, _ = _linear_read_out(model, recorded)
    by_layer = []
    for layer, block in enumerate(model.config.blocks):
        pattern, v = recorded["attn.pattern", layer][:, -1], recorded["attn.v", layer]
        p = model.params[block]["attention"]["P"].astype(v.dtype)
        by_layer.append(jnp.einsum("hk,khd,hed->hke", pattern, v, p))
    return jax.vmap(jax.vmap(jax.vmap(linear)))(jnp.stack(by_layer))


def _linear_read_out(model: Model, recorded: Activations) -> tuple[Callable[[Array], Array], Array]:
    """The read-out at the realised scale of the last LayerNorm, as a linear function `[e] -> [m]` and a constant."""
    config = model.config
    if config.d_read_out is None:
        zero = model.layout.read_out(jnp.zeros(config.width, jax.tree.leaves(model.params)[0].dtype))
        return lambda value: model.layout.read_out(value) - zero, zero
    unembed = model.params["unembed"]
    matrix, constant = unembed["W_U"], unembed["b_U"]
    if not config.pre_norm:
        return lambda value: matrix @ value.astype(matrix.dtype), constant
    norm, scale = unembed["norm"], recorded["ln_final.scale"][-1]

    def linear(value: Array) -> Array:
        value = value.astype(matrix.dtype)
        return matrix @ ((value - jnp.mean(value)) / scale * norm["scale"])

    return linear, constant + matrix @ norm["bias"]


def lens(model: Model, x: Array, y: Array, x_query: Array) -> Activations:
    """Prediction lens: the read-out of every residual of the query token, also called logit lens.

    The read-out is that of the model, with its own LayerNorm. The model's edits apply.

    Args:
      model: the model.
      x: inputs `[n d]`.
      y: labels `[n m]`.
      x_query: query `[d]`.

    Returns:
      y_hat `[m]` by the name of the residual: `lens(...)["resid_post", 1]`, `lens(...).stack("resid_mid")`. The last
      is the prediction of the model.

    Raises:
      ValueError: if a site after the last layer is edited.

    Source: nostalgebraist, "Interpreting GPT: the logit lens" (2020).
    """
    _refuse_edits(model, AFTER_LAYERS, "residuals do not pass this edit")
    return _lens(program_model(model), x, y, x_query)


@jax.jit
def _lens(model: Model, x: Array, y: Array, x_query: Array) -> Activations:
    names = [name for name in sites.names(model.config) if name.endswith(("resid_pre", "resid_mid", "resid_post"))]
    read = read_out(model.config, model.params, model.layout)
    return Activations({name: read(value[-1]) for name, value in model.run(x, y, x_query, names).items()})


def _refuse_edits(model: Model, kinds: tuple[str, ...], why: str) -> None:
    """Checks that no site of these kinds is edited.

    Raises:
      ValueError: if one is.
    """
    edited = dict.fromkeys(name for edits in model.edits for name in edits if sites.split(name)[0] in kinds)
    if edited:
        raise ValueError(f"the model has an edit of {', '.join(edited)}, so {why}; give a model without this edit")
