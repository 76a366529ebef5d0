"""Checkpoints: Orbax behind one small class, with a checksum per leaf and fallback to the newest good step."""

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np


def _checksums(tree: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): hashlib.sha256(np.ascontiguousarray(leaf).tobytes()).hexdigest()
        for path, leaf in leaves
    }


class Checkpoints:
    """The checkpoints of one run: the last `keep` steps under `directory`, each written atomically.

    Every step holds a state (a pytree of arrays) and `about`, a mapping that JSON can hold.
    """

    def __init__(self, directory: str | Path, keep: int = 2, read_only: bool = False):
        import orbax.checkpoint as ocp  # half a second to import, and only runs on disk need it

        self._ocp = ocp
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=not read_only, enable_async_checkpointing=False, read_only=read_only
        )
        self._manager = ocp.CheckpointManager(Path(directory).absolute(), options=options)

    def save(self, step: int, state: Any, about: Mapping[str, Any]) -> None:
        """Writes the state of `step`; a step that is there already is left alone."""
        if step in self._manager.all_steps():
            return
        state = jax.tree.map(np.asarray, state)
        described = {**about, "sha256": _checksums(state)}
        items = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(state), about=self._ocp.args.JsonSave(described)
        )
        self._manager.save(step, args=items)
        self._manager.wait_until_finished()

    def restore(self, template: Any = None) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest step whose checksums hold, as `(step, state, about)`; None where there is none.

        Args:
          template: a state of the same structure; without it the state comes back as nested dicts and lists.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                about = self._manager.restore(step, args=self._ocp.args.Composite(about=self._ocp.args.JsonRestore()))
                shape = None if template is None else jax.tree.map(np.asarray, template)
                items = self._ocp.args.Composite(state=self._ocp.args.StandardRestore(shape))
                state = self._manager.restore(step, args=items)["state"]
                described = dict(about["about"])
                expected = described.pop("sha256")
                if sorted(expected.values()) != sorted(_checksums(state).values()):
                    raise ValueError("its checksums do not match its content")
                return step, state, described
            except Exception as error:
                # Whatever is wrong with one step (a missing file, a flipped byte), an older one may be sound.
                warnings.warn(f"checkpoint {step} is unreadable, trying an older one: {error}", stacklevel=2)
        return None

    def close(self) -> None:
        self._manager.close()
