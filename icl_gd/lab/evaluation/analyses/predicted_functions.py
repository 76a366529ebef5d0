"""Which function of the query a causal Transformer predicts at every length, where it ought to be linear.

Garg et al. 2208.01066, section 4.3: after k examples least squares predicts w on the span of their inputs, which is its
sensitivity to the query. So is the model's, if it is least squares.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, learners, plots
from icl_gd.lab.config.questions import Analysis, Done, Picture, needs
from icl_gd.lab.evaluation.measured import Evaluation, Records, take
from icl_gd.lab.evaluation.references.prefix_learners import BEYOND, band, family_prompts
from icl_gd.tasks import Linear, Sparse
from icl_gd.types import Array, PrefixPredictor, PrefixPrompt

PROMPTS, AT_ONCE = 128, 32  # whose sensitivities are asked, at the cost of a pass forward and back for every length


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "prefix_learners"})


def measure(study: Evaluation, found: Records) -> None:
    """Curves of cosines of sensitivities to those of least squares and to w, and predictions along w for one prompt.

    Of linear functions, where least squares is among the learners; of others nothing is added.
    """
    if (
        type(study.task.functions) not in (Linear, Sparse)
        or "least_squares" not in study.experiment.reference.baselines
    ):
        return
    prompts = take(family_prompts(study, "standard")[1], PROMPTS)
    exact: PrefixPrompt = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), prompts)
    with jax.enable_x64(True):
        respond = jax.jit(partial(_sensitivities, learners.prefix_least_squares))
        of_least_squares = np.asarray(respond(jax.tree.map(jnp.asarray, exact)))
    respond = jax.jit(
        lambda params: jax.lax.map(
            lambda member: _sensitivities(study.trained.prefix_predictor(member), prompts), params
        )
    )
    for role, params in (("trained", study.trained.params), ("untrained", study.untrained)):
        of_members = np.asarray(respond(params), np.float64)
        for name, other in (("least_squares", of_least_squares), ("function", exact.w)):
            cosines = _cosine(of_members, other[None])  # [member prompt n]
            found.curves[f"sensitivity_cosine_{name}_{role}"] = band(cosines.mean(0))
            if role == "trained":
                found.add(f"sensitivity_cosine_{name}", np.nanmean(cosines.mean(1), axis=1))
    found.curves["sensitivity_cosine_function_least_squares"] = band(_cosine(of_least_squares, exact.w))
    found.arrays["along_the_function"] = _along(study, prompts, of_least_squares[0])


def _along(study: Evaluation, prompts: PrefixPrompt, of_least_squares: np.ndarray) -> dict[str, Any]:
    """Predictions of the first member along w, in the first prompt, after half as many examples as inputs, as many, all
    of them.

    Args:
      of_least_squares: sensitivities `[n d]` there.
    """
    task, w = study.task, np.asarray(prompts.w, np.float64)[0, 0]
    d, n = task.d_input, task.n_context
    x = np.linspace(-2.0, 2.0, 41)  # in the typical length of a query
    queries = x[:, None] * task.input_scale * d**0.5 * w / np.linalg.norm(w)
    model = study.trained.prefix_predictor(jax.tree.map(lambda leaf: leaf[0], study.trained.params))
    examples = sorted({min(k, n) for k in (max(d // 2, 1), d, n)})
    return {
        "x": x.tolist(),
        "examples": examples,
        "function": (task.label_scale * queries @ w).tolist(),
        "least_squares": [(queries @ of_least_squares[k]).tolist() for k in examples],
        "trained": [_of_queries(model, prompts, k, queries).tolist() for k in examples],
    }


def _of_queries(predictor: PrefixPredictor, prompts: PrefixPrompt, k: int, queries: np.ndarray) -> np.ndarray:
    """Predictions `[query]` after k examples of the first prompt."""
    x, y = prompts.x[0], prompts.y[0]
    ask = jax.jit(jax.vmap(lambda query: predictor(x.at[k].set(query), y)[k, 0]))
    return np.asarray(ask(jnp.asarray(queries, x.dtype)), np.float64)


def _sensitivities(predictor: PrefixPredictor, prompts: PrefixPrompt) -> Array:
    """`[prompt n d]`"""
    return analysis.prefix_responses(predictor, prompts, AT_ONCE)[1][:, :, 0]


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Along the last axis; nan where one is zero."""
    with np.errstate(invalid="ignore"):
        return np.sum(a * b, axis=-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def _draw(done: Done) -> plots.Figure:
    figure, (left, right) = plots.subplots(1, 2, figsize=(plots.PAGE, 2.9))
    line, curves = done["arrays"]["along_the_function"], done["curves"]
    left.plot(line["x"], line["function"], color="#000000", alpha=0.25, linewidth=4, label="the function")
    for k, dashes, trained, least_squares in zip(
        line["examples"], (":", "--", "-"), line["trained"], line["least_squares"], strict=False
    ):
        left.plot(line["x"], trained, dashes, color=plots.ROLES["trained"][1], label=f"trained, {k} examples")
        left.plot(line["x"], least_squares, dashes, color=plots.ROLES["least_squares"][1], linewidth=0.8)
    left.plot([], [], color=plots.ROLES["least_squares"][1], linewidth=0.8, label="least squares, same dashes")
    left.set(xlabel="query along w, in its typical length", ylabel="prediction")
    at = "sensitivity_cosine_{}_{}".format
    plots.line(right, curves[at("least_squares", "trained")], "trained", label="trained, to least squares")
    plots.line(right, curves[at("least_squares", "untrained")], "untrained", label="untrained, to least squares")
    plots.line(right, curves[at("function", "trained")], "gd_plus_plus", label="trained, to the function")
    plots.line(right, curves[at("function", "least_squares")], "least_squares", label="least squares, to the function")
    right.set(xlabel="in-context examples", ylabel="cosine of sensitivities", ylim=(-0.15, 1.05))
    if BEYOND in done["arrays"]:
        plots.never_trained(right, done["arrays"][BEYOND])
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
            "Left: what is predicted of a query that moves along w, where the function w x changes "
            "most, in one prompt, by the first member; from as many examples as inputs on least "
            "squares is the function. Right: cosine between sensitivities, d prediction / d query, "
            "and those of least squares, or of the function itself (mean over prompts; bands hold 90 "
            "% of means over resampled ones).",
            place=320,
            remarks={
                BEYOND: "Prompts of training have {} examples: what is predicted after more (left by their number, "
                "right shaded) was never trained."
            },
        ),
    ),
)
