"""Nearest neighbours: the mean label of the context examples that are closest to the query.

For the query 0.4, the first two examples are the nearest:

    >>> x, y = jnp.array([[0.0], [1.0], [5.0]]), jnp.array([[0.0], [2.0], [9.0]])
    >>> nearest_neighbours(neighbours=2)(x, y, jnp.array([0.4])).tolist()
    [1.0]
"""

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from icl_gd.problems import on_problem
from icl_gd.schema import OneOf, Size, checked
from icl_gd.types import Array, Predictor

Weights = Annotated[str, OneOf(("uniform", "distance"))]

# (squared distances to the query, mask of the examples that may count, labels) -> y_hat
Vote = Callable[[Float[Array, " n"], Bool[Array, " n"], Float[Array, "n m"]], Float[Array, " m"]]


@checked
def nearest_neighbours(neighbours: Size, weights: Weights = "uniform") -> Predictor:
    """Mean label of the nearest examples in Euclidean distance. Without examples it predicts zero.

    If distances are equal, earlier examples are preferred.

    Args:
      neighbours: number of examples in the mean; all examples if the context has fewer.
      weights: "uniform", or "distance" to weight every label by the inverse of its distance to the query. With
        "distance", if some neighbours equal the query, only their labels count. Default: "uniform".

    Returns:
      A Predictor with y_hat `[m]`.

    Raises:
      ValueError: if `neighbours` is not positive or `weights` is unknown.
    """
    vote = vote_of_nearest(neighbours, weights)

    @on_problem
    def predict(x: Array, y: Array, x_query: Array) -> Array:
        squares = jnp.sum((x - x_query[None]) ** 2, axis=-1)
        return vote(squares, jnp.ones(len(x), bool), y)

    return predict


@checked
def vote_of_nearest(neighbours: Size, weights: Weights) -> Vote:
    """The mean of `nearest_neighbours`, as a function of squared distances, a mask and labels.

    Args:
      neighbours: number of examples in the mean.
      weights: "uniform" or "distance".

    Returns:
      A function `(squared distances [n], mask of the examples that may count [n], labels [n m]) -> y_hat [m]`.

    Raises:
      ValueError: if `neighbours` is not positive or `weights` is unknown.
    """

    def vote(squares: Array, mask: Array, y: Array) -> Array:
        if not len(y):
            return jnp.zeros(y.shape[-1], y.dtype)
        negative, chosen = jax.lax.top_k(jnp.where(mask, -squares, -jnp.inf), min(neighbours, len(y)))
        counted = jnp.isfinite(negative)
        weight = jnp.where(counted, 1.0, 0.0)
        if weights == "distance":
            distance = jnp.sqrt(jnp.where(counted, -negative, 1.0))
            at_query = counted & (distance == 0.0)
            weight = jnp.where(jnp.any(at_query), at_query, weight / jnp.where(at_query, 1.0, distance))
        return weight @ y[chosen] / jnp.maximum(weight.sum(), jnp.finfo(y.dtype).tiny)

    return vote
