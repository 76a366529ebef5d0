"""Interpolation between trained and constructed weights (von Oswald et al., Figure 2, "interpolated").

Example:
  >>> import jax.numpy as jnp
  >>> constructed = Circuits(W_KQ=jnp.ones((1, 1, 3, 3)), W_PV=jnp.ones((1, 1, 3, 3)))
  >>> trained = Circuits(W_KQ=2 * constructed.W_KQ, W_PV=constructed.W_PV / 2)  # the same layer at another scale
  >>> halfway = interpolate(trained, constructed, 0.5)
  >>> bool(jnp.allclose(halfway.W_KQ, constructed.W_KQ))
  True
"""

from icl_gd.analysis.weights import match_scale
from icl_gd.schema import checked
from icl_gd.types import Array, Circuits, Scalar


@checked
def interpolate(circuits: Circuits, reference: Circuits, t: Scalar = 0.5) -> Circuits:
    """Interpolates linearly between circuits and a reference, after `match_scale` has equalised their scales.

    Args:
      circuits: circuits of a single-head model, `[layer 1 e e]` each.
      reference: circuits of the same shapes.
      t: weight of the reference, from 0 (the circuits) to 1 (the reference). Default: 0.5.

    Returns:
      `(1 - t)` times the rescaled circuits plus `t` times the reference.

    Raises:
      ValueError: if the shapes differ, or there is more than one head. The order of heads does not affect the function,
        so the heads of two models cannot be paired.
    """
    if circuits.W_KQ.shape != reference.W_KQ.shape or circuits.W_KQ.shape[-3] != 1:
        raise ValueError(
            f"circuits and reference must be single-head models of the same size, with W_KQ [layer 1 e e]; got W_KQ "
            f"{circuits.W_KQ.shape} and {reference.W_KQ.shape}"
        )
    matched = match_scale(circuits, reference)

    def mix(a: Array, b: Array) -> Array:
        return (1 - t) * a + t * b

    return Circuits(mix(matched.W_KQ, reference.W_KQ), mix(matched.W_PV, reference.W_PV))
