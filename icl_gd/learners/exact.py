"""Learners that solve the in-context regression problem exactly: least squares and ridge regression.

For x = I, y = (1, 2) and the query (1, 1), least squares predicts the sum of the labels. Ridge regression with penalty
1 predicts half of this sum:

    >>> x, y = jnp.eye(2), jnp.array([[1.0], [2.0]])
    >>> round(least_squares(x, y, jnp.ones(2)).item(), 3)
    3.0
    >>> round(ridge(penalty=1.0)(x, y, jnp.ones(2)).item(), 3)
    1.5
"""

import jax.numpy as jnp
from jax.tree_util import Partial

from icl_gd.problems import on_problem
from icl_gd.schema import checked
from icl_gd.types import Array, Positive, Predictor


@on_problem
def least_squares(x: Array, y: Array, x_query: Array) -> Array:
    """Least squares on the context. With fewer examples than input dimensions, it is the solution of minimum norm.

    Args:
      x, y, x_query: context `[n d]` and `[n m]`, and query `[d]`.

    Returns:
      y_hat `[m]`.
    """
    w, *_ = jnp.linalg.lstsq(x, y)
    return w.T @ x_query


ols = least_squares  # alias (ordinary least squares), as in the metric `loss_ols`


@checked
def ridge(penalty: Positive) -> Predictor:
    """Ridge regression: minimises `sum_i |W x_i - y_i|^2 + penalty |W|^2` (a sum over examples, no factor 1/2 or 1/n).

    With `penalty = noise_std^2 / weight_scale^2`, the prediction is the Bayesian posterior mean for
    `tasks.LinearRegression`.

    Args:
      penalty: positive factor of `|W|^2`.

    Returns:
      A Predictor with y_hat `[m]`.

    Raises:
      ValueError: if the penalty is not positive. Without a penalty, use `least_squares`.
    """
    return Partial(_ridge, penalty)


@on_problem
def _ridge(penalty: Positive, x: Array, y: Array, x_query: Array) -> Array:
    gram = x.T @ x + penalty * jnp.eye(x.shape[-1], dtype=x.dtype)
    return jnp.linalg.solve(gram, x_query) @ (x.T @ y)
