"""Learners that take steps on the in-context loss `1/(2n) sum_i |W x_i - y_i|^2`."""

from typing import Any

import jax
import jax.numpy as jnp
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
    step_sizes: Rates, w0: Array | None = None, preconditioner: Array | None = None
) -> Predictor:
    """As `gradient_descent`, with the prediction of every iterate: y_hat `[iterate m]`."""
    return Partial(_gradient_descent, step_sizes, w0, preconditioner)


@on_problem
def _gradient_descent(
    step_sizes: Any, w0: Array | None, preconditioner: Array | None, x: Array, y: Array, x_query: Array
) -> Array:
    return gradient_descent_iterates(x, y, step_sizes, w0, preconditioner) @ x_query


def gradient_descent(step_sizes: Rates, w0: Array | None = None, preconditioner: Array | None = None) -> Predictor:
    """Gradient descent on the context, one step per entry of `step_sizes`, as a Predictor."""
    return final_iterate(layerwise_gradient_descent(step_sizes, w0, preconditioner))


def final_iterate(layerwise: Predictor) -> Predictor:
    """What a learner that is read out after every step predicts in the end."""
    return Partial(_last, as_partial(layerwise))


@on_problem
def _last(layerwise: Predictor, x: Array, y: Array, x_query: Array) -> Array:
    return layerwise(x, y, x_query)[-1]


@checked
def layerwise_gd_plus_plus(step_sizes: Rates, gammas: Rates, clip: Positive | None = None) -> Predictor:
    """As `gd_plus_plus`, with the prediction of every iterate: y_hat `[iterate m]`."""
    return Partial(_gd_plus_plus, step_sizes, gammas, clip)


@on_problem
def _gd_plus_plus(
    step_sizes: Any, gammas: Any, clip: float | Array | None, x: Array, y: Array, x_query: Array
) -> Float[Array, "iterate m"]:
    n = len(x)
    bounded = lambda leaf: leaf if clip is None else jnp.clip(leaf, -clip, clip)

    def step(state: tuple[Array, ...], rates: Array) -> tuple[tuple[Array, ...], Array]:
        x, y, query, y_hat = state
        eta, gamma = rates
        moment, curvature = y.T @ x / n, x.T @ x / n
        y_hat = y_hat + eta * moment @ query
        state = x - gamma * x @ curvature, y - eta * x @ moment.T, query - gamma * curvature @ query, y_hat
        state = jax.tree.map(bounded, state)
        return state, state[-1]

    start = jnp.zeros(y.shape[-1], x.dtype)
    rates = jnp.stack([jnp.asarray(step_sizes, x.dtype), jnp.asarray(gammas, x.dtype)], axis=-1)
    _, y_hats = jax.lax.scan(step, (x, y, x_query, start), rates)
    return jnp.concatenate([start[None], y_hats])


@checked
def gd_plus_plus(step_sizes: Rates, gammas: Rates, clip: Positive | None = None) -> Predictor:
    """GD++ from zero, as a Predictor: beside each gradient step on the labels, a step on the inputs themselves.

    `x_j <- x_j - gamma / n * sum_i x_i x_i^T x_j` for context and query, with the inputs as they were before the step,
    flattens the spectrum of the context, so that later steps may be longer (von Oswald et al., appendix A.10). Where it
    starts from is always zero: labels less `W_0 x_j` would ask for the inputs that have been transformed.

    Args:
      step_sizes, gammas: one of each per step; the last gamma changes nothing that is read.
      clip: inputs, labels and prediction are clipped to [-clip, clip] after every step, as a Transformer's activations
        are; None leaves them alone.
    """
    return final_iterate(layerwise_gd_plus_plus(step_sizes, gammas, clip))


@on_problem
def predict_zero(x: Array, y: Array, x_query: Array) -> Array:
    """The Predictor that has learned nothing: always zero."""
    return jnp.zeros(y.shape[-1], y.dtype)


@jax.jit
def fit_step_size(prompts: Prompt, w0: Array | None = None) -> Float[Array, ""]:
    """The step size of one step with the least mean square error on the queries of a sample of prompts.

    y_hat = W_0 x_query + eta g is linear in eta, so eta = sum (y_query - W_0 x_query) . g / sum |g|^2. Those of more
    steps, and of GD++, are in `learners.spectral`.

    Args:
      prompts: a batch of Prompts (leading axis).
    """
    one_step = jax.vmap(layerwise_gradient_descent([1.0], w0))(prompts.x, prompts.y, prompts.x_query)
    start, update = one_step[:, 0], one_step[:, 1] - one_step[:, 0]
    return jnp.sum((prompts.y_query - start) * update) / jnp.sum(update**2)
