"""Where a run's results go: whether it can go there, or on there, and the directory held while it runs."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from icl_gd.lab.config.asked import Run
from icl_gd.lab.config.bad_input import BadInput, one_line
from icl_gd.lab.config.defaults import base_config, flatten
from icl_gd.lab.config.resources import disk_needed

# Settings of how a run goes and is shown, which may differ between a run and its continuation.
FREE_FIELDS = ("train.log_every", "train.checkpoint_every", "train.parallel", "claims")


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Makes the workdir, and holds it against other runs; one that failed before it left anything is taken away.

    Raises:
      BadInput: if it cannot be made, or another run holds it.
    """
    made = not workdir.exists()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        directory = os.open(workdir, os.O_RDONLY)
    except OSError as error:
        raise BadInput(f"--workdir={workdir}: {error.strerror}; give a directory that can be written") from error
    try:
        if not _locked(workdir, directory):
            raise BadInput(f"--workdir={workdir} is in use by another run; wait for it, or give another")
        try:
            yield
        finally:  # by the holder only: who was refused would take the directory from under the one who holds it
            if made:
                with contextlib.suppress(OSError):
                    workdir.rmdir()
    finally:
        os.close(directory)


def _locked(workdir: Path, directory: int) -> bool:
    """Whether the open directory is locked now and still is `workdir`: a run that fails takes its own away."""
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(directory), workdir.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _check_what_is_in_the_way(workdir: Path) -> None:
    """What a run writes may be there already, as what it is, and must be writable."""
    for name in ("checkpoints", "figures", "config.json", "metrics.jsonl", "results.json", "report.html"):
        path, wanted = workdir / name, "file" if "." in name else "directory"
        if not path.exists() and not path.is_symlink():
            continue
        if not (path.is_file() if wanted == "file" else path.is_dir()):
            raise BadInput(f"--workdir={workdir}: {name} there is no {wanted}; move it, or give another")
        if not os.access(path, os.W_OK | (0 if wanted == "file" else os.X_OK)):
            raise BadInput(f"--workdir={workdir}: cannot write to {name} there; give a directory that can be written")


def check_workdir(run: Run) -> None:
    """Whether a run can go into its workdir, or on in it.

    Raises:
      BadInput: if it cannot.
    """
    workdir, name, variant, config = run.workdir, run.name, run.variant, run.config
    above = workdir.absolute()
    try:
        while not above.exists() and not above.is_symlink():
            above = above.parent
    except OSError as error:
        raise BadInput(f"--workdir={workdir}: {error.strerror}; give a directory that can be made") from error
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise BadInput(f"--workdir={workdir}: cannot write to {above}; give a directory that can be made and written")
    _check_what_is_in_the_way(workdir)
    disk = shutil.disk_usage(above)
    if disk.total and disk.free < (needed := disk_needed(config)):  # what is no disk has no total
        raise BadInput(
            f"--workdir={workdir}: {disk.free / 2**20:.3g} MiB are free there, a run needs about {needed / 2**20:.3g}; "
            "make room, or give another"
        )
    if (workdir / "results.json").exists() and not (workdir / "config.json").exists():
        raise BadInput(f"--workdir={workdir} holds results without their config.json; give another --workdir")
    try:
        found = json.loads((workdir / "config.json").read_text())
        stored = flatten(found["config"])
        there = found.get("experiment"), found.get("variant")
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise BadInput(
            f"--workdir={workdir}: its config.json is unreadable ({one_line(error)}); give another"
        ) from error
    if there != (None, None) and there != (name, variant):
        raise BadInput(f"--workdir={workdir} holds a run of {there[0]}:{there[1]}; give another --workdir")
    asked = flatten(json.loads(json.dumps(flatten(config), default=str)))
    stored = flatten(base_config()) | stored  # what an older version did not know, it did as is the default
    differ = [f for f in sorted({*asked, *stored}) if asked.get(f) != stored.get(f) and not f.startswith(FREE_FIELDS)]
    if differ == ["train.steps"] and not (why := _no_extension(stored, asked)):
        return
    if differ:
        shown = ", ".join(f"{f} (stored {stored.get(f)}, asked {asked.get(f)})" for f in differ)
        why = f"; {why}" if differ == ["train.steps"] else ""
        raise BadInput(f"--workdir={workdir} holds a run with other settings: {shown}{why}; give another --workdir")


def _no_extension(stored: dict[str, Any], asked: dict[str, Any]) -> str | None:
    """Why a run cannot go on to other `train.steps` than it was stored with; None if it can."""
    before, after = stored.get("train.steps"), asked["train.steps"]
    if not isinstance(before, int) or not isinstance(after, int):
        return "a sweep over it cannot be changed"
    if after < before:
        return "it may be raised, to extend the run, not lowered"
    if asked["train.schedule"] != "constant":
        return f"train.schedule={asked['train.schedule']} depends on the last step, only a constant one can be extended"
    return None
