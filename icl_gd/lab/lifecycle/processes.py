"""A run in several processes, on one host or many: each runs the same program, the first one writes and speaks.

--coordinator=HOST:PORT --process_count=N --process_index=I      started by hand, I = 0 on HOST
--distributed                                                    on Slurm, TPU pods or Kubernetes, which know these
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

from icl_gd.lab.config.asked import Processes, Run
from icl_gd.lab.config.errors import ConfigError
from icl_gd.lab.lifecycle.workdirs import held
from icl_gd.training import mesh

FLAGS = ("coordinator", "process_count", "process_index", "distributed")
# Seconds. All analyse, and the slowest may take long; the first then has figures to draw.
PATIENCE: dict[str, Any] = {
    "initialization_timeout": 300,
    "heartbeat_timeout_seconds": 100,
    "shutdown_timeout_seconds": 3600,
}


def processes_of(given: Mapping[str, str]) -> Processes | None:
    """What the flags say; None for a single process.

    Raises:
      ConfigError: if they say too little, or what cannot be.
    """
    asked = given.get("distributed", "false").lower()
    if asked not in ("", "true", "false"):
        raise ConfigError(f"--distributed={asked}: true or false is accepted")
    by_hand = {name: given[name] for name in FLAGS[:3] if name in given}
    if not by_hand:
        return Processes() if asked in ("", "true") and "distributed" in given else None
    if asked != "false":
        raise ConfigError(
            f"--distributed asks the cluster, it contradicts --{', --'.join(by_hand)}; give one or the other"
        )
    if missing := [name for name in FLAGS[:3] if name not in by_hand]:
        raise ConfigError(f"--{missing[0]} is missing: --coordinator, --process_count and --process_index go together")
    host, _, port = by_hand["coordinator"].rpartition(":")
    if not re.fullmatch(r"[^:\s]+|\[[0-9a-fA-F:]+\]", host) or not (port.isdecimal() and 0 < int(port) < 2**16):
        raise ConfigError(f"--coordinator={by_hand['coordinator']}: HOST:PORT is accepted, as in node0:1234")
    count = _whole("process_count", by_hand["process_count"], 1, 2**20)
    return Processes(by_hand["coordinator"], count, _whole("process_index", by_hand["process_index"], 0, count - 1))


def _whole(name: str, text: str, low: int, high: int) -> int:
    if not re.fullmatch(r"-?\d{1,9}", text) or not low <= int(text) <= high:
        raise ConfigError(f"--{name}={text}: a whole number from {low} to {high} is accepted")
    return int(text)


def join(processes: Processes) -> None:
    """Meets the other processes; before anything else of JAX is used.

    Raises:
      ConfigError: if they are not met, or the cluster does not say who they are.
    """
    import jax

    try:
        jax.distributed.initialize(processes.coordinator, processes.count, processes.index, **PATIENCE)
    except Exception as error:  # of many kinds, by how the cluster failed to answer
        why = " ".join(str(error).split())
        raise ConfigError(
            f"the processes of this run have not met ({why}); start all of them, with the same --coordinator and "
            "--process_count, or --distributed where a cluster started them"
        ) from error


def check_agreement(run: Run) -> None:
    """Whether all processes were asked for the same run: others would wait for each other for ever.

    Raises:
      ConfigError: if they were not.
    """
    import numpy as np
    from jax.experimental import multihost_utils

    asked = json.dumps([run.name, run.variant, run.experiment.flat()], sort_keys=True, default=str)
    digest = np.frombuffer(hashlib.sha256(asked.encode()).digest()[:4], np.uint32)
    if len({int(value) for value in multihost_utils.process_allgather(digest).ravel()}) > 1:
        raise ConfigError(
            "the processes of this run were given different settings; give all of them the same command line"
        )


@contextlib.contextmanager
def ours(run: Run) -> Iterator[Run]:
    """The run as this process sees it: the first holds the workdir; the others write and say nothing that is kept."""
    if mesh.is_primary():
        with held(run.workdir):
            yield run
        return
    with (
        tempfile.TemporaryDirectory() as scratch,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        yield replace(run, workdir=Path(scratch))
