"""Devices and processes: how a population is spread over them.

The mesh has two axes: members of the population, and data (the prompts of a batch). Neither the size of the population
nor that of the batch depends on the number of devices. Of several processes each runs the same program; the first one
writes.
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
MEMBERS_EACH = 64  # that share batches: fewer on a device are better split by their prompts, as measured on CPU cores
MODES = ("auto", "none", "jit", "pmap")
Parallel = Annotated[str, OneOf(MODES)]
# How an argument or a result of the program lies on the mesh.
ALL, MEMBERS, LOSSES, PROMPTS = "whole on every device", "members first", "members second", "prompts last"


@dataclass(frozen=True)
class Placement:
    """How many devices share the members, and how many the prompts; `mode` is "none", "jit" or "pmap"."""

    mode: str = "none"
    member: int = 1
    data: int = 1

    @property
    def mesh(self) -> Mesh:
        """The devices `[member data]`, of all processes."""
        devices = np.asarray(jax.devices()[: self.member * self.data]).reshape(self.member, self.data)
        return Mesh(devices, (MEMBER, DATA), axis_types=(AxisType.Auto,) * 2)

    def sharding(self, how: str) -> NamedSharding | None:
        """The sharding of arrays that lie so on the mesh; None where there is no mesh to lie on."""
        return NamedSharding(self.mesh, _spec(how, 0)) if self.mode == "jit" else None

    def device_put(self, tree: Any, how: str = MEMBERS) -> Any:
        """Lays arrays that every process holds whole out on the devices."""
        lies = self.sharding(how)
        if lies is None:
            return jax.tree.map(jnp.asarray, tree)

        def lay(leaf: Any) -> Any:
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(lay(jax.random.key_data(leaf)))
            whole = np.asarray(leaf)
            return jax.make_array_from_callback(whole.shape, lies, lambda index: whole[index])

        return jax.tree.map(lay, tree)

    def shard_map(self, f: Callable, arguments: Sequence[str], results: Sequence[str]) -> Callable:
        """`f` of one device's part of its arguments, as a function of the whole of them."""
        mesh = self.mesh

        def whole(*args: Any) -> Any:
            specs = tuple(
                jax.tree.map(lambda leaf, how=how: _spec(how, leaf.ndim), arg)
                for how, arg in zip(arguments, args, strict=True)
            )
            out = tuple(_spec(how, 2) for how in results)
            return jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)(*args)

        return whole

    def constrain(self, batch: Any) -> Any:
        """A batch that the compiler spreads over the data axis, and draws where it lies."""
        lies = lambda leaf: NamedSharding(self.mesh, _spec(PROMPTS, leaf.ndim))
        return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, lies(leaf)), batch)

    def local_shard(self, batch: Any) -> Any:
        """This device's prompts of a batch that every device of the data axis has drawn."""
        if self.data == 1:
            return batch
        index = jax.lax.axis_index(DATA)
        parts = lambda leaf: leaf.reshape(*leaf.shape[:-1], self.data, -1)
        return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(parts(leaf), index, -2, keepdims=False), batch)

    def pmapped(self, f: Callable) -> Callable:
        """`f(member, members, numbers) -> (member, losses [step member])` by `jax.pmap`, which knows one axis."""
        devices = jax.devices()[: self.member * self.data]
        if self.data > 1:
            # pmap asks for an argument that lies along its axis.
            each = jax.pmap(
                lambda i, *args: f(*args), DATA, in_axes=(0, None, None, None), out_axes=None, devices=devices
            )  # pyright: ignore
            return lambda *args: each(jnp.arange(self.data), *args)
        mapped = jax.pmap(f, MEMBER, in_axes=(0, 0, None), out_axes=(0, 1), devices=devices)  # pyright: ignore
        split = lambda leaf: leaf.reshape(self.member, -1, *leaf.shape[1:])
        join = lambda leaf: leaf.reshape(-1, *leaf.shape[2:])

        def whole(member: Any, members: Any, numbers: Any) -> Any:
            member, losses = mapped(jax.tree.map(split, member), jax.tree.map(split, members), numbers)
            return jax.tree.map(join, member), losses.reshape(len(numbers), -1)

        return whole


def use_cpu_cores(at_most: int = 4) -> None:
    """Lets every CPU core be a device of its own, up to `at_most`; call it before anything of JAX is used.

    A small operation runs on one core: with two devices, two of them run. What was said before, by JAX_NUM_CPU_DEVICES,
    XLA_FLAGS or `jax.config`, stays as it is; so do devices already in use.
    """
    said = jax.config.jax_num_cpu_devices != -1  # pyright: ignore[reportAttributeAccessIssue]
    if not said and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", min(usable_cores(), at_most))


def _spec(how: str, ndim: int) -> PartitionSpec:
    """Where nothing is said of an axis, it is whole."""
    if how == PROMPTS:
        return PartitionSpec(*(None,) * (ndim - 1), DATA)
    return {ALL: PartitionSpec(), MEMBERS: PartitionSpec(MEMBER), LOSSES: PartitionSpec(None, MEMBER)}[how]


@checked
def place(
    parallel: Parallel, members: Size, batch_size: Size, share_batches: bool, n_devices: Size | None = None
) -> Placement:
    """How a population is spread over devices.

    Args:
      parallel: "none" (one device), "jit" (all devices, on a mesh of members and data), "pmap" (all devices, along one
        of the two axes) or "auto": as many devices as divide the population and the batch, by jit.
      n_devices: all there are, when left out.

    Raises:
      ValueError: if all devices are asked for and the sizes do not divide among them; names the nearest that do.
    """
    n = jax.device_count() if n_devices is None else n_devices
    if parallel in ("none", "pmap") and jax.process_count() > 1:
        raise ValueError(f"parallel={parallel!r} is for one process, this is one of {jax.process_count()}: auto or jit")
    if parallel == "none" or n == 1:
        return Placement()
    splits = [(m, d) for m in _divisors(members, n) for d in _divisors(batch_size, n // m)]
    if parallel == "pmap":
        splits = [(m, d) for m, d in splits if m == 1 or d == 1]
    # Members apart need no communication; but where they share batches and a device would have few of them, it spends
    # its time on drawing batches that all the others draw too.
    few = lambda m: (share_batches or members == 1) and members // m < MEMBERS_EACH
    member, data = max(splits, key=lambda split: (split[0] * split[1], -split[0] if few(split[0]) else split[0]))
    used = member * data
    if used < n and (parallel != "auto" or jax.process_count() > 1):
        nearest = lambda size: " or ".join(str(k * n) for k in (size // n, size // n + 1) if k)
        raise ValueError(
            f"{members} members (seeds x combinations) and batches of {batch_size} prompts do not divide among {n} "
            f"devices: take {nearest(members)} members, or batches of {nearest(batch_size)}"
        )
    return Placement("none" if used == 1 else "pmap" if parallel == "pmap" else "jit", member, data)


def _divisors(size: int, at_most: int) -> list[int]:
    return [k for k in range(1, at_most + 1) if size % k == 0]


def is_primary() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def on_host(tree: Any) -> Any:
    """The whole of arrays that may be spread over devices and processes, as NumPy arrays."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.tree.map(np.asarray, tree)


def any_signal(signal: int | None) -> int | None:
    """The signal that any process has heard, so that all stop at the same step."""
    if jax.process_count() == 1:
        return signal
    return int(np.max(multihost_utils.process_allgather(np.asarray(signal or 0)))) or None


def broadcast_from_primary(tree: Any) -> Any:
    """What the first process holds, a pytree of arrays and numbers, on every process."""
    return multihost_utils.broadcast_one_to_all(tree) if jax.process_count() > 1 else tree
