"""A checked request for a run."""

from dataclasses import dataclass
from pathlib import Path

from icl_gd.lab.config.experiment import Experiment


@dataclass(frozen=True)
class Processes:
    """The processes of a run; all None where the cluster is to be asked."""

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None


@dataclass(frozen=True)
class Run:
    """A checked request: an experiment and where its results go."""

    experiment: Experiment
    name: str
    variant: str | None
    workdir: Path
    overridden: tuple[str, ...] = ()  # fields that differ from the config file's
    processes: Processes | None = None  # None for a run in one process
    profile: bool = False  # whether it says where its seconds went
