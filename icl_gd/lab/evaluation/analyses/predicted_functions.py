"""The function of the query that a causal Transformer predicts at every length, compared with least squares.

After k examples, the sensitivity of least squares to the query is w projected on the span of the k inputs. A model that
implements least squares has the same sensitivity.

Source: Garg et al. 2208.01066, section 4.3.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, learners, plots
from icl_gd.lab.config.questions import Analysis, Done, Picture, needs
from icl_gd.lab.evaluation.measured import Evaluation, Records, take
from icl_gd.lab.evaluation.references.prefix_learners import BEYOND, band, suite_prompts
from icl_gd.tasks import Linear, Sparse
from icl_gd.types import Array, PrefixPredictor, PrefixPrompt

PROMPTS = 128  # prompts whose sensitivities are computed; each needs one forward and backward pass per length
AT_ONCE = 32  # prompts in one batch


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "prefix_learners"})


def measure(evaluation: Evaluation, records: Records) -> None:
    """Measures the cosines of sensitivities with those of least squares and with w, and predictions along w.

    If functions are not linear, or least squares is not among the baselines, nothing is measured.
    """
    if (
        type(evaluation.task.functions) not in (Linear, Sparse)
        or "least_squares" not in evaluation.experiment.reference.baselines
    ):
        return
    prompts = take(suite_prompts(evaluation, "standard")[1], PROMPTS)
    exact: PrefixPrompt = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), prompts)
    with jax.enable_x64(True):
        respond = jax.jit(partial(_sensitivities, learners.prefix_least_squares))
        least_squares = np.asarray(respond(jax.tree.map(jnp.asarray, exact)))

    @jax.jit
    def member_sensitivities(params: Any) -> Array:
        predictor_of = evaluation.trained.prefix_predictor
        return jax.lax.map(lambda member: _sensitivities(predictor_of(member), prompts), params)

    for role, params in (("trained", evaluation.trained.params), ("untrained", evaluation.untrained)):
        sensitivities = np.asarray(member_sensitivities(params), np.float64)
        for name, other in (("least_squares", least_squares), ("function", exact.w)):
            cosines = _cosine(sensitivities, other[None])  # [member prompt n]
            records.curves[f"sensitivity_cosine_{name}_{role}"] = band(cosines.mean(0))
            if role == "trained":
                records.add(f"sensitivity_cosine_{name}", np.nanmean(cosines.mean(1), axis=1))
    records.curves["sensitivity_cosine_function_least_squares"] = band(_cosine(least_squares, exact.w))
    records.arrays["along_the_function"] = _along(evaluation, prompts, least_squares[0])


def _along(evaluation: Evaluation, prompts: PrefixPrompt, least_squares: np.ndarray) -> dict[str, Any]:
    """Predictions of the first member for queries along w, after d / 2, d and all examples of the first prompt.

    Args:
      least_squares: sensitivities `[n d]` of least squares in the first prompt.
    """
    task, w = evaluation.task, np.asarray(prompts.w, np.float64)[0, 0]
    d, n = task.d_input, task.n_context
    x = np.linspace(-2.0, 2.0, 41)  # in units of the typical length of a query
    queries = x[:, None] * task.input_scale * d**0.5 * w / np.linalg.norm(w)
    model = evaluation.trained.prefix_predictor(jax.tree.map(lambda leaf: leaf[0], evaluation.trained.params))
    examples = sorted({min(k, n) for k in (max(d // 2, 1), d, n)})
    return {
        "x": x.tolist(),
        "examples": examples,
        "function": (task.label_scale * queries @ w).tolist(),
        "least_squares": [(queries @ least_squares[k]).tolist() for k in examples],
        "trained": [_predictions(model, prompts, k, queries).tolist() for k in examples],
    }


def _predictions(predictor: PrefixPredictor, prompts: PrefixPrompt, k: int, queries: np.ndarray) -> np.ndarray:
    """Predictions `[query]` for several queries, after k examples of the first prompt."""
    x, y = prompts.x[0], prompts.y[0]
    predict = jax.jit(jax.vmap(lambda query: predictor(x.at[k].set(query), y)[k, 0]))
    return np.asarray(predict(jnp.asarray(queries, x.dtype)), np.float64)


def _sensitivities(predictor: PrefixPredictor, prompts: PrefixPrompt) -> Array:
    """Sensitivities `[prompt n d]` of the prediction to the query, at every length."""
    return analysis.prefix_responses(predictor, prompts, AT_ONCE)[1][:, :, 0]


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine along the last axis; nan if a vector is zero."""
    with np.errstate(invalid="ignore"):
        return np.sum(a * b, axis=-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def _draw(done: Done) -> plots.Figure:
    figure, (left, right) = plots.subplots(1, 2, figsize=(plots.PAGE, 2.9))
    line, curves = done["arrays"]["along_the_function"], done["curves"]
    left.plot(line["x"], line["function"], color="#000000", alpha=0.25, linewidth=4, label="the function $w x$")
    for k, dashes, trained, least_squares in zip(
        line["examples"], (":", "--", "-"), line["trained"], line["least_squares"], strict=False
    ):
        left.plot(line["x"], trained, dashes, color=plots.ROLES["trained"][1], label=f"trained, {k} examples")
        left.plot(line["x"], least_squares, dashes, color=plots.ROLES["least_squares"][1], linewidth=0.8)
    left.plot([], [], color=plots.ROLES["least_squares"][1], linewidth=0.8, label="least squares, same line styles")
    left.set(xlabel="query along $w$ / typical length of a query", ylabel="prediction")
    at = "sensitivity_cosine_{}_{}".format
    plots.line(right, curves[at("least_squares", "trained")], "trained", label="trained, to least squares")
    plots.line(right, curves[at("least_squares", "untrained")], "untrained", label="untrained, to least squares")
    plots.line(right, curves[at("function", "trained")], "gd_plus_plus", label="trained, to the function")
    plots.line(right, curves[at("function", "least_squares")], "least_squares", label="least squares, to the function")
    right.set(xlabel="in-context examples", ylabel="cosine of sensitivities", ylim=(-0.15, 1.05))
    if BEYOND in done["arrays"]:
        plots.shade_untrained_lengths(right, done["arrays"][BEYOND])
    for ax in (left, right):
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, fontsize="small")
    return figure


ANALYSIS = Analysis(
    "predicted_functions",
    measure,
    records=("sensitivity_cosine_least_squares*", "sensitivity_cosine_function*"),
    check=check,
    figures=(
        Picture(
            "predicted_functions",
            ("along_the_function",),
            _draw,
            "Left: predictions of the first seed, and of least squares, for queries along w in one prompt, after d / "
            "2, d and all examples. With d or more examples, least squares equals the function. Right: cosine "
            "between the sensitivity of the prediction to the query and that of least squares, or w itself, after each "
            "number of examples. Lines are means over prompts and seeds, bands contain 90 % of the means over "
            "resampled prompts.",
            place=320,
            remarks={
                BEYOND: "Training prompts have {} examples; predictions after more examples (right: shaded) were never "
                "trained."
            },
        ),
    ),
)
