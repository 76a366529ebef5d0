"""Train a causal Transformer on a class of functions, and ask which learner it is at every length of a prompt.

train -> evaluate -> records (Garg et al. 2208.01066). Every prefix of a prompt is a problem: errors are curves over the
number of examples, on prompts like those of training and on other families of them, beside learners.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from icl_gd import models
from icl_gd.lab import populations
from icl_gd.lab.config import sweeps
from icl_gd.lab.config.asked import Config, Run
from icl_gd.lab.config.described import functions_of, functions_trained_on, model_of, train_of
from icl_gd.lab.evaluation.analyses import predicted_functions, prefixes
from icl_gd.lab.evaluation.study import held_out_keys
from icl_gd.lab.lifecycle import monitor
from icl_gd.lab.recorded import recorded
from icl_gd.lab.reporting import results
from icl_gd.lab.watched import train_watched
from icl_gd.tasks import draw_prompts
from icl_gd.tokens import LAYOUTS
from icl_gd.training import initialise


def run(run: Run, stop: monitor.Stop) -> None:
    """Runs a config from start (or from its last checkpoint) to report; a finished run is only redrawn."""
    recorded(run, lambda: populations.in_turn(run.config, partial(measure, run.workdir, stop)))


def measure(workdir: Path, stop: monitor.Stop, config: Config, label: str) -> populations.Records:
    """One population from training to records, or those of every combination in it."""
    points = sweeps.together(config)
    task, model, settings = functions_of(config), model_of(config), train_of(config)
    key_eval, key_curve = held_out_keys(config.seed, 2)
    prompts = draw_prompts(task.sample_prefixes, key_curve, config.eval.curve_prompts)
    layout = LAYOUTS[config.model.layout](task.d_input, task.d_output)
    predictor_of = lambda params: models.prefix_predictor(model, params, layout)

    @jax.jit
    def watch(params: Any, prompts: Any) -> dict[str, jax.Array]:
        errors = prefixes.member_errors(predictor_of, params, prompts, task).mean(1)  # [member n]
        return {"normalised_error": errors.mean(1), "normalised_error_at_end": errors[:, -1]}

    trained = train_watched(
        config, functions_trained_on(config), model, settings, stop,
        lambda params: jax.tree.map(np.asarray, watch(params, prompts)), workdir, workdir / "checkpoints" / label,
        label, points,
    )  # fmt: skip
    untrained = initialise(model, settings, config.seed, config.seeds).member.params
    study = prefixes.PrefixStudy(
        task, trained, predictor_of, untrained, tuple(config.eval.families)[: config.eval.suite_values],
        tuple(config.eval.baselines), key_eval, config.eval.prompts,
    )  # fmt: skip
    found = prefixes.evaluate(study)
    predicted_functions.add(found, study)
    if not any(points):
        history = monitor.read_history(workdir, label)
        found.curves |= results.curves_by_step(history, config.seed, range(config.seeds))
        found.arrays["curriculum_ends_at"] = prefixes.end_of(settings.curriculum)
    return populations.records(found, config, points, label)
