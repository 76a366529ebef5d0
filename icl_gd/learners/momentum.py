"""Gradient descent with momentum (Polyak's heavy ball) on the in-context loss `1/(2n) sum_i |W x_i - y_i|^2`.

With one example x = y = 1 and the query 1, the second step adds half of the first update to the gradient step:

    >>> x, y, x_query = jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.ones(1)
    >>> layerwise_momentum(step_sizes=[0.5, 0.5], momentum=0.5)(x, y, x_query).ravel().tolist()
    [0.0, 0.5, 1.0]
"""

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
    """Like `momentum`, but returns the prediction after every step.

    Args:
      step_sizes: eta of every step, not divided by n.
      momentum: fraction of the previous update that is added to the next, in [0, 1).

    Returns:
      A Predictor with y_hat `[iterate m]`; the first iterate is the prediction before any step.

    Raises:
      ValueError: if the momentum is not in [0, 1).
    """
    return Partial(_momentum, step_sizes, momentum)


@checked
def momentum(step_sizes: Rates, momentum: Momentum) -> Predictor:
    """Gradient descent with momentum on the context.

    A step is `W_{k+1} = W_k - step_size_k * gradient(W_k) + momentum * (W_k - W_{k-1})`, with `W_0 = W_{-1} = 0`.

    Args:
      step_sizes: eta of every step, not divided by n; one step is taken per entry.
      momentum: fraction of the previous update that is added to the next, in [0, 1). 0 is gradient descent.

    Returns:
      A Predictor with y_hat `[m]`.

    Raises:
      ValueError: if the momentum is not in [0, 1).
    """
    return final_iterate(layerwise_momentum(step_sizes, momentum))


@on_problem
def _momentum(
    step_sizes: Any, momentum: Any, x: Float[Array, "n d"], y: Float[Array, "n m"], x_query: Float[Array, " d"]
) -> Float[Array, "iterate m"]:
    n, d = x.shape
    start = jnp.zeros((y.shape[-1], d), x.dtype)

    def step(state: tuple[Array, Array], step_size: Array) -> tuple[tuple[Array, Array], Array]:
        w, previous = state
        updated = w - step_size / n * (x @ w.T - y).T @ x + jnp.asarray(momentum, x.dtype) * (w - previous)
        return (updated, w), updated

    _, iterates = jax.lax.scan(step, (start, start), jnp.asarray(step_sizes, x.dtype))
    return jnp.concatenate([start[None], iterates]) @ x_query
