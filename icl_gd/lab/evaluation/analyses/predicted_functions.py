"""Which function of the query a causal Transformer predicts at every length, where it ought to be linear.

Garg et al. 2208.01066, section 4.3: after k examples least squares predicts w on the span of their inputs, which is its
sensitivity to the query. So is the model's, if it is least squares.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, learners
from icl_gd.lab.evaluation.analyses.prefixes import PrefixStudy, band
from icl_gd.lab.evaluation.study import Found, first
from icl_gd.tasks import Linear, Sparse
from icl_gd.types import Array, PrefixPredictor, PrefixPrompt

PROMPTS, AT_ONCE = 128, 32  # whose sensitivities are asked, at the cost of a pass forward and back for every length


def add(found: Found, study: PrefixStudy) -> None:
    """Curves of cosines of sensitivities to those of least squares and to w, and predictions along w for one prompt.

    Of linear functions, where least squares is among the learners; of others nothing is added.
    """
    if type(study.task.functions) not in (Linear, Sparse) or "least_squares" not in study.baselines:
        return
    prompts = first(study.prompts("standard")[1], PROMPTS)
    exact: PrefixPrompt = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), prompts)
    with jax.enable_x64(True):
        respond = jax.jit(partial(_sensitivities, learners.prefix_least_squares))
        of_least_squares = np.asarray(respond(jax.tree.map(jnp.asarray, exact)))
    respond = jax.jit(
        lambda params: jax.lax.map(lambda member: _sensitivities(study.predictor_of(member), prompts), params)
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


def _along(study: PrefixStudy, prompts: PrefixPrompt, of_least_squares: np.ndarray) -> dict[str, Any]:
    """Predictions of the first member along w, in the first prompt, after half as many examples as inputs, as many, all
    of them.

    Args:
      of_least_squares: sensitivities `[n d]` there.
    """
    task, w = study.task, np.asarray(prompts.w, np.float64)[0, 0]
    d, n = task.d_input, task.n_context
    x = np.linspace(-2.0, 2.0, 41)  # in the typical length of a query
    queries = x[:, None] * task.input_scale * d**0.5 * w / np.linalg.norm(w)
    model = study.predictor_of(jax.tree.map(lambda leaf: leaf[0], study.trained.params))
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
