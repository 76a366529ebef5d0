"""A validated request for one run: the experiment, its name, its workdir and its processes."""

from dataclasses import dataclass
from pathlib import Path

from icl_gd.lab.config.experiment import Experiment


@dataclass(frozen=True)
class Processes:
    """The addresses by which the processes of one run connect. All are None if the cluster provides them.

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
      experiment: the experiment to run.
      name: the name of the config, written to results.json.
      variant: the variant of the config; None for the config itself.
      workdir: the directory for all files that the run writes.
      overridden: names of the fields that differ from the config file.
      processes: the processes of the run; None for a run in a single process.
      profile: whether the run prints the seconds of its stages.
      verbose: whether the run prints all claims. Default: only claims that fail.
      temporary: whether the workdir is removed after the run. If so, its path is not printed.
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
