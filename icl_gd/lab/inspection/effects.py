"""Ablations of heads, attention layers and MLPs, alone and together: predictions and losses of the edited models."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, combinations
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from icl_gd.analysis import prediction_losses
from icl_gd.models import Model, TransformerConfig
from icl_gd.models.edits import Edit
from icl_gd.types import Array, Prompt

ALL_TOGETHER = 6  # units of which all combinations are computed
MOST_PAIRS = 300  # pairs of units; of more units, each is edited alone
AT_ONCE = 8  # combinations that one call of a program edits; between two calls, Ctrl-C takes effect


class Unit(NamedTuple):
    """One switch: a part of a model that is ablated.

    Attributes:
      site: the site of the activation that is replaced, in its layer.
      layer: the layer, counted from zero.
      head: the head, counted from zero; None for all of the layer.
    """

    site: str
    layer: int
    head: int | None = None


def units_of(config: TransformerConfig) -> list[Unit]:
    """The switches of a model.

    Returns:
      For each layer its heads, its attention and its MLP. A single head without bias is its attention, so there is one
      switch for both.
    """
    result = []
    for layer in range(config.n_layers):
        if config.n_heads > 1 or config.biases:
            result += [Unit("attn.result", layer, head) for head in range(config.n_heads)]
        result.append(Unit("attn_out", layer))
        if config.block_mlp_width is not None:
            result.append(Unit("mlp_out", layer))
    return result


def combinations_of(n_units: int) -> list[tuple[int, ...]]:
    """The combinations of switches whose effects are computed, from none on.

    Returns:
      All combinations of few units, otherwise all pairs, otherwise each unit alone; tuples of indices of units.
    """
    most = 1
    if n_units * (n_units - 1) // 2 <= MOST_PAIRS:
        most = n_units if n_units <= ALL_TOGETHER else 2
    return list(chain.from_iterable(combinations(range(n_units), size) for size in range(most + 1)))


class Effects(NamedTuple):
    """Predictions and mean losses of edited models.

    Attributes:
      predictions: of every prompt.
      losses: means over the prompts.
    """

    predictions: Float[Array | np.ndarray, "combination prompt m"]
    losses: Float[Array | np.ndarray, " combination"]


def effects(
    model: Model,
    prompts: Prompt,
    edited: Sequence[tuple[int, ...]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Effects]:
    """Ablates combinations of units.

    Args:
      model: one model, without edits.
      prompts: a batch of prompts; mean ablation takes the means over these prompts, position by position.
      edited: combinations of indices of `units_of(model.config)`.
      progress: called with the number of computed edits and that of all edits, again and again. Default: not called.

    Returns:
      The effects of zero ablation and of mean ablation, as "zero" and "mean".
    """
    units = units_of(model.config)
    sites = list(dict.fromkeys(unit.site for unit in units))
    heads = {site: model.config.n_heads if site == "attn.result" else 1 for site in sites}
    at_once = min(AT_ONCE, len(edited))
    padded = -(-len(edited) // at_once) * at_once
    chosen = {site: np.zeros((padded, model.config.n_layers, heads[site]), bool) for site in sites}
    for i, combination in enumerate(edited):
        for unit in (units[j] for j in combination):
            chosen[unit.site][i, unit.layer, unit.head or 0] = True
    means = _means(model, tuple(sites), prompts)
    result, done = {}, 0
    for kind, new in {"zero": jax.tree.map(jnp.zeros_like, means), "mean": means}.items():
        parts = []
        for first in range(0, padded, at_once):
            part = {site: mask[first : first + at_once] for site, mask in chosen.items()}
            parts.append(jax.device_get(_effects(model, new, part, prompts)))
            done += min(at_once, len(edited) - first)
            progress(done, 2 * len(edited))
        result[kind] = jax.tree.map(lambda *arrays: np.concatenate(arrays)[: len(edited)], *parts)
    return result


@partial(jax.jit, static_argnums=1)
def _means(model: Model, sites: tuple[str, ...], prompts: Prompt) -> dict[str, list[Array]]:
    """The means of sites over prompts, by site and layer."""

    def one(x: Array, y: Array, x_query: Array) -> dict[str, list[Array]]:
        recorded = model.run(x, y, x_query, sites)
        return {site: [recorded[site, layer] for layer in range(model.config.n_layers)] for site in sites}

    recorded = jax.vmap(one)(prompts.x, prompts.y, prompts.x_query)
    return jax.tree.map(partial(jnp.mean, axis=0), recorded)


@jax.jit
def _effects(model: Model, new: dict[str, list[Array]], chosen: dict[str, Array], prompts: Prompt) -> Effects:
    """The effects of replacing chosen values by new ones. One program for all combinations."""

    def edited(chosen: dict[str, Array]) -> Effects:
        changes = {}
        for site, layers in new.items():
            for layer, value in enumerate(layers):
                mask = chosen[site][layer]  # [head], or [1]
                mask = mask[None, :, None] if value.ndim == 3 else mask[None]
                changes[f"blocks.{layer}.{site}"] = Edit(_where, (mask, value))
        predictions = jax.vmap(model.edit(changes).predictor)(prompts.x, prompts.y, prompts.x_query)
        return Effects(predictions, prediction_losses(predictions, prompts).mean())

    return jax.lax.map(edited, chosen)


def _where(value: Array, chosen: Array, new: Array) -> Array:
    return jnp.where(chosen, new, value)
