"""Training that starts from given weights: whether they fit, and one set for every member."""

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np

from icl_gd import models
from icl_gd.models import TransformerConfig
from icl_gd.models.modifications import Modification
from icl_gd.training.checkpoint import by_name
from icl_gd.types import Array


@runtime_checkable
class Trained(Protocol):
    """What training may start from: a `Population`, the `Model` of one member, or one read from files."""

    @property
    def params(self) -> Any: ...


def weights_to_start(start: Trained, config: TransformerConfig, members: int, seeds: int) -> dict[str, Array]:
    """The parameters of `start` for every member of a new population, by dotted name, as copies.

    Modifications of attention are left out: they are settings of the new population, which nobody trains.

    Args:
      config: of the new population.
      members, seeds: how many there are, and how many of them each combination of swept values has.

    Returns:
      Every leaf `[member ...]`: of one set for all members, one for every seed, or one for every member.

    Raises:
      ValueError: if the weights are of a Transformer of other sizes, or of another number of members.
    """
    theirs, ours = (
        {name: leaf for name, leaf in by_name(its).items() if name.rpartition(".")[2] not in Modification._fields}
        for its in (start.params, models.shapes(config))
    )
    if unlike := sorted(ours.keys() ^ theirs.keys()):
        only = "there alone" if unlike[0] in theirs else "here alone"
        raise ValueError(
            f"start: the weights are of another Transformer: {unlike[0]} is {only}; give one with the same layers"
        )
    axes = {name: theirs[name].ndim - leaf.ndim for name, leaf in ours.items()}
    for name, leaf in ours.items():
        if axes[name] not in (0, 1) or theirs[name].shape[axes[name] :] != leaf.shape:
            of = theirs[name].shape[max(axes[name], 0) :]
            raise ValueError(f"start: {name} is {of} there, {leaf.shape} here; give a Transformer of the same sizes")
    counts = {theirs[name].shape[0] if axis else 1 for name, axis in axes.items()}
    count = max(counts)
    if len(counts) > 1 or count not in (1, seeds, members):
        accepted = " or ".join(map(str, sorted({1, seeds, members})))
        raise ValueError(
            f"start: {count} members cannot start {members}; accepted are {accepted}, as population[i] is one"
        )

    def of_members(name: str, its: Any) -> Array:
        leaf = theirs[name] if axes[name] else theirs[name][None]
        return jnp.array(np.tile(leaf, (members // count, *[1] * (leaf.ndim - 1))), its.dtype)

    return {name: of_members(name, its) for name, its in ours.items()}
