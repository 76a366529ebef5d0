"""Train softmax attention on regression, and ask what the dual models of its heads do (Ren & Liu 2310.13220).

train -> evaluate -> analyse -> records. Attention may be modified as its dual model suggests: members of a population
differ in how much, and each is compared with the member of its seed that is not modified.
"""

from functools import partial
from pathlib import Path

import jax
import numpy as np

from icl_gd import analysis, learners, models
from icl_gd.lab import populations
from icl_gd.lab.config import sweeps
from icl_gd.lab.config.asked import Config, Run
from icl_gd.lab.config.described import elementwise_of, model_of, train_of
from icl_gd.lab.evaluation.analyses import duals
from icl_gd.lab.evaluation.study import Found, free_members, held_out_keys, of_learner, of_members, together
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
    task, model, settings = elementwise_of(config), model_of(config), train_of(config)
    key_eval, key_curve = held_out_keys(config.seed, 2)
    prompts = draw_prompts(task.sample, key_curve, config.eval.curve_prompts)
    layout = LAYOUTS[config.model.layout](task.d_input, task.d_output)
    predictor_of = partial(models.fastest_predictor, model, layout=layout)
    losses = jax.jit(lambda params, prompts: analysis.member_losses(predictor_of(params), prompts).mean(-1))
    watch = lambda params: {"loss_trained": np.asarray(losses(params, prompts))}
    trained = train_watched(
        config, task, model, settings, stop, watch, workdir, workdir / "checkpoints" / label, label, points
    )

    untrained = initialise(model, settings, config.seed, config.seeds).member.params
    step_size = float(learners.best_step_size(prompts))
    gd = learners.gradient_descent([step_size])

    losses_of = {
        "loss_trained": of_members(predictor_of(trained.params)),
        "loss_untrained": of_members(predictor_of(untrained)),
        "loss_gd": of_learner(gd),
        "loss_zero": of_learner(learners.zero),
    }
    risks = analysis.streamed_risks(together(losses_of), task.sample, key_eval, config.eval.prompts)
    loss = risks["loss_trained"].mean
    found = Found(free_members(loss, risks["loss_gd"].mean), np.asarray(trained.diverged_at) >= 0)
    for name in ("loss_trained", "loss_untrained"):
        found.add(name, risks[name].mean, risks[name].stderr)
    for name in ("loss_gd", "loss_zero"):
        found.add_one(name, risks[name].mean, risks[name].stderr)
    found.add("loss_ratio_gd", loss / risks["loss_gd"].mean)
    found.add_one("step_size_gd", step_size / task.n_context)
    if (plain := duals.plain_member(points, model)) is not None:
        by_point = loss.reshape(len(points), config.seeds)
        found.add("loss_ratio_plain", (by_point / by_point[plain]).ravel(), over=("",))
    study = duals.DualStudy(task, trained, prompts, untrained, key_eval, step_size, config.eval.suite_values)
    analyse(config.analyses, duals.ANALYSES, study, found, stop, settings.steps)
    if not any(points):
        history = monitor.read_history(workdir, label)
        found.curves |= results.curves_by_step(history, config.seed, range(config.seeds))
    return populations.records(found, config, points, label)
