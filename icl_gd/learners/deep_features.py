"""Gradient descent on the output head of a network whose features are given (von Oswald et al., non-linear tasks).

The published network embeds whole tokens (x, y): the features and the target of an example may depend on both, and
those of the query are what it makes of (x_query, 0). With `embed(x, y) = (phi, t)` the learner descends

    1/(2n) sum_i |W phi(x_i, y_i) - t(x_i, y_i)|^2    from W = 0, and predicts    W phi(x_query, 0) - t(x_query, 0).

Ordinary gradient descent on the head of y_hat = f_0(x) + W phi(x) is the special case in which features see no labels
and targets are residuals, t(x, y) = y - f_0(x): then -t(x_query, 0) = f_0(x_query), the prediction before the first
step. How far features see labels is measured by the experiment `sine`.

Every linear layer behind an embedding is a preconditioned step of this kind: with embedded tokens h and v the y row of
W_PV, it predicts -h_q[y] - sum_i (v . h_i) (h_i^T W_KQ h_q), which is one step of size n with features h, targets
t_i = -v . h_i and the matrix A = W_KQ (see `gradient_descent_iterates`). What is open about a trained one is whether
its targets and its matrix do what plain gradient descent does.

Step size is gauge here: features times c with eta / c^2 are the same learner, so it may be fixed and features learned.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from icl_gd.learners.iterative import final_iterate, gradient_descent_iterates
from icl_gd.problems import on_problem
from icl_gd.programs import as_partial
from icl_gd.types import Array, Predictor, Rates

Embed = Callable[[Array, Array], tuple[Array, Array]]
"""`(x [d], y [m]) -> (features [k], target [m])` of one example, or, with y = 0, of the query."""


def layerwise_deep_gradient_descent(embed: Embed, step_sizes: Rates) -> Predictor:
    """As `deep_gradient_descent`, with the prediction of every iterate, the first before any step: `[iterate m]`."""
    return Partial(_deep_gradient_descent, as_partial(embed), step_sizes)


@on_problem
def _deep_gradient_descent(embed: Embed, step_sizes: Any, x: Array, y: Array, x_query: Array) -> Array:
    features, targets = jax.vmap(embed)(x, y)
    query, start = embed(x_query, jnp.zeros_like(y[0]))
    return gradient_descent_iterates(features, targets, step_sizes) @ query - start[None]


def deep_gradient_descent(embed: Embed, step_sizes: Rates) -> Predictor:
    """Gradient descent on a linear head of deep features, one step per entry of `step_sizes`, as a Predictor."""
    return final_iterate(layerwise_deep_gradient_descent(embed, step_sizes))
