"""The Bayesian predictor for a finite pool of linear functions (dMMSE), for one context and for every prefix.

The prior is uniform over the functions W of the pool. Labels are `W x` with normal noise. The posterior weight of W is
proportional to `exp(-sum_j |y_j - W x_j|^2 / (2 noise_std^2))`, and the prediction is the posterior mean of
`W x_query`. It minimises the expected loss if the functions of prompts are drawn from the pool.

The pool contains y = x and y = -x. The example (1, 1) makes the first function nearly certain:

    >>> pool, noise_std = jnp.array([[[1.0]], [[-1.0]]]), 0.5
    >>> round(bayes_pool(pool, noise_std)(jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.array([2.0])).item(), 3)
    1.999
    >>> y_hat = prefix_bayes_pool(pool, noise_std)(jnp.ones((2, 1)), jnp.ones((2, 1)))
    >>> [round(value, 3) for value in y_hat.ravel().tolist()]
    [0.0, 0.999]
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Float

from icl_gd.problems import on_prefixes, on_problem
from icl_gd.schema import checked
from icl_gd.types import Array, Positive, Predictor, PrefixPredictor


@checked
def bayes_pool(pool: Array | np.ndarray, noise_std: Positive) -> Predictor:
    """The posterior mean for a finite pool of linear functions. Without examples it predicts with the pool's mean.

    For a large pool of weights from N(0, weight_scale^2 I), it tends to `ridge(noise_std^2 / weight_scale^2)`.

    Source: Raventós et al. 2306.15063, section 2 (dMMSE).

    Args:
      pool: the weights W of every function, `[pool m d]`.
      noise_std: standard deviation of the noise of context labels, in units of y.

    Returns:
      A Predictor with y_hat `[m]`.

    Raises:
      ValueError: if the noise is not positive, or the pool is empty or has another shape.
    """
    return Partial(_bayes_pool, _pool(pool), noise_std)


@on_problem
def _bayes_pool(pool: Any, noise_std: Positive, x: Array, y: Array, x_query: Array) -> Float[Array, " m"]:
    pool = _for_problem(pool, x, y)
    errors = jnp.sum((jnp.einsum("pmd,nd->pnm", pool, x) - y[None]) ** 2, axis=(1, 2))
    return jnp.einsum("p,pmd,d->m", _posterior(errors, noise_std), pool, x_query)


@checked
def prefix_bayes_pool(pool: Array | np.ndarray, noise_std: Positive) -> PrefixPredictor:
    """`learners.bayes_pool(pool, noise_std)` for every prefix.

    Args:
      pool: the weights W of every function, `[pool m d]`.
      noise_std: standard deviation of the noise of context labels, in units of y.

    Returns:
      A PrefixPredictor with y_hat `[n m]`.

    Raises:
      ValueError: if the noise is not positive, or the pool is empty or has another shape.
    """
    return Partial(_prefix_bayes_pool, _pool(pool), noise_std)


@on_prefixes
def _prefix_bayes_pool(pool: Any, noise_std: Positive, x: Array, y: Array) -> Float[Array, "n m"]:
    outputs = jnp.einsum("pmd,nd->npm", _for_problem(pool, x, y), x)
    errors = jnp.sum((outputs - y[:, None]) ** 2, axis=-1)  # [n pool]
    before = jnp.concatenate([jnp.zeros_like(errors[:1]), jnp.cumsum(errors, axis=0)[:-1]])
    return jnp.einsum("np,npm->nm", jax.vmap(_posterior, in_axes=(0, None))(before, noise_std), outputs)


def _posterior(errors: Float[Array, " pool"], noise_std: Positive) -> Float[Array, " pool"]:
    """Posterior weights of the functions, given the sums of their squared errors."""
    # The smallest error is subtracted before the division, so the largest logit is zero for every noise.
    variance = jnp.maximum(jnp.asarray(noise_std, errors.dtype) ** 2, jnp.finfo(errors.dtype).tiny)
    return jax.nn.softmax(-0.5 * (errors - jnp.min(errors)) / variance)


def _pool(pool: Array | np.ndarray) -> Array | np.ndarray:
    if jnp.ndim(pool) != 3 or not len(pool):
        raise ValueError(f"pool has shape {jnp.shape(pool)}: give the weights of at least one function, [pool m d]")
    return pool


def _for_problem(pool: Any, x: Array, y: Array) -> Array:
    """The pool in the precision of the problem, whose sizes must agree."""
    if pool.shape[1:] != (y.shape[-1], x.shape[-1]):
        raise ValueError(
            f"pool has shape {pool.shape}: weights are [pool m d], with m={y.shape[-1]} as in y {y.shape} and "
            f"d={x.shape[-1]} as in x {x.shape}"
        )
    return jnp.asarray(pool, x.dtype)
