"""The Lasso for many penalties at once, exactly: its solutions are followed along the path on which they are linear.

With G = X^T X / k and c = X^T y / k the Lasso minimises `w^T G w / 2 - c^T w + alpha |w|_1`, which is scikit-learn's
`1/(2k) |y - X w|^2 + alpha |w|_1` up to a constant. Solutions are piecewise linear in alpha (Osborne et al. 2000; Efron
et al. 2004). On a piece with active inputs A of signs s, stationarity is `G_AA w_A = c_A - alpha s`, and
`|c_j - G_jA w_A| <= alpha` for all others j.

Let M be [G | c] after a principal pivot on A: rows of A hold G_AA^-1 [I, G_AI, c_A], the others [-G_IA G_AA^-1, G_II -
G_IA G_AA^-1 G_AI, c_I - G_IA G_AA^-1 c_A]. With m its last column and v = M_.A s all that matters is in one line,

    u(alpha) = m - alpha v,

which is w_j for active j, and the correlation c_j - G_jA w_A of all others. So a piece ends at the largest alpha below
where an active u_j is zero (j leaves) or another one is alpha or -alpha (j joins, with that sign), and the next one is
one pivot on j away, whether it leaves or joins: a pivot undoes itself. Nothing is iterated to convergence. QED

That one j at a time changes is true of designs in general position. Signs, one-hot and integer inputs are not, and what
of several is taken first matters. So pieces end where they would if c were moved a little, each entry by another
amount, while w is read from c itself: conditions of optimality then miss by at most that little where there are ties,
and by rounding where there are none.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Gt
from jaxtyping import Bool, Float

from icl_gd.problems import on_prefixes, on_problem
from icl_gd.schema import checked
from icl_gd.types import Array, Predictor, PrefixPredictor

PIECES = 12  # of a path, per input, after which the rest of it is nan; random designs need one or two


@checked
def lasso(alpha: Annotated[float, Gt(0)]) -> Predictor:
    """Minimises `1/(2n) |y - X w|^2 + alpha |w|_1`, for each output by itself; zero without examples.

    Raises:
      ValueError: if alpha is not positive.
    """
    path = _path([alpha])

    @on_problem
    def predict(x: Array, y: Array, x_query: Array) -> Array:
        n = max(len(x), 1)
        return jax.vmap(lambda c: path(x.T @ x / n, c)[0] @ x_query, in_axes=1)(x.T @ y / n)

    return predict


@checked
def prefix_lasso(alpha: Annotated[float, Gt(0)]) -> PrefixPredictor:
    """`learners.lasso(alpha)` of every prefix.

    Raises:
      ValueError: if alpha is not positive.
    """
    path = prefix_lasso_path([alpha])
    return lambda x, y: path(x, y)[0]


def prefix_lasso_path(alphas: Sequence[float]) -> Callable[[Array, Array], Float[Array, "alpha n m"]]:
    """`(x [n d], y [n m]) -> y_hat [alpha n m]`: `prefix_lasso` for several alphas, at the cost of the smallest.

    Under a large `vmap` the longest path of all is everyone's: map it over a few prompts at a time.

    Raises:
      ValueError: if an alpha is not positive.
    """
    path = _path(alphas)

    @on_prefixes
    def predict(x: Array, y: Array) -> Array:
        k = jnp.maximum(jnp.arange(len(x), dtype=x.dtype), 1.0)[:, None, None]
        before = lambda terms: (jnp.cumsum(terms, axis=0) - terms) / k
        gram, moment = before(x[:, :, None] * x[:, None, :]), before(x[:, :, None] * y[:, None, :])
        each = jax.vmap(jax.vmap(path, in_axes=(None, 1)))  # of prefixes and outputs
        return jnp.einsum("kmad,kd->akm", each(gram, moment), x)

    return predict


def _path(alphas: Sequence[float]) -> Callable[[Array, Array], Float[Array, "alpha d"]]:
    """`(G [d d], c [d]) -> w [alpha d]`."""
    if not len(alphas) or not all(alpha > 0.0 for alpha in alphas):
        raise ValueError(f"alphas={tuple(alphas)} must be positive; use ols for no penalty")
    least = float(min(alphas))

    def solve(gram: Float[Array, "d d"], moment: Float[Array, " d"]) -> Float[Array, "alpha d"]:
        d, dtype = len(moment), moment.dtype
        asked = jnp.asarray(np.asarray(alphas), dtype)[:, None]
        negligible = d * jnp.finfo(dtype).eps * jnp.diagonal(gram)
        amounts = jnp.asarray(np.random.default_rng(0).uniform(1.0, 2.0, d), dtype)  # of no design are they a relation
        moved = moment + jnp.finfo(dtype).eps ** (2 / 3) * jnp.max(jnp.abs(moment)) * amounts

        def is_going(state: tuple) -> Bool[Array, ""]:
            *_, above, count = state
            return (above > least) & (count < PIECES * d)

        def piece(state: tuple) -> tuple:
            tableau, sign, last, found, known, above, count = state
            m, v, active = tableau[:, -1], tableau[:, :d] @ sign, sign != 0
            ratio = lambda a, b: jnp.where(b != 0, a / jnp.where(b != 0, b, 1.0), -1.0)
            # What has just changed stands at its own end of the piece, where only rounding could find it again.
            free = ~active & (jnp.diagonal(tableau[:, :d]) > negligible)
            leaves = jnp.where(active & (last == 0), ratio(m, v), -1.0)
            rises = jnp.where(free & (last <= 0), ratio(m, 1 + v), -1.0)
            falls = jnp.where(free & (last >= 0), ratio(m, v - 1), -1.0)
            ends = jnp.stack([leaves, rises, falls])
            ends = jnp.where(ends < above, ends, -1.0)
            at = jnp.argmax(ends)
            below, kind, j = ends.ravel()[at], at // d, at % d

            inside = (asked < above) & (asked >= below)
            w = jnp.where(active, tableau[:, -2], 0.0)[None] - asked * jnp.where(active, v, 0.0)[None]
            found, known = jnp.where(inside, w, found), known | inside

            # One pivot on j, written as one rank-one update: row and column of j come out right with these entries.
            is_j, pivot = jnp.arange(d) == j, tableau[j, j]
            pivot = jnp.where(pivot != 0, pivot, 1.0)  # of the last piece, after which nothing is read
            row = jnp.where(jnp.arange(d + 2) == j, pivot + 1, tableau[j])
            column = jnp.where(is_j, pivot - 1, tableau[:, j])
            new_sign = jnp.stack([jnp.zeros((), dtype), jnp.ones((), dtype), -jnp.ones((), dtype)])[kind]
            last = jnp.where(is_j, jnp.where(kind == 0, sign, new_sign), 0.0)  # the sign with which it left or joined
            tableau = tableau - column[:, None] * row[None, :] / pivot
            return tableau, jnp.where(is_j, new_sign, sign), last, found, known, below, count + 1

        tableau, none = jnp.concatenate([gram, moment[:, None], moved[:, None]], axis=1), jnp.zeros(d, dtype)
        found, known = jnp.zeros((len(alphas), d), dtype), jnp.zeros((len(alphas), 1), bool)
        start = tableau, none, none, found, known, jnp.asarray(jnp.inf, dtype), jnp.zeros((), int)
        *_, found, known, _, _ = jax.lax.while_loop(is_going, piece, start)
        return jnp.where(known, found, jnp.nan)  # a nan that is made at the end: jax_debug_nans stops at one before

    return solve
