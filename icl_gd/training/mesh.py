"""Devices and processes: how a population is distributed over them.

The mesh has two axes: the members of the population, and data (the prompts of a batch). Neither the size of the
population nor the batch size depends on the number of devices. All processes run the same program, but only the first
one, the primary process, writes files.

>>> place("auto", members=10, batch_size=2048, share_batches=False, n_devices=2)
Placement(mode='jit', member=2, data=1)
>>> place("auto", members=1, batch_size=2048, share_batches=False, n_devices=8)
Placement(mode='jit', member=1, data=8)
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from icl_gd.cores import usable_cores
from icl_gd.schema import OneOf, Size, checked

MEMBER, DATA = "member", "data"
# If members share batches and a device has fewer members than this, splitting the prompts is faster (measured on CPU).
MIN_MEMBERS_PER_DEVICE = 64
MODES = ("auto", "none", "jit", "pmap")
Parallel = Annotated[str, OneOf(MODES)]
# Layouts of an array on the mesh, named by the array axis that is split over devices, if any.
ALL, MEMBERS, LOSSES, PROMPTS = "replicated", "members on axis 0", "members on axis 1", "prompts on the last axis"


@dataclass(frozen=True)
class Placement:
    """The distribution of a population over devices.

    Attributes:
      mode: "none" (one device), "jit" or "pmap".
      member: the number of devices along the member axis of the mesh.
      data: the number of devices along the data axis.
    """

    mode: str = "none"
    member: int = 1
    data: int = 1

    @property
    def mesh(self) -> Mesh:
        """The mesh of devices `[member data]`, which includes the devices of all processes."""
        devices = np.asarray(jax.devices()[: self.member * self.data]).reshape(self.member, self.data)
        return Mesh(devices, (MEMBER, DATA), axis_types=(AxisType.Auto,) * 2)

    def sharding(self, layout: str) -> NamedSharding | None:
        """The sharding of an array with the layout ALL, MEMBERS or LOSSES.

        Returns:
          A sharding on the mesh, or None if the mode is not "jit".
        """
        return NamedSharding(self.mesh, _spec(layout, 0)) if self.mode == "jit" else None

    def device_put(self, tree: Any, layout: str = MEMBERS) -> Any:
        """Distributes arrays over the devices. Every process must pass the complete arrays.

        Args:
          tree: a pytree of arrays; PRNG keys are allowed.
          layout: ALL, MEMBERS or LOSSES. Default: MEMBERS.

        Returns:
          The pytree with JAX arrays.
        """
        sharding = self.sharding(layout)
        if sharding is None:
            return jax.tree.map(jnp.asarray, tree)

        def distribute(leaf: Any) -> Any:
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(distribute(jax.random.key_data(leaf)))
            array = np.asarray(leaf)
            return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

        return jax.tree.map(distribute, tree)

    def shard_map(self, f: Callable, arguments: Sequence[str], results: Sequence[str]) -> Callable:
        """Applies `jax.shard_map` to a function that runs on the shards of one device.

        Args:
          f: a function of the shards of its arguments; it returns a tuple.
          arguments: the layout of each argument. An argument is a pytree of arrays.
          results: the layout of each result.

        Returns:
          A function of the complete arrays.
        """
        mesh = self.mesh

        def on_global_arrays(*args: Any) -> Any:
            in_specs = tuple(
                jax.tree.map(lambda leaf, layout=layout: _spec(layout, leaf.ndim), arg)
                for layout, arg in zip(arguments, args, strict=True)
            )
            out_specs = tuple(_spec(layout, 2) for layout in results)
            return jax.shard_map(f, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)(*args)

        return on_global_arrays

    def constrain(self, batch: Any) -> Any:
        """Constrains a batch to be split over the data axis, so that each device draws only its own prompts.

        Returns:
          The batch, with sharding constraints.
        """

        def constrain_leaf(leaf: Any) -> Any:
            return jax.lax.with_sharding_constraint(leaf, NamedSharding(self.mesh, _spec(PROMPTS, leaf.ndim)))

        return jax.tree.map(constrain_leaf, batch)

    def local_shard(self, batch: Any) -> Any:
        """Selects the prompts of this device from a batch that every device of the data axis has drawn completely.

        Returns:
          The batch of this device. The last axis of every leaf is shorter by the factor `data`.
        """
        if self.data == 1:
            return batch
        index = jax.lax.axis_index(DATA)

        def select(leaf: Any) -> Any:
            parts = leaf.reshape(*leaf.shape[:-1], self.data, -1)
            return jax.lax.dynamic_index_in_dim(parts, index, -2, keepdims=False)

        return jax.tree.map(select, batch)

    def pmapped(self, f: Callable) -> Callable:
        """Applies `jax.pmap` to a loop over training steps.

        pmap has only one axis: the data axis if `data` is more than 1, otherwise the member axis.

        Args:
          f: the loop on one device, `(member, members, steps) -> (member, losses [step member])`.

        Returns:
          The loop for the whole population, with the same signature.
        """
        devices = jax.devices()[: self.member * self.data]
        if self.data > 1:
            # All arguments of f are replicated. But pmap needs one argument that is split: the index of the device.
            on_each = jax.pmap(
                lambda i, *args: f(*args), DATA, in_axes=(0, None, None, None), out_axes=None, devices=devices
            )  # pyright: ignore
            return lambda *args: on_each(jnp.arange(self.data), *args)
        mapped = jax.pmap(f, MEMBER, in_axes=(0, 0, None), out_axes=(0, 1), devices=devices)  # pyright: ignore

        def split(leaf: Any) -> Any:
            return leaf.reshape(self.member, -1, *leaf.shape[1:])

        def join(leaf: Any) -> Any:
            return leaf.reshape(-1, *leaf.shape[2:])

        def on_population(member: Any, members: Any, steps: Any) -> Any:
            member, losses = mapped(jax.tree.map(split, member), jax.tree.map(split, members), steps)
            return jax.tree.map(join, member), losses.reshape(len(steps), -1)

        return on_population


def use_cpu_cores(at_most: int = 4) -> None:
    """Makes up to `at_most` CPU cores JAX devices. Call this function before JAX is used.

    A small operation runs on one core, so two devices run two such operations at a time. An earlier setting by
    JAX_NUM_CPU_DEVICES, XLA_FLAGS or `jax.config` is left unchanged. If JAX has been used, nothing happens.
    """
    is_set = jax.config.jax_num_cpu_devices != -1  # pyright: ignore[reportAttributeAccessIssue]
    if not is_set and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", min(usable_cores(), at_most))


def _spec(layout: str, ndim: int) -> PartitionSpec:
    """The PartitionSpec of an array with `ndim` axes. Trailing axes that the spec does not name are not split."""
    if layout == PROMPTS:
        return PartitionSpec(*(None,) * (ndim - 1), DATA)
    return {ALL: PartitionSpec(), MEMBERS: PartitionSpec(MEMBER), LOSSES: PartitionSpec(None, MEMBER)}[layout]


@checked
def place(
    parallel: Parallel, members: Size, batch_size: Size, share_batches: bool, n_devices: Size | None = None
) -> Placement:
    """Chooses how a population is distributed over devices.

    Args:
      parallel: "none": one device. "jit": all devices, on a mesh of members and data. "pmap": all devices, along one of
        the two axes. "auto": like "jit", but on the largest number of devices that can divide population and batch.
      members: the size of the population.
      batch_size: prompts per member and step.
      share_batches: whether all members are trained on the same batches.
      n_devices: the number of devices. Default: None, all of them.

    Returns:
      The placement that uses the most devices. If several do, the members are split among as many devices as possible.
      But members that share batches are split only if every device has at least `MIN_MEMBERS_PER_DEVICE` of them.

    Raises:
      ValueError: if all devices must be used but population and batch cannot be divided among them; the message gives
        the nearest sizes that can be divided. Also if there are several processes and `parallel` is "none" or "pmap".
    """
    n = jax.device_count() if n_devices is None else n_devices
    if parallel in ("none", "pmap") and jax.process_count() > 1:
        raise ValueError(
            f"parallel={parallel!r} supports only one process, but there are {jax.process_count()}; use 'auto' or 'jit'"
        )
    if parallel == "none" or n == 1:
        return Placement()

    def preference(split: tuple[int, int]) -> tuple[int, int]:
        # Devices with different members need no communication. But if these members share batches, each device draws
        # the same batches, which takes most of its time if it has few members.
        member, data = split
        is_shared = share_batches or members == 1
        split_prompts = is_shared and members // member < MIN_MEMBERS_PER_DEVICE
        return member * data, -member if split_prompts else member

    splits = [(m, d) for m in _divisors(members, n) for d in _divisors(batch_size, n // m)]
    if parallel == "pmap":
        splits = [(m, d) for m, d in splits if m == 1 or d == 1]
    member, data = max(splits, key=preference)
    n_used = member * data
    if n_used < n and (parallel != "auto" or jax.process_count() > 1):
        raise ValueError(
            f"{members} members (seeds x combinations) and batches of {batch_size} prompts do not divide among {n} "
            f"devices; use {_multiples_near(members, n)} members, or batches of {_multiples_near(batch_size, n)}"
        )
    if n_used == 1:
        return Placement("none", member, data)
    return Placement("pmap" if parallel == "pmap" else "jit", member, data)


def _divisors(size: int, at_most: int) -> list[int]:
    return [k for k in range(1, at_most + 1) if size % k == 0]


def _multiples_near(size: int, n: int) -> str:
    """The multiples of n just below and above `size`, without zero, as text: "8 or 16" for size 9 and n = 8."""
    return " or ".join(str(k * n) for k in (size // n, size // n + 1) if k)


def is_primary() -> bool:
    """Whether this is the primary process, the only one that writes.

    Returns:
      True in the first of several processes, and if there is only one.
    """
    return jax.process_index() == 0


def on_host(tree: Any) -> Any:
    """Gathers arrays that may be distributed over devices and processes.

    Returns:
      The pytree with complete NumPy arrays.
    """
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.tree.map(np.asarray, tree)


def any_signal(signal: int | None) -> int | None:
    """The signal that any process has received, so that all processes can stop at the same step.

    Args:
      signal: the number of the signal that this process has received, or None.

    Returns:
      The largest signal number in all processes, or None if no process has received a signal.
    """
    if jax.process_count() == 1:
        return signal
    return int(np.max(multihost_utils.process_allgather(np.asarray(signal or 0)))) or None


def broadcast_from_primary(tree: Any) -> Any:
    """Broadcasts a pytree of arrays and numbers from the primary process.

    Returns:
      The values of the primary process, in every process.
    """
    return multihost_utils.broadcast_one_to_all(tree) if jax.process_count() > 1 else tree
