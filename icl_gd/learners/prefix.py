"""Learners that predict every input of a prompt from the examples before it, at about the cost of one Predictor.

A `PrefixPredictor` is a function `(x [n d], y [n m]) -> y_hat [n m]`. Its k-th output, counted from zero, is the
prediction for `x[k]` given the examples `x[:k]`, `y[:k]`. The errors of these predictions are the in-context learning
curves of Garg et al. 2208.01066.

Least squares on y = 2 x, where the first prediction uses no example:

    >>> x = jnp.array([[1.0], [2.0], [3.0]])
    >>> prefix_least_squares(x, 2 * x).ravel().tolist()
    [0.0, 4.0, 6.0]
"""

import jax
import jax.numpy as jnp

from icl_gd.learners.nearest import Weights, vote_of_nearest
from icl_gd.problems import on_prefixes
from icl_gd.schema import Size, checked
from icl_gd.types import Array, Positive, PrefixPredictor


@on_prefixes
def prefix_least_squares(x: Array, y: Array) -> Array:
    """`learners.least_squares` for every prefix, by an exact recursion over the examples.

    Let the rows of A be the inputs so far, A^+ the pseudo-inverse of A, and P = (A^T A)^+. N = I - A^+ A projects onto
    the orthogonal complement of the span of the rows. A new input x with label y has the component c = N x outside the
    span. If c is not zero (Greville 1960), let g = c / |c|^2, which is the last column of the pseudo-inverse of A with
    the new row x. The updates are W^T += g (y - W x)^T, N -= c g^T, and
    P += (1 + x^T P x) g g^T - g (P x)^T - (P x) g^T. If c is zero (Sherman and Morrison), let g = P x / (1 + x^T P x).
    The updates are W^T += g (y - W x)^T and P -= g (P x)^T.

    In float32, about five digits are correct for a typical prompt. No digit is correct for nearly singular contexts,
    which occur at k = d and if inputs almost repeat. For these, use float64.

    Args:
      x, y: the examples, `[n d]` and `[n m]`.

    Returns:
      y_hat `[n m]`; the k-th is the prediction for `x[k]` from the first k examples.
    """
    d = x.shape[-1]
    # By rounding, an input inside the span has a component outside the span of about this relative size.
    negligible = 100 * d * jnp.finfo(x.dtype).eps

    def update(state: tuple[Array, Array, Array], example: tuple[Array, Array]) -> tuple[tuple, Array]:
        projector, inverse, w = state  # N, P, W^T [d m]
        x, y = example
        y_hat = x @ w
        outside = projector @ (projector @ x)  # projected twice, because the projector itself has rounding errors
        square, p_x = outside @ outside, inverse @ x
        spread = 1.0 + x @ p_x
        is_new = square > negligible**2 * (x @ x)
        gain = jnp.where(is_new, outside / jnp.where(is_new, square, 1.0), p_x / spread)
        greville = spread * jnp.outer(gain, gain) - jnp.outer(gain, p_x) - jnp.outer(p_x, gain)
        inverse = inverse + jnp.where(is_new, greville, -jnp.outer(gain, p_x))
        projector = projector - jnp.where(is_new, jnp.outer(outside, gain), 0.0)
        return (projector, inverse, w + jnp.outer(gain, y - y_hat)), y_hat

    start = jnp.eye(d, dtype=x.dtype), jnp.zeros((d, d), x.dtype), jnp.zeros((d, y.shape[-1]), y.dtype)
    return jax.lax.scan(update, start, (x, y))[1]


@checked
def prefix_ridge(penalty: Positive) -> PrefixPredictor:
    """`learners.ridge(penalty)` for every prefix, by a recursion over the examples.

    The recursion updates (A^T A + penalty I)^-1, where the rows of A are the inputs so far (Sherman and Morrison).

    Args:
      penalty: positive, as in `learners.ridge`.

    Returns:
      A PrefixPredictor with y_hat `[n m]`.

    Raises:
      ValueError: if the penalty is not positive. Without a penalty, use `prefix_least_squares`.
    """

    @on_prefixes
    def predict(x: Array, y: Array) -> Array:
        d = x.shape[-1]

        def update(state: tuple[Array, Array], example: tuple[Array, Array]) -> tuple[tuple, Array]:
            inverse, w = state
            x, y = example
            y_hat, p_x = x @ w, inverse @ x
            gain = p_x / (1.0 + x @ p_x)
            return (inverse - jnp.outer(gain, p_x), w + jnp.outer(gain, y - y_hat)), y_hat

        start = jnp.eye(d, dtype=x.dtype) / penalty, jnp.zeros((d, y.shape[-1]), y.dtype)
        return jax.lax.scan(update, start, (x, y))[1]

    return predict


@on_prefixes
def prefix_averaging(x: Array, y: Array) -> Array:
    """One gradient step of size 1 from zero for every prefix: `W = (1/k) sum_i y_i x_i^T` over its k examples.

    Without examples, W is zero.

    Args:
      x, y: the examples, `[n d]` and `[n m]`.

    Returns:
      y_hat `[n m]`; the k-th is the prediction for `x[k]` from the first k examples.
    """
    n = len(x)
    before = jnp.tri(n, k=-1, dtype=x.dtype)
    return (before * (x @ x.T)) @ y / jnp.maximum(jnp.arange(n, dtype=x.dtype), 1.0)[:, None]


@checked
def prefix_nearest_neighbours(neighbours: Size, weights: Weights = "uniform") -> PrefixPredictor:
    """`learners.nearest_neighbours(neighbours, weights)` for every prefix.

    Args:
      neighbours: number of examples in the mean.
      weights: "uniform" or "distance". Default: "uniform".

    Returns:
      A PrefixPredictor with y_hat `[n m]`.

    Raises:
      ValueError: if `neighbours` is not positive or `weights` is unknown.
    """
    vote = vote_of_nearest(neighbours, weights)

    @on_prefixes
    def predict(x: Array, y: Array) -> Array:
        n = len(x)
        squares = jnp.sum((x[:, None] - x[None]) ** 2, axis=-1)
        return jax.vmap(vote, in_axes=(0, 0, None))(squares, jnp.tri(n, k=-1, dtype=bool), y)

    return predict
