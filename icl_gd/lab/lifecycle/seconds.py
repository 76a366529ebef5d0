"""How long a run took: the seconds of all of its processes, kept in its workdir, of training and of the rest."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from icl_gd.lab.reporting.results import write_json

FILE = "seconds.json"


class Seconds:
    """The seconds of a run up to now: those of earlier processes, as far as they were kept, and of this one.

    Args:
      has_begun: whether an earlier process has trained; without its seconds those of the run are partial.
    """

    def __init__(self, workdir: Path, has_begun: bool):
        self._path = workdir / FILE
        self._before = _read(self._path) or {"training": 0.0, "rest": 0.0, "processes": 0, "partial": has_begun}
        self._began, self._training = time.monotonic(), 0.0
        self._since: float | None = None  # while this process trains

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Counts what is done in it as training."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._training += time.monotonic() - self._since
            self._since = None
            self.keep()

    def read(self) -> dict[str, Any]:
        """Seconds of training and of the rest, in how many processes, and whether earlier ones are missing."""
        now = time.monotonic()
        training = self._training + (0.0 if self._since is None else now - self._since)
        return {
            "training": self._before["training"] + training,
            "rest": self._before["rest"] + now - self._began - training,
            "processes": self._before["processes"] + 1,
            "partial": self._before["partial"],
        }

    def keep(self) -> None:
        """Writes them, for a process that goes on after this one; of what is lost since the last time none knows."""
        with contextlib.suppress(OSError):  # a full disk fails the run elsewhere
            write_json(self._path, self.read())


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
        return {name: found[name] for name in ("training", "rest", "processes", "partial")}
    except (OSError, ValueError, KeyError, TypeError):
        return None
