"""Recorded activations of a forward pass, by the name of their site.

>>> import jax.numpy as jnp
>>> recorded = Activations({"embed": jnp.ones((5, 3)), "blocks.0.attn.q": jnp.ones((5, 2, 3))})
>>> recorded["attn.q", 0].shape, recorded["embed"].shape
((5, 2, 3), (5, 3))
>>> recorded["attn.k", 0]
Traceback (most recent call last):
KeyError: "'blocks.0.attn.k' was not recorded; the nearest of 2 recorded sites is 'blocks.0.attn.q'"
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import DictKey

from icl_gd.models.sites import nearest, split
from icl_gd.types import Array


@jax.tree_util.register_pytree_with_keys_class
class Activations(Mapping[str, Array]):
    """A read-only mapping from names of sites to values, and a pytree.

    Values have the shapes of `models.sites.shapes`, after the axes of an enclosing `vmap`.

        activations["blocks.1.attn.pattern"]
        activations["attn.pattern", 1]        # the same
        activations.stack("resid_post")       # [layer ...]
    """

    def __init__(self, values: Mapping[str, Any]):
        self._names = tuple(values)
        self._values = tuple(values.values())

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
        """Splits the activations into values, with their names as keys, and names, for JAX.

        Returns:
          `(keys and values, names)`.
        """
        return [(DictKey(name), value) for name, value in zip(self._names, self._values, strict=True)], self._names

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], values: Iterable[Any]) -> "Activations":
        """The inverse of `tree_flatten_with_keys`, for JAX.

        Returns:
          The activations.
        """
        return cls(dict(zip(names, values, strict=True)))

    def __getitem__(self, key: str | tuple[str, int]) -> Any:  # a JAX array, or what a pytree has in its place
        """The value of a site, by its full name or by its kind and layer.

        A negative layer counts from the last layer in which the site was recorded.

        Raises:
          KeyError: if the site was not recorded.
        """
        name = key
        if isinstance(key, tuple):
            kind, layer = key
            layers = self._layers(kind)
            name = f"blocks.{layers[layer] if -len(layers) <= layer < 0 else layer}.{kind}"
        if name not in self._names:
            raise KeyError(self._missing(str(name)))
        return self._values[self._names.index(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        shapes = (f"{name} {list(jnp.shape(value))}" for name, value in self.items())
        return f"Activations({', '.join(shapes)})"

    def _missing(self, name: str) -> str:
        if not self._names:
            return f"{name!r} was not recorded, and no other site; request it by its name"
        near = nearest(name, self._names)
        return f"{name!r} was not recorded; the nearest of {len(self)} recorded sites is {near!r}"

    def _layers(self, kind: str) -> list[int]:
        pairs = map(split, self._names)
        return [layer for name, layer in pairs if name == kind and layer is not None]

    def stack(self, kind: str) -> Array:
        """The values of one site in all recorded layers.

        Returns:
          `[layer ...]`.

        Raises:
          KeyError: if the site was recorded in no layer.
        """
        layers = self._layers(kind)
        if not layers:
            raise KeyError(self._missing(f"blocks.*.{kind}"))
        return jnp.stack([self[kind, layer] for layer in layers])
