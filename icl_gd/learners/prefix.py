"""Learners of all prefixes at once: predictions after every number of examples, at about the cost of one Predictor.

A `PrefixPredictor` is a function `(x [n d], y [n m]) -> y_hat [n m]`. Its k-th output (from zero) is the prediction of
the Predictor for `x[k]` given the examples `x[:k]`, `y[:k]`. These are the in-context learning curves of Garg et al.
2208.01066.

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

    Let A be the inputs so far as rows, N = I - A^+ A the projector on the complement of their span, and P = (A^T A)^+.
    A new input x has the component c = N x outside the span. If c is not zero (Greville 1960), the last column of the
    pseudo-inverse of A with the new row x is g = c / |c|^2. Then W^T += g (y - W x)^T, N -= c g^T, and
    P += (1 + x^T P x) g g^T - g (P x)^T - (P x) g^T. If c is zero (Sherman and Morrison), g = P x / (1 + x^T P x),
    W^T += g (y - W x)^T and P -= g (P x)^T.

    In float32 about five digits are correct for a typical prompt. No digit is correct for nearly singular contexts,
    which occur at k = d and for inputs that almost repeat. Use float64 there.

    Args:
      x, y: the examples, `[n d]` and `[n m]`.

    Returns:
      y_hat `[n m]`; the k-th is the prediction for `x[k]` from the first k examples.
    """
    d = x.shape[-1]
    # Rounding leaves a relative component of this size outside the span for an input inside it.
    negligible = 100 * d * jnp.finfo(x.dtype).eps

    def update(state: tuple[Array, Array, Array], example: tuple[Array, Array]) -> tuple[tuple, Array]:
        free, inverse, w = state  # N, P, W^T [d m]
        x, y = example
        y_hat = x @ w
        outside = free @ (free @ x)  # twice, because the projector itself has rounding errors
        square, p_x = outside @ outside, inverse @ x
        spread = 1.0 + x @ p_x
        is_new = square > negligible**2 * (x @ x)
        gain = jnp.where(is_new, outside / jnp.where(is_new, square, 1.0), p_x / spread)
        greville = spread * jnp.outer(gain, gain) - jnp.outer(gain, p_x) - jnp.outer(p_x, gain)
        inverse = inverse + jnp.where(is_new, greville, -jnp.outer(gain, p_x))
        free = free - jnp.where(is_new, jnp.outer(outside, gain), 0.0)
        return (free, inverse, w + jnp.outer(gain, y - y_hat)), y_hat

    start = jnp.eye(d, dtype=x.dtype), jnp.zeros((d, d), x.dtype), jnp.zeros((d, y.shape[-1]), y.dtype)
    return jax.lax.scan(update, start, (x, y))[1]


@checked
def prefix_ridge(penalty: Positive) -> PrefixPredictor:
    """`learners.ridge(penalty)` for every prefix, with rank-one updates of (A^T A + penalty I)^-1 (Sherman-Morrison).

    Args:
      penalty: positive, as in `learners.ridge`.

    Returns:
      A PrefixPredictor with y_hat `[n m]`.

    Raises:
      ValueError: if the penalty is not positive. Use `prefix_least_squares` for no penalty.
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
    """One gradient step of size one from zero, W = `(1/k) sum_i y_i x_i^T`, for every prefix; zero without examples.

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
