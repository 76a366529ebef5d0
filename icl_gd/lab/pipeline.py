"""From a checked request to its report: train, evaluate, analyse, judge, draw.

One population is trained after another where an experiment sweeps over sizes; where members of a population differ, its
metrics are taken combination by combination. A sweep leaves its metrics in `sweep`, one entry a combination; `metrics`,
and the curves and arrays of single populations, stay empty, because a mean over combinations would mean nothing.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from icl_gd import analysis
from icl_gd.lab.config import sweeps
from icl_gd.lab.config.asked import Run
from icl_gd.lab.config.experiment import Experiment
from icl_gd.lab.config.questions import shipped
from icl_gd.lab.evaluation import pictures
from icl_gd.lab.evaluation.measured import CURVES, Evaluation, Records, Setting, held_out_key
from icl_gd.lab.lifecycle import costs, monitor, resume
from icl_gd.lab.lifecycle.seconds import Seconds
from icl_gd.lab.lifecycle.start import weights_of
from icl_gd.lab.reporting import report, results
from icl_gd.models import TransformerConfig
from icl_gd.programs import brief
from icl_gd.tasks import draw_prompts
from icl_gd.training import Interrupted, Population, TrainSettings, initialise, mesh, train
from icl_gd.training.checkpoint import nested

Results = dict[str, Any]  # metrics, curves, arrays and sweep, as in results.json
Watch = Callable[[Any], Mapping[str, np.ndarray]]  # parameters of all members to metrics [member]


def carry_out(run: Run, stop: monitor.Stop) -> Results:
    """Carries out a run from start (or from its last checkpoint) to report; a finished run is only drawn again.

    Returns:
      The content of results.json.

    Raises:
      Interrupted: when a signal asked for it.
    """
    workdir, stored = run.workdir, nested(run.experiment.flat())
    done = resume.finished(workdir, stored)
    if mesh.broadcast_from_primary(done is not None):
        if done is not None:  # or another process has it
            print(f"{workdir} holds a finished run; drawing its figures and report again")
            present(run, done)
        return done or {}
    resumed = resume.last_step(workdir)
    seconds = Seconds(workdir, has_begun=resumed > 0)
    about = {"experiment": run.name, "variant": run.variant, **results.provenance(run.experiment.precision)}
    resume.store(workdir, {**about, "resolved": run.experiment.resolved()}, stored)
    costs.stage("references")
    found = _in_turn(run, stop, seconds)
    spent = seconds.read()
    seconds.keep()
    done = {**about, "steps": stored["train"]["steps"], "wall_seconds": spent["training"] + spent["rest"], **found}
    done |= {"seconds": spent} | ({"resumed_at": resumed} if resumed else {})
    done["claims"] = results.check_claims(run.experiment.claims, done, run.overridden)
    results.write_json(workdir / "results.json", done)
    done = json.loads((workdir / "results.json").read_text())
    present(run, done)
    return done


def present(run: Run, done: Results) -> None:
    """Draws figures and report from the results alone, and prints what holds."""
    costs.stage("drawing")
    own = [picture for its in run.experiment.analyses if its.name not in shipped() for picture in its.figures]
    captions = pictures.draw(done, run.workdir / "figures", own)
    page = report.write_report(run.workdir, done, nested(run.experiment.flat()), captions)
    for claim in done["claims"]:
        value = "nan" if claim["value"] is None else f"{claim['value']:.5g}"
        print(f"{'holds' if claim['holds'] else 'FAILS'}  {claim['id']:<28} {value:>10}  {claim['statement']}")
    print(f"report: {page}")


def _in_turn(run: Run, stop: monitor.Stop, seconds: Seconds) -> Results:
    """Results of all populations."""
    found: Results = {"metrics": {}, "curves": {}, "arrays": {}, "sweep": []}
    if swept := sweeps.describe(run.experiment):
        print(swept, flush=True)
    for fields, one in run.experiment.in_turn():
        part = measure(one, run.workdir, stop, sweeps.label(fields), seconds)
        found["sweep"] += [point | {"fields": fields | point["fields"]} for point in part.pop("sweep")]
        found |= part if not swept else {}
    found["curves"] |= _curves(found["sweep"])
    return found


def measure(
    experiment: Experiment, workdir: Path, stop: monitor.Stop, label: str = "", seconds: Seconds | None = None
) -> Results:
    """One population from training to records, or those of every combination in it."""
    seconds = Seconds(workdir, has_begun=False) if seconds is None else seconds
    task, points = experiment.law, experiment.together()
    draw = task.sample_prefixes if experiment.reference.on_prefixes else task.sample
    setting = Setting(
        experiment,
        draw_prompts(draw, held_out_key(experiment.seed, CURVES), experiment.eval.curve_prompts),
        points,
        _trainer(experiment, workdir, stop, label, points, seconds),
        lambda name: monitor.read_history(workdir, _labelled(label, name)),
    )
    reference = experiment.reference.prepare(setting)
    watch = _watch(setting, reference.watch)
    network, settings = experiment.network, experiment.settings
    trained = setting.train(experiment.trained_on, network, settings, watch, start=weights_of(experiment.train.start))
    untrained = initialise(network, settings, experiment.seed, experiment.seeds).member.params
    study = Evaluation(
        **vars(setting),
        trained=trained,
        untrained=untrained,
        reference=reference,
        watch=watch,
        history=setting.read_history(""),
    )
    found = reference.evaluate(study)
    for asked in experiment.analyses:
        print(f"analysing: {asked.name}", flush=True)
        costs.stage(f"analysis: {asked.name}")
        asked.measure(study, found)
        if stop.signal is not None:  # its exception may have been raised where Python ignores exceptions
            raise Interrupted(settings.steps, stop.signal)
    if not any(points):
        reference.over_training(study, found)
    return _records(found, experiment, label)


def _watch(setting: Setting, beside: Watch) -> Watch:
    """What is measured during training: what the reference watches, and what analyses do."""
    watches = [asked.watch(setting) for asked in setting.experiment.analyses if asked.watch is not None]
    if not watches:
        return beside
    of_member = lambda params: {name: value for watch in watches for name, value in watch(params).items()}
    compiled = brief(lambda params: analysis.over_members(of_member, params))
    return lambda params: {**beside(params), **jax.tree.map(np.asarray, compiled(params))}


def _labelled(label: str, name: str) -> str:
    return ",".join(filter(None, (name, label)))


def _trainer(
    experiment: Experiment,
    workdir: Path,
    stop: monitor.Stop,
    label: str,
    points: list[sweeps.Fields],
    seconds: Seconds,
) -> Callable[..., Population]:
    """Training with everything that a run shows and keeps: metrics as it goes, checkpoints, resume, signals."""

    def trained(
        task: Any, network: TransformerConfig, settings: TrainSettings, watch: Watch, name: str = "", **more: Any
    ) -> Population:
        """Trains the experiment's seeds, or goes on where an interrupted run left them; `more` is for `train`.

        Raises:
          Interrupted: when a signal asked for it.
        """
        costs.stage("training")
        shown = _labelled(label, name)
        project = experiment.train.wandb if mesh.is_primary() else None
        screen = monitor.Monitor(workdir, settings.steps, experiment.seed, shown, points, project, experiment.flat())

        def on_chunk(trained: Population, step: int, loss: jax.Array) -> None:
            screen.warn(np.asarray(trained.diverged_at))
            seconds.keep()
            screen.write(step, {"training_loss": _mean_of_taken(np.asarray(loss))} | dict(watch(trained.params)))

        def on_resume(step: int) -> None:
            if step:
                print(f"resuming {shown or 'training'} from step {step}", flush=True)
            screen.resume(step)  # from 0 too: a run may have crashed before its first checkpoint

        stop.saved = False
        try:
            with seconds.training():
                population = train(
                    task,
                    network,
                    settings,
                    layout=experiment.model.layout,
                    seeds=experiment.seeds,
                    seed=experiment.seed,
                    parallel=experiment.train.parallel,
                    checkpoints=workdir / name / "checkpoints" / label,
                    checkpoint_every=experiment.train.checkpoint_every,
                    keep_checkpoints=experiment.train.keep_checkpoints,
                    chunk_steps=experiment.train.log_every,
                    on_chunk=on_chunk,
                    stop_requested=lambda: stop.signal,
                    on_resume=on_resume,
                    **more,
                )
            screen.warn(np.asarray(population.diverged_at))  # of a run that had nothing left to train
        finally:
            screen.close()
        stop.saved = True
        costs.stage("evaluation")
        if (signal := mesh.any_signal(stop.signal)) is not None:
            raise Interrupted(settings.steps, signal)
        return population

    return trained


def _mean_of_taken(loss: np.ndarray) -> np.ndarray:
    """Mean `[member]` of losses `[step member]` over the steps that were taken; nan where none was."""
    taken = ~np.isnan(loss)
    with np.errstate(invalid="ignore"):
        return np.where(taken, loss, 0.0).sum(0) / taken.sum(0)


def _records(found: Records, experiment: Experiment, label: str) -> Results:
    """Of one population, or of every combination in it."""
    points, seeds = experiment.together(), experiment.seeds
    if any(points):
        metrics_of = lambda i: found.metrics(slice(i * seeds, (i + 1) * seeds))
        return {"sweep": [{"fields": fields, "metrics": metrics_of(i)} for i, fields in enumerate(points)]}
    metrics = found.metrics()
    sweep = [{"fields": {}, "metrics": metrics}] if label else []
    return {"metrics": metrics, "curves": found.curves, "arrays": found.arrays, "sweep": sweep}


def _curves(sweep: list[dict]) -> Results:
    """Every metric of a sweep over one field as a curve over its values; of a sweep over several there are none."""
    if not sweep or len(sweep[0]["fields"]) > 1:
        return {}
    (field,) = sweep[0]["fields"]
    names = set.intersection(*(set(point["metrics"]) for point in sweep))
    return {f"{name}_by_{sweeps.leaf(field)}": results.sweep_line(sweep, field, name) for name in sorted(names)}
