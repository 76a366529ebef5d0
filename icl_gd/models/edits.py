"""Edits of activations: ablations, constants and directions, for `Model.edit`.

An edit maps the value of a site to another value. It is a pytree whose leaves are its arrays, so a `vmap` over a model
also maps over its edits, and gradients flow into directions. Every edit can be limited to heads and positions.

    >>> import jax.numpy as jnp
    >>> from icl_gd.models.sites import SITES
    >>> z = jnp.ones((3, 2, 1))  # [t head d_head]
    >>> zero(head=1)(SITES["attn.z"], z)[:, :, 0].tolist()
    [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]
    >>> constant(5.0, position=-1)(SITES["attn.z"], z)[:, :, 0].tolist()
    [[1.0, 1.0], [1.0, 1.0], [5.0, 5.0]]
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from icl_gd.models.sites import Site
from icl_gd.types import Array, Scalar

Index = int | tuple[int, ...] | Array | None  # one index, several, a traced index, or all


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class Edit:
    """A change of the value of one site.

    Attributes:
      function: `(value, *arrays) -> new value`, which broadcasts to the shape of the value.
      arrays: the arrays that the function uses: the leaves of the edit.
      head: the heads that are changed: an integer, a tuple of integers, or a JAX array of integers, which may be
        traced. A traced index that is out of range selects nothing. Default: all.
      position: the token positions that are changed; of query tokens for scores and patterns. Negative positions count
        from the end. Default: all.
    """

    function: Callable[..., Any]
    arrays: tuple[Any, ...] = ()
    head: Any = None
    position: Any = None

    def tree_flatten(self) -> tuple[tuple, tuple]:
        """Splits the edit into its leaves and its static parts, for JAX. Integers and tuples of them are static.

        Returns:
          `(leaves, static parts)`.
        """
        selection = (self.head, self.position)
        traced = tuple(None if _is_static(index) else index for index in selection)
        static = tuple(index if _is_static(index) else None for index in selection)
        return (self.arrays, traced), (self.function, static)

    @classmethod
    def tree_unflatten(cls, static: tuple, leaves: tuple) -> "Edit":
        """The inverse of `tree_flatten`, for JAX.

        Returns:
          The edit.
        """
        (function, fixed), (arrays, traced) = static, leaves
        head, position = (a if b is None else b for a, b in zip(fixed, traced, strict=True))
        return cls(function, arrays, head, position)

    def __call__(self, site: Site, value: Array) -> Array:
        """Applies the edit.

        Args:
          site: the site of the value, which says what its axes are.
          value: the value, with the axes `site.axes`.

        Returns:
          The new value, of the same shape and type.

        Raises:
          ValueError: if the edit selects heads or positions that the site does not have, or if the new value does not
            broadcast to the shape of the value.
        """
        self.check(site, value.shape[site.head_axis] if site.head_axis is not None else 0)
        try:
            new = self.function(value, *self.arrays)
            if new is None:
                raise ValueError("the function returns None; return the new value")
            new = jnp.broadcast_to(_aligned(jnp.asarray(new, value.dtype), value), value.shape)
        except ValueError as error:
            raise ValueError(f"edit of {site.name} [{' '.join(site.axes)}]: {error}") from error
        for what, index, axis in self._selections(site):
            if what == "position":
                _check_range(site, what, index, value.shape[axis])
            new = jnp.where(_selected(index, value.shape, axis), new, value)
        return new

    def _selections(self, site: Site) -> list[tuple[str, Any, int]]:
        """The selections of this edit: "head" or "position", the index, and the axis of the site."""
        selections = []
        for what, index, axis in (("head", self.head, site.head_axis), ("position", self.position, site.position_axis)):
            if index is None:
                continue
            if axis is None:
                raise ValueError(f"edit of {site.name}: this site has no {what} axis; remove {what}={index}")
            if not _is_index(index):
                raise ValueError(
                    f"edit of {site.name}: {what}={index!r} is not an index; give an integer, a tuple of integers, or "
                    "a JAX array of integers"
                )
            if isinstance(index, tuple) and not index:
                raise ValueError(f"edit of {site.name}: {what}=() selects nothing; give at least one index")
            selections.append((what, index, axis))
        return selections

    def in_layer(self, layer: int | None) -> "Edit":
        """The edit for one layer. Noise is another draw in every layer; other edits are the same.

        Args:
          layer: the layer; None outside the layers.

        Returns:
          The edit.
        """
        return replace(self, function=_Noise(layer)) if isinstance(self.function, _Noise) else self

    def check(self, site: Site, n_heads: int) -> None:
        """Checks that a site has the selected heads, and positions if some are selected.

        Raises:
          ValueError: if it does not.
        """
        for what, index, _ in self._selections(site):
            if what == "head":
                _check_range(site, what, index, n_heads)


def _aligned(new: Array, value: Array) -> Array:
    """Gives an array the leading axes that it needs to broadcast: implicit rank promotion may be disabled."""
    shape = (1,) * (value.ndim - new.ndim) + new.shape
    if len(shape) > value.ndim or any(size not in (1, of) for size, of in zip(shape, value.shape, strict=True)):
        raise ValueError(f"an array of shape {new.shape} does not broadcast to the shape {value.shape} of the value")
    return new.reshape(shape)


def _is_static(index: Any) -> bool:
    """Whether an index is a part of the program: all but arrays, and what JAX puts in the place of arrays."""
    return index is None or isinstance(index, int | np.integer | tuple)


def _is_index(index: Any) -> bool:
    if isinstance(index, jax.Array | np.ndarray):
        return jnp.issubdtype(index.dtype, jnp.integer)
    one_or_more = index if isinstance(index, tuple) else (index,)
    return all(isinstance(one, int | np.integer) and not isinstance(one, bool) for one in one_or_more)


def _check_range(site: Site, what: str, index: Any, size: int) -> None:
    """Checks that an index, or each of several, is in range; the value of a traced index is unknown."""
    if isinstance(index, Tracer):
        return
    for one in np.ravel(index).tolist():
        if not -size <= one < size:
            raise ValueError(f"edit of {site.name}: {what}={one} is out of range; give {-size} to {size - 1}")


def _selected(index: Any, shape: tuple[int, ...], axis: int) -> Array:
    """A mask of the selected indices along one axis, which broadcasts to the value."""
    size = shape[axis]
    indices = jnp.ravel(jnp.asarray(index))
    indices = jnp.where(indices < 0, indices + size, indices)
    chosen = jnp.any(jnp.arange(size)[:, None] == indices[None], axis=1)
    return chosen.reshape([size if i == axis else 1 for i in range(len(shape))])


def as_edit(edit: Any) -> Edit:
    """Converts a function of the value to an edit.

    Returns:
      The edit itself if it is one. A `jax.tree_util.Partial` keeps its arrays as leaves.

    Raises:
      ValueError: if `edit` is neither an edit nor a function.
    """
    if isinstance(edit, Edit):
        return edit
    if isinstance(edit, jax.tree_util.Partial):
        return Edit(_call_last, (edit,))
    if callable(edit):
        return Edit(edit)
    raise ValueError(
        f"edit {edit!r} is not a function; give a function of the value, or models.edits.constant(value) to replace it"
    )


def _call_last(value: Array, function: Callable[[Array], Array]) -> Array:
    return function(value)


def _replace(value: Array, new: Array) -> Array:
    return new


def zero(*, head: Index = None, position: Index = None) -> Edit:
    """Zero ablation.

    Returns:
      An edit that replaces the value by zero.
    """
    return Edit(_zeros, (), head, position)


def _zeros(value: Array) -> Array:
    return jnp.zeros_like(value)


def constant(new: Any, *, head: Index = None, position: Index = None) -> Edit:
    """Replaces the value by a constant, or by the value of another run ("freezing").

    Args:
      new: a number, or an array that broadcasts to the value.
      head: the changed heads. Default: all.
      position: the changed positions. Default: all.

    Returns:
      The edit.
    """
    return Edit(_replace, (jnp.asarray(new),), head, position)


def mean(values: Array | np.ndarray, *, head: Index = None, position: Index = None) -> Edit:
    """Mean ablation: replaces the value by its mean over recorded prompts.

    Args:
      values: `[prompt ...]`, the values of the site on several prompts.
      head: the changed heads. Default: all.
      position: the changed positions. Default: all.

    Returns:
      The edit.

    Raises:
      ValueError: if there is no prompt.
    """
    return constant(jnp.mean(_of_prompts(values), axis=0), head=head, position=position)


def _of_prompts(values: Any) -> Array:
    """Values of a site on at least one prompt, as a JAX array."""
    if jnp.shape(values)[:1] in ((), (0,)):
        raise ValueError(f"values have shape {jnp.shape(values)}; give [prompt ...] with at least one prompt")
    return jnp.asarray(values)


def resample(key: Array, values: Array | np.ndarray, *, head: Index = None, position: Index = None) -> Edit:
    """Resample ablation: replaces the value by that of a random prompt.

    Args:
      key: determines the prompt. `vmap` over keys for another prompt in every run.
      values: `[prompt ...]`, the values of the site on several prompts.
      head: the changed heads. Default: all.
      position: the changed positions. Default: all.

    Returns:
      The edit.

    Raises:
      ValueError: if there is no prompt.
    """
    values = _of_prompts(values)
    return constant(values[jax.random.randint(key, (), 0, len(values))], head=head, position=position)


def noise(key: Array, std: Scalar, *, head: Index = None, position: Index = None) -> Edit:
    """Adds normal noise to the value.

    Args:
      key: determines the noise, which differs between layers. `vmap` over keys for other noise in every run.
      std: standard deviation of the noise.
      head: the changed heads. Default: all.
      position: the changed positions. Default: all.

    Returns:
      The edit.
    """
    return Edit(_Noise(), (key, jnp.asarray(std)), head, position)


@dataclass(frozen=True)
class _Noise:
    """Adds noise. A layer folds its number into the key, so that one request for all layers is one draw in each."""

    layer: int | None = None

    def __call__(self, value: Array, key: Array, std: Array) -> Array:
        key = key if self.layer is None else jax.random.fold_in(key, self.layer)
        return value + std.astype(value.dtype) * jax.random.normal(key, value.shape, value.dtype)


def add(direction: Any, *, head: Index = None, position: Index = None) -> Edit:
    """Adds a direction, which may be learned: it is a leaf of the edited model.

    Args:
      direction: an array that broadcasts to the value.
      head: the changed heads. Default: all.
      position: the changed positions. Default: all.

    Returns:
      The edit.
    """
    return Edit(_add, (jnp.asarray(direction),), head, position)


def _add(value: Array, direction: Array) -> Array:
    return value + _aligned(direction, value)


def scale(factor: Any, *, head: Index = None, position: Index = None) -> Edit:
    """Multiplies the value by a factor.

    Args:
      factor: a number, or an array that broadcasts to the value.
      head: the changed heads. Default: all.
      position: the changed positions. Default: all.

    Returns:
      The edit.
    """
    return Edit(_multiply, (jnp.asarray(factor),), head, position)


def _multiply(value: Array, factor: Array) -> Array:
    return value * _aligned(factor, value)


def project_out(direction: Array | np.ndarray, *, head: Index = None, position: Index = None) -> Edit:
    """Removes the component along a direction of the last axis.

    Args:
      direction: a vector as wide as the last axis of the value; its length does not matter, but must not be zero.
      head: the changed heads. Default: all.
      position: the changed positions. Default: all.

    Returns:
      The edit.

    Raises:
      ValueError: if the direction is zero. The value of a traced direction is unknown, so a zero one gives NaN.
    """
    if not isinstance(direction, Tracer) and not np.any(direction):
        raise ValueError("direction is zero; give a vector with a direction")
    return Edit(_project_out, (jnp.asarray(direction),), head, position)


def _project_out(value: Array, direction: Array) -> Array:
    if direction.shape != value.shape[-1:]:
        raise ValueError(f"a direction of shape {direction.shape} is not a vector of width {value.shape[-1]}")
    unit = direction / jnp.linalg.norm(direction)
    return value - (value @ unit)[..., None] * _aligned(unit, value)
