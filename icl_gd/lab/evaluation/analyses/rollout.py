"""One trained layer applied repeatedly, compared with as many steps of gradient descent."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from icl_gd import analysis, learners, models, plots
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, needs, needs_linear_layers, needs_one_layer
from icl_gd.lab.evaluation.analyses.tails import tails_of
from icl_gd.lab.evaluation.measured import Evaluation, Records, losses_of_learner, merge_losses
from icl_gd.lab.reporting.results import curve
from icl_gd.types import Array, Circuits, Prompt

ROLL_OUT = (50, 0.75)  # iterations and damping, as published
CHUNK = 2048  # prompts in one batch


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})
    needs_one_layer(experiment)
    needs_linear_layers(experiment)


def measure(evaluation: Evaluation, records: Records) -> None:
    """Measures losses of the repeatedly applied layer and of gradient descent, with and without damping.

    On rare prompts even the damped step is too long. The losses of these prompts diverge and dominate the mean. So
    medians over prompts, and the share of prompts that diverge, are measured too.
    """
    n, damping = ROLL_OUT
    d, layout = evaluation.task.d_input, evaluation.trained.layout

    def rolled_losses(factor: float, prompts: Prompt) -> Array:
        """Losses `[member iteration prompt]` of the layer damped by a factor."""

        def losses_of(circuits: Circuits) -> Array:
            stack = analysis.roll_out(circuits, d, n, factor)
            return analysis.losses(models.layerwise_circuit_predictor(stack, layout), prompts).T

        return jax.lax.map(losses_of, evaluation.circuits)

    n_prompts, tails = len(evaluation.prompts.x), {}
    for suffix, factor in (("", damping), ("_undamped", 1.0)):
        descent = learners.layerwise_gradient_descent([factor * evaluation.reference.step_size] * n)
        losses_of = {"trained": partial(rolled_losses, factor), "gd": lambda p, f=descent: analysis.losses(f, p).T}
        risks = analysis.streamed_risks(
            merge_losses(losses_of), evaluation.task.sample, evaluation.key, n_prompts, chunk=CHUNK
        )
        trained, gd = risks["trained"].mean.T, risks["gd"].mean
        records.curves[f"loss_by_iteration_trained{suffix}"] = curve(range(n + 1), trained[:, records.shown])
        records.curves[f"loss_by_iteration_gd{suffix}"] = curve(range(n + 1), gd)
        if not suffix:
            records.add("rollout_ratio", (trained / gd[:, None]).max(0))
            records.add("rollout_loss_final", trained[-1], risks["trained"].stderr[:, -1])
            records.add_one("rollout_loss_final_gd", gd[-1], risks["gd"].stderr[-1])
            records.arrays["damping"] = damping
        with_zero = merge_losses(losses_of | {"zero": losses_of_learner(learners.predict_zero)})
        (losses,) = analysis.sampled_losses(
            [with_zero], partial(_sample_one, evaluation.task.sample), evaluation.key, n_prompts, chunk=CHUNK
        )
        n_drawn = losses["zero"].shape[-1]
        tails[suffix] = tails_of(losses)
        records.curves[f"loss_median_by_iteration_trained{suffix}"] = curve(
            range(n + 1), tails[suffix]["trained"].median[records.shown].T
        )
        records.curves[f"loss_median_by_iteration_gd{suffix}"] = curve(range(n + 1), tails[suffix]["gd"].median)
    trained, gd, applied_once = tails[""]["trained"], tails[""]["gd"], tails["_undamped"]["trained"].median[:, 1]
    records.add("rollout_median_ratio", (trained.median / gd.median).max(-1))
    records.add("rollout_median_final", trained.median[:, -1])
    records.add_one("rollout_median_final_gd", gd.median[-1])
    records.add("rollout_median_fall", trained.median[:, -1] / applied_once)
    for add, name, tail in ((records.add, "", trained), (records.add_one, "_gd", gd)):
        share = tail.diverging[..., -1]
        add(f"rollout_diverging_share{name}", share, np.sqrt(share * (1 - share) / n_drawn))
    records.add("rollout_diverging_excess", trained.diverging[:, -1] - gd.diverging[-1])


def _sample_one(sample: Callable[[Array], Prompt], key: Array) -> tuple[Prompt]:
    """The prompt of a key, as the tuple of one prompt that `sampled_losses` expects."""
    return (sample(key),)


def _draw(done: Done) -> plots.Figure:
    curves, zero = done["curves"], done["metrics"]["loss_zero"]["mean"]
    rows = {"loss": "mean loss over prompts", "loss_median": "median loss over prompts"}
    # Results of earlier versions have no medians.
    shown = [row for row in rows if f"{row}_by_iteration_trained" in curves]
    figure, axes = plots.subplots(
        len(shown), 2, figsize=(plots.PAGE, 2.1 * len(shown) + 0.3), sharex=True, squeeze=False
    )
    titles = {"": f"damped, λ = {done['arrays']['damping']}", "_undamped": "undamped"}
    for row_axes, row in zip(axes, shown, strict=True):
        for ax, suffix in zip(row_axes, titles, strict=True):
            for role in ("trained", "gd"):
                plots.line(ax, curves[f"{row}_by_iteration_{role}{suffix}"], role)
            ax.set_yscale("log")
            plots.frame_losses(ax, zero)
        row_axes[0].set_ylabel(rows[row])
    for ax, title in zip(axes[0], titles.values(), strict=True):
        ax.set_title(title)
    for ax in axes[-1]:
        ax.set_xlabel("applications of the layer")
    axes[0, 0].legend()
    return figure


ANALYSIS = Analysis(
    "rollout",
    measure,
    records=(
        "loss_by_iteration_trained*",
        "loss_by_iteration_gd*",
        "rollout_ratio",
        "rollout_loss_final",
        "rollout_loss_final_gd",
        "loss_median_by_iteration_*",
        "rollout_median_*",
        "rollout_diverging_*",
    ),
    check=check,
    figures=(
        Picture(
            "rollout",
            ("loss_by_iteration_trained",),
            _draw,
            "Loss of a layer that is trained for one application and applied repeatedly, and of as many steps of "
            "gradient descent, with damping (left) and without (right). Lines of the trained layer are means over "
            "untrapped seeds, bands their range. Means over prompts (top) are dominated by rare prompts for which "
            f"the step is too long; medians (bottom) are not. {plots.ARROWS}",
            place=80,
        ),
    ),
    evidence=(Evidence("rollout_ratio", at_most=1.0001), Evidence("rollout_median_ratio", at_most=1.0001)),
)
