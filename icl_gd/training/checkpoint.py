"""Checkpoints: an Orbax store with checksums. If the newest checkpoint is corrupt, the newest intact one is read.

A stored state is a flat mapping from dotted names (`member.params.block_0.attention.W_K`) to arrays. It can be read
without the code that wrote it, and its checksum does not depend on container types.

>>> leaves = flatten({"block_0": {"W_K": np.zeros((2, 3))}, "step": np.asarray(7)})
>>> backwards = dict(reversed(leaves.items()))
>>> checksum(backwards, {}) == checksum(leaves, {}) != checksum(leaves, {"seed": 1})
True
"""

import contextlib
import hashlib
import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from icl_gd.migrations import CHECKPOINTS, LEAVES, migrated, newest_of
from icl_gd.paths import local
from icl_gd.trees import Leaves, flatten


def unflatten(template: Any, leaves: Mapping[str, np.ndarray]) -> Any:
    """Builds a pytree with the structure of `template` from leaves keyed by dotted name.

    Returns:
      The pytree.

    Raises:
      ValueError: if the names, shapes or types of the leaves differ from those of the template.
    """
    expected = {name: (leaf.shape, leaf.dtype) for name, leaf in flatten(template).items()}
    stored = {name: (leaf.shape, leaf.dtype) for name, leaf in leaves.items()}
    if stored != expected:
        name = next(name for name in {**expected, **stored} if expected.get(name) != stored.get(name))
        raise ValueError(
            f"the checkpoint belongs to another model: {name} is {_shape_and_type(stored.get(name))} in the "
            f"checkpoint, {_shape_and_type(expected.get(name))} in the model; give another directory, or the model of "
            f"the checkpoint"
        )
    return jax.tree.unflatten(jax.tree.structure(template), [leaves[name] for name in expected])


def _shape_and_type(leaf: tuple[tuple[int, ...], np.dtype] | None) -> str:
    return "missing" if leaf is None else f"{leaf[1]}{list(leaf[0])}"


def checksum(leaves: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> str:
    """SHA-256 of a checkpoint: the names, types, shapes and values of its leaves, and its description `about`.

    Returns:
      The digest in hexadecimal, which does not depend on the order of the leaves.
    """
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(leaves):
        leaf = np.ascontiguousarray(leaves[name])
        digest.update(f"{name} {leaf.dtype.str} {leaf.shape}".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _suppress_closed_loop_tracebacks() -> Iterator[None]:
    """Suppresses the "Event loop is closed" tracebacks that Orbax's pending tasks print after a failed read or write.

    These tracebacks can appear at any time until the process ends, in addition to the exception that is raised. So the
    filtering hooks stay installed after a failure, and only then. Python reports pending tasks to `unraisablehook`,
    TensorStore's threads report to `excepthook`.
    """
    unraisablehook, excepthook = sys.unraisablehook, sys.excepthook

    def unraisable_without_closed_loops(unraisable: Any) -> None:
        if str(unraisable.exc_value) != CLOSED_LOOP:
            unraisablehook(unraisable)

    def exception_without_closed_loops(kind: Any, error: BaseException, trace: Any) -> None:
        if str(error) != CLOSED_LOOP:
            excepthook(kind, error, trace)

    if getattr(unraisablehook, "__name__", "") != unraisable_without_closed_loops.__name__:
        sys.unraisablehook, sys.excepthook = unraisable_without_closed_loops, exception_without_closed_loops
    # Not in a `finally`: the previous hooks are restored only after a success.
    yield
    sys.unraisablehook, sys.excepthook = unraisablehook, excepthook


def _migrated(leaves: Leaves, about: dict[str, Any]) -> tuple[Leaves, dict[str, Any]]:
    """Converts the content of a checkpoint from an older format to the newest one."""
    content = migrated({**about, LEAVES: leaves}, about["format"], CHECKPOINTS)
    del content["format"]
    return content.pop(LEAVES), content


CLOSED_LOOP = "Event loop is closed"
KEEP = ("last", "log", "all")  # which checkpoints are kept, see `Checkpoints`
LAST = 2  # number of newest checkpoints that are always kept: if the newest is corrupt, the one before is used


@dataclass(frozen=True)
class _Preservation:
    """The preservation policy of an Orbax manager: preserves the last steps, and the steps that `keep` selects."""

    keep: str

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        # Maps k to the first step in the range [2^(k-1), 2^k). `steps` are in ascending order.
        first = {step.bit_length(): step for step in reversed(steps)}

        def is_selected(step: int) -> bool:
            if self.keep == "log":
                return first[step.bit_length()] == step
            return self.keep != "last"

        return [is_selected(step) or step in steps[-LAST:] for step in steps]


class Checkpoints:
    """The checkpoints of one run in one directory. Each checkpoint is written atomically.

    A checkpoint contains a state (a pytree of arrays) and `about`, a JSON-serialisable description.

    Args:
      directory: the directory of the checkpoints.
      keep: the checkpoints to keep: "last", the last two; "all"; or "log", the last two and the first one at or after
        each of 0, 1, 2, 4, 8, ... steps. Default: "last".
      create: whether to create the directory if it is missing. Default: True.
    """

    def __init__(self, directory: str | Path, keep: str = "last", create: bool = True):
        self._directory = local(directory, "checkpoints").absolute()
        self._keep = keep
        self._create = create
        self._corrupt: set[int] = set()
        if create:
            self._directory.mkdir(parents=True, exist_ok=True)

    @cached_property
    def _ocp(self) -> Any:
        # This import takes a quarter of a second, so it is delayed until a run has displayed its first chunk.
        import orbax.checkpoint

        return orbax.checkpoint

    @cached_property
    def _manager(self) -> Any:
        ocp = self._ocp
        # If there are several processes, only this one uses the store; Orbax must not wait for the others.
        this_process = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(), active_processes={jax.process_index()}, barrier_sync_key_prefix="alone"
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Preservation(self._keep),
            create=self._create and jax.process_count() == 1,
            enable_async_checkpointing=False,
            multiprocessing_options=this_process if jax.process_count() > 1 else ocp.options.MultiprocessingOptions(),
        )
        return ocp.CheckpointManager(self._directory, options=options)

    def save(self, step: int, state: Any, about: Mapping[str, Any]) -> None:
        """Writes a checkpoint. An existing checkpoint of the same step is left unchanged.

        Args:
          step: the training step of the state.
          state: a pytree of arrays.
          about: a JSON-serialisable description.

        Raises:
          OSError: if the checkpoint was not written.
        """
        if step in self._manager.all_steps():
            return
        leaves, about = flatten(state), {**about, "format": newest_of(CHECKPOINTS)}
        described = {"about": about, "sha256": checksum(leaves, about)}
        items = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(leaves), about=self._ocp.args.JsonSave(described)
        )
        with _suppress_closed_loop_tracebacks():
            # Orbax does not raise if the step is before the latest one; it returns False.
            if not self._manager.save(step, args=items):
                raise OSError(f"checkpoint {step} was not written: {self._directory} has a later checkpoint")
            self._manager.wait_until_finished()

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints in ascending order, corrupt ones included."""
        has_files = self._directory.is_dir() and any(self._directory.iterdir())
        return sorted(self._manager.all_steps()) if has_files else []

    def at(self, step: int) -> tuple[Leaves, dict[str, Any]]:
        """Reads the checkpoint of one step.

        Returns:
          `(leaves, about)`: the arrays by dotted name, and the description.

        Raises:
          ValueError: if the checkpoint cannot be read, is corrupt, or has a format that this version does not read.
        """
        try:
            leaves, about = self._read(step)
            return _migrated(leaves, about)
        except Exception as error:
            raise ValueError(f"checkpoint {step} is unreadable: {error}") from error

    def restore(self) -> tuple[int, Leaves, dict[str, Any]] | None:
        """Reads the newest intact checkpoint. Warns about every newer checkpoint that is corrupt.

        Returns:
          `(step, leaves, about)`, or None if no checkpoint is intact.

        Raises:
          ValueError: if the newest intact checkpoint has a format that this version does not read.
        """
        for step in reversed(self.steps):
            try:
                leaves, about = self._read(step)
            except Exception as error:
                # Any exception counts (a missing file, a flipped byte): an older checkpoint may be intact.
                warnings.warn(f"checkpoint {step} is unreadable, trying an older one: {error}", stacklevel=2)
                self._corrupt.add(step)
                continue
            try:
                return step, *_migrated(leaves, about)
            except ValueError as error:
                raise ValueError(f"checkpoint {step}: {error}") from error
        return None

    def delete_corrupt(self) -> None:
        """Deletes the checkpoints that `restore` skipped, so that the resumed run can write them again."""
        for step in self._corrupt:
            self._manager.delete(step)
        self._corrupt.clear()

    def _read(self, step: int) -> tuple[Leaves, dict[str, Any]]:
        args = self._ocp.args
        requested = args.Composite(state=args.StandardRestore(), about=args.JsonRestore())
        with _suppress_closed_loop_tracebacks():
            items = self._manager.restore(step, args=requested)
        leaves = {name: np.asarray(leaf) for name, leaf in items["state"].items()}
        described = items["about"]
        about = dict(described["about"])
        if described["sha256"] != checksum(leaves, about):
            raise ValueError("the checksum does not match the content")
        return leaves, about

    def close(self) -> None:
        """Closes the store, if it was opened."""
        if "_manager" in vars(self):
            self._manager.close()
