"""Training on finitely many prompts: losses on the prompts of the pool and on fresh prompts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, learners, plots
from icl_gd.lab.config.questions import Analysis, Done, Picture, Unfit, needs
from icl_gd.lab.evaluation.measured import Evaluation, Records, losses_of_learner, losses_of_members, merge_losses
from icl_gd.tasks import FinitePool

MOST = 2**16  # the largest number of prompts of a pool that are evaluated


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})
    if experiment.get("task.pool") is None:
        raise Unfit("task.pool", None, "needs a number of prompts")


def measure(evaluation: Evaluation, records: Records) -> None:
    """Measures losses on the prompts of the pool, and gradient descent with a step size fitted to the pool.

    `loss_trained_on_pool` and `loss_gd_on_pool` are measured on the pool, all other losses on fresh prompts. The
    generalisation gap is `loss_trained` minus `loss_trained_on_pool`.
    """
    training_source = evaluation.training_source
    assert isinstance(training_source, FinitePool)
    prompts = jax.vmap(training_source.prompt)(jnp.arange(min(training_source.size, MOST)))
    on_pool = np.asarray(
        losses_of_members(evaluation.trained.predictor(evaluation.trained.params))(prompts).mean(-1), np.float64
    )
    records.add("loss_trained_on_pool", on_pool)
    records.add("generalisation_gap", records.measured["loss_trained"].values - on_pool)
    step_size = learners.fit_step_size(prompts)
    records.add_one("loss_gd_on_pool", float(analysis.losses(evaluation.reference.gd, prompts).mean()))
    tuned = merge_losses({"tuned": losses_of_learner(learners.gradient_descent([step_size]))})
    risk = analysis.streamed_risks(tuned, evaluation.task.sample, evaluation.key, evaluation.n_prompts)
    records.add_one("loss_gd_tuned_on_pool", risk["tuned"].mean, risk["tuned"].stderr)


def _draw(done: Done) -> plots.Figure:
    figure, axes = plots.subplots(1, 2, figsize=(plots.PAGE, 2.6))
    curves = done["curves"]
    plots.line(axes[0], curves["loss_trained_by_pool"], "trained", marker="o", label="trained, on fresh prompts")
    plots.line(
        axes[0], curves["loss_trained_on_pool_by_pool"], "rescaled", marker="s", label="trained, on the training set"
    )
    plots.line(axes[0], curves["loss_gd_by_pool"], "gd")
    plots.line(
        axes[0],
        curves["loss_gd_tuned_on_pool_by_pool"],
        "gd_tuned",
        label="gradient descent, tuned on the training set",
    )
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
            "Layers trained on a finite set of prompts, over the size of the set. Left: their losses on fresh "
            "prompts and on the training set, and the losses of gradient descent on fresh prompts. Right: cosine "
            "between their input sensitivities (derivatives with respect to the query) and those of gradient descent. "
            "Lines show means over seeds, bands show their range.",
            place=230,
        ),
    ),
)
