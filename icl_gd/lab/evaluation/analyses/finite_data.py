"""Populations trained on finitely many prompts: what they make of those, and of others."""

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, learners
from icl_gd.lab.evaluation.study import Found, Study, of_learner, of_members, together
from icl_gd.tasks import FinitePool

MOST = 2**16  # prompts of a pool that are looked at


def pool(study: Study, found: Found) -> None:
    """Losses on the pool's own prompts, and gradient descent tuned on nothing but the pool.

    `loss_trained` and all other metrics are of fresh prompts; the gap is between the two.
    """
    trained_on = study.trained_on
    assert isinstance(trained_on, FinitePool)
    prompts = jax.vmap(trained_on.prompt)(jnp.arange(min(trained_on.size, MOST)))
    on_pool = np.asarray(of_members(study.trained.predictor(study.trained.params))(prompts).mean(-1), np.float64)
    found.add("loss_trained_on_pool", on_pool)
    found.add("generalisation_gap", found.measured["loss_trained"].values - on_pool)
    step_size = learners.best_step_size(prompts)
    found.add_one("loss_gd_on_pool", float(analysis.losses(study.reference.gd, prompts).mean()))
    tuned = together({"tuned": of_learner(learners.gradient_descent([step_size]))})
    risk = analysis.streamed_risks(tuned, study.task.sample, study.key, study.n_prompts)
    found.add_one("loss_gd_tuned_on_pool", risk["tuned"].mean, risk["tuned"].stderr)
