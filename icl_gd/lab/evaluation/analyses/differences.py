"""Differences between predictions on sine waves, compared with the spread of targets and differences between seeds."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from icl_gd import analysis, plots
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, needs
from icl_gd.lab.evaluation.measured import Evaluation, Records
from icl_gd.lab.evaluation.references.deep_features import LEARNER
from icl_gd.lab.reporting.results import curve
from icl_gd.types import Array, Predictor, Prompt


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "deep_features"})


def measure(evaluation: Evaluation, records: Records) -> None:
    """Measures differences between predictions, the spread of targets, and differences between seeds of one kind."""
    p = evaluation.prompts

    def predict(predictor_of: Callable[[Any], Predictor], params: Any) -> np.ndarray:
        return np.asarray(jax.jit(partial(_predictions, predictor_of, p))(params))

    trained = predict(evaluation.trained.predictor, evaluation.trained.params)
    learned = predict(evaluation.reference.descended, evaluation.reference.learner.params)
    built = predict(evaluation.reference.learner.predictor, evaluation.reference.learner.params)
    records.add_one("construction_error", np.abs(built - learned).max() / np.abs(learned).max())
    mean, second = evaluation.task.label_moments
    spread = (second - mean**2) ** 0.5
    records.add_one("target_spread", spread, 0.0)
    target = np.asarray(p.y_query)[:, 0]
    differences = {
        "targets": (target - mean)[None],
        "error_trained": trained - target,
        f"error_{LEARNER}": learned - target,
        LEARNER: trained - learned,
    }
    if len(trained) > 1:
        differences |= {"seeds": trained - np.roll(trained, 1, 0), f"{LEARNER}_seeds": learned - np.roll(learned, 1, 0)}
    for name in (LEARNER, *(name for name in differences if name.endswith("seeds"))):
        records.add(f"prediction_difference_ratio_{name}", np.abs(differences[name]).mean(1) / spread)
    levels = np.linspace(0.01, 0.99, 99)
    for name, values in differences.items():
        quantiles = np.quantile(np.abs(values), levels, axis=1)
        records.curves[f"absolute_{name}_by_quantile"] = curve(levels.tolist(), quantiles)


def _predictions(predictor_of: Callable[[Any], Predictor], prompts: Prompt, params: Any) -> Array:
    """Predictions `[member prompt]` of all members."""

    def predictions_of(member: Any) -> Array:
        return jax.vmap(predictor_of(member))(prompts.x, prompts.y, prompts.x_query)[:, 0]

    return analysis.over_members(predictions_of, params)


def _draw(done: Done) -> plots.Figure:
    figure, ax = plots.subplots(figsize=(plots.COLUMN, 2.6))
    shown = (
        ("targets", "targets minus mean", "#000000", "-"),
        ("error_trained", "layer minus target", *plots.ROLES["trained"][1:]),
        (f"error_{LEARNER}", "step minus target", *plots.ROLES[LEARNER][1:]),
        (LEARNER, "layer minus step", "#009E73", "-"),
        ("seeds", "layers of two seeds", "#CC79A7", "-."),
        (f"{LEARNER}_seeds", "steps of two seeds", "#E69F00", ":"),
    )
    for name, label, colour, dashes in shown:
        if (curve := done["curves"].get(f"absolute_{name}_by_quantile")) is not None:
            ax.plot(curve["mean"], curve["x"], dashes, color=colour, label=label)
    ax.set(xlabel="absolute difference, in units of $y$", ylabel="share of prompts below", xscale="log", ylim=(0, 1))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


ANALYSIS = Analysis(
    "differences",
    measure,
    records=("construction_error", "target_spread", "prediction_difference_ratio_*", "absolute_*_by_quantile"),
    check=check,
    figures=(
        Picture(
            "differences",
            (f"absolute_{LEARNER}_by_quantile",),
            _draw,
            "Absolute differences over held-out prompts: between layer and gradient step, between two seeds of the "
            "same kind, and between predictions and targets. The vertical axis is the share of prompts with a smaller "
            "difference, so curves further left are closer. Lines are means over seeds.",
            place=280,
        ),
    ),
    evidence=(Evidence(f"prediction_difference_ratio_{LEARNER}", at_most=1e-4),),
    identities={"construction_error": 1e-4},
)
