"""One trained layer applied many times, beside as many steps of gradient descent."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from icl_gd import analysis, learners, models, plots
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, needs, needs_linear_layers, needs_one_layer
from icl_gd.lab.evaluation.analyses.tails import tails_of
from icl_gd.lab.evaluation.measured import Evaluation, Records, merge_losses, of_learner
from icl_gd.lab.reporting.results import curve
from icl_gd.types import Array, Circuits, Prompt

ROLL_OUT = (50, 0.75)  # iterations and damping, as published
CHUNK = 2048  # prompts


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})
    needs_one_layer(experiment)
    needs_linear_layers(experiment)


def measure(study: Evaluation, found: Records) -> None:
    """One trained layer applied many times, against gradient descent with the same damping, and both undamped.

    On rare prompts even the damped step is too long, and what diverges on one is all of a mean: so medians over prompts
    are measured too, and the share of prompts that diverge.
    """
    n, damping = ROLL_OUT
    d, layout = study.task.d_input, study.trained.layout

    def rolled(factor: float, prompts: Prompt) -> Array:  # [member iteration prompt]
        def member(circuits: Circuits) -> Array:
            stack = analysis.roll_out(circuits, d, n, factor)
            return analysis.losses(models.layerwise_circuit_predictor(stack, layout), prompts).T

        return jax.lax.map(member, study.circuits)

    n_prompts, tails = len(study.prompts.x), {}
    for suffix, factor in (("", damping), ("_undamped", 1.0)):
        descent = learners.layerwise_gradient_descent([factor * study.reference.step_size] * n)
        losses_of = {"trained": partial(rolled, factor), "gd": lambda p, f=descent: analysis.losses(f, p).T}
        risks = analysis.streamed_risks(merge_losses(losses_of), study.task.sample, study.key, n_prompts, chunk=CHUNK)
        ours, theirs = risks["trained"].mean.T, risks["gd"].mean
        found.curves[f"loss_by_iteration_trained{suffix}"] = curve(range(n + 1), ours[:, found.shown])
        found.curves[f"loss_by_iteration_gd{suffix}"] = curve(range(n + 1), theirs)
        if not suffix:
            found.add("rollout_ratio", (ours / theirs[:, None]).max(0))
            found.add("rollout_loss_final", ours[-1], risks["trained"].stderr[:, -1])
            found.add_one("rollout_loss_final_gd", theirs[-1], risks["gd"].stderr[-1])
            found.arrays["damping"] = damping
        with_zero = merge_losses(losses_of | {"zero": of_learner(learners.predict_zero)})
        (losses,) = analysis.sampled_losses(
            [with_zero], partial(_alone, study.task.sample), study.key, n_prompts, chunk=CHUNK
        )
        n_drawn = losses["zero"].shape[-1]
        tails[suffix] = tails_of(losses)
        found.curves[f"loss_median_by_iteration_trained{suffix}"] = curve(
            range(n + 1), tails[suffix]["trained"].median[found.shown].T
        )
        found.curves[f"loss_median_by_iteration_gd{suffix}"] = curve(range(n + 1), tails[suffix]["gd"].median)
    ours, theirs, once = tails[""]["trained"], tails[""]["gd"], tails["_undamped"]["trained"].median[:, 1]
    found.add("rollout_median_ratio", (ours.median / theirs.median).max(-1))
    found.add("rollout_median_final", ours.median[:, -1])
    found.add_one("rollout_median_final_gd", theirs.median[-1])
    found.add("rollout_median_fall", ours.median[:, -1] / once)
    for add, name, tail in ((found.add, "", ours), (found.add_one, "_gd", theirs)):
        share = tail.diverging[..., -1]
        add(f"rollout_diverging_share{name}", share, np.sqrt(share * (1 - share) / n_drawn))
    found.add("rollout_diverging_excess", ours.diverging[:, -1] - theirs.diverging[-1])


def _alone(sample: Callable[[Array], Prompt], key: Array) -> tuple[Prompt]:
    return (sample(key),)


def _draw(done: Done) -> plots.Figure:
    curves, zero = done["curves"], done["metrics"]["loss_zero"]["mean"]
    rows = {"loss": "mean loss over prompts", "loss_median": "median loss over prompts"}
    shown = [row for row in rows if f"{row}_by_iteration_trained" in curves]  # earlier versions had no medians
    figure, axes = plots.subplots(
        len(shown), 2, figsize=(plots.PAGE, 2.1 * len(shown) + 0.3), sharex=True, squeeze=False
    )
    titles = {"": f"damped, λ = {done['arrays']['damping']}", "_undamped": "undamped"}
    for across, row in zip(axes, shown, strict=True):
        for ax, suffix in zip(across, titles, strict=True):
            for role in ("trained", "gd"):
                plots.line(ax, curves[f"{row}_by_iteration_{role}{suffix}"], role)
            ax.set_yscale("log")
            plots.frame_losses(ax, zero)
        across[0].set_ylabel(rows[row])
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
            "A layer trained for one application, applied many times, against gradient descent with the same damping. "
            "Above: means over prompts, which rare prompts make large or infinite where the step is too long for them. "
            f"Below: medians, which those leave alone. {plots.ARROWS}",
            place=80,
        ),
    ),
    evidence=(Evidence("rollout_ratio", at_most=1.0001), Evidence("rollout_median_ratio", at_most=1.0001)),
)
