"""A run from Python: an experiment to its results, in a process that is left as it was."""

import tempfile
from pathlib import Path
from typing import Any

from icl_gd.lab.config.asked import Run
from icl_gd.lab.config.experiment import Experiment
from icl_gd.lab.config.resources import check_memory
from icl_gd.lab.lifecycle import settings
from icl_gd.lab.lifecycle.devices import check_device, check_placement, check_system
from icl_gd.lab.lifecycle.monitor import Stop, check_wandb
from icl_gd.lab.lifecycle.start import check_start
from icl_gd.lab.lifecycle.workdirs import check_workdir, held
from icl_gd.lab.pipeline import carry_out
from icl_gd.paths import local


def run(experiment: Experiment, workdir: str | Path | None = None, *, name: str = "experiment") -> dict[str, Any]:
    """Carries out an experiment, or goes on with it where it was interrupted, and gives its results.

    Precision, warnings and verbosity of the process are afterwards what they were before.

    Args:
      workdir: where everything is left that a run leaves; a directory that is removed afterwards when left out.
      name: of the experiment, as results.json has it.

    Returns:
      The content of results.json: metrics, curves, arrays, sweep, claims.

    Raises:
      ConfigError: if the experiment does not fit this machine, or the workdir holds another run.
      Interrupted: when a signal asked for it; the same call goes on from there.
    """
    if workdir is None:
        with tempfile.TemporaryDirectory() as scratch:
            return run(experiment, Path(scratch) / "run", name=name)
    check_system()
    asked = Run(experiment, name, None, local(workdir, "workdir"))
    experiment.reference.check_here()
    check_wandb(experiment.train.wandb)
    check_memory(experiment)
    check_device(experiment.precision)
    check_placement(experiment)
    check_start(asked)
    check_workdir(asked)
    with held(asked.workdir), settings.set_for(experiment.precision, quickly=False), Stop() as stop:
        return carry_out(asked, stop)
