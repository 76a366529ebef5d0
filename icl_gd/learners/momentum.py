"""Gradient descent with momentum (Polyak's heavy ball) on the in-context loss `1/(2n) sum_i |W x_i - y_i|^2`."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Ge, Lt
from jax.tree_util import Partial
from jaxtyping import Float

from icl_gd.learners.iterative import final_iterate
from icl_gd.problems import on_problem
from icl_gd.schema import checked
from icl_gd.types import Array, Predictor, Rates, Scalar

Momentum = Annotated[Scalar, Ge(0), Lt(1)]


@checked
def layerwise_momentum(step_sizes: Rates, momentum: Momentum) -> Predictor:
    """As `momentum`, with the prediction of every iterate: y_hat `[iterate m]`."""
    return Partial(_momentum, step_sizes, momentum)


@checked
def momentum(step_sizes: Rates, momentum: Momentum) -> Predictor:
    """Gradient descent with momentum on the context, as a Predictor.

    `W_{k+1} = W_k - step_size_k * gradient(W_k) + momentum * (W_k - W_{k-1})`, from `W_0 = W_{-1} = 0`.

    Args:
      step_sizes: one per step; their number is the number of steps.
      momentum: how much of the last change is made again; 0 is gradient descent, and 1 never comes to rest.

    Returns:
      A Predictor.
    """
    return final_iterate(layerwise_momentum(step_sizes, momentum))


@on_problem
def _momentum(
    step_sizes: Any, momentum: Any, x: Float[Array, "n d"], y: Float[Array, "n m"], x_query: Float[Array, " d"]
) -> Float[Array, "iterate m"]:
    n, d = x.shape
    start = jnp.zeros((y.shape[-1], d), x.dtype)

    def step(state: tuple[Array, Array], step_size: Array) -> tuple[tuple[Array, Array], Array]:
        w, before = state
        after = w - step_size / n * (x @ w.T - y).T @ x + jnp.asarray(momentum, x.dtype) * (w - before)
        return (after, w), after

    _, iterates = jax.lax.scan(step, (start, start), jnp.asarray(step_sizes, x.dtype))
    return jnp.concatenate([start[None], iterates]) @ x_query
