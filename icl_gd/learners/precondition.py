"""Preconditioned gradient descent, and the preconditioner for which one step has the smallest loss.

A step is `W <- W - step_size / n * sum_i (W x_i - y_i) x_i^T A`. If A is symmetric and positive definite, these are
steps of plain gradient descent on the inputs `A^(1/2) x`. One preconditioned step is what a layer of linear attention
computes; its weights are in `constructions.gradient_descent_weights`.

A preconditioner that inverts the context covariance reaches the solution in one step:

    >>> x, y = jnp.diag(jnp.array([1.0, 2.0])), jnp.array([[1.0], [4.0]])
    >>> preconditioner = 2 * jnp.diag(jnp.array([1.0, 0.25]))
    >>> preconditioned_gradient_descent([1.0], preconditioner)(x, y, jnp.ones(2)).tolist()
    [3.0]
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from icl_gd.learners.iterative import final_iterate, layerwise_gradient_descent
from icl_gd.schema import checked
from icl_gd.types import Array, Predictor, Prompt, Rates


def layerwise_preconditioned_gradient_descent(
    step_sizes: Rates, preconditioner: Array | np.ndarray, w0: Array | None = None
) -> Predictor:
    """Like `preconditioned_gradient_descent`, but returns the prediction after every step.

    Args:
      step_sizes: eta of every step, not divided by n.
      preconditioner: the matrix A `[d d]`, or one matrix for each step `[step d d]`.
      w0: start `[m d]`. Default: zero.

    Returns:
      A Predictor with y_hat `[iterate m]`; the first iterate is the prediction before any step.

    Raises:
      ValueError: if the preconditioner has another shape.
    """
    shape, n_steps = jnp.shape(preconditioner), len(step_sizes)
    if len(shape) not in (2, 3) or shape[-1] != shape[-2] or shape[:-2] not in ((), (n_steps,)):
        raise ValueError(
            f"preconditioner has shape {shape}: give one matrix [d d], or one for each of the {n_steps} step_sizes "
            f"[{n_steps} d d]"
        )
    return layerwise_gradient_descent(step_sizes, w0, preconditioner)


def preconditioned_gradient_descent(
    step_sizes: Rates, preconditioner: Array | np.ndarray, w0: Array | None = None
) -> Predictor:
    """Gradient descent whose gradient is multiplied by a matrix A, or by another matrix in every step.

    With one matrix, it is `gradient_descent(step_sizes, w0, preconditioner)`.

    Source: Ahn et al. 2306.00297 (layers of linear attention, with one matrix for each layer).

    Args:
      step_sizes: eta of every step, not divided by n; one step is taken per entry.
      preconditioner: the matrix A `[d d]`, or one matrix for each step `[step d d]`. It multiplies the gradient `[m d]`
        from the right.
      w0: start `[m d]`. Default: zero.

    Returns:
      A Predictor with y_hat `[m]`.

    Raises:
      ValueError: if the preconditioner has another shape.
    """
    return final_iterate(layerwise_preconditioned_gradient_descent(step_sizes, preconditioner, w0))


@checked
def fit_preconditioner(prompts: Prompt, w0: Array | None = None, symmetric: bool = False) -> Float[Array, "d d"]:
    """The preconditioner for which one gradient step of size 1 has the smallest mean loss on the given prompts.

    With G `[m d]` the negative gradient at W_0, one step predicts `W_0 x_query + G A x_query`, which is linear in A. So
    the minimum is a linear least-squares problem in the entries of A. If several matrices reach the minimum (with few
    prompts), the result is the one with the smallest Frobenius norm. For normal inputs and many prompts, the result
    tends to `gaussian_optimum_matrix`.

    Source: the problem is that of Ahn et al. 2306.00297, Theorem 1, for a sample of prompts.

    Args:
      prompts: a batch of Prompts (leading axis).
      w0: start `[m d]`. Default: zero.
      symmetric: minimise over symmetric matrices. Default: over all matrices.

    Returns:
      The matrix A `[d d]`.
    """
    return _fit_preconditioner(prompts, w0, symmetric)


@partial(jax.jit, static_argnames="symmetric")
def _fit_preconditioner(prompts: Prompt, w0: Array | None, symmetric: bool) -> Array:
    x, y, x_query, y_query = prompts[:4]
    n, d = x.shape[1:]
    if w0 is not None:
        w0 = jnp.asarray(w0, x.dtype)
        y, y_query = y - x @ w0.T, y_query - x_query @ w0.T
    gradient = jnp.einsum("pnm,pnd->pmd", y, x) / n
    features = jnp.einsum("pmi,pj->pmij", gradient, x_query).reshape(-1, d, d)
    # Unknowns are the coordinates of A in an orthonormal basis of all matrices, or of symmetric matrices.
    rows, columns = np.triu_indices(d) if symmetric else np.indices((d, d)).reshape(2, -1)
    weights = jnp.ones(len(rows), x.dtype)
    if symmetric:
        features = features + features.swapaxes(1, 2)
        weights = jnp.asarray(np.where(rows == columns, 0.5, 0.5**0.5), x.dtype)
    design = weights[None] * features[:, rows, columns]
    # The triangular factor of [design, targets] contains the same problem with few equations.
    factor = jnp.linalg.qr(jnp.concatenate([design, y_query.reshape(-1, 1)], axis=1), mode="r")
    solution, *_ = jnp.linalg.lstsq(factor[:, :-1], factor[:, -1])
    matrix = jnp.zeros((d, d), x.dtype).at[rows, columns].set(weights * solution)
    return matrix + matrix.T if symmetric else matrix
