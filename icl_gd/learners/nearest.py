"""Nearest neighbours: the mean label of the context's examples that are closest to the query."""

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from icl_gd.problems import on_problem
from icl_gd.schema import OneOf, Size, checked
from icl_gd.types import Array, Predictor

Weights = Annotated[str, OneOf(("uniform", "distance"))]

Vote = Callable[[Float[Array, " n"], Bool[Array, " n"], Float[Array, "n m"]], Float[Array, " m"]]


@checked
def nearest_neighbours(neighbours: Size, weights: Weights = "uniform") -> Predictor:
    """The mean label of the `neighbours` nearest examples, or of all where there are fewer; zero without examples.

    Args:
      weights: "uniform", or "distance" for a mean weighted by the inverse of the distance, in which examples at the
        query itself are all that counts. Of examples at one distance the first come first.

    Raises:
      ValueError: if there are no neighbours, or the weights are unknown.
    """
    vote = vote_of_nearest(neighbours, weights)

    @on_problem
    def predict(x: Array, y: Array, x_query: Array) -> Array:
        squares = jnp.sum((x - x_query[None]) ** 2, axis=-1)
        return vote(squares, jnp.ones(len(x), bool), y)

    return predict


@checked
def vote_of_nearest(neighbours: Size, weights: Weights) -> Vote:
    """`(squared distances [n], which examples there are [n], labels [n m]) -> y_hat [m]`; see `nearest_neighbours`."""

    def vote(squares: Array, there: Array, y: Array) -> Array:
        if not len(y):
            return jnp.zeros(y.shape[-1], y.dtype)
        negative, chosen = jax.lax.top_k(jnp.where(there, -squares, -jnp.inf), min(neighbours, len(y)))
        counted = jnp.isfinite(negative)
        weight = jnp.where(counted, 1.0, 0.0)
        if weights == "distance":
            distance = jnp.sqrt(jnp.where(counted, -negative, 1.0))
            at_query = counted & (distance == 0.0)
            weight = jnp.where(jnp.any(at_query), at_query, weight / jnp.where(at_query, 1.0, distance))
        return weight @ y[chosen] / jnp.maximum(weight.sum(), jnp.finfo(y.dtype).tiny)

    return vote
