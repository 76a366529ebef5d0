"""The learned matrix of one linear layer compared with the closed-form optimum, also at other context lengths."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np

from icl_gd import analysis, learners, plots
from icl_gd.lab.config.questions import (
    Analysis,
    Done,
    Evidence,
    Picture,
    needs,
    needs_linear_layers,
    needs_one_layer,
    unfit,
)
from icl_gd.lab.evaluation.measured import Evaluation, Records, losses_of_members, merge_losses, noise_to_weight
from icl_gd.lab.reporting.results import curve


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})
    needs_one_layer(experiment)
    needs_linear_layers(experiment)
    needs(experiment, **{"task.inputs": "normal"})
    if experiment.get("task.corrupted_labels"):
        unfit(experiment, "task.corrupted_labels", "needs 0, because the closed form is for uncorrupted labels")


def measure(evaluation: Evaluation, records: Records) -> None:
    """Compares the learned matrix with the optimum, and their risks at several context lengths."""
    task = evaluation.task
    ratio = noise_to_weight(task)
    exact = learners.gaussian_optimum_matrix(task.second_moment, task.n_context, ratio)
    matrices = jax.vmap(lambda c: analysis.effective_preconditioner(c, task.d_input, task.n_context))(
        evaluation.circuits
    )
    matrices = np.asarray(matrices, np.float64)  # [member m d d]
    records.add("preconditioner_error", np.linalg.norm(matrices - exact, axis=(-2, -1)).max(-1) / np.linalg.norm(exact))
    records.arrays["preconditioner_exact"] = exact.tolist()
    if len(records.shown):
        records.arrays["preconditioner_trained"] = matrices[records.shown[0], 0].tolist()

    lengths = [max(1, round(task.n_context * factor)) for factor in (0.25, 0.5, 1, 2, 4, 8)]
    means, closed = [], []
    for m in lengths:
        risks = _risk_at_length(evaluation, m)
        means.append(risks)
        closed.append(
            task.d_output
            * learners.gaussian_optimum_risk(task.second_moment, task.n_context, ratio, float(task.weight_scale), m)
        )
    trained, optimal = np.stack(means), np.asarray(closed)
    records.curves["loss_by_test_length_trained"] = curve(lengths, trained[:, records.shown])
    records.curves["loss_by_test_length_closed_form"] = curve(lengths, optimal)
    records.add("test_length_deviation", np.abs(trained / optimal[:, None] - 1).max(0))


def _risk_at_length(evaluation: Evaluation, m: int) -> np.ndarray:
    """Risk `[member]` of the rescaled layer on contexts of m examples.

    The closed form for length m assumes attention that averages over the m examples. The layer sums over them, so its
    W_PV is multiplied by n / m, where n is the length in training.
    """
    task = replace(evaluation.task, n_context=m)
    circuits = evaluation.circuits._replace(W_PV=evaluation.circuits.W_PV * (evaluation.task.n_context / m))
    losses = merge_losses({"risk": losses_of_members(evaluation.predictor_of_circuits(circuits))})
    return analysis.streamed_risks(losses, task.sample, evaluation.key, min(evaluation.n_prompts, 2**18))["risk"].mean


def _draw(done: Done) -> plots.Figure:
    figure, axes = plots.subplots(1, 3, figsize=(plots.PAGE, 2.2), width_ratios=(1, 1, 1.3))
    plots.matrix(axes[0], done["arrays"]["preconditioner_exact"], r"$\Gamma^{-1}$, closed form")
    plots.matrix(axes[1], done["arrays"]["preconditioner_trained"], "learned matrix")
    for role in ("trained", "closed_form"):
        plots.line(
            axes[2], done["curves"][f"loss_by_test_length_{role}"], role, marker="o" if role == "trained" else ""
        )
    axes[2].set(xlabel=r"examples $M$ in the context", ylabel="loss", xscale="log")
    axes[2].legend()
    return figure


ANALYSIS = Analysis(
    "optimum",
    measure,
    records=(
        "preconditioner_error",
        "loss_by_test_length_trained",
        "loss_by_test_length_closed_form",
        "test_length_deviation",
    ),
    check=check,
    figures=(
        Picture(
            "optimum",
            ("preconditioner_exact", "preconditioner_trained"),
            _draw,
            "The closed-form optimal matrix (left) and the learned matrix of one seed (middle). Right: loss over the "
            "number of context examples, without further training: the mean over untrapped seeds with their range, "
            "and the closed form.",
            place=90,
        ),
    ),
    evidence=(Evidence("preconditioner_error", at_most=1e-4),),
)
