"""Differences of predictions on sine waves, next to the spread of targets and to those between seeds of one kind."""

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


def measure(study: Evaluation, found: Records) -> None:
    """Differences of predictions next to the spread of targets, and next to those between seeds of one kind."""
    p = study.prompts
    predict = lambda of, params: np.asarray(jax.jit(partial(_predictions, of, p))(params))
    trained = predict(study.trained.predictor, study.trained.params)
    learned = predict(study.reference.descended, study.reference.learner.params)
    built = predict(study.reference.learner.predictor, study.reference.learner.params)
    found.add_one("construction_error", np.abs(built - learned).max() / np.abs(learned).max())
    mean, second = study.task.label_moments
    spread = (second - mean**2) ** 0.5
    found.add_one("target_spread", spread, 0.0)
    target = np.asarray(p.y_query)[:, 0]
    apart = {
        "targets": (target - mean)[None],
        "error_trained": trained - target,
        f"error_{LEARNER}": learned - target,
        LEARNER: trained - learned,
    }
    if len(trained) > 1:
        apart |= {"seeds": trained - np.roll(trained, 1, 0), f"{LEARNER}_seeds": learned - np.roll(learned, 1, 0)}
    for name in (LEARNER, *(name for name in apart if name.endswith("seeds"))):
        found.add(f"prediction_difference_ratio_{name}", np.abs(apart[name]).mean(1) / spread)
    levels = np.linspace(0.01, 0.99, 99)
    for name, values in apart.items():
        quantiles = np.quantile(np.abs(values), levels, axis=1)
        found.curves[f"absolute_{name}_by_quantile"] = curve(levels.tolist(), quantiles)


def _predictions(of: Callable[[Any], Predictor], prompts: Prompt, params: Any) -> Array:
    """`[member prompt]`."""
    one = lambda member: jax.vmap(of(member))(prompts.x, prompts.y, prompts.x_query)[:, 0]
    return analysis.over_members(one, params)


def _draw(done: Done) -> plots.Figure:
    figure, ax = plots.subplots(figsize=(plots.COLUMN, 2.6))
    shown = (
        ("targets", "targets, centred", "#000000", "-"),
        ("error_trained", "error of the layer", *plots.ROLES["trained"][1:]),
        (f"error_{LEARNER}", "error of the step", *plots.ROLES[LEARNER][1:]),
        (LEARNER, "layer minus step", "#009E73", "-"),
        ("seeds", "layer minus layer, other seed", "#CC79A7", "-."),
        (f"{LEARNER}_seeds", "step minus step, other seed", "#E69F00", ":"),
    )
    for name, label, colour, dashes in shown:
        if (curve := done["curves"].get(f"absolute_{name}_by_quantile")) is not None:
            ax.plot(curve["mean"], curve["x"], dashes, color=colour, label=label)
    ax.set(xlabel="absolute value, in units of $y$", ylabel="share of prompts below", xscale="log", ylim=(0, 1))
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
            "Differences of predictions next to the spread of targets, over held-out prompts: a curve to the "
            "left is a smaller difference.",
            place=280,
        ),
    ),
    evidence=(Evidence(f"prediction_difference_ratio_{LEARNER}", at_most=1e-4),),
    identities={"construction_error": 1e-4},
)
