"""A workdir is locked by one run, on file systems with and without locks; a lock left by a crash is taken over."""

import contextlib
import errno
import fcntl
import json
import multiprocessing
import os
import socket
import time

import pytest

from icl_gd.lab.config.errors import ConfigError
from icl_gd.lab.lifecycle import workdirs
from icl_gd.lab.lifecycle.workdirs import HOLDER, locked

NO_PROCESS = 2**22 + 1  # above the largest process id of Linux


def left(workdir, **its):
    """Writes the lock file that a killed run leaves; `its` are fields with other values."""
    workdir.mkdir(exist_ok=True)
    sign = {"host": socket.gethostname(), "process": NO_PROCESS, "since": time.time(), **its}
    (workdir / HOLDER).write_text(json.dumps(sign))
    return workdir / HOLDER


@pytest.fixture(params=[None, errno.EBADF, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def locks(request, monkeypatch):
    """A file system with locks (None), and without locks (the error that `flock` raises)."""
    if request.param is not None:

        def none(*args):
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(fcntl, "flock", none)
        monkeypatch.setattr(workdirs, "TAKES_OVER", 0.01)
    return request.param


@contextlib.contextmanager
def hold(workdir, locks):
    """Locks a workdir, and expects a warning if the file system has no locks."""
    said = pytest.warns(UserWarning, match="only held.json protects it")
    warned = contextlib.nullcontext() if locks is None else said
    with contextlib.ExitStack() as stack:
        with warned:
            stack.enter_context(locked(workdir))
        yield


@pytest.mark.parametrize("locks", [errno.ENOLCK], indirect=True)
def test_without_locks_a_second_run_is_refused(locks, tmp_path):
    with hold(tmp_path / "run", locks):
        with pytest.raises(ConfigError, match=f"another run .process {os.getpid()} on"), hold(tmp_path / "run", locks):
            pass
        assert (tmp_path / "run" / HOLDER).exists()
    assert not (tmp_path / "run").exists()


def test_what_a_killed_run_left_is_taken_over(locks, tmp_path):
    path = left(tmp_path / "run")
    with hold(tmp_path / "run", locks):
        assert json.loads(path.read_text())["process"] == os.getpid()
    assert not path.exists()


def test_a_sign_that_is_cut_short_holds_nothing(locks, tmp_path):
    left(tmp_path).write_text("{")
    with hold(tmp_path, locks):
        pass
    assert os.listdir(tmp_path) == []


def test_a_run_on_another_machine_holds_while_it_gives_signs_of_life(locks, tmp_path):
    path = left(tmp_path, host="elsewhere")
    with pytest.raises(ConfigError, match=f"process {NO_PROCESS} on elsewhere, since 20"), hold(tmp_path, locks):
        pass
    long_ago = time.time() - workdirs.GONE_AFTER - 60
    os.utime(path, (long_ago, long_ago))
    with hold(tmp_path, locks):
        pass


def test_a_run_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(workdirs, "SIGN_EVERY", 0.01)
    with locked(tmp_path):
        os.utime(tmp_path / HOLDER, (1.0, 1.0))
        deadline = time.monotonic() + 10
        while (tmp_path / HOLDER).stat().st_mtime < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / HOLDER).stat().st_mtime > 2


def test_a_full_disk_takes_no_sign(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(workdirs, "open", full, raising=False)
    with locked(tmp_path):
        assert os.listdir(tmp_path) == []


def _try(workdir, start, results):
    fcntl.flock = _no_locks
    start.wait()
    try:
        with locked(workdir):
            results.put("held")
            time.sleep(3)
    except ConfigError:
        results.put("refused")


def _no_locks(*args):
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.slow
def test_of_several_that_take_over_at_once_one_does(tmp_path):
    left(tmp_path)
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    processes = [context.Process(target=_try, args=(tmp_path, start, results)) for _ in range(4)]
    for process in processes:
        process.start()
    time.sleep(8)
    start.set()
    found = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert found == ["held", "refused", "refused", "refused"]
