"""Train linear self-attention on linear regression, and ask whether it is gradient descent.

train -> evaluate -> analyse -> records.
"""

from functools import partial
from pathlib import Path

from icl_gd import learners, models
from icl_gd.lab import populations
from icl_gd.lab.config import sweeps
from icl_gd.lab.config.asked import Config, Run
from icl_gd.lab.config.described import model_of, task_of, train_of, trained_on
from icl_gd.lab.config.resources import FIT_FLOATS
from icl_gd.lab.evaluation import study as studies
from icl_gd.lab.evaluation.analyses import ANALYSES, watched
from icl_gd.lab.evaluation.references import references
from icl_gd.lab.lifecycle import monitor
from icl_gd.lab.recorded import recorded
from icl_gd.lab.reporting import results
from icl_gd.lab.watched import analyse, train_watched
from icl_gd.tasks import draw_prompts
from icl_gd.tokens import LAYOUTS
from icl_gd.training import initialise


def run(run: Run, stop: monitor.Stop) -> None:
    """Runs a config from start (or from its last checkpoint) to report; a finished run is only redrawn."""
    recorded(run, lambda: populations.in_turn(run.config, partial(measure, run.workdir, stop)))


def measure(workdir: Path, stop: monitor.Stop, config: Config, label: str) -> populations.Records:
    """One population from training to records, or those of every combination in it."""
    points = sweeps.together(config)
    task, model, settings = task_of(config), model_of(config), train_of(config)
    key_eval, key_curve, key_fit = studies.held_out_keys(config.seed, 3)
    n_fit = min(config.eval.prompts, 2**18, FIT_FLOATS // ((task.n_context + 1) * model.d_token))
    asked = config.reference
    reference = references(task, model, key_fit, n_fit, asked.learner, asked.steps, asked.published_steps)

    prompts = draw_prompts(task.sample, key_curve, config.eval.curve_prompts)
    layout = LAYOUTS[config.model.layout](task.d_input, task.d_output)
    predictor_of = lambda params: models.fastest_predictor(model, params, layout)
    watch = studies.watcher(predictor_of, reference, prompts, watched(config.analyses, model, layout, prompts))
    trained = train_watched(
        config, trained_on(config), model, settings, stop, watch, workdir, workdir / "checkpoints" / label, label,
        points,
    )  # fmt: skip
    untrained = initialise(model, settings, config.seed, config.seeds).member.params
    history = monitor.read_history(workdir, label)
    study = studies.Study(
        task, trained, reference, prompts, watch, key=key_eval, n_prompts=config.eval.prompts, untrained=untrained,
        analyses=config.analyses, history=history, trained_on=trained_on(config), suite_values=config.eval.suite_values,
    )  # fmt: skip
    found = studies.evaluate(study)
    on_curves = reference.losses(prompts) | {"loss_zero": studies.of_learner(learners.zero)(prompts)}
    found.arrays |= {f"{name}_on_curve_prompts": float(values.mean()) for name, values in on_curves.items()}
    analyse(config.analyses, ANALYSES, study, found, stop, settings.steps)
    if any(points):
        return populations.records(found, config, points, label)
    if not found.is_free.any():
        found.arrays["none_free"] = True
    found.curves |= results.curves_by_step(history, config.seed, found.shown)
    losses = history.get("loss_trained", {})
    found.arrays["loss_trained_by_step_trapped"] = [
        [losses[step][config.seed + i] for i in found.trapped] for step in sorted(losses)
    ]
    return populations.records(found, config, points, label)
