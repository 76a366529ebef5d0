"""Learners that take steps on the in-context loss `1/(2n) sum_i |W x_i - y_i|^2`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Float

from icl_gd.types import Array, Predictor, Prompt

StepSizes = Float[Array, " step"] | Float[np.ndarray, " step"] | Sequence[float | Float[Array, ""]]


def gradient_descent_iterates(
    x: Float[Array, "n d"],
    y: Float[Array, "n m"],
    step_sizes: StepSizes,
    w0: Float[Array, "m d"] | None = None,
    preconditioner: Float[Array, "d d"] | None = None,
) -> Float[Array, "iterate m d"]:
    """Iterates `W_0, W_1, ...` of `W <- W - step_size / n * sum_i (W x_i - y_i) x_i^T A`.

    Args:
      step_sizes: one per step; their number is the number of steps.
      w0: where to start; zero when left out.
      preconditioner: the matrix A; the identity (plain gradient descent) when left out.
    """
    n, d = x.shape
    start = jnp.zeros((y.shape[-1], d), x.dtype) if w0 is None else jnp.asarray(w0, x.dtype)
    directions = x if preconditioner is None else x @ jnp.asarray(preconditioner, x.dtype)

    def step(w: Array, step_size: Array) -> tuple[Array, Array]:
        w = w - step_size / n * (x @ w.T - y).T @ directions
        return w, w

    _, iterates = jax.lax.scan(step, start, jnp.asarray(step_sizes, x.dtype))
    return jnp.concatenate([start[None], iterates])


def layerwise_gradient_descent(
    step_sizes: StepSizes, w0: Array | None = None, preconditioner: Array | None = None
) -> Predictor:
    """As `gradient_descent`, with the prediction of every iterate: y_hat `[iterate m]`."""

    def predict(x: Array, y: Array, x_query: Array) -> Array:
        return gradient_descent_iterates(x, y, step_sizes, w0, preconditioner) @ x_query

    return predict


def gradient_descent(step_sizes: StepSizes, w0: Array | None = None, preconditioner: Array | None = None) -> Predictor:
    """Gradient descent on the context, one step per entry of `step_sizes`, as a Predictor."""
    layerwise = layerwise_gradient_descent(step_sizes, w0, preconditioner)
    return lambda x, y, x_query: layerwise(x, y, x_query)[-1]


def zero(x: Array, y: Array, x_query: Array) -> Array:
    """The Predictor that has learned nothing: always zero."""
    return jnp.zeros(y.shape[-1], y.dtype)


def best_step_size(prompts: Prompt, n_steps: int = 1, w0: Array | None = None) -> float:
    """The step size, shared by all steps, with the least mean square error on the queries of a sample of prompts.

    One step is closed form: y_hat = W_0 x_query + eta g is linear in eta, so
    eta = sum (y_query - W_0 x_query) . g / sum |g|^2. More steps are minimised by Brent's method.

    Args:
      prompts: a batch of Prompts (leading axis).
    """
    one_step = jax.vmap(layerwise_gradient_descent([1.0], w0))(prompts.x, prompts.y, prompts.x_query)
    start, update = one_step[:, 0], one_step[:, 1] - one_step[:, 0]
    first = float(jnp.sum((prompts.y_query - start) * update) / jnp.sum(update**2))
    if n_steps == 1:
        return first
    risk = _risk_of_steps(prompts, w0)
    # The loss of K steps is a polynomial in eta that falls from eta = 0 and rises again before the divergence at
    # 2 / lambda_max; with more steps the best shared rate only shrinks or grows mildly, and the bracket covers both.
    found = scipy.optimize.minimize_scalar(
        lambda eta: float(risk(jnp.full(n_steps, eta))[0]), bracket=(0.25 * first, first), method="brent"
    )
    return float(found.x)


def best_step_sizes(prompts: Prompt, n_steps: int, w0: Array | None = None) -> np.ndarray:
    """One step size per step `[step]`, minimising the same error by BFGS from the best shared one.

    The order of the steps does not matter to gradient descent on a quadratic, so they are returned sorted.
    """
    if n_steps == 1:
        return np.array([best_step_size(prompts, 1, w0)])
    risk = _risk_of_steps(prompts, w0)
    start = best_step_size(prompts, n_steps, w0) * np.linspace(0.7, 1.3, n_steps)  # equal rates are a saddle

    def risk_and_gradient(eta: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = risk(jnp.asarray(eta))
        return float(value), np.asarray(gradient, np.float64)

    found = scipy.optimize.minimize(risk_and_gradient, start, jac=True, method="BFGS")
    return np.sort(found.x)


def _risk_of_steps(prompts: Prompt, w0: Array | None):
    """Mean square error and its gradient as a jitted function of the step sizes `[step]`."""

    @jax.jit
    @jax.value_and_grad
    def risk(step_sizes: Array) -> Array:
        y_hat = jax.vmap(gradient_descent(step_sizes, w0))(prompts.x, prompts.y, prompts.x_query)
        return jnp.mean(jnp.sum((y_hat - prompts.y_query) ** 2, axis=-1))

    return risk
