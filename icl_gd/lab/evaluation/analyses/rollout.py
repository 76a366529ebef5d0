"""One trained layer applied many times, beside as many steps of gradient descent."""

from functools import partial
from typing import Any

import jax

from icl_gd import analysis, learners, models, plots
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, needs, needs_linear_layers, needs_one_layer
from icl_gd.lab.evaluation.study import Found, Study, together
from icl_gd.lab.reporting.results import curve
from icl_gd.types import Array, Circuits, Prompt

ROLL_OUT = (50, 0.75)  # iterations and damping, as published


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})
    needs_one_layer(experiment)
    needs_linear_layers(experiment)


def measure(study: Study, found: Found) -> None:
    """One trained layer applied many times, against gradient descent with the same damping, and both undamped."""
    n, damping = ROLL_OUT
    d, layout = study.task.d_input, study.trained.layout

    def rolled(factor: float, prompts: Prompt) -> Array:  # [member iteration prompt]
        def member(circuits: Circuits) -> Array:
            stack = analysis.roll_out(circuits, d, n, factor)
            return analysis.losses(models.layerwise_circuit_predictor(stack, layout), prompts).T

        return jax.lax.map(member, study.circuits)

    for suffix, factor in (("", damping), ("_undamped", 1.0)):
        descent = learners.layerwise_gradient_descent([factor * study.reference.step_size] * n)
        losses_of = {"trained": partial(rolled, factor), "gd": lambda p, f=descent: analysis.losses(f, p).T}
        risks = analysis.streamed_risks(
            together(losses_of), study.task.sample, study.key, len(study.prompts.x), chunk=2048
        )
        ours, theirs = risks["trained"].mean.T, risks["gd"].mean
        found.curves[f"loss_by_iteration_trained{suffix}"] = curve(range(n + 1), ours[:, found.shown])
        found.curves[f"loss_by_iteration_gd{suffix}"] = curve(range(n + 1), theirs)
        if not suffix:
            found.add("rollout_ratio", (ours / theirs[:, None]).max(0))
            found.add("rollout_loss_final", ours[-1], risks["trained"].stderr[:, -1])
            found.add_one("rollout_loss_final_gd", theirs[-1], risks["gd"].stderr[-1])
            found.arrays["damping"] = damping


def _draw(done: Done) -> plots.Figure:
    figure, axes = plots.subplots(1, 2, figsize=(plots.PAGE, 2.4))
    titles = f"damped, λ = {done['arrays']['damping']}", "undamped"
    for ax, suffix, title in zip(axes, ("", "_undamped"), titles, strict=True):
        for role in ("trained", "gd"):
            plots.line(ax, done["curves"][f"loss_by_iteration_{role}{suffix}"], role)
        ax.set(xlabel="applications of the layer", ylabel="loss", yscale="log", title=title)
        if suffix:
            ax.set_ylim(top=1e3)  # where it has long been clear that both diverge
        ax.legend()
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
    ),
    check=check,
    figures=(
        Picture(
            "rollout",
            ("loss_by_iteration_trained",),
            _draw,
            "A layer trained for one application, applied many times, against gradient descent with the same damping.",
            place=80,
        ),
    ),
    evidence=(Evidence("rollout_ratio", at_most=1.0001),),
)
