"""Training with everything a run shows and keeps: metrics as it goes, checkpoints, resume, signals."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from icl_gd.lab.config.asked import Config
from icl_gd.lab.evaluation.question import Question
from icl_gd.lab.lifecycle import costs, monitor
from icl_gd.models import TransformerConfig
from icl_gd.training import Interrupted, Population, TrainSettings, mesh, train
from icl_gd.training.problem import Task


def train_watched(
    config: Config,
    task: Task,
    model: TransformerConfig,
    settings: TrainSettings,
    stop: monitor.Stop,
    watch: Callable[[Any], Mapping[str, np.ndarray]],
    workdir: Path,
    checkpoints: Path,
    label: str = "",
    points: Sequence[Mapping[str, Any]] = ({},),
    **more: Any,
) -> Population:
    """Trains the config's seeds in a workdir, or goes on where an interrupted run left it.

    Args:
      watch: parameters of all members to metrics `[member]`, after every `train.log_every` steps.
      checkpoints: where this population's are.
      label: of this population, where a workdir has several: its metrics are filed under it.
      points: the fields in which combinations of a population differ.
      more: for `icl_gd.train`.

    Raises:
      Interrupted: when a signal asked for it.
    """
    costs.stage("training")
    screen = monitor.Monitor(workdir, settings.steps, config.seed, label, points)

    def on_chunk(trained: Population, step: int, loss: jax.Array) -> None:
        screen.warn(np.asarray(trained.diverged_at))
        screen.write(step, {"training_loss": _mean_of_taken(np.asarray(loss))} | dict(watch(trained.params)))

    def on_resume(step: int) -> None:
        if step:
            print(f"resuming {label or 'training'} from step {step}", flush=True)
        screen.resume(step)  # from 0 too: a run may have crashed before its first checkpoint

    stop.saved = False
    try:
        trained = train(
            task, model, settings, layout=config.model.layout, seeds=config.seeds, seed=config.seed,
            parallel=config.train.parallel, checkpoints=checkpoints, checkpoint_every=config.train.checkpoint_every,
            chunk_steps=config.train.log_every, on_chunk=on_chunk, stop_requested=lambda: stop.signal,
            on_resume=on_resume, **more,
        )  # fmt: skip
        screen.warn(np.asarray(trained.diverged_at))  # of a run that had nothing left to train
    finally:
        screen.close()
    stop.saved = True
    costs.stage("evaluation")
    if (signal := mesh.agreed(stop.signal)) is not None:
        raise Interrupted(settings.steps, signal)
    return trained


def analyse(
    names: Sequence[str], analyses: Mapping[str, Question], study: Any, found: Any,
    stop: monitor.Stop, step: int,
) -> None:  # fmt: skip
    """Asks a study, trained up to `step`, what a config names; records go into `found`.

    Raises:
      Interrupted: when a signal asked for it.
    """
    for name in names:
        print(f"analysing: {name}", flush=True)
        costs.stage(f"analysis: {name}")
        analyses[name].measure(study, found)
        if stop.signal is not None:  # its exception may have been raised where Python ignores exceptions
            raise Interrupted(step, stop.signal)


def _mean_of_taken(loss: np.ndarray) -> np.ndarray:
    """Mean `[member]` of losses `[step member]` over the steps that were taken; nan where none was."""
    taken = ~np.isnan(loss)
    with np.errstate(invalid="ignore"):
        return np.where(taken, loss, 0.0).sum(0) / taken.sum(0)
