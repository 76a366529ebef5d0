"""Activation patching: which activations carry the difference between two runs?

Patching runs a model on one problem, the base, and replaces some activations by those of another run, the source. With
a corrupted base and a clean source this is called denoising; with a clean base and a corrupted source, noising.
`analysis.corruptions` makes pairs of problems.

    >>> from icl_gd import models, tokens
    >>> config = models.TransformerConfig(d_token=3, n_layers=2, n_heads=2, init_scale=1.0)
    >>> model = models.Model(config, models.init(config, jax.random.key(0)), tokens.concatenated(2, 1))
    >>> x, y, x_query = jnp.eye(2), jnp.ones((2, 1)), jnp.ones(2)
    >>> clean, corrupted = (x, y, x_query), (x, -y, x_query)
    >>> patch(model, corrupted, clean, "resid_pre").shape  # [layer position m]
    (2, 3, 1)
    >>> patch(model, corrupted, clean, "attn.z").shape  # [layer position head m]
    (2, 3, 2, 1)
    >>> attribute_patch(model, corrupted, clean, "attn.z", positions="all").shape  # [layer head m]
    (2, 2, 1)
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from icl_gd.analysis.places import (
    BATCH,
    STATIC,
    Place,
    Problem,
    Selection,
    checked_problems,
    grid_of,
    predict_once,
    program_model,
    source_values,
    static_arguments,
)
from icl_gd.models import sites
from icl_gd.models.activations import Activations
from icl_gd.models.edits import add
from icl_gd.models.model import Model
from icl_gd.models.sites import SITES
from icl_gd.schema import Size, checked
from icl_gd.types import Array


@checked
def patch(
    model: Model,
    base: Problem,
    source: Problem | Activations,
    kind: str,
    *,
    layers: Selection = "each",
    positions: Selection = "each",
    heads: Selection = "each",
    batch: Size = BATCH,
) -> Float[Array, "..."]:
    """Predictions of the base run with one activation at a time replaced by that of the source run.

    All places of one kind of site share one compiled program, because layer, position and head are its arguments. The
    model's own edits apply in both runs, before the replacement. Use `jax.vmap` for several prompts and members.

    A patch without effect gives the prediction of the base run up to rounding: the replacement copies bits, but a
    compiled batch of runs is rounded differently from a single run.

    Memory: the values of the site in all layers, and the activations of `batch` forward passes; this for every prompt
    and member that the caller maps over.

    Args:
      model: the model.
      base: the problem that is run, `(x [n d], y [n m], x_query [d])` or a Prompt.
      source: the problem whose values replace those of the base run, of the same shapes; or the values themselves, as
        `model.run` records them.
      kind: the kind of site, a key of `models.sites.SITES` such as "attn.z".
      layers: "each" patches one layer at a time. "all" patches all layers at once, and the result has no layer axis. A
        tuple patches each of these layers.
      positions: the same for token positions, which are those of query tokens for scores and patterns. `(-1,)` patches
        the query only. A site that has no positions has no such axis.
      heads: the same for heads.
      batch: number of patched runs that are computed at once. If many prompts are mapped over, 1 is the fastest.
        Default: 16.

    Returns:
      y_hat `[layer position head m]`, without the axes that the site does not have or that are "all". The layers are
      those that have the site.

    Raises:
      ValueError: if the model has no such site, the site has no such index, or the problems have different shapes.

    Source: Vig et al. 2004.12265; Meng et al. 2202.05262 ("causal tracing").
    """
    arguments = static_arguments(kind, layers, positions, heads, batch)
    return _patch(program_model(model), *checked_problems(base, source), **arguments)


@partial(jax.jit, static_argnames=STATIC)
def _patch(model: Model, base: Any, source: Any, kind: str, batch: int, **selections: Selection) -> Array:
    grid = grid_of(model, base, kind, **selections)
    values = source_values(model, source, grid)

    def predict(place: Place) -> Array:
        changes = {name: place.edit(layer, values[name]) for layer, name in grid.names.items()}
        return predict_once(model.edit(changes), base)

    return grid.map(predict, batch)


@checked
def attribute_patch(
    model: Model,
    base: Problem,
    source: Problem | Activations,
    kind: str,
    *,
    layers: Selection = "each",
    positions: Selection = "each",
    heads: Selection = "each",
) -> Float[Array, "..."]:
    """Attribution patching: the first-order approximation of `patch`, all places from one backward pass per output.

    It is the prediction of the base run plus the sum of `d y_hat / d value * (source value - base value)` over the
    entries that `patch` replaces, with derivatives at the base run. It equals `patch` if the prediction is an affine
    function of the site's value. A derivative through LayerNorm includes that of its scale.

    Memory: m backward passes, each of which keeps the activations of all layers.

    Args:
      model: the model.
      base: the problem that is run, `(x [n d], y [n m], x_query [d])` or a Prompt.
      source: the problem whose values replace those of the base run, of the same shapes; or the values themselves.
      kind: the kind of site, a key of `models.sites.SITES`.
      layers, positions, heads: as in `patch`.

    Returns:
      y_hat `[layer position head m]`, with the axes of `patch`.

    Raises:
      ValueError: if the model has no such site, the site has no such index, or the problems have different shapes.

    Source: Nanda, "Attribution patching: activation patching at industrial scale" (2023); Syed et al. 2310.10348.
    """
    arguments = static_arguments(kind, layers, positions, heads, 1)
    return _attribute_patch(program_model(model), *checked_problems(base, source), **arguments)


@partial(jax.jit, static_argnames=STATIC)
def _attribute_patch(model: Model, base: Any, source: Any, kind: str, batch: int, **selections: Selection) -> Array:
    grid = grid_of(model, base, kind, **selections)
    values, recorded = source_values(model, source, grid), model.run(*base, names=(*grid.names.values(), "prediction"))

    def predict(changes: dict[str, Array]) -> Array:
        return predict_once(model.edit({name: add(change) for name, change in changes.items()}), base)

    jacobian = jax.jacrev(predict)({name: jnp.zeros_like(recorded[name]) for name in grid.names.values()})

    def effects(name: str) -> Array:
        """Effects `[position head m]` of one layer; the size of an axis that the site does not have is one."""
        change = jnp.broadcast_to(values[name], recorded[name].shape) - recorded[name]
        axes = (SITES[kind].position_axis, SITES[kind].head_axis)
        products = jnp.moveaxis(jacobian[name] * change[None], 0, -1)  # [*site m]
        total = jnp.sum(products, [axis for axis in range(change.ndim) if axis not in axes])
        if axes == (1, 0):  # scores and patterns are [head query key]
            total = total.swapaxes(0, 1)
        sizes = (1 if axis is None else change.shape[axis] for axis in axes)
        return total.reshape(*sizes, -1)

    result, numbers = jnp.stack(list(map(effects, grid.names.values()))), list(grid.names)
    for axis, indices in enumerate(grid.indices):
        if indices is None:
            result = jnp.sum(result, axis, keepdims=True)
        else:
            result = jnp.take(result, np.array([numbers.index(i) if axis == 0 else i for i in indices]), axis)
    prediction = recorded["prediction"]
    return result.reshape(*grid.shape, -1) + prediction.reshape((1,) * len(grid.shape) + prediction.shape)


@checked
def ablate_heads(
    model: Model, x: Array, y: Array, x_query: Array, values: Array | None = None, batch: Size = BATCH
) -> Float[Array, "layer head m"]:
    """Head ablation: predictions with the output `attn.z` of one head at a time replaced, at all positions.

    Args:
      model: the model.
      x: inputs `[n d]`.
      y: labels `[n m]`.
      x_query: query `[d]`.
      values: `[layer t head d_head]`, or an array that broadcasts to it after the layer axis. The mean over prompts of
        `model.run(...).stack("attn.z")` gives mean ablation, and its value on another prompt gives resample ablation.
        Default: zero.
      batch: number of ablated runs that are computed at once. Default: 16.

    Returns:
      y_hat `[layer head m]`.

    Raises:
      ValueError: if the shape of `values` is not accepted.
    """
    names = sites.expand(model.config, "attn.z")
    by_layer = jnp.zeros(len(names)) if values is None else jnp.asarray(values)
    if by_layer.shape[:1] != (len(names),):
        raise ValueError(f"values have shape {by_layer.shape}; give [layer t head d_head] with {len(names)} layers")
    replaced = Activations(dict(zip(names, by_layer, strict=True)))
    return patch(model, (x, y, x_query), replaced, "attn.z", positions="all", batch=batch)


def normalised_effect(
    metric: Callable[[Array], Array], patched: Float[Array, "*grid m"], base: Array, source: Array
) -> Float[Array, "*grid"]:
    """The share of the difference between two runs that patching restores.

    Args:
      metric: a scalar function of one prediction `[m]`, such as a squared error.
      patched: predictions `[*grid m]` of `patch`, `path_patch` or `attribute_patch`.
      base: the prediction `[m]` of the base run.
      source: the prediction `[m]` of the source run.

    Returns:
      `(metric(patched) - metric(base)) / (metric(source) - metric(base))` for every entry of the grid: 0 if patching
      has no effect, 1 if it gives the metric of the source run. It is not finite if both runs have the same metric.
    """
    values = jax.vmap(metric)(patched.reshape(-1, patched.shape[-1])).reshape(patched.shape[:-1])
    return (values - metric(base)) / (metric(source) - metric(base))


def correlation(approximate: Float[Array, "*grid"], exact: Float[Array, "*grid"]) -> Float[Array, ""]:
    """Pearson correlation between approximate and exact effects, over all entries.

    Returns:
      A scalar, for example of `attribute_patch(...) - y_hat` and `patch(...) - y_hat`. It is not finite if one of the
      arrays is constant.
    """
    a, b = (effects.ravel() - jnp.mean(effects) for effects in (approximate, exact))
    return a @ b / jnp.sqrt((a @ a) * (b @ b))
