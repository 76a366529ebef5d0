"""The duration of a run: seconds of training and of all other work, summed over the processes of a resumed run."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from icl_gd.lab.reporting.results import write_json

FILE = "seconds.json"


class Seconds:
    """The seconds of a run so far: of earlier processes, as stored in the workdir, and of this process.

    Args:
      workdir: the workdir of the run.
      has_begun: whether an earlier process has trained. If so, and its seconds are not stored, the sum is partial.
    """

    def __init__(self, workdir: Path, has_begun: bool):
        self._path = workdir / FILE
        self._before = _read(self._path) or {"training": 0.0, "rest": 0.0, "processes": 0, "partial": has_begun}
        self._began, self._training = time.monotonic(), 0.0
        self._since: float | None = None  # when the current training began; None outside of training

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """A context whose time counts as training."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._training += time.monotonic() - self._since
            self._since = None
            self.keep()

    def read(self) -> dict[str, Any]:
        """The seconds so far.

        Returns:
          Seconds of "training" and of the "rest", the number of "processes", and whether the sum is "partial", which
          means that seconds of earlier processes are missing.
        """
        now = time.monotonic()
        training = self._training + (0.0 if self._since is None else now - self._since)
        return {
            "training": self._before["training"] + training,
            "rest": self._before["rest"] + now - self._began - training,
            "processes": self._before["processes"] + 1,
            "partial": self._before["partial"],
        }

    def keep(self) -> None:
        """Stores the seconds for a later process. Seconds after the last call are lost."""
        with contextlib.suppress(OSError):  # if the disk is full, the run fails when it writes other files
            write_json(self._path, self.read())


def _read(path: Path) -> dict[str, Any] | None:
    try:
        stored = json.loads(path.read_text())
        return {name: stored[name] for name in ("training", "rest", "processes", "partial")}
    except (OSError, ValueError, KeyError, TypeError):
        return None
