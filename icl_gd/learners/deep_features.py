"""Gradient descent on the linear head of a network with fixed features (non-linear tasks of von Oswald et al.).

The published network (2212.07677) embeds each token (x, y) as features phi(x, y) and a target t(x, y); both may depend
on x and on y. The query is embedded as the token (x_query, 0). From W = 0, the learner takes gradient steps on the loss

    1/(2n) sum_i |W phi(x_i, y_i) - t(x_i, y_i)|^2    and predicts    W phi(x_query, 0) - t(x_query, 0).

Special case. Consider ordinary gradient descent on the head W of y_hat = f_0(x) + W phi(x). The features do not depend
on the labels, and the targets are residuals: t(x, y) = y - f_0(x). Then -t(x_query, 0) = f_0(x_query) is the prediction
before the first step. The experiment `sine` measures how much trained features depend on the labels.

Relation to linear attention. Every linear layer after an embedding is one preconditioned step of this kind. Let h_i be
the embedded tokens, h_q the embedded query, and v the y row of W_PV. The layer predicts
-h_q[y] - sum_i (v . h_i) (h_i^T W_KQ h_q). This is one step with step size n, features h, targets t_i = -v . h_i,
t_q = h_q[y], and preconditioner A = W_KQ (see `gradient_descent_iterates`). Whether the targets and the preconditioner
of a trained layer are those of plain gradient descent is a question for experiments.

The step size is a gauge freedom: multiplying the features by c and dividing the step size by c^2 gives the same
learner. The step size may therefore be fixed while the features are learned.

With the features x and x^2, the learner fits y = 2 x^2:

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
"""`(x [d], y [m]) -> (features [k], target [m])` for one example. The query is embedded with y = 0."""


def layerwise_deep_gradient_descent(embed: Embed, step_sizes: Rates) -> Predictor:
    """Like `deep_gradient_descent`, but returns the prediction after every step.

    Args:
      embed: maps an example to its features and target, see `Embed`.
      step_sizes: eta of every step, not divided by n.

    Returns:
      A Predictor with y_hat `[iterate m]`; the first iterate is the prediction before any step.
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
      embed: maps an example to its features and target, see `Embed`.
      step_sizes: eta of every step, not divided by n; one step is taken per entry.

    Returns:
      A Predictor with y_hat `[m]`.
    """
    return final_iterate(layerwise_deep_gradient_descent(embed, step_sizes))
