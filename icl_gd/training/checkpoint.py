"""Checkpoints: Orbax behind one small class, with checksums and fallback to the newest good step.

On disk a state is a flat mapping from dotted names (`member.params.block_0.attention.W_K`) to arrays, so that it can be
read without the code that wrote it, and what is compared with its checksum does not depend on container types.
"""

import contextlib
import hashlib
import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import jax
import numpy as np

from icl_gd.migrations import CHECKPOINTS, LEAVES, migrated, newest_of
from icl_gd.paths import local

Leaves = dict[str, np.ndarray]


def by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by dotted name, as they are."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def flatten(tree: Any) -> Leaves:
    """The leaves of a pytree by dotted name, as arrays on the host."""
    return {name: np.asarray(leaf) for name, leaf in by_name(tree).items()}


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves by dotted name as a tree of dicts."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *path, last = name.split(".")
        reduce(lambda node, key: node.setdefault(key, {}), path, tree)[last] = leaf
    return tree


def unflatten(template: Any, leaves: Mapping[str, np.ndarray]) -> Any:
    """A pytree of the template's structure with these leaves.

    Raises:
      ValueError: if names, shapes or types differ from the template's.
    """
    wanted = {name: (leaf.shape, leaf.dtype) for name, leaf in flatten(template).items()}
    if wanted != (there := {name: (leaf.shape, leaf.dtype) for name, leaf in leaves.items()}):
        name = next(name for name in {**wanted, **there} if wanted.get(name) != there.get(name))
        raise ValueError(f"the checkpoint is of another model: {name} is {there.get(name)}, not {wanted.get(name)}")
    return jax.tree.unflatten(jax.tree.structure(template), [leaves[name] for name in wanted])


def tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Lists, as JSON gives them back, as the tuples they were."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def checksum(leaves: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> str:
    """Of names, types, shapes and values, and of what is said about them."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(leaves):
        leaf = np.ascontiguousarray(leaves[name])
        digest.update(f"{name} {leaf.dtype.str} {leaf.shape}".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _one_exception() -> Iterator[None]:
    """When one leaf cannot be read or written, the others report to an event loop that is closed by then; each would
    print a traceback beside the exception that is raised, at any time until the process ends. So after a failure, and
    then alone, the process is left with a hook that passes those over."""
    said = sys.unraisablehook

    def all_but_those(about: Any) -> None:
        if str(about.exc_value) != "Event loop is closed":
            said(about)

    if getattr(said, "__name__", "") != all_but_those.__name__:
        sys.unraisablehook = all_but_those
    yield
    sys.unraisablehook = said


def _migrated(leaves: Leaves, about: dict[str, Any]) -> tuple[Leaves, dict[str, Any]]:
    """What a checkpoint of an earlier version holds, as this version would have written it."""
    content = migrated({**about, LEAVES: leaves}, about["format"], CHECKPOINTS)
    del content["format"]
    return content.pop(LEAVES), content


KEEP = ("last", "log", "all")  # which checkpoints stay
LAST = 2  # always stay: if the last one is broken, a run goes on from the one before


@dataclass(frozen=True)
class _Stays:
    """Which steps stay, as Orbax's managers ask it: the last ones, and of the others those that `keep` names."""

    keep: str

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [its.step for its in checkpoints]
        first = {step.bit_length(): step for step in reversed(steps)}  # from a power of two to the next
        of_kind = {"last": lambda step: False, "log": lambda step: first[step.bit_length()] == step}
        chosen = of_kind.get(self.keep, lambda step: True)
        return [chosen(step) or step in steps[-LAST:] for step in steps]


class Checkpoints:
    """The checkpoints of one run under `directory`, each written atomically.

    Every step holds a state (a pytree of arrays) and `about`, a mapping that JSON can hold.

    Args:
      keep: which stay: the "last" two, "all", or "log", which are the last two and the first at or after 0, 1, 2, 4,
        8, ... steps.
      create: whether the directory is made where it is missing.
    """

    def __init__(self, directory: str | Path, keep: str = "last", create: bool = True):
        self._directory, self._keep, self._create = local(directory, "checkpoints").absolute(), keep, create
        self._bad: set[int] = set()
        if create:
            self._directory.mkdir(parents=True, exist_ok=True)

    @cached_property
    def _ocp(self) -> Any:
        import orbax.checkpoint  # a quarter of a second to import, which a run spends when its first chunk is shown

        return orbax.checkpoint

    @cached_property
    def _manager(self) -> Any:
        ocp = self._ocp
        # Of several processes only this one has the store: it must not wait for the others.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(), active_processes={jax.process_index()}, barrier_sync_key_prefix="alone"
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Stays(self._keep),
            create=self._create and jax.process_count() == 1,
            enable_async_checkpointing=False,
            multiprocessing_options=alone if jax.process_count() > 1 else ocp.options.MultiprocessingOptions(),
        )
        return ocp.CheckpointManager(self._directory, options=options)

    def save(self, step: int, state: Any, about: Mapping[str, Any]) -> None:
        """Writes the state of `step`; one that is there already is left alone.

        Raises:
          OSError: if it was not written.
        """
        if step in self._manager.all_steps():
            return
        leaves, about = flatten(state), {**about, "format": newest_of(CHECKPOINTS)}
        described = {"about": about, "sha256": checksum(leaves, about)}
        items = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(leaves), about=self._ocp.args.JsonSave(described)
        )
        with _one_exception():
            # Orbax refuses, by its return value alone, a step before the latest.
            if not self._manager.save(step, args=items):
                raise OSError(f"checkpoint {step} was not written: a later one is there")
            self._manager.wait_until_finished()

    @property
    def steps(self) -> list[int]:
        """The steps that are there, from the first to the last, sound or not."""
        there = self._directory.is_dir() and any(self._directory.iterdir())
        return sorted(self._manager.all_steps()) if there else []

    def at(self, step: int) -> tuple[Leaves, dict[str, Any]]:
        """The leaves of one step, and what is said about them.

        Raises:
          ValueError: if it cannot be read, or is in a format of another version.
        """
        try:
            leaves, about = self._read(step)
            return _migrated(leaves, about)
        except Exception as error:
            raise ValueError(f"checkpoint {step} is unreadable: {error}") from error

    def restore(self) -> tuple[int, Leaves, dict[str, Any]] | None:
        """The newest step whose checksum holds, as `(step, leaves, about)`; None where there is none.

        Warns of every step passed over.

        Raises:
          ValueError: if a sound checkpoint is in a format of another version.
        """
        for step in reversed(self.steps):
            try:
                leaves, about = self._read(step)
            except Exception as error:
                # Whatever is wrong with one step (a missing file, a flipped byte), an older one may be sound.
                warnings.warn(f"checkpoint {step} is unreadable, trying an older one: {error}", stacklevel=2)
                self._bad.add(step)
                continue
            try:
                return step, *_migrated(leaves, about)
            except ValueError as error:
                raise ValueError(f"checkpoint {step}: {error}") from error
        return None

    def delete_corrupt(self) -> None:
        """Deletes the steps that `restore` passed over, so that a run resumed before them can write them again."""
        for step in self._bad:
            self._manager.delete(step)
        self._bad.clear()

    def _read(self, step: int) -> tuple[Leaves, dict[str, Any]]:
        args = self._ocp.args
        asked = args.Composite(state=args.StandardRestore(), about=args.JsonRestore())
        with _one_exception():
            items = self._manager.restore(step, args=asked)
        leaves = {name: np.asarray(leaf) for name, leaf in items["state"].items()}
        described = items["about"]
        about = dict(described["about"])
        if described["sha256"] != checksum(leaves, about):
            raise ValueError("its checksum does not match its content")
        return leaves, about

    def close(self) -> None:
        if "_manager" in vars(self):
            self._manager.close()
