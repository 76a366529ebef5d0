"""The pipeline of a run: train, evaluate, analyse, test claims, draw.

A sweep over sizes trains several populations in sequence. A sweep over rates trains one population, whose members have
different rates. In both cases, the entry `sweep` of the results has the metrics of every combination of swept values.
In a sweep, `metrics` and `arrays` are empty, because a mean over combinations has no meaning, and `curves` has only
curves over a swept field.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from icl_gd import analysis
from icl_gd.lab.config import sweeps
from icl_gd.lab.config.experiment import Experiment
from icl_gd.lab.config.questions import Picture, is_recorded, shipped
from icl_gd.lab.config.run_request import RunRequest
from icl_gd.lab.evaluation import pictures
from icl_gd.lab.evaluation.measured import CURVES, Evaluation, Records, Setting, held_out_key
from icl_gd.lab.lifecycle import costs, monitor, resume
from icl_gd.lab.lifecycle.seconds import Seconds
from icl_gd.lab.lifecycle.start import weights_of
from icl_gd.lab.reporting import report, results
from icl_gd.lab.reporting.answer import answer
from icl_gd.models import TransformerConfig
from icl_gd.programs import quick_jit
from icl_gd.tasks import draw_prompts
from icl_gd.training import Interrupted, Population, TrainSettings, initialise, mesh, train
from icl_gd.trees import nested

Results = dict[str, Any]  # metrics, curves, arrays and sweep, as in results.json
Watch = Callable[[Any], Mapping[str, np.ndarray]]  # from parameters of all members to metrics [member]


def carry_out(run: RunRequest, stop: monitor.Stop) -> Results:
    """Runs an experiment and writes its report.

    If there is a checkpoint, the run resumes from the last one. If the run is finished, only its figures and report are
    drawn again.

    Args:
      run: a validated request. The caller has locked the workdir.
      stop: the signal handler.

    Returns:
      The content of results.json.

    Raises:
      Interrupted: if a signal stopped the run. Its state is saved.
    """
    workdir, stored = run.workdir, nested(run.experiment.flat())
    done = resume.finished(workdir, stored)
    if mesh.broadcast_from_primary(done is not None):
        if done is not None:  # only the primary process reads the workdir
            print(f"{workdir} holds a finished run; drawing its figures and report again")
            present(run, done)
        return done or {}
    resumed = resume.last_step(workdir)
    seconds = Seconds(workdir, has_begun=resumed > 0)
    about = {"experiment": run.name, "variant": run.variant, **results.provenance(run.experiment.precision)}
    resume.store(workdir, {**about, "resolved": run.experiment.resolved()}, stored)
    costs.stage("references")
    measured = _measure_populations(run, stop, seconds)
    spent = seconds.read()
    seconds.keep()
    done = {**about, "steps": stored["train"]["steps"], "wall_seconds": spent["training"] + spent["rest"], **measured}
    done |= {"seconds": spent} | ({"resumed_at": resumed} if resumed else {})
    done["claims"] = results.check_claims(run.experiment.claims, done, run.overridden)
    results.write_json(workdir / "results.json", done)
    done = json.loads((workdir / "results.json").read_text())
    present(run, done)
    return done


def present(run: RunRequest, done: Results) -> None:
    """Draws the figures and the report from the results alone, and prints the summary."""
    costs.stage("drawing")
    custom = [one for one in run.experiment.analyses if one.name not in shipped()]
    figures = [figure for one in custom for figure in one.figures]
    captions = pictures.draw(done, run.workdir / "figures", figures)
    page = report.write_report(run.workdir, done, nested(run.experiment.flat()), captions, _sections(run.experiment))
    print(summary(done, run.verbose))
    if not run.temporary:
        print(f"report: {page}")


def summary(done: Results, verbose: bool = False) -> str:
    """The last lines of a run: the claims that fail, then the answer in one sentence.

    Args:
      done: the content of results.json.
      verbose: whether claims that hold are listed, too. Default: False.

    Returns:
      One line per claim, then the answer.
    """
    rows = sorted(done["claims"], key=lambda claim: claim["holds"])
    lines = [_claim_line(claim) for claim in rows if verbose or not claim["holds"]]
    return "\n".join([*lines, answer(done)])


def _claim_line(claim: dict[str, Any]) -> str:
    value = "nan" if claim["value"] is None else f"{claim['value']:.5g}"
    verdict = "holds" if claim["holds"] else "FAILS"
    return f"{verdict}  {claim['id']:<28} {value:>10} {report.target(claim):>20}  {claim['statement']}"


def _sections(experiment: Experiment) -> list[report.Section]:
    """The sections of the report: the training with its reference, then one section per analysis."""
    reference = sys.modules[type(experiment.reference).__module__]
    sections = [_section("Training", reference, getattr(reference, "PICTURES", ()), experiment.reference.records)]
    for one in experiment.analyses:
        title = one.name.replace("_", " ").capitalize()
        sections.append(_section(title, sys.modules[one.measure.__module__], one.figures, one.records))
    return sections


def _section(title: str, module: ModuleType, figures: Sequence[Picture], names: tuple[str, ...]) -> report.Section:
    about = (module.__doc__ or "").partition("\n")[0]
    return report.Section(title, about, tuple(one.name for one in figures), partial(is_recorded, patterns=names))


def _measure_populations(run: RunRequest, stop: monitor.Stop, seconds: Seconds) -> Results:
    """Trains and measures the populations of a run in sequence, and merges their results."""
    merged: Results = {"metrics": {}, "curves": {}, "arrays": {}, "sweep": []}
    if swept := sweeps.describe(run.experiment):
        print(swept, flush=True)
    for fields, one in run.experiment.populations():
        part = measure(one, run.workdir, stop, sweeps.label(fields), seconds)
        merged["sweep"] += [point | {"fields": fields | point["fields"]} for point in part.pop("sweep")]
        if not swept:
            merged |= part
    merged["curves"] |= _curves(merged["sweep"])
    return merged


def measure(
    experiment: Experiment, workdir: Path, stop: monitor.Stop, label: str = "", seconds: Seconds | None = None
) -> Results:
    """Trains one population and measures it.

    Args:
      experiment: an experiment whose only sweeps are over fields that may differ between members.
      workdir: the directory for checkpoints and metrics.
      stop: the signal handler.
      label: the name of the population in a sweep. Default: empty, for no sweep.
      seconds: the timer to which training time is added. Default: a new timer.

    Returns:
      `metrics`, `curves` and `arrays`. If values differ by member, `sweep` alone: the metrics of every combination.

    Raises:
      Interrupted: if a signal stopped the run.
    """
    seconds = Seconds(workdir, has_begun=False) if seconds is None else seconds
    task, combinations = experiment.eval_task, experiment.combinations()
    draw = task.sample_prefixes if experiment.reference.on_prefixes else task.sample
    setting = Setting(
        experiment,
        draw_prompts(draw, held_out_key(experiment.seed, CURVES), experiment.eval.curve_prompts),
        combinations,
        _trainer(experiment, workdir, stop, label, combinations, seconds),
        lambda name: monitor.read_history(workdir, _labelled(label, name)),
    )
    reference = experiment.reference.prepare(setting)
    watch = _watch(setting, reference.watch)
    network, settings = experiment.network, experiment.settings
    trained = setting.train(
        experiment.training_source, network, settings, watch, start=weights_of(experiment.train.start)
    )
    untrained = initialise(network, settings, experiment.seed, experiment.seeds).member.params
    evaluation = Evaluation(
        **vars(setting),
        trained=trained,
        untrained=untrained,
        reference=reference,
        watch=watch,
        history=setting.read_history(""),
        checkpoints=workdir / "checkpoints" / label,
    )
    records = reference.evaluate(evaluation)
    began = time.monotonic()
    for i, one in enumerate(experiment.analyses):
        print(_progress(one.name, i, len(experiment.analyses), time.monotonic() - began), flush=True)
        costs.stage(f"analysis: {one.name}")
        one.measure(evaluation, records)
        if stop.signal is not None:  # the KeyboardInterrupt of the signal handler can get lost
            raise Interrupted(settings.steps, stop.signal)
    if not any(combinations):
        reference.over_training(evaluation, records)
    return _results(records, experiment, label)


def _progress(name: str, done: int, of: int, seconds: float) -> str:
    """The line printed before an analysis: its number, and the remaining time estimated from the earlier analyses."""
    left = f", about {seconds / done * (of - done):.0f} s left" if done else ""
    return f"analysing {done + 1} of {of}: {name}{left}"


def _watch(setting: Setting, reference_watch: Watch) -> Watch:
    """Returns the function that measures metrics during training: those of the reference and of the analyses."""
    watches = [one.watch(setting) for one in setting.experiment.analyses if one.watch is not None]
    if not watches:
        return reference_watch

    def member_metrics(params: Any) -> dict[str, Any]:
        return {name: value for watch in watches for name, value in watch(params).items()}

    compiled = quick_jit(lambda params: analysis.over_members(member_metrics, params))
    return lambda params: {**reference_watch(params), **jax.tree.map(np.asarray, compiled(params))}


def _labelled(label: str, name: str) -> str:
    return ",".join(filter(None, (name, label)))


def _trainer(
    experiment: Experiment,
    workdir: Path,
    stop: monitor.Stop,
    label: str,
    combinations: list[sweeps.Fields],
    seconds: Seconds,
) -> Callable[..., Population]:
    """Returns a training function that logs metrics, saves and resumes checkpoints, and stops at signals."""

    def train_population(
        task: Any, network: TransformerConfig, settings: TrainSettings, watch: Watch, name: str = "", **more: Any
    ) -> Population:
        """Trains the population, or resumes its training. `more` is passed to `icl_gd.train`.

        Raises:
          Interrupted: if a signal stopped the training.
        """
        costs.stage("training")
        title = _labelled(label, name)
        project = experiment.train.wandb if mesh.is_primary() else None
        screen = monitor.Monitor(
            workdir, settings.steps, experiment.seed, title, combinations, project, experiment.flat()
        )

        def on_chunk(trained: Population, step: int, loss: jax.Array) -> None:
            screen.warn(np.asarray(trained.diverged_at))
            seconds.keep()
            screen.write(
                step, {"training_loss": _mean_over_taken_steps(np.asarray(loss))} | dict(watch(trained.params))
            )

        def on_resume(step: int) -> None:
            if step:
                print(f"resuming {title or 'training'} from step {step}", flush=True)
            # Needed at step 0, too: an earlier process may have written metrics, but no checkpoint.
            screen.resume(step)

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
            screen.warn(np.asarray(population.diverged_at))  # `on_chunk` is not called if no step is left to train
        finally:
            screen.close()
        stop.saved = True
        costs.stage("evaluation")
        if (signal := mesh.any_signal(stop.signal)) is not None:
            raise Interrupted(settings.steps, signal)
        return population

    return train_population


def _mean_over_taken_steps(loss: np.ndarray) -> np.ndarray:
    """The mean `[member]` of losses `[step member]` over steps that were not skipped; nan if all were skipped."""
    taken = ~np.isnan(loss)
    with np.errstate(invalid="ignore"):
        return np.where(taken, loss, 0.0).sum(0) / taken.sum(0)


def _results(records: Records, experiment: Experiment, label: str) -> Results:
    """The results of one population; if a field is swept within it, only the metrics of every combination."""
    combinations, seeds = experiment.combinations(), experiment.seeds
    if any(combinations):
        members = [slice(i * seeds, (i + 1) * seeds) for i in range(len(combinations))]
        sweep = [
            {"fields": fields, "metrics": records.metrics(subset), **_verdicts(records, subset)}
            for fields, subset in zip(combinations, members, strict=True)
        ]
        return {"sweep": sweep}
    metrics, verdicts = records.metrics(), _verdicts(records)
    sweep = [{"fields": {}, "metrics": metrics, **verdicts}] if label else []
    return {"metrics": metrics, "curves": records.curves, "arrays": records.arrays, "sweep": sweep, **verdicts}


def _verdicts(records: Records, members: slice = slice(None)) -> Results:
    """The entry "verdicts" of results.json; none if the members are not identified."""
    return {"verdicts": records.verdicts[members]} if records.verdicts else {}


def _curves(sweep: list[dict]) -> Results:
    """For a sweep over one field: every metric as a curve over the field's values. Other sweeps have no curves."""
    if not sweep or len(sweep[0]["fields"]) > 1:
        return {}
    (field,) = sweep[0]["fields"]
    names = set.intersection(*(set(point["metrics"]) for point in sweep))
    return {f"{name}_by_{sweeps.leaf(field)}": results.sweep_line(sweep, field, name) for name in sorted(names)}
