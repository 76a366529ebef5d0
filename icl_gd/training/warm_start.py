"""Warm starts: the weights of another model as the initial weights of every member of a population.

>>> from icl_gd.models import Model
>>> from icl_gd.tokens import concatenated
>>> config = TransformerConfig(3)
>>> params = {"block_0": {"attention": {name: np.ones((1, 3, 3)) for name in ("W_K", "W_Q", "W_V", "P")}}}
>>> weights = start_weights(Model(config, params, concatenated(2, 1)), config, members=4, seeds=2)
>>> {name: leaf.shape for name, leaf in weights.items() if name.endswith("W_K")}
{'block_0.attention.W_K': (4, 1, 3, 3)}
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np

from icl_gd import models
from icl_gd.models import TransformerConfig
from icl_gd.models.modifications import Modification
from icl_gd.schema import hints
from icl_gd.trees import by_name
from icl_gd.types import Array


@runtime_checkable
class Trained(Protocol):
    """An object with parameters: a `Population`, the `Model` of one member, or a `Model` read from files."""

    @property
    def params(self) -> Any:
        """The parameters; those of a population have a leading member axis."""
        ...


def start_weights(start: Trained, config: TransformerConfig, members: int, seeds: int) -> dict[str, Array]:
    """The parameters of `start`, copied for every member of a new population.

    The strengths of attention modifications are left out: they are not trained, but settings of the new population.

    Args:
      start: one set of weights for all members, or a population with one set for each seed or for each member.
      config: the model of the new population.
      members: the size of the new population.
      seeds: members per combination of swept values; it divides `members`.

    Returns:
      The parameters by dotted name, every leaf `[member ...]`.

    Raises:
      ValueError: if the layers or shapes of the weights differ from those of the model, or if the number of members of
        `start` is not 1, `seeds` or `members`.
    """
    stored = _without_modifications(start.params)
    shapes = _without_modifications(models.shapes(config))
    if unmatched := sorted(shapes.keys() ^ stored.keys()):
        owner = "starting model" if unmatched[0] in stored else "new model"
        raise ValueError(
            f"start: the layers differ, only the {owner} has {unmatched[0]}; give weights of a Transformer with the "
            f"same layers"
        )
    # 1 if a leaf has a member axis, 0 if it does not.
    member_axes = {name: stored[name].ndim - leaf.ndim for name, leaf in shapes.items()}
    for name, leaf in shapes.items():
        n_axes = member_axes[name]
        if n_axes not in (0, 1) or stored[name].shape[n_axes:] != leaf.shape:
            shape = stored[name].shape[max(n_axes, 0) :]
            raise ValueError(
                f"start: {name} has shape {shape} in the starting weights, {leaf.shape} in the new model; give weights "
                f"of a Transformer of the same sizes"
            )
    counts = {stored[name].shape[0] if n_axes else 1 for name, n_axes in member_axes.items()}
    count = max(counts)
    if len(counts) > 1 or count not in (1, seeds, members):
        accepted = " or ".join(map(str, sorted({1, seeds, members})))
        raise ValueError(
            f"start: weights of {count} members cannot start a population of {members}; give weights of {accepted} "
            f"members; population[i] gives the weights of one member"
        )

    def repeat(name: str, dtype: Any) -> Array:
        leaf = stored[name] if member_axes[name] else stored[name][None]
        return jnp.array(np.tile(leaf, (members // count, *[1] * (leaf.ndim - 1))), dtype)

    return {name: repeat(name, leaf.dtype) for name, leaf in shapes.items()}


def _without_modifications(params: Any) -> Mapping[str, Any]:
    """Parameters by dotted name, without those of the attention modifications."""
    leaves = by_name(params)
    strengths = hints(Modification)
    return {name: leaf for name, leaf in leaves.items() if name.rpartition(".")[2] not in strengths}
