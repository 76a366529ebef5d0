"""Where a run's results go: whether it can go there, or on there, and the directory held while it runs."""

import contextlib
import errno
import json
import os
import shutil
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from icl_gd.lab.config.asked import Run
from icl_gd.lab.config.errors import ConfigError, one_line
from icl_gd.lab.config.experiment import Experiment
from icl_gd.lab.config.fields import default_of
from icl_gd.lab.config.resources import disk_needed
from icl_gd.migrations import CONFIGS, migrated

HOLDER = "held.json"  # who holds a workdir, while it does
SIGN_EVERY, GONE_AFTER = 15.0, 90.0  # seconds between signs of life, and without one
TAKES_OVER = 2.0  # seconds that one waits who takes over where there are no locks
NO_LOCKS = (errno.EBADF, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)  # of NFS, EFS, Lustre and others


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Makes the workdir, and holds it against other runs; one that failed before it left anything is taken away.

    It is held twice: by a lock on the directory, which the system takes back from a process that ends, and, since not
    every file system has locks and not every lock is seen on other machines, by a file with host, process and time,
    which is renewed while the run lives.

    Raises:
      ConfigError: if it cannot be made, or another run holds it.
    """
    made = not workdir.exists()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        directory = os.open(workdir, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(f"--workdir={workdir}: {error.strerror}; give a directory that can be written") from error
    try:
        lock = _lock(workdir, directory)
        if lock is Lock.OF_ANOTHER:
            raise ConfigError(f"--workdir={workdir} is in use by another run; wait for it, or give another")
        try:
            with _signed(workdir, alone=lock is Lock.OURS):
                yield
        finally:  # by the holder only: who was refused would take the directory from under the one who holds it
            if made:
                with contextlib.suppress(OSError):
                    workdir.rmdir()
    finally:
        os.close(directory)


class Lock(Enum):
    """What became of asking for a lock."""

    OURS, OF_ANOTHER, NONE_THERE = "ours", "of another", "none there"


def _lock(workdir: Path, directory: int) -> Lock:
    """Locks the open directory, if it still is `workdir`: a run that fails takes its own away."""
    import fcntl  # which Windows has not: even there a message can be read

    found = Lock.OURS
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return Lock.OF_ANOTHER
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        found = Lock.NONE_THERE
        warnings.warn(f"{workdir} is on a file system without locks; {HOLDER} there holds it alone", stacklevel=2)
    try:
        return found if os.path.samestat(os.fstat(directory), workdir.stat()) else Lock.OF_ANOTHER
    except FileNotFoundError:
        return Lock.OF_ANOTHER


@contextlib.contextmanager
def _signed(workdir: Path, alone: bool) -> Iterator[None]:
    """Holds a workdir by a file that is made exclusively, and renewed from a thread.

    Args:
      alone: whether a lock keeps others of this machine from taking over at the same time.
    """
    path, mine = workdir / HOLDER, {"host": socket.gethostname(), "process": os.getpid(), "since": time.time()}
    try:
        with open(path, "x") as file:
            json.dump(mine, file)
    except FileExistsError:
        if by := _alive(path):
            raise ConfigError(
                f"--workdir={workdir} is in use by another run ({by}); wait for it, or give another"
            ) from None
        part = path.with_name(f"{HOLDER}.{os.getpid()}")
        part.write_text(json.dumps(mine))
        os.replace(part, path)
        if not alone:
            time.sleep(TAKES_OVER)  # of several that take over at once, the last to write holds it
            if _read(path) != mine:
                raise ConfigError(
                    f"--workdir={workdir} is in use by another run; wait for it, or give another"
                ) from None
    except OSError:
        yield  # a full disk takes no sign; the run will say so
        return
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(SIGN_EVERY):
            with contextlib.suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if _read(path) == mine:
            path.unlink(missing_ok=True)


def _read(path: Path) -> Any:
    """What a file of a holder says; None if it is not there, or cut short."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _alive(path: Path) -> str | None:
    """Who holds a workdir by a file, in words; None if it is gone: its process is no more, or gives no sign of life."""
    its = _read(path)
    if not isinstance(its, dict) or not {"host", "process", "since"} <= set(its):
        return None
    beside = path.with_name(f"{HOLDER}.{os.getpid()}")
    try:
        beside.touch()  # by the clock of the file system, which may be another machine's
        silent = beside.stat().st_mtime - path.stat().st_mtime
        beside.unlink()
    except OSError:
        return None
    if its["host"] == socket.gethostname() and not _is_running(its["process"]):
        return None
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(its["since"]))
    return None if silent > GONE_AFTER else f"process {its['process']} on {its['host']}, since {since}"


def _is_running(process: int) -> bool:
    """Whether this machine has such a process."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True


def _check_what_is_in_the_way(workdir: Path) -> None:
    """What a run writes may be there already, as what it is, and must be writable."""
    for name in ("checkpoints", "figures", "config.json", "metrics.jsonl", "results.json", "report.html"):
        path, wanted = workdir / name, "file" if "." in name else "directory"
        if not path.exists() and not path.is_symlink():
            continue
        if not (path.is_file() if wanted == "file" else path.is_dir()):
            raise ConfigError(f"--workdir={workdir}: {name} there is no {wanted}; move it, or give another")
        if not os.access(path, os.W_OK | (0 if wanted == "file" else os.X_OK)):
            raise ConfigError(
                f"--workdir={workdir}: cannot write to {name} there; give a directory that can be written"
            )


def check_workdir(run: Run) -> None:
    """Whether a run can go into its workdir, or on in it.

    Raises:
      ConfigError: if it cannot.
    """
    workdir = run.workdir
    above = workdir.absolute()
    try:
        while not above.exists() and not above.is_symlink():
            above = above.parent
    except OSError as error:
        raise ConfigError(f"--workdir={workdir}: {error.strerror}; give a directory that can be made") from error
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(
            f"--workdir={workdir}: cannot write to {above}; give a directory that can be made and written"
        )
    _check_what_is_in_the_way(workdir)
    disk = shutil.disk_usage(above)
    if disk.total and disk.free < (needed := disk_needed(run.experiment)):  # what is no disk has no total
        raise ConfigError(
            f"--workdir={workdir}: {disk.free / 2**20:.3g} MiB are free there, a run needs about {needed / 2**20:.3g}; "
            "make room, or give another"
        )
    if (workdir / "results.json").exists() and not (workdir / "config.json").exists():
        raise ConfigError(f"--workdir={workdir} holds results without their config.json; give another --workdir")
    try:
        found = json.loads((workdir / "config.json").read_text())
        stored = stored_fields(found)
        there = found.get("experiment"), found.get("variant")
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ConfigError(
            f"--workdir={workdir}: its config.json is unreadable ({one_line(error)}); give another"
        ) from error
    if there != (None, None) and there != (run.name, run.variant):
        raise ConfigError(f"--workdir={workdir} holds a run of {there[0]}:{there[1]}; give another --workdir")
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


def _others(workdir: Path, differ: Mapping[str, tuple[Any, Any]], why: str) -> ConfigError:
    shown = ", ".join(f"{name} (stored {there}, asked {asked})" for name, (there, asked) in differ.items())
    return ConfigError(f"--workdir={workdir} holds a run with other settings: {shown}{why}; give another --workdir")


def _no_extension(before: Any, after: Any, schedule: str) -> str | None:
    """Why a run cannot go on to other `train.steps` than it was stored with; None if it can."""
    if not isinstance(before, int) or not isinstance(after, int):
        return "a sweep over it cannot be changed"
    if after < before:
        return "it may be raised, to extend the run, not lowered"
    if schedule != "constant":
        return f"train.schedule={schedule} depends on the last step, only a constant one can be extended"
    return None
