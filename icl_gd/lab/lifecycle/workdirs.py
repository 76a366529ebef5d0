"""Work directories: checks that a run can start or resume in one, and locks it during the run."""

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

from icl_gd.lab.config.errors import ConfigError, one_line
from icl_gd.lab.config.experiment import Experiment
from icl_gd.lab.config.fields import default_of
from icl_gd.lab.config.resources import disk_needed
from icl_gd.lab.config.run_request import RunRequest
from icl_gd.migrations import CONFIGS, migrated

HOLDER = "held.json"  # the lock file, which names the process that holds the workdir
SIGN_EVERY = 15.0  # seconds between two renewals of the lock file
GONE_AFTER = 90.0  # seconds without renewal after which a lock file is stale
TAKES_OVER = 2.0  # seconds to wait after replacing a stale lock file, if the file system has no locks
# Errors of `flock` on file systems without locks: NFS, EFS, Lustre and others.
NO_LOCKS = (errno.EBADF, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Creates the workdir and locks it against other runs. A new workdir that is empty after the run is removed.

    There are two locks. The first is an `flock` on the directory, which the system releases when the process ends. Some
    file systems have no such locks, and on some they are not visible on other machines. The second lock is therefore a
    file with host, process and time, which is renewed during the run.

    Raises:
      ConfigError: if the workdir cannot be created, or another run holds it.
    """
    is_new = not workdir.exists()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        directory = os.open(workdir, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(f"--workdir={workdir}: {error.strerror}; give a writable directory") from error
    try:
        lock = _lock(workdir, directory)
        if lock is Lock.HELD_BY_ANOTHER:
            raise _in_use(workdir)
        try:
            with _lock_file(workdir, has_flock=lock is Lock.ACQUIRED):
                yield
        finally:  # not reached if another run holds the flock, because the directory is then in use
            if is_new:
                with contextlib.suppress(OSError):
                    workdir.rmdir()
    finally:
        os.close(directory)


def _in_use(workdir: Path, holder: str | None = None) -> ConfigError:
    """The error about a workdir that another run holds."""
    by = f" ({holder})" if holder else ""
    return ConfigError(f"--workdir={workdir} is in use by another run{by}; wait for it, or give another --workdir")


class Lock(Enum):
    """The outcome of an attempt to lock a directory."""

    ACQUIRED, HELD_BY_ANOTHER, UNSUPPORTED = "acquired", "held by another", "unsupported"


def _lock(workdir: Path, directory: int) -> Lock:
    """Locks the open directory.

    The result is HELD_BY_ANOTHER, too, if `workdir` is no longer this directory: a run that ended may have removed it,
    and another run may have created it again.
    """
    import fcntl  # not at the top: Windows lacks the module, but must still print error messages

    lock = Lock.ACQUIRED
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return Lock.HELD_BY_ANOTHER
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        lock = Lock.UNSUPPORTED
        warnings.warn(f"{workdir} is on a file system without locks; only {HOLDER} protects it", stacklevel=2)
    try:
        return lock if os.path.samestat(os.fstat(directory), workdir.stat()) else Lock.HELD_BY_ANOTHER
    except FileNotFoundError:
        return Lock.HELD_BY_ANOTHER


@contextlib.contextmanager
def _lock_file(workdir: Path, has_flock: bool) -> Iterator[None]:
    """Holds a workdir by a lock file, which a thread renews.

    Args:
      workdir: the workdir.
      has_flock: whether an `flock` keeps other processes of this machine from replacing a stale file at the same time.
    """
    path, mine = workdir / HOLDER, {"host": socket.gethostname(), "process": os.getpid(), "since": time.time()}
    try:
        with open(path, "x") as file:
            json.dump(mine, file)
    except FileExistsError:
        if holder := _live_holder(path):
            raise _in_use(workdir, holder) from None
        part = path.with_name(f"{HOLDER}.{os.getpid()}")
        part.write_text(json.dumps(mine))
        os.replace(part, path)
        if not has_flock:
            # If several processes replace the file at the same time, the last one to write holds the workdir.
            time.sleep(TAKES_OVER)
            if _read(path) != mine:
                raise _in_use(workdir) from None
    except OSError:
        yield  # the disk may be full; the run reports this itself when it writes its first file
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
    """The content of a lock file; None if it does not exist or is truncated."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _live_holder(path: Path) -> str | None:
    """A description of the process that holds a lock file; None if the process has ended or the file is stale."""
    holder = _read(path)
    if not isinstance(holder, dict) or not {"host", "process", "since"} <= set(holder):
        return None
    probe = path.with_name(f"{HOLDER}.{os.getpid()}")
    try:
        probe.touch()  # to read the clock of the file system, which may differ from the clock of this machine
        silent = probe.stat().st_mtime - path.stat().st_mtime
        probe.unlink()
    except OSError:
        return None
    if holder["host"] == socket.gethostname() and not _is_running(holder["process"]):
        return None
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
    return None if silent > GONE_AFTER else f"process {holder['process']} on {holder['host']}, since {since}"


def _is_running(process: int) -> bool:
    """Whether a process with this id runs on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # the process belongs to another user
    return True


def _check_existing_files(workdir: Path) -> None:
    """Checks that existing files and directories of a run have the right type and are writable."""
    for name in ("checkpoints", "figures", "config.json", "metrics.jsonl", "results.json", "report.html"):
        path, kind = workdir / name, "file" if "." in name else "directory"
        if not path.exists() and not path.is_symlink():
            continue
        if not (path.is_file() if kind == "file" else path.is_dir()):
            raise ConfigError(f"--workdir={workdir}: {name} in it is not a {kind}; move it, or give another --workdir")
        if not os.access(path, os.W_OK | (0 if kind == "file" else os.X_OK)):
            raise ConfigError(f"--workdir={workdir}: cannot write to {name} in it; give a writable directory")


def check_workdir(run: RunRequest) -> None:
    """Checks that a run can start in its workdir, or resume or extend the run that the workdir holds.

    Raises:
      ConfigError: if it can do none of these.
    """
    workdir = run.workdir
    _check_place(run)
    _check_existing_files(workdir)
    if (workdir / "results.json").exists() and not (workdir / "config.json").exists():
        raise ConfigError(f"--workdir={workdir} holds results.json without config.json; give another --workdir")
    try:
        content = json.loads((workdir / "config.json").read_text())
        stored = stored_fields(content)
        name, variant = content.get("experiment"), content.get("variant")
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ConfigError(
            f"--workdir={workdir}: its config.json is unreadable ({one_line(error)}); give another --workdir"
        ) from error
    if (name, variant) not in ((None, None), (run.name, run.variant)):
        held_run = f"{name}:{variant}" if variant else name
        raise ConfigError(f"--workdir={workdir} holds a run of {held_run}; give another --workdir")
    differ = differing(run.experiment, stored)
    if list(differ) == ["train.steps"]:
        why = _why_not_extendable(*differ["train.steps"], run.experiment["train.schedule"])
        if why is None:
            return
        raise _other_settings(workdir, differ, f"; {why}")
    if differ:
        raise _other_settings(workdir, differ, "")


def _check_place(run: RunRequest) -> None:
    """Checks that the workdir can be created and written to, and that its disk has enough free space."""
    workdir = run.workdir
    existing = workdir.absolute()
    try:
        while not existing.exists() and not existing.is_symlink():
            existing = existing.parent
    except OSError as error:
        raise ConfigError(f"--workdir={workdir}: {error.strerror}; give another directory") from error
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"--workdir={workdir}: cannot write to {existing}; give a writable directory")
    disk = shutil.disk_usage(existing)
    if disk.total and disk.free < (
        needed := disk_needed(run.experiment)
    ):  # some virtual file systems report a total of 0
        raise ConfigError(
            f"--workdir={workdir}: {disk.free / 2**20:.3g} MiB are free, but the run needs about "
            f"{needed / 2**20:.3g} MiB; free some space, or give another --workdir"
        )


def stored_fields(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields in the content of a config.json, by current names and with values in the current format."""
    return migrated(flattened(content["config"]), content.get("format", 1), CONFIGS)


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested mappings: `{"task.d_input": 10, ...}` from `{"task": {"d_input": 10}, ...}`."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def differing(experiment: Experiment, stored: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compares an experiment with the stored fields of a run, except fields that may differ after a resume.

    A field that is not stored is compared by its default, because an earlier version without the field behaved like the
    default. A stored field that this experiment does not have is ignored: earlier versions stored all fields of every
    run, and such a field had no effect with the same task, model and reference.

    Args:
      experiment: the requested experiment.
      stored: the stored fields, returned by `stored_fields`.

    Returns:
      (stored, requested) for every field that differs, by name.
    """
    requested, differ = json.loads(json.dumps(experiment.flat(), default=str)), {}
    for name, field in experiment.fields.items():
        if field.is_free or name == "claims":
            continue
        default = json.loads(json.dumps(default_of(experiment, field), default=str))
        before = stored.get(name, requested[name] if field.chooses is not None else default)
        if before != requested[name]:
            differ[name] = before, requested[name]
    return differ


def _other_settings(workdir: Path, differ: Mapping[str, tuple[Any, Any]], why: str) -> ConfigError:
    """The error about a workdir whose run has other settings."""
    shown = ", ".join(f"{name} (stored {before}, requested {after})" for name, (before, after) in differ.items())
    return ConfigError(f"--workdir={workdir} holds a run with other settings: {shown}{why}; give another --workdir")


def _why_not_extendable(before: Any, after: Any, schedule: str) -> str | None:
    """The reason why `train.steps` of a stored run cannot be changed in this way; None if it can."""
    if not isinstance(before, int) or not isinstance(after, int):
        return "a sweep over train.steps cannot be changed"
    if after < before:
        return "train.steps may be raised, to extend the run, but not lowered"
    if schedule != "constant":
        return f"train.schedule={schedule} depends on the last step, so only train.schedule=constant can be extended"
    return None
