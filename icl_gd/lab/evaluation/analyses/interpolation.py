"""Losses of weights on the line between trained and constructed weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from icl_gd import analysis, plots
from icl_gd.lab.config.questions import (
    Analysis,
    Done,
    Evidence,
    Picture,
    needs,
    needs_linear_layers,
    needs_step_a_layer,
)
from icl_gd.lab.evaluation.measured import Evaluation, Records, merge_losses
from icl_gd.lab.reporting.results import curve
from icl_gd.types import Array, Predictor, Prompt


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})
    needs_step_a_layer(experiment)
    needs(experiment, **{"model.n_heads": 1})
    needs_linear_layers(experiment)


def measure(evaluation: Evaluation, records: Records) -> None:
    """Measures losses on the line from trained to constructed weights, and the loss at its middle / the smaller end."""
    ts = np.linspace(0.0, 1.0, 11)
    members = jax.vmap(analysis.interpolate, (0, None, None))
    interpolate = jax.vmap(members, (None, None, 0))  # [t member ...]
    mixed = jax.jit(interpolate)(evaluation.circuits, evaluation.reference.circuits, jnp.asarray(ts, float))
    along = Partial(_along, evaluation.predictor_of_circuits(mixed))
    n_prompts = max(evaluation.n_prompts // 8, 1)
    risks = analysis.streamed_risks(merge_losses({"along": along}), evaluation.task.sample, evaluation.key, n_prompts)[
        "along"
    ]
    middle, *ends = (records.measured[f"loss_{name}"].values for name in ("interpolated", "trained", "construction"))
    if np.isfinite(middle[records.shown]).any():  # a curve without finite values cannot be drawn
        records.curves["loss_by_interpolation"] = curve(ts.tolist(), risks.mean[:, records.shown])
    records.add("interpolation_ratio", middle / np.minimum(*ends))


def _along(predictors: Predictor, prompts: Prompt) -> Array:
    """Losses `[t member prompt]` of Predictors with axes `[t member]`."""
    return jax.lax.map(lambda members: analysis.member_losses(members, prompts), predictors)


def _draw(done: Done) -> plots.Figure:
    figure, ax = plots.subplots(figsize=(plots.COLUMN, 2.2))
    plots.line(ax, done["curves"]["loss_by_interpolation"], "interpolated", marker="o")
    curve, deep = done["curves"]["loss_by_interpolation"], "loss_gd_plus_plus" in done["metrics"]
    end, high = curve["mean"][-1], max(value for value in curve["high"] if value is not None)
    plots.horizontal_line(ax, end, "gd_plus_plus" if deep else "gd", "GD++" if deep else "best gradient step")
    # The axis begins a tenth below the loss of the constructed weights, so that small differences look small.
    ax.set(
        xlabel="trained weights → constructed weights", ylabel="loss", ylim=(0.9 * end, max(1.25 * end, 1.05 * high))
    )
    ax.legend()
    return figure


ANALYSIS = Analysis(
    "interpolation",
    measure,
    records=("loss_interpolated", "loss_by_interpolation", "interpolation_ratio"),
    check=check,
    figures=(
        Picture(
            "interpolation",
            ("loss_by_interpolation",),
            _draw,
            "Loss of weights on the line from the trained weights (left) to the constructed weights (right). The "
            "line is the mean over untrapped seeds, the band their range. The horizontal line is the loss of the "
            "constructed weights.",
            place=50,
        ),
    ),
    evidence=(Evidence("interpolation_ratio", at_most=1.0001),),
)
