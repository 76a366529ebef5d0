"""Runs an experiment from Python, for example in a notebook."""

import tempfile
from pathlib import Path
from typing import Any

from icl_gd.lab.config.experiment import Experiment
from icl_gd.lab.config.resources import check_memory
from icl_gd.lab.config.run_request import RunRequest
from icl_gd.lab.lifecycle import settings
from icl_gd.lab.lifecycle.devices import check_device, check_placement, check_system
from icl_gd.lab.lifecycle.monitor import Stop, check_wandb
from icl_gd.lab.lifecycle.start import check_start
from icl_gd.lab.lifecycle.workdirs import check_workdir, locked
from icl_gd.lab.pipeline import carry_out
from icl_gd.paths import local


def run(experiment: Experiment, workdir: str | Path | None = None, *, name: str = "experiment") -> dict[str, Any]:
    """Runs an experiment and returns its results. The same call resumes an interrupted run.

    After the run, JAX's precision, warnings and logging are restored.

    Args:
      experiment: the experiment.
      workdir: the directory for all outputs of the run. Default: a temporary directory, which is removed after the run.
      name: the name of the experiment in results.json.

    Returns:
      The content of results.json: metrics, curves, arrays, sweep and claims.

    Raises:
      ConfigError: if this machine cannot run the experiment, or the workdir holds another run.
      Interrupted: if a signal stopped the run.
    """
    if workdir is None:
        with tempfile.TemporaryDirectory() as scratch:
            return _run(RunRequest(experiment, name, None, Path(scratch) / "run", temporary=True))
    return _run(RunRequest(experiment, name, None, local(workdir, "workdir")))


def _run(request: RunRequest) -> dict[str, Any]:
    experiment = request.experiment
    check_system()
    experiment.reference.check_here()
    check_wandb(experiment.train.wandb)
    check_memory(experiment)
    check_device(experiment.precision)
    check_placement(experiment)
    check_start(request)
    check_workdir(request)
    with locked(request.workdir), settings.jax_settings(experiment.precision, quickly=False), Stop() as stop:
        return carry_out(request, stop)
