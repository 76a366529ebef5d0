"""The search for the rates of several steps with the least risk."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from icl_gd.types import Array

SEARCHED = 4096  # prompts on which starting points are tried before all of them are used
STARTS = 6


def minimise_risk(
    risk: Callable[[Any, Float[Array, "2 step"]], Array],
    data: Any,
    to_step_sizes: Float[np.ndarray, "step p"],
    to_gammas: Float[np.ndarray, "step p"],
    start: Float[np.ndarray, " p"],
    spread: float = 0.0,
    tolerance: float = 1e-7,
) -> Float[np.ndarray, " p"]:
    """The p numbers, of which step sizes and gammas are linear functions, with the least risk, by BFGS.

    In float64 whatever the caller computes in, and relative to the start, because rates of one learner differ by
    orders of magnitude. With a `spread` (of the starts' logarithms) the best of several minima, as found on some of the
    prompts, is followed on all of them.

    Args:
      risk: of data and rates; the same function for all searches of a kind, because it is compiled once.
      data: a tree of arrays with a leading axis of prompts, and of numbers.
      tolerance: of the gradient of the risk's logarithm by rates over those at the start; a risk with kinks has no
        finer one.
    """
    from scipy.optimize import minimize  # a quarter of a second to import

    maps = np.stack([to_step_sizes, to_gammas])
    rng = np.random.default_rng(0)

    def descend(data: Any, origin: np.ndarray, tolerance: float = tolerance) -> tuple[float, np.ndarray]:
        on_device = jax.tree.map(jnp.asarray, data)

        def value_and_gradient(ratio: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = _log_and_gradient(risk, on_device, jnp.asarray(maps @ (ratio * origin)))
            if not np.isfinite(value):
                return 1e9, np.zeros(len(ratio))
            return float(value), np.einsum("rs,rsp->p", gradient, maps) * origin

        found = minimize(value_and_gradient, np.ones(len(origin)), jac=True, method="BFGS", options={"gtol": tolerance})
        return float(found.fun), found.x * origin

    with jax.enable_x64(True):
        if spread:
            some = jax.tree.map(lambda leaf: leaf[:SEARCHED] if np.ndim(leaf) else leaf, data)
            starts = [start * np.exp(spread * rng.normal(size=len(start))) for _ in range(STARTS)]
            start = min((descend(some, origin, tolerance=1e-4) for origin in starts), key=lambda found: found[0])[1]
        return descend(data, start)[1]


@partial(jax.jit, static_argnums=0)
def _log_and_gradient(risk: Callable[[Any, Array], Array], data: Any, rates: Array) -> tuple[Array, Array]:
    """Log risk of rates `[2 step]`, and its gradient: one program for all learners of as many steps."""
    return jax.value_and_grad(lambda rates: jnp.log(risk(data, rates)))(rates)
