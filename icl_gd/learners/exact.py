"""Learners that solve the in-context problem in one go."""

import jax.numpy as jnp
from jax.tree_util import Partial

from icl_gd.types import Array, Predictor


def ols(x: Array, y: Array, x_query: Array) -> Array:
    """Ordinary least squares, of minimum norm where the context has fewer examples than dimensions."""
    w, *_ = jnp.linalg.lstsq(x, y)
    return w.T @ x_query


def ridge(penalty: float) -> Predictor:
    """Minimises `sum_i |W x_i - y_i|^2 + penalty |W|^2`.

    With `penalty = noise_std^2 / weight_scale^2` it is the Bayes posterior mean of the linear-regression task.
    """
    if not penalty > 0.0:
        raise ValueError(f"penalty={penalty} must be positive; use ols for no penalty")
    return Partial(_ridge, penalty)


def _ridge(penalty: float | Array, x: Array, y: Array, x_query: Array) -> Array:
    gram = x.T @ x + penalty * jnp.eye(x.shape[-1], dtype=x.dtype)
    return jnp.linalg.solve(gram, x_query) @ (x.T @ y)
