"""Runs with several processes, on one or several hosts.

All processes run the same program. Only the first process prints and writes to the workdir.

--coordinator=HOST:PORT --process_count=N --process_index=I      started by hand; process 0 runs on HOST
--distributed                                                    started by Slurm, a TPU pod or Kubernetes
"""

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from icl_gd.lab.config.errors import ConfigError
from icl_gd.lab.config.run_request import Processes, RunRequest
from icl_gd.lab.lifecycle.workdirs import locked
from icl_gd.training import mesh

FLAGS = ("coordinator", "process_count", "process_index", "distributed")
# Timeouts in seconds. The one for shutdown is long: processes finish the analyses at different times, and the first one
# then draws the figures.
TIMEOUTS: dict[str, Any] = {
    "initialization_timeout": 300,
    "heartbeat_timeout_seconds": 100,
    "shutdown_timeout_seconds": 3600,
}


def processes_of(given: Mapping[str, str]) -> Processes | None:
    """Converts the flags of a command line to `Processes`.

    Args:
      given: text by name of the flag, for the flags of `FLAGS` on the command line.

    Returns:
      The addresses of the processes; None for a run with a single process.

    Raises:
      ConfigError: if a flag is missing or has a value that is not accepted.
    """
    distributed = given.get("distributed", "false").lower()
    if distributed not in ("", "true", "false"):
        raise ConfigError(f"--distributed={distributed}: must be true or false")
    by_hand = {name: given[name] for name in FLAGS[:3] if name in given}
    if not by_hand:
        return Processes() if distributed != "false" else None
    if distributed != "false":
        raise ConfigError(
            f"--distributed contradicts --{', --'.join(by_hand)}: it takes these values from the cluster; "
            "give one or the other"
        )
    if missing := [name for name in FLAGS[:3] if name not in by_hand]:
        raise ConfigError(
            f"--{missing[0]} is missing: give --coordinator, --process_count and --process_index together"
        )
    host, _, port = by_hand["coordinator"].rpartition(":")
    if not re.fullmatch(r"[^:\s]+|\[[0-9a-fA-F:]+\]", host) or not (port.isdecimal() and 0 < int(port) < 2**16):
        raise ConfigError(f"--coordinator={by_hand['coordinator']}: must be HOST:PORT, for example node0:1234")
    count = _whole("process_count", by_hand["process_count"], 1, 2**20)
    return Processes(by_hand["coordinator"], count, _whole("process_index", by_hand["process_index"], 0, count - 1))


def _whole(name: str, text: str, low: int, high: int) -> int:
    if not re.fullmatch(r"-?\d{1,9}", text) or not low <= int(text) <= high:
        raise ConfigError(f"--{name}={text}: must be a whole number from {low} to {high}")
    return int(text)


def join(processes: Processes) -> None:
    """Connects this process with the other processes of the run. Call it before any other use of JAX.

    Raises:
      ConfigError: if the processes do not connect in time, or the cluster does not provide their addresses.
    """
    import jax

    try:
        jax.distributed.initialize(processes.coordinator, processes.count, processes.index, **TIMEOUTS)
    except Exception as error:  # the class depends on the cluster
        why = " ".join(str(error).split())
        raise ConfigError(
            f"the processes of this run did not connect ({why}); start all of them, with the same --coordinator and "
            "--process_count, or with --distributed if a cluster starts them"
        ) from error


def check_agreement(run: RunRequest) -> None:
    """Checks that all processes have the same request. Otherwise they would wait for each other forever.

    Raises:
      ConfigError: if their requests differ.
    """
    import numpy as np
    from jax.experimental import multihost_utils

    request = json.dumps([run.name, run.variant, run.experiment.flat()], sort_keys=True, default=str)
    digest = np.frombuffer(hashlib.sha256(request.encode()).digest()[:4], np.uint32)
    if len({int(value) for value in multihost_utils.process_allgather(digest).ravel()}) > 1:
        raise ConfigError(
            "the processes of this run have different settings; give the same command line to all of them"
        )


@contextlib.contextmanager
def for_this_process(run: RunRequest) -> Iterator[RunRequest]:
    """A context with the request for this process.

    The first process locks the workdir. Every other process writes to a temporary directory and prints nothing.

    Yields:
      The request with the directory that this process writes to.
    """
    if mesh.is_primary():
        with locked(run.workdir):
            yield run
        return
    with (
        tempfile.TemporaryDirectory() as scratch,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        yield replace(run, workdir=Path(scratch))
