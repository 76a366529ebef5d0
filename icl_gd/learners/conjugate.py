"""Conjugate gradients on the in-context loss `1/(2n) sum_i |W x_i - y_i|^2`, from W = 0.

Step k minimises the loss of every output over the span of the first k vectors of `b, S b, S^2 b, ...`. Here
S = X^T X / n, and b = X^T y / n is the negative gradient at zero. The solution has been reached after as many steps as
S has distinct eigenvalues, at most the rank of S. For two different eigenvalues, two steps reach least squares:

    >>> x, y = jnp.diag(jnp.array([1.0, 2.0])), jnp.array([[1.0], [4.0]])
    >>> y_hat = layerwise_conjugate_gradient(n_steps=2)(x, y, jnp.ones(2))
    >>> [round(value, 3) for value in y_hat.ravel().tolist()]
    [0.0, 2.276, 3.0]
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Float

from icl_gd.learners.iterative import final_iterate
from icl_gd.problems import on_problem
from icl_gd.programs import cached_by_value
from icl_gd.schema import Count, checked
from icl_gd.types import Array, Predictor


@checked
def layerwise_conjugate_gradient(n_steps: Count) -> Predictor:
    """Like `conjugate_gradient`, but returns the prediction after every step.

    Returns:
      A Predictor with y_hat `[iterate m]`; the first iterate is the prediction before any step, zero.

    Raises:
      ValueError: if `n_steps` is negative.
    """
    return Partial(_conjugate_gradient(n_steps))


@checked
def conjugate_gradient(n_steps: Count) -> Predictor:
    """Steps of the conjugate gradient method on `S w = X^T y / n`, from zero, for every output separately.

    With at least as many steps as the rank of S, the prediction is that of `least_squares` (the solution of minimum
    norm if there are fewer examples than input dimensions). An output keeps its weights from the step on at which its
    gradient is zero up to rounding. Derivatives with respect to the context are then those of the steps that were
    taken. Without examples it predicts zero.

    The iterates are computed from the residuals of the labels (CGLS), which loses fewer digits than S itself.

    Source: Hestenes and Stiefel 1952.

    Returns:
      A Predictor with y_hat `[m]`.

    Raises:
      ValueError: if `n_steps` is negative.
    """
    return final_iterate(layerwise_conjugate_gradient(n_steps))


@cached_by_value
def _conjugate_gradient(n_steps: int) -> Callable[..., Float[Array, "iterate m"]]:
    @on_problem
    def predict(x: Array, y: Array, x_query: Array) -> Array:
        # Factors 1/n do not change the iterates, so gradients are sums over examples. Squares are sums per output [m].
        # A gradient below rounding has no direction: steps along it would lead away from the solution without bound.
        negligible = jnp.finfo(x.dtype).eps ** 2 * jnp.sum(x**2) * jnp.sum(y**2, axis=0)

        def step(state: tuple[Array, ...], _: None) -> tuple[tuple[Array, ...], Array]:
            w, residual, direction, square = state  # [d m], [n m], [d m], [m]: the square of the gradient
            change = x @ direction
            curvature = jnp.sum(change**2, axis=0)
            moves = (square > negligible) & (curvature > 0)
            length = jnp.where(moves, square / jnp.where(moves, curvature, 1.0), 0.0)[None]
            w, residual = w + length * direction, residual - length * change
            gradient = x.T @ residual
            next_square = jnp.sum(gradient**2, axis=0)
            ratio = jnp.where(moves, next_square / jnp.where(moves, square, 1.0), 0.0)[None]
            return (w, residual, gradient + ratio * direction, next_square), w

        gradient = x.T @ y
        start = jnp.zeros_like(gradient), y, gradient, jnp.sum(gradient**2, axis=0)
        _, iterates = jax.lax.scan(step, start, None, length=n_steps)
        return jnp.einsum("kdm,d->km", jnp.concatenate([start[0][None], iterates]), x_query)

    return predict
