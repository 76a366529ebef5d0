"""A validated request for one run: the experiment, its name, its workdir and its processes."""

from dataclasses import dataclass
from pathlib import Path

from icl_gd.lab.config.experiment import Experiment


@dataclass(frozen=True)
class Processes:
    """How the processes of one run find each other. All values are None if the cluster provides them.

    Attributes:
      coordinator: HOST:PORT of the first process.
      count: the number of processes.
      index: the index of this process, counted from 0.
    """

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None


@dataclass(frozen=True)
class RunRequest:
    """A validated request for one run.

    Attributes:
      experiment: what is trained, evaluated and claimed.
      name: the name of the config, as it is written to results.json.
      variant: the variant of the config; None for the config itself.
      workdir: the directory for everything that the run writes.
      overridden: names of the fields that differ from the config file.
      processes: the processes of the run; None for a run in a single process.
      profile: whether the run prints the seconds of its stages.
      verbose: whether the run prints all claims, and not only those that fail.
      temporary: whether the workdir is removed after the run, so that its path is not printed.
    """

    experiment: Experiment
    name: str
    variant: str | None
    workdir: Path
    overridden: tuple[str, ...] = ()
    processes: Processes | None = None
    profile: bool = False
    verbose: bool = False
    temporary: bool = False
