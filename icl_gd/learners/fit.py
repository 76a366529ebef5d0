"""Minimises a risk over the rates (step sizes and gammas) of gradient descent or GD++.

`minimise_risk` is used for two risks: the spectral formula (`learners.spectral.fit_step_sizes` and
`fit_gd_plus_plus`), and the risk on sampled prompts (`learners.fit_on_prompts.fit_gd_plus_plus_on`).

Here the risk depends on a single step size only, and is smallest at the mean of the targets:

    >>> def risk(targets, rates):
    ...     step_sizes, gammas = rates
    ...     return 1.0 + jnp.mean((step_sizes[0] - targets) ** 2)
    >>> used, unused = np.ones((1, 1)), np.zeros((1, 1))
    >>> fitted = minimise_risk(risk, np.array([1.0, 3.0]), used, unused, start=np.array([1.0]))
    >>> fitted.round(3).tolist()
    [2.0]
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from icl_gd.types import Array

SEARCH_PROMPTS = 4096  # number of prompts used to compare random starting points
STARTS = 6  # number of random starting points


def minimise_risk(
    risk: Callable[[Any, Float[Array, "2 step"]], Array],
    data: Any,
    to_step_sizes: Float[np.ndarray, "step p"],
    to_gammas: Float[np.ndarray, "step p"],
    start: Float[np.ndarray, " p"],
    spread: float = 0.0,
    tolerance: float = 1e-7,
) -> Float[np.ndarray, " p"]:
    """Minimises the logarithm of a risk over p parameters by BFGS, in float64.

    Step sizes and gammas are linear functions of the p parameters. BFGS optimises the ratios of the parameters to their
    start values, because the rates of one learner differ by orders of magnitude.

    If `spread` is positive, BFGS runs from several random starting points on the first `SEARCH_PROMPTS` prompts. The
    best of these minima is then refined on all prompts.

    Args:
      risk: `(data, rates [2 step]) -> risk`, where the two rows of `rates` are step sizes and gammas. It is compiled
        once per function object, so pass the same function in every call.
      data: a pytree of scalars and of arrays with a leading prompt axis.
      to_step_sizes, to_gammas: matrices `[step p]` that map the parameters to the rates.
      start: start values of the parameters. A parameter that starts at zero stays zero.
      spread: standard deviation of the logarithms of the random starting points around `start`. Default: 0, a single
        search from `start`.
      tolerance: BFGS stops when every entry of the gradient of the log risk with respect to the ratios is at most this.
        A risk that is not smooth (because of clipping) needs a larger tolerance. Default: 1e-7.

    Returns:
      The fitted parameters `[p]`.
    """
    from scipy.optimize import minimize  # a quarter of a second to import

    maps = np.stack([to_step_sizes, to_gammas])
    rng = np.random.default_rng(0)

    def descend(data: Any, origin: np.ndarray, tolerance: float = tolerance) -> tuple[float, np.ndarray]:
        on_device = jax.tree.map(jnp.asarray, data)

        def value_and_gradient(ratio: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = _log_and_gradient(risk, on_device, jnp.asarray(maps @ (ratio * origin)))
            if not np.isfinite(value):
                return 1e9, np.zeros(len(ratio))  # so high that the line search of BFGS takes a shorter step
            return float(value), np.einsum("rs,rsp->p", gradient, maps) * origin

        ratios = np.ones(len(origin))
        result = minimize(value_and_gradient, ratios, jac=True, method="BFGS", options={"gtol": tolerance})
        return float(result.fun), result.x * origin

    with jax.enable_x64(True):
        if spread:
            subset = jax.tree.map(lambda leaf: leaf[:SEARCH_PROMPTS] if np.ndim(leaf) else leaf, data)
            starts = [start * np.exp(spread * rng.normal(size=len(start))) for _ in range(STARTS)]
            minima = [descend(subset, origin, tolerance=1e-4) for origin in starts]
            _, start = min(minima, key=lambda minimum: minimum[0])
        return descend(data, start)[1]


def to_pairs(n_steps: int, per_step: bool) -> tuple[Float[np.ndarray, "step p"], Float[np.ndarray, "step p"]]:
    """The matrices `to_step_sizes` and `to_gammas` of `minimise_risk` for GD++.

    Returns:
      Matrices `[step p]` for p = 2 n_steps parameters, all step sizes before all gammas. If `per_step` is False, all
      steps have one step size and one gamma, so p = 2.
    """
    to_steps = np.eye(n_steps) if per_step else np.ones((n_steps, 1))
    zeros = np.zeros_like(to_steps)
    return np.hstack([to_steps, zeros]), np.hstack([zeros, to_steps])


@partial(jax.jit, static_argnums=0)
def _log_and_gradient(risk: Callable[[Any, Array], Array], data: Any, rates: Array) -> tuple[Array, Array]:
    """The log risk of the rates `[2 step]`, and its gradient. Compiled once per risk function and number of steps."""

    def log_risk(rates: Array) -> Array:
        return jnp.log(risk(data, rates))

    return jax.value_and_grad(log_risk)(rates)
