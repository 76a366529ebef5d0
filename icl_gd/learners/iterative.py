"""Gradient descent and GD++ on the in-context loss `1/(2n) sum_i |W x_i - y_i|^2`.

With one example x = y = 1 and the query 1, each step of size 1/2 halves the error:

    >>> x, y, x_query = jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.ones(1)
    >>> layerwise_gradient_descent([0.5, 0.5])(x, y, x_query).ravel().tolist()
    [0.0, 0.5, 0.75]
    >>> gd_plus_plus(step_sizes=[0.5, 0.5], gammas=[0.0, 0.0])(x, y, x_query).tolist()  # gamma = 0: gradient descent
    [0.75]
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Float

from icl_gd.problems import on_problem
from icl_gd.programs import as_partial
from icl_gd.schema import checked
from icl_gd.types import Array, Positive, Predictor, Prompt, Rates


def gradient_descent_iterates(
    x: Float[Array, "n d"],
    y: Float[Array, "n m"],
    step_sizes: Rates,
    w0: Float[Array, "m d"] | None = None,
    preconditioner: Float[Array, "d d"] | Float[Array, "step d d"] | None = None,
) -> Float[Array, "iterate m d"]:
    """Weights `W_0, W_1, ...` of preconditioned gradient descent.

    A step is `W <- W - step_size / n * sum_i (W x_i - y_i) x_i^T A`.

    Args:
      x, y: the examples, `[n d]` and `[n m]`.
      step_sizes: eta of every step, not divided by n; one step is taken per entry.
      w0: start `[m d]`. Default: zero.
      preconditioner: the matrix A `[d d]`, or one matrix for each step `[step d d]`. Default: the identity (plain
        gradient descent).

    Returns:
      The weights W `[iterate m d]`; the first iterate is the start.
    """
    n, d = x.shape
    start = jnp.zeros((y.shape[-1], d), x.dtype) if w0 is None else jnp.asarray(w0, x.dtype)
    matrix = None if preconditioner is None else jnp.asarray(preconditioner, x.dtype)
    matrices = matrix if matrix is not None and matrix.ndim == 3 else None  # one per step
    directions = x if matrix is None or matrix is matrices else x @ matrix

    def step(w: Array, rates: tuple[Array, Array | None]) -> tuple[Array, Array]:
        step_size, own_matrix = rates
        w = w - step_size / n * (x @ w.T - y).T @ (directions if own_matrix is None else x @ own_matrix)
        return w, w

    _, iterates = jax.lax.scan(step, start, (jnp.asarray(step_sizes, x.dtype), matrices))
    return jnp.concatenate([start[None], iterates])


def layerwise_gradient_descent(
    step_sizes: Rates, w0: Array | None = None, preconditioner: Array | np.ndarray | None = None
) -> Predictor:
    """Like `gradient_descent`, but returns the prediction after every step.

    Args:
      step_sizes: eta of every step, not divided by n.
      w0: start `[m d]`. Default: zero.
      preconditioner: the matrix A, as in `gradient_descent`. Default: the identity.

    Returns:
      A Predictor with y_hat `[iterate m]`; the first iterate is the prediction before any step.
    """
    return Partial(_gradient_descent, step_sizes, w0, preconditioner)


@on_problem
def _gradient_descent(
    step_sizes: Any, w0: Array | None, preconditioner: Any, x: Array, y: Array, x_query: Array
) -> Array:
    if preconditioner is not None:
        preconditioner = jnp.asarray(preconditioner, x.dtype)
    return gradient_descent_iterates(x, y, step_sizes, w0, preconditioner) @ x_query


def gradient_descent(
    step_sizes: Rates, w0: Array | None = None, preconditioner: Array | np.ndarray | None = None
) -> Predictor:
    """Gradient descent on the examples of the context.

    Args:
      step_sizes: eta of every step, not divided by n; one step is taken per entry.
      w0: start `[m d]`. Default: zero.
      preconditioner: the matrix A `[d d]` that multiplies the gradient, or one matrix for each step, see
        `gradient_descent_iterates`. Default: the identity (plain gradient descent).

    Returns:
      A Predictor with y_hat `[m]`.
    """
    return final_iterate(layerwise_gradient_descent(step_sizes, w0, preconditioner))


def final_iterate(layerwise: Predictor) -> Predictor:
    """Keeps only the last prediction of a learner that predicts after every step.

    Args:
      layerwise: a Predictor with y_hat `[iterate m]`.

    Returns:
      A Predictor with y_hat `[m]`, the prediction of the last iterate.
    """
    return Partial(_final_iterate, as_partial(layerwise))


@on_problem
def _final_iterate(layerwise: Predictor, x: Array, y: Array, x_query: Array) -> Array:
    return layerwise(x, y, x_query)[-1]


@checked
def layerwise_gd_plus_plus(step_sizes: Rates, gammas: Rates, clip: Positive | None = None) -> Predictor:
    """Like `gd_plus_plus`, but returns the prediction after every step.

    Args:
      step_sizes, gammas: eta and gamma of every step, not divided by n.
      clip: inputs, labels and prediction are clipped to [-clip, clip] after every step. Default: no clip.

    Returns:
      A Predictor with y_hat `[iterate m]`; the first iterate is the prediction before any step.

    Raises:
      ValueError: if the clip is not positive.
    """
    return Partial(_gd_plus_plus, step_sizes, gammas, clip)


@on_problem
def _gd_plus_plus(
    step_sizes: Any, gammas: Any, clip: float | Array | None, x: Array, y: Array, x_query: Array
) -> Float[Array, "iterate m"]:
    n = len(x)

    def clipped(leaf: Array) -> Array:
        return leaf if clip is None else jnp.clip(leaf, -clip, clip)

    def step(state: tuple[Array, ...], rates: Array) -> tuple[tuple[Array, ...], Array]:
        x, y, query, y_hat = state
        eta, gamma = rates
        moment, curvature = y.T @ x / n, x.T @ x / n
        y_hat = y_hat + eta * moment @ query
        state = x - gamma * x @ curvature, y - eta * x @ moment.T, query - gamma * curvature @ query, y_hat
        state = jax.tree.map(clipped, state)
        return state, state[-1]

    start = jnp.zeros(y.shape[-1], x.dtype)
    rates = jnp.stack([jnp.asarray(step_sizes, x.dtype), jnp.asarray(gammas, x.dtype)], axis=-1)
    _, y_hats = jax.lax.scan(step, (x, y, x_query, start), rates)
    return jnp.concatenate([start[None], y_hats])


@checked
def gd_plus_plus(step_sizes: Rates, gammas: Rates, clip: Positive | None = None) -> Predictor:
    """GD++ from W = 0: every step replaces the labels by the residuals of a gradient step, and transforms the inputs.

    The transformation replaces every input x_j of context and query by `x_j - gamma / n * sum_i x_i x_i^T x_j`. The
    gradient step uses the inputs before the transformation. The transformation flattens the spectrum of the context
    covariance, so later steps may be larger. Only W_0 = 0 is supported: with W_0 != 0, the residuals would depend on
    the transformed inputs.

    Source: von Oswald et al. 2212.07677, appendix A.10.

    Args:
      step_sizes, gammas: eta and gamma of every step, not divided by n. The last gamma does not affect the prediction.
      clip: inputs, labels and prediction are clipped to [-clip, clip] after every step, like the activations of a
        Transformer. Default: no clip.

    Returns:
      A Predictor with y_hat `[m]`.

    Raises:
      ValueError: if the clip is not positive.
    """
    return final_iterate(layerwise_gd_plus_plus(step_sizes, gammas, clip))


@on_problem
def predict_zero(x: Array, y: Array, x_query: Array) -> Array:
    """Predicts zero for every query: the baseline that learns nothing.

    Args:
      x, y, x_query: context `[n d]` and `[n m]`, and query `[d]`.

    Returns:
      Zeros `[m]`.
    """
    return jnp.zeros(y.shape[-1], y.dtype)


@on_problem
def averaging(x: Array, y: Array, x_query: Array) -> Array:
    """One gradient step of size 1 from zero: `W = (1/n) sum_i y_i x_i^T`. Without examples it predicts zero.

    Source: Garg et al. 2208.01066, section 3 (the averaging estimator).

    Args:
      x, y, x_query: context `[n d]` and `[n m]`, and query `[d]`.

    Returns:
      y_hat `[m]`.
    """
    return (x @ x_query) @ y / max(len(x), 1)


@jax.jit
def fit_step_size(prompts: Prompt, w0: Array | None = None) -> Float[Array, ""]:
    """The step size for which one gradient step has the smallest mean squared error on the given prompts' queries.

    One step predicts y_hat = W_0 x_query + eta g, which is linear in eta. With sums over prompts, the minimum is at
    eta = sum (y_query - W_0 x_query) . g / sum |g|^2. For several steps, and for GD++, see `learners.spectral` and
    `learners.fit_on_prompts`.

    Args:
      prompts: a batch of Prompts (leading axis).
      w0: start `[m d]`. Default: zero.

    Returns:
      The step size eta (not divided by n), a scalar.
    """
    one_step = jax.vmap(layerwise_gradient_descent([1.0], w0))(prompts.x, prompts.y, prompts.x_query)
    start, update = one_step[:, 0], one_step[:, 1] - one_step[:, 0]
    return jnp.sum((prompts.y_query - start) * update) / jnp.sum(update**2)
