"""Predicted sine waves over x, before and after the attention layer or the gradient step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import models, plots
from icl_gd.lab.config.questions import Analysis, Done, Picture, needs
from icl_gd.lab.evaluation.measured import Evaluation, Records
from icl_gd.lab.evaluation.references.deep_features import GRID, LEARNER

PROMPTS = 4
SHORT = {"trained": "layer", LEARNER: "gradient step"}


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "deep_features"})


def measure(evaluation: Evaluation, records: Records) -> None:
    """Records the predictions of one member over x, before and after the layer or step, for a few prompts."""
    member = int(records.shown[0])
    transformer, learner = evaluation.trained.member(member), evaluation.reference.learner.member(member)
    layerwise = {
        "trained": models.layerwise_predictor(evaluation.trained.config, transformer, evaluation.trained.layout),
        LEARNER: evaluation.reference.descend(learner),
    }
    drawn = []
    for i in range(PROMPTS):
        x, y, (amplitude, phase) = (
            evaluation.prompts.x[i],
            evaluation.prompts.y[i],
            np.asarray(evaluation.prompts.w[i, 0], np.float64),
        )
        record = {
            "x": GRID.tolist(),
            "target": (amplitude * np.sin(GRID + phase)).tolist(),
            "context_x": np.asarray(x, np.float64)[:, 0].tolist(),
            "context_y": np.asarray(y, np.float64)[:, 0].tolist(),
        }
        for name, predict in layerwise.items():
            y_hat = jax.vmap(predict, (None, None, 0))(x, y, jnp.asarray(GRID[:, None], x.dtype))[..., 0]
            record[f"{name}_before"], record[name] = (np.asarray(y_hat[:, k], np.float64).tolist() for k in (0, -1))
        drawn.append(record)
    records.arrays["functions"] = drawn


def _draw(done: Done) -> plots.Figure:
    prompts = done["arrays"]["functions"]
    figure, axes = plots.subplots(2, len(prompts), figsize=(plots.PAGE, 3.0), sharex=True, sharey=True)
    for row, role in zip(axes, ("trained", LEARNER), strict=True):
        _, colour, dashes = plots.ROLES[role]
        for ax, prompt in zip(row, prompts, strict=True):
            ax.plot(prompt["x"], prompt["target"], color="black", linewidth=0.8, label="target")
            ax.plot(
                prompt["x"], prompt[f"{role}_before"], ":", color=colour, linewidth=1.0, label=f"before {SHORT[role]}"
            )
            ax.plot(prompt["x"], prompt[role], dashes, color=colour, label=f"after {SHORT[role]}")
            ax.plot(prompt["context_x"], prompt["context_y"], "o", color="black", markersize=2.5, label="context")
        row[0].set(ylabel="$y$")
    for ax in axes[-1]:
        ax.set(xlabel="$x$")
    (handles, labels), (lower_handles, lower_labels) = (row[0].get_legend_handles_labels() for row in axes)
    figure.legend([*handles, *lower_handles[1:3]], [*labels, *lower_labels[1:3]], loc="outside lower center", ncols=6)
    return figure


ANALYSIS = Analysis(
    "functions",
    measure,
    records=(),
    check=check,
    figures=(
        Picture(
            "functions",
            ("functions",),
            _draw,
            "Predictions over x for four prompts, of one seed. Top: the Transformer before and after its attention "
            "layer. Bottom: gradient descent on meta-learned features, before and after its step. The black line is "
            "the target, dots are the examples of the context.",
            place=270,
        ),
    ),
)
