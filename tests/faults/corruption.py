"""Damaged, foreign and future checkpoints: loading never returns wrong numbers.

    python tests/faults/corruption.py [--count N] [--json]

Files of the newest checkpoint are damaged one at a time: truncated, deleted, or changed in one bit (of the first,
middle or last byte, or of a random one). Loading must return this step bit for bit or, with a warning, the step before
it. `--count` is the number of damaged files.
"""

import pickle
import random
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import harness
from harness import Record, main_of_run

STEPS = (10, 20)  # checkpoints of a quick run


def truncate(file: Path, rng: random.Random) -> None:
    file.write_bytes(file.read_bytes()[: rng.randrange(max(1, file.stat().st_size))])


def delete(file: Path, rng: random.Random) -> None:
    file.unlink()


def flip(file: Path, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    if not content:
        return truncate(file, rng)
    content[rng.choice([0, len(content) // 2, len(content) - 1, rng.randrange(len(content))])] ^= 1 << rng.randrange(8)
    file.write_bytes(bytes(content))
    return None


def loaded(workdir: Path) -> tuple[bytes | None, str]:
    """Loads all parameters of a workdir as bytes. Returns them (None: refused), and the warnings or the error."""
    import jax
    import numpy as np

    import icl_gd

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            weights = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(icl_gd.load(workdir).params))
        except (FileNotFoundError, ValueError) as error:  # the exceptions that `load` documents
            return None, str(error)
    return weights, " ".join(" ".join(str(warning.message).split()) for warning in caught)


def _damaged(at: dict[int, bytes], source: Path, directory: Path, count: int) -> list[Record]:
    """Damages `count` copies of a run, cycling through all files of the newest step and all kinds of damage."""
    rng = random.Random(0)
    files = sorted(path.relative_to(source) for path in (source / "checkpoints" / "20").rglob("*") if path.is_file())
    damages = [(damage, file) for damage in (flip, truncate, delete) for file in files]
    records = []
    for i in range(count):
        damage, file = damages[i % len(damages)]
        copy = directory / "damaged"
        shutil.copytree(source, copy)
        damage(copy / file, rng)
        weights, messages = loaded(copy)
        has_warned = "checkpoint 20 is unreadable, trying an older one" in messages
        ok = weights == at[20] or (weights == at[10] and has_warned)
        seen = {at[20]: "this step", at[10]: "the step before", None: "refused"}.get(weights, "WRONG NUMBERS")
        records.append(Record(f"one file {NAMES[damage]}", str(file), ok, f"{seen}; {messages}"))
        shutil.rmtree(copy)
    return records


NAMES = {flip: "with a flipped bit", truncate: "truncated", delete: "deleted"}


def _repaired(source: Path, directory: Path) -> list[Record]:
    """Repeats a run after damage. It resumes from the step before, or starts again, and must give the same results."""
    records = []
    for name, steps in {"newest": (20,), "both": (10, 20)}.items():
        copy = directory / f"repaired_{name}"
        shutil.copytree(source, copy)
        (copy / "results.json").unlink()
        for step in steps:
            spoil(copy / "checkpoints" / str(step))
        code, text = main_of_run(copy)
        wrong = [text] * bool(code) + harness.differences(copy, source)
        wrong += [] if text.count("is unreadable") == len(steps) else [f"does not warn: {text}"]
        records.append(Record("a run with damaged checkpoints repairs them", name, not wrong, "; ".join(wrong)))
    return records


def spoil(step: Path) -> None:
    """Cuts every file of a checkpoint in half."""
    for file in step.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _foreign(at: dict[int, bytes], source: Path, directory: Path) -> list[Record]:
    """Adds invalid checkpoints to a run: they must be skipped or refused, with a message."""
    cases: dict[str, tuple[Callable[[Path], Any], bytes | None, str]] = {
        "an empty directory": (lambda path: (path / "30").mkdir(), at[20], "checkpoint 30 is unreadable"),
        "an empty item": (lambda path: (path / "30" / "state").mkdir(parents=True), at[20], "30 is unreadable"),
        "another program's": (_another_programs, at[20], "checkpoint 30 is unreadable"),
        "a pickle": (_pickled, at[20], "checkpoint 30 is unreadable"),
        "a stray file": (lambda path: (path / "30").write_text("?"), at[20], ""),
        "a future version's": (_future, None, "this version reads format"),
        "none that is sound": (_none_sound, None, "no readable checkpoint"),
        "no checkpoint at all": (shutil.rmtree, None, "holds no checkpoints"),
    }
    records = []
    for i, (name, (put, expected, words)) in enumerate(cases.items()):
        copy = directory / f"foreign_{i}"
        shutil.copytree(source, copy)
        put(copy / "checkpoints")
        weights, messages = loaded(copy)
        ok = weights == expected and words in messages
        records.append(Record("a foreign, empty or future checkpoint", name, ok, messages))
    return records


def _another_programs(path: Path) -> None:
    import numpy as np
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(path.absolute()) as manager:
        manager.save(30, args=ocp.args.Composite(state=ocp.args.StandardSave({"w": np.ones(3)})))


class _Planted:
    """An object whose unpickling ends the process."""

    def __reduce__(self) -> tuple:
        return sys.exit, ("a pickle was read",)


def _pickled(path: Path) -> None:
    shutil.copytree(path / "20", path / "30")
    for file in (path / "30").rglob("*"):
        if file.is_file():
            file.write_bytes(pickle.dumps(_Planted()))


def _future(path: Path) -> None:
    from icl_gd.migrations import CHECKPOINTS, newest_of
    from icl_gd.training import checkpoint

    store = checkpoint.Checkpoints(path)
    leaves, about = store.restore()[1:]
    with mock.patch.dict(CHECKPOINTS, {newest_of(CHECKPOINTS): dict}):  # pretend that a newer format exists
        store.save(30, leaves, about)
    store.close()


def _none_sound(path: Path) -> None:
    for step in STEPS:
        spoil(path / str(step))


def run(count: int, directory: Path) -> list[Record]:
    """Tests `count` damaged files, then foreign checkpoints and repairs."""
    source = directory / "source"
    code, text = main_of_run(source)
    assert code == 0, text
    at = {20: loaded(source)[0]}
    older = directory / "older"
    shutil.copytree(source, older)
    shutil.rmtree(older / "checkpoints" / "20")
    at[10] = loaded(older)[0]
    assert None not in at.values()
    assert at[10] != at[20]
    return _damaged(at, source, directory, count) + _foreign(at, source, directory) + _repaired(source, directory)


if __name__ == "__main__":
    sys.exit(harness.main(run, 200))
