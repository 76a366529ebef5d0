"""Places of activations: the layers, positions and heads of one kind of site at which patching replaces values.

>>> from icl_gd import models, tokens
>>> config = models.TransformerConfig(d_token=3, n_layers=2, n_heads=2)
>>> model = models.Model(config, models.init(config, jax.random.key(0)), tokens.concatenated(2, 1))
>>> problem = jnp.eye(2), jnp.ones((2, 1)), jnp.ones(2)
>>> grid = grid_of(model, problem, "attn.z", layers="each", positions=(-1,), heads="all")
>>> grid.indices, grid.shape  # of layers, positions and heads
(([0, 1], [2], None), (2, 1))
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd.models import sites
from icl_gd.models.activations import Activations
from icl_gd.models.edits import Edit
from icl_gd.models.model import Model
from icl_gd.models.sites import SITES, split
from icl_gd.models.transformer import program_config
from icl_gd.problems import problem
from icl_gd.types import Array

Problem = Sequence[Any]  # `(x [n d], y [n m], x_query [d])`, or a Prompt, which begins with these
Selection = Literal["each", "all"] | tuple[int, ...]  # "each" and indices give the result an axis, "all" does not
BATCH = 16  # patched runs computed at once
STATIC = ("kind", "layers", "positions", "heads", "batch")  # the arguments of `static_arguments`


class Place(NamedTuple):
    """Where a value is replaced: traced indices; None for all."""

    layer: Array | None = None
    position: Array | None = None
    head: Array | None = None

    def edit(self, layer: int, new: Array) -> Edit:
        """The edit that replaces the value of a site of one layer at this place.

        Returns:
          The edit; it has no effect if the place is in another layer.
        """
        if self.layer is None:
            return Edit(new_value, (new,), self.head, self.position)
        return Edit(_new_value_if, (new, self.layer == layer), self.head, self.position)


def new_value(value: Array, new: Array) -> Array:
    """The new value, in the shape of the old one.

    Returns:
      `new`, broadcast.
    """
    return jnp.broadcast_to(new, value.shape)


def _new_value_if(value: Array, new: Array, is_replaced: Array) -> Array:
    return jnp.where(is_replaced, new_value(value, new), value)


class Grid(NamedTuple):
    """The places of one kind of site.

    Attributes:
      names: the full name of the site by patched layer; a site outside the layers counts as layer 0.
      indices: the layers, positions and heads that are mapped over; None for an axis that is not.
      value: the shape of a value of the site.
    """

    names: dict[int, str]
    indices: tuple[list[int] | None, ...]
    value: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The axes of the result before m."""
        return tuple(len(indices) for indices in self.indices if indices is not None)

    def map(self, f: Callable[[Place], Array], batch: int) -> Array:
        """Applies f to all places, in batches of equal size, at most `batch`.

        Returns:
          The results, with the axes `shape` first.
        """
        if not self.shape:
            return f(Place())
        places = np.meshgrid(*(indices for indices in self.indices if indices is not None), indexing="ij")
        count = places[0].size
        steps = -(-count // batch)
        size = -(-count // steps)
        padded = [jnp.asarray(np.pad(place.ravel(), (0, steps * size - count), mode="edge")) for place in places]
        mapped = iter(padded)
        grid = Place(*(None if indices is None else next(mapped) for indices in self.indices))
        results = jax.lax.map(f, grid, batch_size=size if size > 1 else None)[:count]
        return results.reshape(*self.shape, *results.shape[1:])


def grid_of(model: Model, base: Any, kind: str, layers: Selection, positions: Selection, heads: Selection) -> Grid:
    """The selected places of a kind of site.

    Args:
      model: the model.
      base: the problem that is run, `(x [n d], y [n m], x_query [d])`.
      kind: the kind of site, a key of `models.sites.SITES`.
      layers: "each" for one place per layer, "all" for places in all layers at once, or some layers.
      positions: the same for token positions.
      heads: the same for heads.

    Returns:
      The places.

    Raises:
      ValueError: if the model has no such site, or the site has no such index.
    """
    names = sites.expand(model.config, kind)
    if kind not in SITES:
        kind_of_site, layer = split(names[0])
        limit = f" and layers=({layer},)" if kind in names else ""
        raise ValueError(f"{kind!r} is not a kind of site; give {kind_of_site!r}{limit}")
    site, names = SITES[kind], {split(name)[1] or 0: name for name in names}
    n_tokens = jax.eval_shape(model.layout.encode, *base).shape[0]
    shape = sites.shapes(model.config, n_tokens, base[1].shape[1])[names[max(names)]]
    known = {
        "layer": list(names) if split(names[max(names)])[1] is not None else None,
        "position": None if site.position_axis is None else list(range(shape[site.position_axis])),
        "head": None if site.head_axis is None else list(range(shape[site.head_axis])),
    }
    sizes = {"layer": model.config.n_layers, "position": n_tokens, "head": model.config.n_heads}
    indices: list[list[int] | None] = []
    for (what, existing), selection in zip(known.items(), (layers, positions, heads), strict=True):
        if isinstance(selection, tuple) and existing is None:
            raise ValueError(f'site {kind!r} has no {what}s; give {what}s="each", not {selection}')
        if selection == "all" or existing is None:
            indices.append(None)
            continue
        chosen = existing if selection == "each" else [i + sizes[what] if i < 0 else i for i in selection]
        if not chosen or not set(chosen) <= set(existing):
            raise ValueError(f"{what}s={selection} for site {kind!r}; give some of {existing[0]} to {existing[-1]}")
        if what == "layer":
            names = {layer: names[layer] for layer in chosen}
        indices.append(chosen)
    return Grid(names, tuple(indices), shape)


def source_values(model: Model, source: Any, grid: Grid) -> dict[str, Array]:
    """The values of the source run.

    Args:
      model: the model.
      source: the problem `(x [n d], y [n m], x_query [d])` of the source run, or its recorded activations.
      grid: the places.

    Returns:
      The values by name of site.

    Raises:
      ValueError: if they do not broadcast to the values of the base run.
    """
    names = tuple(grid.names.values())
    recorded = source if isinstance(source, Activations) else model.run(*source, names=names)
    values = {name: recorded[name] for name in names}
    for name, value in values.items():
        given, expected = jnp.shape(value), grid.value
        fits = (size in (1, of) for size, of in zip(given[::-1], expected[::-1], strict=False))
        if len(given) > len(expected) or not all(fits):
            raise ValueError(
                f"the source's value of {name!r} has shape {given}, that of the base run {expected}; give values of "
                "one prompt and member with as many tokens, and use jax.vmap for several"
            )
    return values


def predict_once(model: Model, base: Any) -> Array:
    """The prediction of a run through all sites.

    Returns:
      y_hat `[m]`.
    """
    return model.run(*base, names="prediction")["prediction"]


def checked_problems(base: Problem, source: Problem | Activations) -> tuple[Any, Any]:
    """Both problems as arrays `(x, y, x_query)`, without the other fields of a Prompt.

    Returns:
      The base and the source, which may also be recorded activations.

    Raises:
      ValueError: if the problems have different shapes.
    """
    base = problem(*base[:3])
    if isinstance(source, Activations):
        return base, source
    source = problem(*source[:3])
    shapes, expected = [tuple(part.shape for part in parts) for parts in (source, base)]
    if shapes != expected:
        raise ValueError(
            f"the source problem has shapes x, y, x_query = {shapes}, the base problem {expected}; give problems of "
            "equal shapes"
        )
    return base, source


def static_arguments(kind: str, layers: Any, positions: Any, heads: Any, batch: int) -> dict[str, Any]:
    """The arguments on which a compiled program depends.

    Args:
      kind: the kind of site.
      layers: a selection, as the caller gave it.
      positions: a selection of token positions.
      heads: a selection of heads.
      batch: number of patched runs that are computed at once.

    Returns:
      The arguments by the names STATIC, hashable.

    Raises:
      ValueError: if a selection is none.
    """
    selections = {"layers": layers, "positions": positions, "heads": heads}
    for what, selection in selections.items():
        if not (isinstance(selection, str) and selection in ("each", "all")):
            selections[what] = _indices(what, selection)
    return {"kind": kind, "batch": batch, **selections}


def _indices(what: str, selection: Any) -> tuple[int, ...]:
    """A selection as a tuple of integers.

    Raises:
      ValueError: if it is something else.
    """
    try:
        return tuple(map(operator.index, selection))
    except TypeError as error:
        raise ValueError(f'{what}={selection!r}; give "each", "all" or a tuple of indices') from error


def program_model(model: Model) -> Model:
    """A model with the config of its compiled program, which members share that differ in `config.per_member` only.

    Returns:
      The model.
    """
    return replace(model, config=program_config(model.config))
