"""Prompts cut from a real table: is it still gradient descent there?"""

import importlib.util
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, learners, plots
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, Unfit, needs, unfit
from icl_gd.lab.evaluation.measured import Evaluation, Records, of_learner
from icl_gd.lab.reporting.results import curve
from icl_gd.tasks import Table, standardised_table
from icl_gd.types import Predictor, Prompt

TABLE_KEY, TUNE_KEY = 1, 2  # folded into that of the evaluation
PENALTIES = np.logspace(-3, 2, 16)
DIABETES = {"task.d_input": 10, "task.d_output": 1}  # of the table that scikit-learn bundles
ROLES = {
    "trained": "trained\nlayer",
    "gd": "gradient\ndescent",
    "gd_tuned": "gradient\ndescent,\ntuned here",
    "ridge": "ridge",
    "ols": "least\nsquares",
    "zero": "always\nzero",
    "whole_table": "weights of\nthe table",
}


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})
    for name, value in DIABETES.items():
        if experiment[name] != value:
            unfit(experiment, name, f"is of the diabetes data, which has {value}")
    if importlib.util.find_spec("sklearn") is None:
        raise Unfit("analyses", "table", "needs scikit-learn: pip install 'icl-gd[baselines]'")


def measure(study: Evaluation, found: Records) -> None:
    """Losses and alignment on prompts of scikit-learn's diabetes data, which nobody has trained on.

    Columns have the variance of the inputs trained on, labels that of its labels. Besides gradient descent as it was
    tuned there stands one tuned on prompts of the table, as are the penalty of ridge regression, and what the
    least-squares weights of the whole table predict, with which no context is needed.
    """
    cut = diabetes(study)
    draw = lambda key: jax.vmap(cut.sample)(jax.random.split(jax.random.fold_in(study.key, key), len(study.prompts.x)))
    prompts, tuning = draw(TABLE_KEY), draw(TUNE_KEY)
    tuned = _tuned(tuning, len(study.reference.rates["gd"].step_sizes))
    penalty = _best_penalty(tuning)
    learned: dict[str, Predictor] = {
        "gd": study.reference.gd,
        "gd_tuned": tuned,
        "ridge": learners.ridge(penalty),
        "ols": learners.ols,
        "zero": learners.predict_zero,
        "whole_table": lambda x, y, x_query: jnp.asarray(cut.w, x_query.dtype) @ x_query,
    }
    # One after another: on two cores, batched solves of one program may wait for each other.
    values = {name: float(jax.jit(of_learner(learner))(prompts).mean()) for name, learner in learned.items()}
    ours = _of_members(study, lambda p: {"loss": analysis.losses(p, prompts).mean()})["loss"]
    found.add("loss_table_trained", ours)
    for name, value in values.items():
        found.add_one(f"loss_table_{name}", value)
    found.add("loss_table_ratio_gd", ours / values["gd"])
    found.add_one("ridge_penalty_table", penalty)
    shown = np.mean(ours[found.shown])
    found.curves["loss_by_learner_table"] = curve(["trained", *values], [shown, *values.values()])
    for name, reference in (("gd", study.reference.gd), ("gd_tuned", tuned)):
        aligned = _of_members(study, lambda p, r=reference: analysis.alignment(p, r, prompts)._asdict())
        for measure, per_member in aligned.items():
            found.add(f"{measure}_{name}_table", per_member)


def _tuned(prompts: Prompt, n_steps: int) -> Predictor:
    """Gradient descent with the step size that is best on these prompts, whose labels no weights made exactly."""
    one = float(learners.fit_step_size(prompts))
    if n_steps == 1:
        return learners.gradient_descent([one])
    steps_of = lambda step_size: learners.gradient_descent(jnp.full(n_steps, step_size))
    risk = jax.jit(lambda step_size: analysis.losses(steps_of(step_size), prompts).mean())
    from scipy.optimize import minimize_scalar  # a quarter of a second to import

    # Of several steps the best size is somewhat smaller; twice it and they diverge.
    best = minimize_scalar(lambda step_size: float(risk(step_size)), (0.25 * one, one)).x
    return learners.gradient_descent(np.full(n_steps, best))


def diabetes(study: Evaluation) -> Table:
    """The table, on the scales of the task."""
    from sklearn.datasets import load_diabetes

    x, y = (np.asarray(part) for part in load_diabetes(return_X_y=True))
    task = study.task
    total = np.trace(task.second_moment)
    return standardised_table(
        x, y[:, None], task.n_context, float(total / task.d_input) ** 0.5, float(task.weight_scale * total**0.5)
    )


def _of_members(study: Evaluation, measure) -> dict[str, np.ndarray]:
    """A measure of Predictors, of every member."""
    of = jax.jit(partial(analysis.over_members, lambda params: measure(study.trained.predictor(params))))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), of(study.trained.params))


def _best_penalty(prompts: Prompt) -> float:
    """Of ridge regression, on a sample of prompts."""
    losses = [float(analysis.losses(learners.ridge(float(penalty)), prompts).mean()) for penalty in PENALTIES]
    return float(PENALTIES[int(np.argmin(losses))])


def _draw(done: Done) -> plots.Figure:
    figure, ax = plots.subplots(figsize=(plots.PAGE * 0.75, 2.4))
    curve = done["curves"]["loss_by_learner_table"]
    colours = [plots.ROLES[name][1] if name in plots.ROLES else "#999999" for name in curve["x"]]
    places = ax.bar([ROLES[name] for name in curve["x"]], curve["mean"], color=colours)
    top = 1.2 * max(loss for name, loss in zip(curve["x"], curve["mean"], strict=True) if name != "ols")
    for place, loss in zip(places, curve["mean"], strict=True):  # as many examples as inputs: least squares leaves it
        ax.text(place.get_x() + place.get_width() / 2, min(loss, 0.93 * top), f"{loss:.3g}", ha="center", va="bottom")
    ax.set(ylabel="loss on prompts of the table", ylim=(0, top))
    return figure


ANALYSIS = Analysis(
    "table",
    measure,
    records=(
        *("loss_table_*", "ridge_penalty_table", "loss_by_learner_table"),
        *(f"{of}_{name}_table" for of in analysis.Alignment._fields for name in ("gd", "gd_tuned")),
    ),
    check=check,
    figures=(
        Picture(
            "table",
            ("loss_by_learner_table",),
            _draw,
            "Losses on prompts cut from the diabetes table; the trained layers have seen nothing like it.",
            place=240,
        ),
    ),
    evidence=(
        Evidence("sensitivity_cosine_gd_table", at_least=0.9999),
        Evidence("prediction_difference_gd_table", at_most=1e-4),
    ),
)
