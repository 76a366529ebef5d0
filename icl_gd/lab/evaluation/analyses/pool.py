"""Populations trained on finitely many prompts: what they make of those, and of others."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, learners, plots
from icl_gd.lab.config.questions import Analysis, Done, Picture, Unfit, needs
from icl_gd.lab.evaluation.measured import Evaluation, Records, merge_losses, of_learner, of_members
from icl_gd.tasks import FinitePool

MOST = 2**16  # prompts of a pool that are looked at


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})
    if experiment.get("task.pool") is None:
        raise Unfit("task.pool", None, "asks about the prompts of a pool; give its size")


def measure(study: Evaluation, found: Records) -> None:
    """Losses on the pool's own prompts, and gradient descent tuned on nothing but the pool.

    `loss_trained` and all other metrics are of fresh prompts; the gap is between the two.
    """
    trained_on = study.trained_on
    assert isinstance(trained_on, FinitePool)
    prompts = jax.vmap(trained_on.prompt)(jnp.arange(min(trained_on.size, MOST)))
    on_pool = np.asarray(of_members(study.trained.predictor(study.trained.params))(prompts).mean(-1), np.float64)
    found.add("loss_trained_on_pool", on_pool)
    found.add("generalisation_gap", found.measured["loss_trained"].values - on_pool)
    step_size = learners.fit_step_size(prompts)
    found.add_one("loss_gd_on_pool", float(analysis.losses(study.reference.gd, prompts).mean()))
    tuned = merge_losses({"tuned": of_learner(learners.gradient_descent([step_size]))})
    risk = analysis.streamed_risks(tuned, study.task.sample, study.key, study.n_prompts)
    found.add_one("loss_gd_tuned_on_pool", risk["tuned"].mean, risk["tuned"].stderr)


def _draw(done: Done) -> plots.Figure:
    figure, axes = plots.subplots(1, 2, figsize=(plots.PAGE, 2.6))
    curves = done["curves"]
    plots.line(axes[0], curves["loss_trained_by_pool"], "trained", marker="o", label="trained, fresh prompts")
    plots.line(
        axes[0], curves["loss_trained_on_pool_by_pool"], "rescaled", marker="s", label="trained, its own prompts"
    )
    plots.line(axes[0], curves["loss_gd_by_pool"], "gd")
    plots.line(axes[0], curves["loss_gd_tuned_on_pool_by_pool"], "gd_tuned", label="gradient descent, tuned on them")
    axes[0].set(ylabel="loss", yscale="log")
    plots.line(axes[1], curves["sensitivity_cosine_gd_by_pool"], "trained", marker="o")
    axes[1].set(ylabel="sensitivity cosine\nto gradient descent", ylim=(None, 1.02))
    for ax in axes:
        ax.set(xlabel="prompts in the training set", xscale="log")
    axes[0].legend()
    return figure


ANALYSIS = Analysis(
    "pool",
    measure,
    records=("loss_trained_on_pool", "generalisation_gap", "loss_gd_on_pool", "loss_gd_tuned_on_pool"),
    check=check,
    figures=(
        Picture(
            "pool",
            ("loss_trained_on_pool_by_pool", "sensitivity_cosine_gd_by_pool"),
            _draw,
            "Layers trained on finitely many prompts, on fresh ones and on their own, beside gradient descent.",
            place=230,
        ),
    ),
)
