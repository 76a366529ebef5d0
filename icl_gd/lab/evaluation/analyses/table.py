"""Losses and alignment to gradient descent on prompts from a real table, which differ from the training prompts."""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, learners, plots
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, Unfit, needs, unfit
from icl_gd.lab.evaluation.measured import Evaluation, Records, losses_of_learner
from icl_gd.lab.reporting.results import curve
from icl_gd.tasks import Table, standardised_table
from icl_gd.types import Array, Predictor, Prompt

TABLE_KEY, TUNE_KEY = 1, 2  # folded into the random key of the evaluation
PENALTIES = np.logspace(-3, 2, 16)  # of ridge regression
DIABETES = {"task.d_input": 10, "task.d_output": 1}  # sizes of the diabetes data that scikit-learn includes
LABELS = {
    "trained": "trained\nlayer",
    "gd": "gradient\ndescent",
    "gd_tuned": "gradient\ndescent,\ntuned here",
    "ridge": "ridge",
    "ols": "least\nsquares",
    "zero": "always\nzero",
    "whole_table": "fit to whole\ntable",
}


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})
    for name, value in DIABETES.items():
        if experiment[name] != value:
            unfit(experiment, name, f"needs {value}, the size of the diabetes data")
    if importlib.util.find_spec("sklearn") is None:
        raise Unfit("analyses", "table", "needs scikit-learn: pip install 'icl-gd[baselines]'")


def measure(evaluation: Evaluation, records: Records) -> None:
    """Measures losses and alignment on prompts of scikit-learn's diabetes data, on which no model is trained.

    Inputs and labels of the table are scaled to the variances of training inputs and labels. The learners include
    gradient descent with the step size fitted to the task (`gd`), gradient descent and ridge regression fitted to other
    prompts of the table (`gd_tuned`, `ridge`), and the least-squares weights of the full table, which do not depend on
    the context (`whole_table`).
    """
    table = diabetes(evaluation)

    def draw(key: int) -> Prompt:
        keys = jax.random.split(jax.random.fold_in(evaluation.key, key), len(evaluation.prompts.x))
        return jax.vmap(table.sample)(keys)

    prompts, tuning = draw(TABLE_KEY), draw(TUNE_KEY)
    tuned = _tuned(tuning, len(evaluation.reference.rates["gd"].step_sizes))
    penalty = _best_penalty(tuning)
    learned: dict[str, Predictor] = {
        "gd": evaluation.reference.gd,
        "gd_tuned": tuned,
        "ridge": learners.ridge(penalty),
        "ols": learners.ols,
        "zero": learners.predict_zero,
        "whole_table": lambda x, y, x_query: jnp.asarray(table.w, x_query.dtype) @ x_query,
    }
    # One program per learner: on two cores, batched solves in one program may wait for each other.
    values = {name: float(jax.jit(losses_of_learner(learner))(prompts).mean()) for name, learner in learned.items()}
    trained = _over_members(evaluation, lambda p: {"loss": analysis.losses(p, prompts).mean()})["loss"]
    records.add("loss_table_trained", trained)
    for name, value in values.items():
        records.add_one(f"loss_table_{name}", value)
    records.add("loss_table_ratio_gd", trained / values["gd"])
    records.add_one("ridge_penalty_table", penalty)
    shown = np.mean(trained[records.shown])
    records.curves["loss_by_learner_table"] = curve(["trained", *values], [shown, *values.values()])
    for name, reference in (("gd", evaluation.reference.gd), ("gd_tuned", tuned)):
        aligned = _over_members(evaluation, lambda p, r=reference: analysis.alignment(p, r, prompts)._asdict())
        for measure, per_member in aligned.items():
            records.add(f"{measure}_{name}_table", per_member)


def _tuned(prompts: Prompt, n_steps: int) -> Predictor:
    """Gradient descent with the step size that minimises the mean loss on these prompts.

    Labels of the table are not exactly linear, so spectral formulas do not apply.
    """
    single_step = float(learners.fit_step_size(prompts))
    if n_steps == 1:
        return learners.gradient_descent([single_step])

    @jax.jit
    def risk(step_size: Array) -> Array:
        return analysis.losses(learners.gradient_descent(jnp.full(n_steps, step_size)), prompts).mean()

    from scipy.optimize import minimize_scalar  # takes a quarter of a second to import

    # For several steps the best step size is somewhat smaller than for one step; twice the best step size diverges.
    best: Any = minimize_scalar(lambda step_size: float(risk(step_size)), (0.25 * single_step, single_step))
    return learners.gradient_descent(np.full(n_steps, best.x))


def diabetes(evaluation: Evaluation) -> Table:
    """The diabetes data, scaled to the variances of the task."""
    from sklearn.datasets import load_diabetes

    x, y = (np.asarray(part) for part in load_diabetes(return_X_y=True))
    task = evaluation.task
    total = np.trace(task.second_moment)
    return standardised_table(
        x, y[:, None], task.n_context, float(total / task.d_input) ** 0.5, float(task.weight_scale * total**0.5)
    )


def _over_members(evaluation: Evaluation, measure: Callable[[Predictor], dict[str, Array]]) -> dict[str, np.ndarray]:
    """Applies a measure of Predictors to every member, and returns float64 arrays `[member]`."""
    compiled = jax.jit(partial(analysis.over_members, lambda params: measure(evaluation.trained.predictor(params))))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), compiled(evaluation.trained.params))


def _best_penalty(prompts: Prompt) -> float:
    """The best penalty of ridge regression on a sample of prompts."""
    losses = [float(analysis.losses(learners.ridge(float(penalty)), prompts).mean()) for penalty in PENALTIES]
    return float(PENALTIES[int(np.argmin(losses))])


def _draw(done: Done) -> plots.Figure:
    figure, ax = plots.subplots(figsize=(plots.PAGE * 0.75, 2.4))
    curve = done["curves"]["loss_by_learner_table"]
    colours = [plots.ROLES[name][1] if name in plots.ROLES else "#999999" for name in curve["x"]]
    bars = ax.bar([LABELS[name] for name in curve["x"]], curve["mean"], color=colours)
    top = 1.2 * max(loss for name, loss in zip(curve["x"], curve["mean"], strict=True) if name != "ols")
    # With about as many examples as inputs, least squares is much worse than other learners. Its bar is cut off.
    for bar, loss in zip(bars, curve["mean"], strict=True):
        ax.text(bar.get_x() + bar.get_width() / 2, min(loss, 0.93 * top), f"{loss:.3g}", ha="center", va="bottom")
    ax.set(ylabel="loss on prompts of the table", ylim=(0, top))
    return figure


ANALYSIS = Analysis(
    "table",
    measure,
    records=(
        *("loss_table_*", "ridge_penalty_table", "loss_by_learner_table"),
        *(f"{measure}_{name}_table" for measure in analysis.Alignment._fields for name in ("gd", "gd_tuned")),
    ),
    check=check,
    figures=(
        Picture(
            "table",
            ("loss_by_learner_table",),
            _draw,
            "Loss on prompts sampled from scikit-learn's diabetes data, which is unlike the data of training. Bars "
            "are the trained layers (mean over untrapped seeds) and the learners, with the loss as a number; bars "
            "that reach the upper edge are cut off.",
            place=240,
        ),
    ),
    evidence=(
        Evidence("sensitivity_cosine_gd_table", at_least=0.9999),
        Evidence("prediction_difference_gd_table", at_most=1e-4),
    ),
)
