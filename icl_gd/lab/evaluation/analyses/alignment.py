"""Predictions and sensitivities beside gradient descent's, with controls."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from icl_gd import analysis, learners
from icl_gd.lab.evaluation.study import EVERY, Found, Study, of_learner, together
from icl_gd.learners import Pairs, standardised
from icl_gd.types import Predictor, Prompt


def alignment(study: Study, found: Found) -> None:
    """Alignment to gradient descent, next to an untrained control and a control with the wrong step size."""
    for name, values in study.watched.items():
        if name != "loss_trained":
            found.add(name, values)
    for name, values in study.watched_untrained.items():
        if name != "loss_trained":
            found.add(f"{name}_untrained", values, over=EVERY[:1])
    control = partial(analysis.alignment, study.reference.wrong_step, study.reference.gd)
    for measure, value in jax.jit(control)(study.prompts)._asdict().items():
        found.add_one(f"{measure}_gd_wrong_step", float(value))


def standardised_tokens(study: Study, found: Found) -> None:
    """The best gradient step on standardised tokens, which are all that a layer behind LayerNorm can see.

    Of more layers, as many steps of GD++ with its best pair: their tokens are standardised once, before the first step.
    """
    seen = learners.standardise(study.prompts)
    step, n_steps = float(learners.best_step_size(seen)), len(study.reference.rates["gd"].step_sizes)
    if n_steps == 1:
        name, learner = "gd_standardised", learners.gradient_descent([step])
        found.add_one("step_size_gd_standardised", step / study.task.n_context)
    else:
        start = Pairs(np.full(n_steps, step), np.full(n_steps, step))
        name, learner = "gd_plus_plus_standardised", learners.gd_plus_plus(*learners.best_gd_plus_plus_on(seen, start))
    compare_with(study, found, name, standardised(learner))


def compare_with(study: Study, found: Found, name: str, learner: Predictor) -> None:
    """Loss of one learner more, and the members' loss and alignment beside it: records as of gradient descent."""
    losses = together({"loss": of_learner(learner)})
    risk = analysis.streamed_risks(losses, study.task.sample, study.key, study.n_prompts)["loss"]
    found.add_one(f"loss_{name}", risk.mean, risk.stderr)
    found.arrays[f"loss_{name}_on_curve_prompts"] = float(jax.jit(losses)(study.prompts)["loss"].mean())
    found.add(f"loss_ratio_{name}", found.measured["loss_trained"].values / risk.mean)
    align(study, found, name, learner, study.trained.predictor, study.trained.params)


def align(
    study: Study, found: Found, name: str, learner: Predictor, predictor_of: Callable[[Any], Predictor], members: Any
) -> None:
    """Alignment of members' Predictors to a learner, as metrics whose names end with `name`."""

    def aligned(members: Any, prompts: Prompt) -> analysis.Alignment:
        theirs = analysis.response(learner, prompts)
        compare = lambda member: analysis.compare(analysis.response(predictor_of(member), prompts), theirs)
        return analysis.over_members(compare, members)

    for measure, values in jax.jit(aligned)(members, study.prompts)._asdict().items():
        found.add(f"{measure}_{name}", np.asarray(values))
