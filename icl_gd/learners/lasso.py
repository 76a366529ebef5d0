"""The Lasso for many penalties at once, exactly: the piecewise linear solution path is followed piece by piece.

With G = X^T X / k and c = X^T y / k the Lasso minimises `w^T G w / 2 - c^T w + alpha |w|_1`. Up to a constant this is
the objective of scikit-learn, `1/(2k) |y - X w|^2 + alpha |w|_1`. Solutions are piecewise linear in alpha (Osborne et
al. 2000; Efron et al. 2004). On a piece with active inputs A of signs s, stationarity is `G_AA w_A = c_A - alpha s`,
and `|c_j - G_jA w_A| <= alpha` for every inactive j.

Claim. The next piece of the path is one pivot away.

Proof. Let N be the inactive inputs, and let M be [G | c] after a principal pivot on A:

    rows A:  G_AA^-1, G_AA^-1 G_AN, G_AA^-1 c_A
    rows N:  -G_NA G_AA^-1, G_NN - G_NA G_AA^-1 G_AN, c_N - G_NA G_AA^-1 c_A

Let m be the last column of M, and v = M_.A s. The vector

    u(alpha) = m - alpha v

contains w_j for every active j, and the correlation c_j - G_jA w_A for every inactive j. A piece therefore ends at the
largest smaller alpha at which u_j = 0 for an active j (j leaves), or u_j = alpha or u_j = -alpha for an inactive j (j
joins with that sign). In both cases the M of the next piece is one pivot on j away, because a pivot is its own inverse.
No step is iterated to convergence. QED

Ties. Only one j changes at a time if the design is in general position. Signs, one-hot and integer inputs are not in
general position, and the order in which tied inputs change matters. The ends of pieces are therefore computed for a
slightly perturbed c, with another perturbation of every entry. The weights w are computed from c itself. The optimality
conditions then hold up to the size of the perturbation if there are ties, and up to rounding if there are none.

On an orthonormal design, G = I, the Lasso is soft thresholding; here c = (2, 1):

    >>> x, y = jnp.array([[1.0, 1.0], [1.0, -1.0]]), jnp.array([[3.0], [1.0]])
    >>> predict = jax.jit(jax.vmap(lasso(alpha=1.5), in_axes=(None, None, 0)))
    >>> np.allclose(predict(x, y, jnp.eye(2)).ravel(), [0.5, 0.0], atol=1e-4)
    True
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

PIECES = 12  # most pieces per input; solutions beyond them are nan. Random designs need one or two per input.


@checked
def lasso(alpha: Annotated[float, Gt(0)]) -> Predictor:
    """The Lasso: minimises `1/(2n) |y - X w|^2 + alpha |w|_1` for every output. Without examples it predicts zero.

    Args:
      alpha: penalty, positive, as in scikit-learn.

    Returns:
      A Predictor with y_hat `[m]`.

    Raises:
      ValueError: if alpha is not positive. Use `least_squares` for no penalty.
    """
    path = _path([alpha])

    @on_problem
    def predict(x: Array, y: Array, x_query: Array) -> Array:
        n = max(len(x), 1)

        def predict_output(moment: Array) -> Array:
            return path(x.T @ x / n, moment)[0] @ x_query

        return jax.vmap(predict_output, in_axes=1)(x.T @ y / n)

    return predict


@checked
def prefix_lasso(alpha: Annotated[float, Gt(0)]) -> PrefixPredictor:
    """`learners.lasso(alpha)` for every prefix.

    Args:
      alpha: penalty, positive, as in scikit-learn.

    Returns:
      A PrefixPredictor with y_hat `[n m]`.

    Raises:
      ValueError: if alpha is not positive. Use `prefix_least_squares` for no penalty.
    """
    path = prefix_lasso_path([alpha])

    def predict(x: Array, y: Array) -> Array:
        return path(x, y)[0]

    return predict


def prefix_lasso_path(alphas: Sequence[float]) -> Callable[[Array, Array], Float[Array, "alpha n m"]]:
    """`prefix_lasso` for several penalties, at the cost of the smallest one.

    Under `vmap` all prompts take as many iterations as the longest path among them. Map it over a few prompts at a
    time.

    Args:
      alphas: penalties, positive, in any order.

    Returns:
      A function `(x [n d], y [n m]) -> y_hat [alpha n m]`.

    Raises:
      ValueError: if there is no alpha, or one is not positive.
    """
    path = _path(alphas)

    @on_prefixes
    def predict(x: Array, y: Array) -> Array:
        k = jnp.maximum(jnp.arange(len(x), dtype=x.dtype), 1.0)[:, None, None]

        def mean_of_previous(terms: Array) -> Array:
            return (jnp.cumsum(terms, axis=0) - terms) / k

        gram = mean_of_previous(x[:, :, None] * x[:, None, :])
        moment = mean_of_previous(x[:, :, None] * y[:, None, :])
        path_per_output = jax.vmap(path, in_axes=(None, 1))
        w = jax.vmap(path_per_output)(gram, moment)  # [prefix m alpha d]
        return jnp.einsum("kmad,kd->akm", w, x)

    return predict


def _path(alphas: Sequence[float]) -> Callable[[Array, Array], Float[Array, "alpha d"]]:
    """The solver `(G [d d], c [d]) -> w [alpha d]`."""
    if not len(alphas) or not all(alpha > 0.0 for alpha in alphas):
        raise ValueError(f"alphas={tuple(alphas)}: give one or more positive penalties, or use least_squares")
    smallest = float(min(alphas))

    def solve(gram: Float[Array, "d d"], moment: Float[Array, " d"]) -> Float[Array, "alpha d"]:
        d, dtype = len(moment), moment.dtype
        penalties = jnp.asarray(np.asarray(alphas), dtype)[:, None]
        negligible = d * jnp.finfo(dtype).eps * jnp.diagonal(gram)
        amounts = jnp.asarray(np.random.default_rng(0).uniform(1.0, 2.0, d), dtype)  # generic, so they break every tie
        perturbed = moment + jnp.finfo(dtype).eps ** (2 / 3) * jnp.max(jnp.abs(moment)) * amounts

        def is_unfinished(state: tuple) -> Bool[Array, ""]:
            *_, above, count = state
            return (above > smallest) & (count < PIECES * d)

        def next_piece(state: tuple) -> tuple:
            # The columns of the tableau are the d of the pivoted G, then those of c and of the perturbed c.
            tableau, sign, last_sign, solution, known, above, count = state
            m, v, active = tableau[:, -1], tableau[:, :d] @ sign, sign != 0
            # The input that changed last starts this piece at its threshold. Crossing it back is excluded, because
            # rounding alone could cause that.
            free = ~active & (jnp.diagonal(tableau[:, :d]) > negligible)
            leaves = jnp.where(active & (last_sign == 0), _ratio(m, v), -1.0)
            rises = jnp.where(free & (last_sign <= 0), _ratio(m, 1 + v), -1.0)
            falls = jnp.where(free & (last_sign >= 0), _ratio(m, v - 1), -1.0)
            ends = jnp.stack([leaves, rises, falls])
            ends = jnp.where(ends < above, ends, -1.0)
            at = jnp.argmax(ends)
            below, kind, j = ends.ravel()[at], at // d, at % d

            inside = (penalties < above) & (penalties >= below)
            w = jnp.where(active, tableau[:, -2], 0.0)[None] - penalties * jnp.where(active, v, 0.0)[None]
            solution, known = jnp.where(inside, w, solution), known | inside

            # A pivot on j as a single rank-one update: entry j of row and column is set so that row and column j of the
            # result are correct too.
            is_j, pivot = jnp.arange(d) == j, tableau[j, j]
            pivot = jnp.where(pivot != 0, pivot, 1.0)  # zero only after the last piece, whose result is unused
            row = jnp.where(jnp.arange(d + 2) == j, pivot + 1, tableau[j])
            column = jnp.where(is_j, pivot - 1, tableau[:, j])
            new_sign = jnp.stack([jnp.zeros((), dtype), jnp.ones((), dtype), -jnp.ones((), dtype)])[kind]
            last_sign = jnp.where(is_j, jnp.where(kind == 0, sign, new_sign), 0.0)  # with which j left or joined
            tableau = tableau - column[:, None] * row[None, :] / pivot
            return tableau, jnp.where(is_j, new_sign, sign), last_sign, solution, known, below, count + 1

        tableau, none = jnp.concatenate([gram, moment[:, None], perturbed[:, None]], axis=1), jnp.zeros(d, dtype)
        solution, known = jnp.zeros((len(alphas), d), dtype), jnp.zeros((len(alphas), 1), bool)
        start = tableau, none, none, solution, known, jnp.asarray(jnp.inf, dtype), jnp.zeros((), int)
        *_, solution, known, _, _ = jax.lax.while_loop(is_unfinished, next_piece, start)
        return jnp.where(known, solution, jnp.nan)  # not initialised to nan: jax_debug_nans would stop inside the loop

    return solve


def _ratio(a: Array, b: Array) -> Array:
    """a / b, or -1 where b is zero."""
    return jnp.where(b != 0, a / jnp.where(b != 0, b, 1.0), -1.0)
