"""Where a run's results go: whether it can go there, or on there, and the directory held while it runs."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from icl_gd.lab.config.asked import Run
from icl_gd.lab.config.bad_input import BadInput, one_line
from icl_gd.lab.config.experiment import Experiment
from icl_gd.lab.config.fields import default_of
from icl_gd.lab.config.resources import disk_needed
from icl_gd.migrations import CONFIGS, migrated


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
    workdir = run.workdir
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
    if disk.total and disk.free < (needed := disk_needed(run.experiment)):  # what is no disk has no total
        raise BadInput(
            f"--workdir={workdir}: {disk.free / 2**20:.3g} MiB are free there, a run needs about {needed / 2**20:.3g}; "
            "make room, or give another"
        )
    if (workdir / "results.json").exists() and not (workdir / "config.json").exists():
        raise BadInput(f"--workdir={workdir} holds results without their config.json; give another --workdir")
    try:
        found = json.loads((workdir / "config.json").read_text())
        stored = stored_fields(found)
        there = found.get("experiment"), found.get("variant")
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise BadInput(
            f"--workdir={workdir}: its config.json is unreadable ({one_line(error)}); give another"
        ) from error
    if there != (None, None) and there != (run.name, run.variant):
        raise BadInput(f"--workdir={workdir} holds a run of {there[0]}:{there[1]}; give another --workdir")
    differ = differing(run.experiment, stored)
    if list(differ) == ["train.steps"]:
        why = _no_extension(*differ["train.steps"], run.experiment["train.schedule"])
        if why is None:
            return
        raise _others(workdir, differ, f"; {why}")
    if differ:
        raise _others(workdir, differ, "")


def stored_fields(found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a config.json holds, by name, as this version has them."""
    return migrated(flattened(found["config"]), found.get("format", 1), CONFIGS)


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"task.d_input": 10, ...}` from `{"task": {"d_input": 10}, ...}`."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def differing(experiment: Experiment, stored: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields in which an experiment differs from what was stored of a run: name -> (stored, asked).

    What an older version did not know, it did as is the default. What it stored of fields that this experiment does
    not have, it stored of every run, and they did nothing in one of the same task, model and reference.
    """
    asked, differ = json.loads(json.dumps(experiment.flat(), default=str)), {}
    for name, its in experiment.fields.items():
        if its.is_free or name == "claims":
            continue
        default = json.loads(json.dumps(default_of(experiment, its), default=str))
        there = stored.get(name, asked[name] if its.chooses is not None else default)
        if there != asked[name]:
            differ[name] = there, asked[name]
    return differ


def _others(workdir: Path, differ: Mapping[str, tuple[Any, Any]], why: str) -> BadInput:
    shown = ", ".join(f"{name} (stored {there}, asked {asked})" for name, (there, asked) in differ.items())
    return BadInput(f"--workdir={workdir} holds a run with other settings: {shown}{why}; give another --workdir")


def _no_extension(before: Any, after: Any, schedule: str) -> str | None:
    """Why a run cannot go on to other `train.steps` than it was stored with; None if it can."""
    if not isinstance(before, int) or not isinstance(after, int):
        return "a sweep over it cannot be changed"
    if after < before:
        return "it may be raised, to extend the run, not lowered"
    if schedule != "constant":
        return f"train.schedule={schedule} depends on the last step, only a constant one can be extended"
    return None
