"""Learners that solve the in-context problem in one go."""

import jax.numpy as jnp
from jax.tree_util import Partial

from icl_gd.problems import on_problem
from icl_gd.schema import checked
from icl_gd.types import Array, Positive, Predictor


@on_problem
def ols(x: Array, y: Array, x_query: Array) -> Array:
    """Ordinary least squares, of minimum norm where the context has fewer examples than dimensions."""
    w, *_ = jnp.linalg.lstsq(x, y)
    return w.T @ x_query


@checked
def ridge(penalty: Positive) -> Predictor:
    """Minimises `sum_i |W x_i - y_i|^2 + penalty |W|^2`.

    With `penalty = noise_std^2 / weight_scale^2` it is the Bayes posterior mean of the linear-regression task.

    Raises:
      ValueError: if the penalty is not positive; without one it is `ols`.
    """
    return Partial(_ridge, penalty)


@on_problem
def _ridge(penalty: Positive, x: Array, y: Array, x_query: Array) -> Array:
    gram = x.T @ x + penalty * jnp.eye(x.shape[-1], dtype=x.dtype)
    return jnp.linalg.solve(gram, x_query) @ (x.T @ y)
