"""Exact Lasso solutions for many penalties, from one pass over the piecewise linear solution path.

Let G = X^T X / k and c = X^T y / k for k examples. With penalty alpha, the Lasso minimises
`w^T G w / 2 - c^T w + alpha |w|_1`. Up to a constant, this is scikit-learn's objective,
`1/(2k) |y - X w|^2 + alpha |w|_1`. The solution w is piecewise linear in alpha (Osborne et al. 2000; Efron et al.
2004). On each piece, the active inputs A (those with w_j != 0) have weights with fixed signs s. Optimality means
`G_AA w_A = c_A - alpha s`, and `|c_j - G_jA w_A| <= alpha` for every inactive j.

Claim. As alpha decreases, one pivot leads from each piece of the path to the next.

Proof. Let N be the inactive inputs, and let M be [G | c] after a principal pivot on A:

    rows A:  G_AA^-1, G_AA^-1 G_AN, G_AA^-1 c_A
    rows N:  -G_NA G_AA^-1, G_NN - G_NA G_AA^-1 G_AN, c_N - G_NA G_AA^-1 c_A

Let m be the last column of M, and let v = M_.A s, where M_.A are the columns A of M. The vector

    u(alpha) = m - alpha v

contains w_j for every active j, and the correlation c_j - G_jA w_A for every inactive j. As alpha decreases, a piece
therefore ends at the first alpha for which one of two things happens: u_j = 0 for an active j, which leaves A; or
u_j = alpha or u_j = -alpha for an inactive j, which joins A with this sign. A pivot on j adds j to A. It also removes j
from A, because a pivot is its own inverse. So in both cases one pivot on j turns M into the matrix of the next piece.
No step is iterated to convergence. QED

Ties. If the design is in general position, only one j changes at a time. Inputs that are signs, one-hot vectors or
integers are not in general position: several j can change at the same alpha, and their order matters. The ends of
pieces are therefore computed for a slightly perturbed c, with a different perturbation of every entry. The weights w
are computed from the exact c. The optimality conditions then hold up to the size of the perturbation if there are ties,
and up to rounding if there are none.

For an orthonormal design, G = I, the Lasso is soft thresholding. Here c = (2, 1) and alpha = 1.5:

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

PIECES = 12  # maximum number of pieces per input; penalties below the last piece get nan. Random designs need 1 or 2.


@checked
def lasso(alpha: Annotated[float, Gt(0)]) -> Predictor:
    """The Lasso: minimises `1/(2n) |y - X w|^2 + alpha |w|_1` for every output. Without examples it predicts zero.

    Args:
      alpha: positive penalty, scaled as in scikit-learn.

    Returns:
      A Predictor with y_hat `[m]`.

    Raises:
      ValueError: if alpha is not positive. Without a penalty, use `least_squares`.
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
      alpha: positive penalty, scaled as in scikit-learn.

    Returns:
      A PrefixPredictor with y_hat `[n m]`.

    Raises:
      ValueError: if alpha is not positive. Without a penalty, use `prefix_least_squares`.
    """
    path = prefix_lasso_path([alpha])

    def predict(x: Array, y: Array) -> Array:
        return path(x, y)[0]

    return predict


def prefix_lasso_path(alphas: Sequence[float]) -> Callable[[Array, Array], Float[Array, "alpha n m"]]:
    """Like `prefix_lasso`, but for several penalties, at the cost of the smallest one.

    Under `vmap`, all prompts take as many iterations as the prompt with the longest path. So map over a few prompts at
    a time.

    Args:
      alphas: positive penalties, in any order.

    Returns:
      A function `(x [n d], y [n m]) -> y_hat [alpha n m]`.

    Raises:
      ValueError: if `alphas` is empty or has an entry that is not positive.
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
    """A function `(G [d d], c [d]) -> w [alpha d]` that solves the Lasso for all penalties."""
    if not len(alphas) or not all(alpha > 0.0 for alpha in alphas):
        raise ValueError(f"alphas={tuple(alphas)}: give one or more positive penalties, or use least_squares")
    smallest = float(min(alphas))

    def solve(gram: Float[Array, "d d"], moment: Float[Array, " d"]) -> Float[Array, "alpha d"]:
        d, dtype = len(moment), moment.dtype
        penalties = jnp.asarray(np.asarray(alphas), dtype)[:, None]
        negligible = d * jnp.finfo(dtype).eps * jnp.diagonal(gram)
        amounts = jnp.asarray(np.random.default_rng(0).uniform(1.0, 2.0, d), dtype)  # random, so they break every tie
        perturbed = moment + jnp.finfo(dtype).eps ** (2 / 3) * jnp.max(jnp.abs(moment)) * amounts

        def is_unfinished(state: tuple) -> Bool[Array, ""]:
            *_, upper, count = state
            return (upper > smallest) & (count < PIECES * d)

        def next_piece(state: tuple) -> tuple:
            # `tableau` is M [d d+2], with one column for c and a last one for the perturbed c. `upper` and `lower` are
            # the ends of this piece.
            tableau, sign, last_sign, solution, known, upper, count = state
            m, v, active = tableau[:, -1], tableau[:, :d] @ sign, sign != 0
            # This piece starts at the threshold of the input that changed last. This input may not cross the threshold
            # back, because rounding alone could cause that.
            free = ~active & (jnp.diagonal(tableau[:, :d]) > negligible)
            leaves = jnp.where(active & (last_sign == 0), _ratio(m, v), -1.0)
            joins_positive = jnp.where(free & (last_sign <= 0), _ratio(m, 1 + v), -1.0)
            joins_negative = jnp.where(free & (last_sign >= 0), _ratio(m, v - 1), -1.0)
            ends = jnp.stack([leaves, joins_positive, joins_negative])
            ends = jnp.where(ends < upper, ends, -1.0)
            index = jnp.argmax(ends)
            lower, kind, j = ends.ravel()[index], index // d, index % d

            inside = (penalties < upper) & (penalties >= lower)
            w = jnp.where(active, tableau[:, -2], 0.0)[None] - penalties * jnp.where(active, v, 0.0)[None]
            solution, known = jnp.where(inside, w, solution), known | inside

            # The pivot on j is one rank-one update. Entry j of `row` and of `column` is chosen so that row j and column
            # j of the result are correct too.
            is_j, pivot = jnp.arange(d) == j, tableau[j, j]
            pivot = jnp.where(pivot != 0, pivot, 1.0)  # zero only after the last piece; the result is then unused
            row = jnp.where(jnp.arange(d + 2) == j, pivot + 1, tableau[j])
            column = jnp.where(is_j, pivot - 1, tableau[:, j])
            new_sign = jnp.stack([jnp.zeros((), dtype), jnp.ones((), dtype), -jnp.ones((), dtype)])[kind]
            last_sign = jnp.where(is_j, jnp.where(kind == 0, sign, new_sign), 0.0)  # sign with which j left or joined
            tableau = tableau - column[:, None] * row[None, :] / pivot
            return tableau, jnp.where(is_j, new_sign, sign), last_sign, solution, known, lower, count + 1

        tableau, zeros = jnp.concatenate([gram, moment[:, None], perturbed[:, None]], axis=1), jnp.zeros(d, dtype)
        solution, known = jnp.zeros((len(alphas), d), dtype), jnp.zeros((len(alphas), 1), bool)
        start = tableau, zeros, zeros, solution, known, jnp.asarray(jnp.inf, dtype), jnp.zeros((), int)
        *_, solution, known, _, _ = jax.lax.while_loop(is_unfinished, next_piece, start)
        # `solution` is initialised to zero instead of nan, because jax_debug_nans would stop the loop at a nan.
        return jnp.where(known, solution, jnp.nan)

    return solve


def _ratio(a: Array, b: Array) -> Array:
    """a / b, or -1 where b is zero."""
    return jnp.where(b != 0, a / jnp.where(b != 0, b, 1.0), -1.0)
