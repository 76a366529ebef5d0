"""Gradient descent on the linear head of a network with fixed features (non-linear tasks of von Oswald et al.).

The published network (2212.07677) embeds whole tokens (x, y). Features and target of an example may therefore depend on
both x and y. The query is embedded as the token (x_query, 0). With `embed(x, y) = (phi, t)` the learner minimises

    1/(2n) sum_i |W phi(x_i, y_i) - t(x_i, y_i)|^2    from W = 0, and predicts    W phi(x_query, 0) - t(x_query, 0).

Special case. Ordinary gradient descent on the head of y_hat = f_0(x) + W phi(x) has features that do not depend on the
labels, and residuals as targets: t(x, y) = y - f_0(x). Then -t(x_query, 0) = f_0(x_query) is the prediction before the
first step. The experiment `sine` measures how much trained features depend on the labels.

Relation to linear attention. Every linear layer behind an embedding is one preconditioned step of this kind. With
embedded tokens h, and v the y row of W_PV, the layer predicts -h_q[y] - sum_i (v . h_i) (h_i^T W_KQ h_q). This is one
step of size n with features h, targets t_i = -v . h_i and the matrix A = W_KQ (see `gradient_descent_iterates`). The
open question about a trained layer is whether its targets and its matrix are those of plain gradient descent.

The step size is a gauge freedom: features multiplied by c and a step size eta / c^2 give the same learner. The step
size may therefore be fixed while the features are learned.

Two features, x and x^2, fit y = 2 x^2:

    >>> def embed(x, y):
    ...     return jnp.concatenate([x, x**2]), y
    >>> x = jnp.linspace(-1.0, 1.0, 9)[:, None]
    >>> predict = deep_gradient_descent(embed, jnp.full(200, 1.0))
    >>> round(predict(x, 2 * x**2, jnp.array([0.5])).item(), 3)
    0.5
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
"""`(x [d], y [m]) -> (features [k], target [m])` of one example. The query is embedded with y = 0."""


def layerwise_deep_gradient_descent(embed: Embed, step_sizes: Rates) -> Predictor:
    """`deep_gradient_descent` with the prediction of every iterate.

    Args:
      embed: features and target of one example.
      step_sizes: one per step.

    Returns:
      A Predictor with y_hat `[iterate m]`; the first iterate is before any step.
    """
    return Partial(_deep_gradient_descent, as_partial(embed), step_sizes)


@on_problem
def _deep_gradient_descent(embed: Embed, step_sizes: Any, x: Array, y: Array, x_query: Array) -> Array:
    features, targets = jax.vmap(embed)(x, y)
    query, start = embed(x_query, jnp.zeros_like(y[0]))
    return gradient_descent_iterates(features, targets, step_sizes) @ query - start[None]


def deep_gradient_descent(embed: Embed, step_sizes: Rates) -> Predictor:
    """Gradient descent on a linear head of deep features.

    Args:
      embed: features and target of one example.
      step_sizes: one per step; their number is the number of steps.

    Returns:
      A Predictor with y_hat `[m]`.
    """
    return final_iterate(layerwise_deep_gradient_descent(embed, step_sizes))
