"""Train linear self-attention on linear regression, and ask whether it is gradient descent.

train -> evaluate -> analyse -> records. A sweep within a population takes all this once, and metrics combination by
combination; one over sizes repeats it. A sweep leaves its metrics in `sweep`, one entry a combination; `metrics`, and
the curves and arrays of single populations, stay empty, because a mean over combinations would mean nothing.
"""

import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import continuation, figures, monitor, report, results, sweeps
from experiments import study as studies
from experiments.analyses import ANALYSES
from experiments.references import references
from experiments.settings import Run, model_of, task_of, train_of
from experiments.validation import FIT_FLOATS
from icl_gd import analysis, learners
from icl_gd.tokens import LAYOUTS
from icl_gd.training import Interrupted, Population, fastest_predictor, initialise, mesh, train

EVAL_KEY, CURVE_KEY, FIT_KEY = 1, 2, 3  # folded into a key no member trains on


def run(run: Run, stop: monitor.Stop) -> None:
    """Runs a config from start (or from its last checkpoint) to report; a finished run is only redrawn."""
    workdir, stored = run.workdir, run.config.to_dict()
    done = continuation.finished(workdir, stored)
    if mesh.told_by_first(done is not None):
        if done is None:
            return  # another process has it
        print(f"{workdir} holds a finished run; drawing its figures and report again")
        present(workdir, done)
        return
    began = time.time()
    about = {"experiment": run.name, "variant": run.variant, **results.provenance(run.config.precision)}
    continuation.store(workdir, about, stored)

    found: dict[str, Any] = {"metrics": {}, "curves": {}, "arrays": {}, "sweep": []}
    if swept := sweeps.describe(run.config):
        print(swept, flush=True)
    for fields, config in sweeps.in_turn(run.config):
        part = run_one(run, config, sweeps.label(fields), stop)
        found["sweep"] += [point | {"fields": fields | point["fields"]} for point in part.pop("sweep")]
        found |= part if not swept else {}
    found["curves"] |= sweep_curves(found["sweep"])
    done = {**about, "steps": stored["train"]["steps"], "wall_seconds": time.time() - began, **found}
    done["claims"] = results.check_claims(stored["claims"], done, run.overridden)
    results.write_json(workdir / "results.json", done)
    present(workdir, json.loads((workdir / "results.json").read_text()))


def present(workdir: Path, done: dict[str, Any]) -> None:
    """Draws figures and report from the results alone, and prints what holds."""
    captions = figures.draw(done, workdir / "figures")
    config = json.loads((workdir / "config.json").read_text())["config"]
    page = report.write_report(workdir, done, config, captions)
    for claim in done["claims"]:
        value = "nan" if claim["value"] is None else f"{claim['value']:.5g}"
        print(f"{'holds' if claim['holds'] else 'FAILS'}  {claim['id']:<28} {value:>10}  {claim['statement']}")
    print(f"report: {page}")


def run_one(run: Run, config: ConfigDict, label: str, stop: monitor.Stop) -> dict[str, Any]:
    """One population from training to records: metrics, curves and arrays, or those of every combination in it.

    `config` is that of the run with one value in each field that is swept over in turn.
    """
    workdir, points = run.workdir, sweeps.together(config)
    task, model, settings = task_of(config), model_of(config), train_of(config)
    held_out = jax.random.fold_in(jax.random.key(config.seed), 2**31 - 1)
    key_eval, key_curve, key_fit = (jax.random.fold_in(held_out, i) for i in (EVAL_KEY, CURVE_KEY, FIT_KEY))
    n_fit = min(config.eval.prompts, 2**18, FIT_FLOATS // ((task.n_context + 1) * model.d_token))
    asked = config.reference
    reference = references(task, model, key_fit, n_fit, asked.learner, asked.steps, asked.published_steps)

    prompts = jax.vmap(task.sample)(jax.random.split(key_curve, config.eval.curve_prompts))
    layout = LAYOUTS[config.model.layout](task.d_input, task.d_output)
    predictor_of = lambda params: fastest_predictor(model, params, layout)
    watch = studies.watcher(predictor_of, reference, prompts)
    screen = monitor.Monitor(workdir, settings.steps, config.seed, label, points)

    def on_chunk(trained: Population, step: int, loss: jax.Array) -> None:
        screen.warn(np.asarray(trained.diverged_at))
        screen.write(step, {"training_loss": np.asarray(loss.mean(0))} | watch(trained.params))

    def on_resume(step: int) -> None:
        if step:
            print(f"resuming {label or 'training'} from step {step}", flush=True)
        screen.resume(step)  # from 0 too: a run may have crashed before its first checkpoint

    stop.saved = False
    try:
        trained = train(
            task, model, settings, layout=config.model.layout,
            seeds=config.seeds, seed=config.seed, parallel=config.train.parallel,
            checkpoints=workdir / "checkpoints" / label, checkpoint_every=config.train.checkpoint_every,
            chunk_steps=config.train.log_every, on_chunk=on_chunk, stop_requested=lambda: stop.signal,
            on_resume=on_resume,
        )  # fmt: skip
        screen.warn(np.asarray(trained.diverged_at))  # of a run that had nothing left to train
    finally:
        screen.close()
    stop.saved = True
    if (signal := mesh.agreed(stop.signal)) is not None:
        raise Interrupted(settings.steps, signal)

    untrained = initialise(model, settings, config.seed, config.seeds).member.params
    study = studies.Study(
        task, trained, reference, prompts, watch, key_eval, config.eval.prompts, untrained, config.analyses
    )
    found = studies.evaluate(study)
    for name, predictor in (*reference.learners.items(), ("zero", learners.zero)):
        found.arrays[f"loss_{name}_on_curve_prompts"] = float(analysis.losses(predictor, prompts).mean())
    for name in config.analyses:
        print(f"analysing: {name}", flush=True)
        ANALYSES[name](study, found)
        if stop.signal is not None:  # its exception may have been raised where Python ignores exceptions
            raise Interrupted(settings.steps, stop.signal)
    if any(points):
        part = lambda i: slice(i * config.seeds, (i + 1) * config.seeds)
        return {"sweep": [{"fields": fields, "metrics": found.metrics(part(i))} for i, fields in enumerate(points)]}
    if not found.is_free.any():
        found.arrays["none_free"] = True
    history = monitor.read_history(workdir, label)
    for name, by_step in history.items():
        values = [[by_step[step][config.seed + i] for i in found.shown] for step in sorted(by_step)]
        found.curves[f"{name}_by_step"] = results.curve(sorted(by_step), values)
    losses = history.get("loss_trained", {})
    found.arrays["loss_trained_by_step_trapped"] = [
        [losses[step][config.seed + i] for i in found.trapped] for step in sorted(losses)
    ]
    records = {"metrics": found.metrics(), "curves": found.curves, "arrays": found.arrays}
    return records | {"sweep": [{"fields": {}, "metrics": records["metrics"]}] if label else []}


def sweep_curves(sweep: list[dict]) -> dict[str, Any]:
    """Every metric of a sweep over one field as a curve over its values; of a sweep over several there are none."""
    if not sweep or len(sweep[0]["fields"]) > 1:
        return {}
    (field,) = sweep[0]["fields"]
    names = set.intersection(*(set(point["metrics"]) for point in sweep))
    return {f"{name}_by_{sweeps.leaf(field)}": results.sweep_line(sweep, field, name) for name in sorted(names)}
