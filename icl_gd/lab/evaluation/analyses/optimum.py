"""The learned matrix of one linear layer beside the closed-form optimum, at lengths it was not trained on too."""

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
from icl_gd.lab.evaluation.measured import Evaluation, Records, merge_losses, noise_to_weight, of_members
from icl_gd.lab.reporting.results import curve


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})
    needs_one_layer(experiment)
    needs_linear_layers(experiment)
    needs(experiment, **{"task.inputs": "normal"})
    if experiment.get("task.corrupted_labels"):
        unfit(experiment, "task.corrupted_labels", "is of labels as they are, with 0")


def measure(study: Evaluation, found: Records) -> None:
    """The learned matrix against the optimum's, and the risk at test lengths it was not trained on."""
    task = study.task
    ratio = noise_to_weight(task)
    exact = learners.gaussian_optimum_matrix(task.second_moment, task.n_context, ratio)
    matrices = jax.vmap(lambda c: analysis.effective_preconditioner(c, task.d_input, task.n_context))(study.circuits)
    matrices = np.asarray(matrices, np.float64)  # [member m d d]
    found.add("preconditioner_error", np.linalg.norm(matrices - exact, axis=(-2, -1)).max(-1) / np.linalg.norm(exact))
    found.arrays["preconditioner_exact"] = exact.tolist()
    if len(found.shown):
        found.arrays["preconditioner_trained"] = matrices[found.shown[0], 0].tolist()

    lengths = [max(1, round(task.n_context * factor)) for factor in (0.25, 0.5, 1, 2, 4, 8)]
    means, closed = [], []
    for m in lengths:
        risks = _risk_at_length(study, m)
        means.append(risks)
        closed.append(
            task.d_output
            * learners.gaussian_optimum_risk(task.second_moment, task.n_context, ratio, float(task.weight_scale), m)
        )
    ours, theirs = np.stack(means), np.asarray(closed)
    found.curves["loss_by_test_length_trained"] = curve(lengths, ours[:, found.shown])
    found.curves["loss_by_test_length_closed_form"] = curve(lengths, theirs)
    found.add("test_length_deviation", np.abs(ours / theirs[:, None] - 1).max(0))


def _risk_at_length(study: Evaluation, m: int) -> np.ndarray:
    """Risk `[member]` on contexts of m examples, the sum over the context rescaled to the n it was trained on.

    The formula at test length M is that of a mean over M examples; the layer sums, so its W_PV is multiplied by n / M.
    """
    task = replace(study.task, n_context=m)
    circuits = study.circuits._replace(W_PV=study.circuits.W_PV * (study.task.n_context / m))
    losses = merge_losses({"risk": of_members(study.of_circuits(circuits))})
    return analysis.streamed_risks(losses, task.sample, study.key, min(study.n_prompts, 2**18))["risk"].mean


def _draw(done: Done) -> plots.Figure:
    figure, axes = plots.subplots(1, 3, figsize=(plots.PAGE, 2.2), width_ratios=(1, 1, 1.3))
    plots.matrix(axes[0], done["arrays"]["preconditioner_exact"], r"$\Gamma^{-1}$, closed form")
    plots.matrix(axes[1], done["arrays"]["preconditioner_trained"], "learned matrix")
    for role in ("trained", "closed_form"):
        plots.line(
            axes[2], done["curves"][f"loss_by_test_length_{role}"], role, marker="o" if role == "trained" else ""
        )
    axes[2].set(xlabel=r"test context examples $M$", ylabel="loss", xscale="log")
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
            "The learned matrix against the closed-form optimum, and both at test lengths not trained on.",
            place=90,
        ),
    ),
    evidence=(Evidence("preconditioner_error", at_most=1e-4),),
)
