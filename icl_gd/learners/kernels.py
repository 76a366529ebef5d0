"""Kernel regression (Nadaraya and Watson) and kernel ridge regression.

With a bandwidth that is small compared with distances, kernel regression predicts the label of the nearest example.
With a large bandwidth, it predicts the mean label:

    >>> x, y, x_query = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([[3.0], [0.0], [9.0]]), jnp.array([0.1])
    >>> [round(kernel_regression(bandwidth)(x, y, x_query).item(), 3) for bandwidth in (0.1, 1000.0)]
    [3.0, 4.0]
"""

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Float

from icl_gd.problems import on_problem
from icl_gd.programs import as_partial
from icl_gd.schema import OneOf, checked
from icl_gd.types import Array, Positive, Predictor


def _minus_squares(x: Float[Array, "n d"], x_query: Float[Array, " d"]) -> Float[Array, " n"]:
    return -0.5 * jnp.sum((x - x_query[None]) ** 2, axis=-1)


def _products(x: Float[Array, "n d"], x_query: Float[Array, " d"]) -> Float[Array, " n"]:
    return x @ x_query


# The logarithm of the kernel, times bandwidth^2: a function (x [n d], x_query [d]) -> [n].
SIMILARITIES: dict[str, Callable[[Array, Array], Array]] = {"gaussian": _minus_squares, "softmax": _products}

Similarity = Annotated[str, OneOf(SIMILARITIES)]
RidgeKernel = Annotated[str, OneOf(("gaussian", "linear"))]


@checked
def kernel_regression(bandwidth: Positive, kernel: Similarity = "gaussian") -> Predictor:
    """The mean label, weighted by a kernel of each input and the query. Without examples it predicts zero.

    The kernel is `exp(-|x - x_query|^2 / (2 bandwidth^2))` ("gaussian") or `exp(x . x_query / bandwidth^2)`
    ("softmax"). With "softmax", the prediction is that of a softmax attention head with keys x, values y, and
    W_KQ = I / bandwidth^2. Both kernels give the same prediction if all inputs have the same norm.

    Source: Nadaraya 1964; Watson 1964. Kernel regression as in-context learner: Han et al. 2305.12766.

    Args:
      bandwidth: positive, in units of x.
      kernel: "gaussian" or "softmax". Default: "gaussian".

    Returns:
      A Predictor with y_hat `[m]`.

    Raises:
      ValueError: if the bandwidth is not positive or the kernel is unknown.
    """
    return Partial(_kernel_regression, as_partial(SIMILARITIES[kernel]), bandwidth)


@on_problem
def _kernel_regression(
    similarity: Callable[[Array, Array], Array], bandwidth: Positive, x: Array, y: Array, x_query: Array
) -> Array:
    if not len(x):
        return jnp.zeros(y.shape[-1], y.dtype)
    logits = similarity(x, x_query)
    # The largest logit is subtracted before the division, so it is zero for every bandwidth.
    square = jnp.maximum(jnp.asarray(bandwidth, x.dtype) ** 2, jnp.finfo(x.dtype).tiny)
    return jax.nn.softmax((logits - jnp.max(logits)) / square) @ y


@checked
def kernel_ridge(penalty: Positive, kernel: RidgeKernel = "gaussian", bandwidth: Positive | None = None) -> Predictor:
    """Kernel ridge regression: `y_hat = k^T (K + penalty I)^-1 Y`. Without examples it predicts zero.

    K `[n n]` contains the kernel of all pairs of inputs, and k `[n]` that of each input and the query. It is the mean
    of a Gaussian process with this kernel and label noise of variance `penalty`.

    Source: Saunders, Gammerman and Vovk 1998; scikit-learn's `KernelRidge`, with alpha = penalty and
    gamma = 1 / (2 bandwidth^2).

    Args:
      penalty: positive factor of the squared norm of the function, as in `learners.ridge`.
      kernel: "gaussian" for `exp(-|x - x'|^2 / (2 bandwidth^2))`, or "linear" for `x . x'`, which is
        `learners.ridge(penalty)`. Default: "gaussian".
      bandwidth: positive, in units of x; only for "gaussian", which needs it.

    Returns:
      A Predictor with y_hat `[m]`.

    Raises:
      ValueError: if the penalty or the bandwidth is not positive, the kernel is unknown, or the bandwidth does not
        belong to the kernel.
    """
    if kernel == "gaussian" and bandwidth is None:
        raise ValueError("bandwidth=None: kernel='gaussian' needs a positive number, for example bandwidth=1.0")
    if kernel == "linear" and bandwidth is not None:
        raise ValueError(f"bandwidth={bandwidth} has no effect with kernel='linear'; remove it, or use 'gaussian'")
    return Partial(_kernel_ridge, penalty, bandwidth)


@on_problem
def _kernel_ridge(penalty: Positive, bandwidth: Positive | None, x: Array, y: Array, x_query: Array) -> Array:
    if not len(x):
        return jnp.zeros(y.shape[-1], y.dtype)

    def kernel(x: Array, x_query: Array) -> Array:
        return _products(x, x_query) if bandwidth is None else jnp.exp(_minus_squares(x, x_query) / bandwidth**2)

    pairs = jax.vmap(kernel, in_axes=(None, 0))(x, x)
    return kernel(x, x_query) @ jnp.linalg.solve(pairs + penalty * jnp.eye(len(x), dtype=x.dtype), y)
