"""Learners of all prefixes at once: Predictors on the first k examples, for every k, at the cost of about one of them.

A `PrefixPredictor` answers `(x [n d], y [n m]) -> y_hat [n m]`, whose k-th entry, from zero, is what its Predictor says
of `x[k]` given `x[:k]` and `y[:k]` (Garg et al. 2208.01066: the curves over the number of examples).
"""

import jax
import jax.numpy as jnp

from icl_gd.learners.nearest import Weights, vote_of_nearest
from icl_gd.problems import on_prefixes
from icl_gd.schema import Size, checked
from icl_gd.types import Array, Positive, PrefixPredictor


@on_prefixes
def prefix_least_squares(x: Array, y: Array) -> Array:
    """`learners.ols` of every prefix, by recursion (Greville 1960 while inputs are new, Sherman and Morrison after).

    With A the inputs so far, N = I - A^+ A projects on what they leave free and P = (A^T A)^+. A new input x has the
    part c = N x outside their span. If c is not zero, the pseudo-inverse of A with the row x has the last column
    g = c / |c|^2, so that W^T += g (y - W x)^T, N -= c g^T, and P += (1 + x^T P x) g g^T - g (P x)^T - (P x) g^T.
    Otherwise g = P x / (1 + x^T P x), W^T += g (y - W x)^T and P -= g (P x)^T. Both are exact.

    In float32 it is right to some five digits for the typical prompt, and loses all of them where contexts are all but
    singular: at k = d, and of inputs that nearly repeat. Ask it in float64 there.
    """
    d = x.shape[-1]
    # Of an input in the span rounding leaves a part of this size; a part that is truly there is larger.
    negligible = 100 * d * jnp.finfo(x.dtype).eps

    def update(state: tuple[Array, Array, Array], example: tuple[Array, Array]) -> tuple[tuple, Array]:
        free, inverse, w = state  # N, P, W^T [d m]
        x, y = example
        y_hat = x @ w
        outside = free @ (free @ x)  # twice: the projector has rounding errors of its own
        square, seen = outside @ outside, inverse @ x
        spread = 1.0 + x @ seen
        is_new = square > negligible**2 * (x @ x)
        gain = jnp.where(is_new, outside / jnp.where(is_new, square, 1.0), seen / spread)
        grown = spread * jnp.outer(gain, gain) - jnp.outer(gain, seen) - jnp.outer(seen, gain)
        inverse = inverse + jnp.where(is_new, grown, -jnp.outer(gain, seen))
        free = free - jnp.where(is_new, jnp.outer(outside, gain), 0.0)
        return (free, inverse, w + jnp.outer(gain, y - y_hat)), y_hat

    start = jnp.eye(d, dtype=x.dtype), jnp.zeros((d, d), x.dtype), jnp.zeros((d, y.shape[-1]), y.dtype)
    return jax.lax.scan(update, start, (x, y))[1]


@checked
def prefix_ridge(penalty: Positive) -> PrefixPredictor:
    """`learners.ridge(penalty)` of every prefix: P = (A^T A + penalty I)^-1 by rank-one updates.

    Raises:
      ValueError: if the penalty is not positive; without one it is `prefix_least_squares`.
    """

    @on_prefixes
    def predict(x: Array, y: Array) -> Array:
        d = x.shape[-1]

        def update(state: tuple[Array, Array], example: tuple[Array, Array]) -> tuple[tuple, Array]:
            inverse, w = state
            x, y = example
            y_hat, seen = x @ w, inverse @ x
            gain = seen / (1.0 + x @ seen)
            return (inverse - jnp.outer(gain, seen), w + jnp.outer(gain, y - y_hat)), y_hat

        start = jnp.eye(d, dtype=x.dtype) / penalty, jnp.zeros((d, y.shape[-1]), y.dtype)
        return jax.lax.scan(update, start, (x, y))[1]

    return predict


@on_prefixes
def prefix_averaging(x: Array, y: Array) -> Array:
    """One gradient step of size one from zero, `(1/k) sum_i y_i x_i^T`, of every prefix; zero without examples."""
    n = len(x)
    before = jnp.tri(n, k=-1, dtype=x.dtype)
    return (before * (x @ x.T)) @ y / jnp.maximum(jnp.arange(n, dtype=x.dtype), 1.0)[:, None]


@checked
def prefix_nearest_neighbours(neighbours: Size, weights: Weights = "uniform") -> PrefixPredictor:
    """`learners.nearest_neighbours(neighbours, weights)` of every prefix.

    Raises:
      ValueError: if there are no neighbours, or the weights are unknown.
    """
    vote = vote_of_nearest(neighbours, weights)

    @on_prefixes
    def predict(x: Array, y: Array) -> Array:
        n = len(x)
        squares = jnp.sum((x[:, None] - x[None]) ** 2, axis=-1)
        return jax.vmap(vote, in_axes=(0, 0, None))(squares, jnp.tri(n, k=-1, dtype=bool), y)

    return predict
