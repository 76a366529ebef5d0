"""Roll-out: one trained layer applied several times (von Oswald et al.).

Example:
  >>> layer = Circuits(W_KQ=jnp.ones((1, 1, 3, 3)), W_PV=jnp.ones((1, 1, 3, 3)))
  >>> stack = roll_out(layer, d_input=2, n_iterations=4, damping=0.5)
  >>> stack.W_PV.shape
  (4, 1, 3, 3)
  >>> stack.W_PV[0, 0, :, 0].tolist()  # only the y slot is written
  [0.0, 0.0, 0.5]
"""

import jax.numpy as jnp

from icl_gd.schema import Size, checked
from icl_gd.types import Circuits, Scalar


@checked
def roll_out(circuits: Circuits, d_input: Size, n_iterations: Size, damping: Scalar = 1.0) -> Circuits:
    """Stacks a one-layer model `n_iterations` times. Each copy writes to the y slots only, as gradient descent does.

    Compare the result with `n_iterations` steps of gradient descent with `damping` times the step size. Damping is
    needed because gradient descent with the step size that is optimal for one step diverges over many steps:
    `step_size * lambda_max(X X^T / n)` exceeds 2 on a substantial share of prompts.

    Args:
      circuits: circuits of a one-layer model, `[1 head e e]` each.
      d_input: number of x slots of a token. The x slots do not change.
      n_iterations: number of layers of the stack.
      damping: factor of each update. Default: 1, no damping.

    Returns:
      Circuits `[n_iterations head e e]`.

    Raises:
      ValueError: if the model has more than one layer.
    """
    if circuits.W_KQ.shape[0] != 1:
        raise ValueError(
            f"circuits must be those of a one-layer model, got {circuits.W_KQ.shape[0]} layers; select one layer"
        )
    write = damping * (jnp.arange(circuits.W_PV.shape[-2]) >= d_input).astype(circuits.W_PV.dtype)
    w_pv = write[None, None, :, None] * circuits.W_PV
    return Circuits(jnp.repeat(circuits.W_KQ, n_iterations, 0), jnp.repeat(w_pv, n_iterations, 0))
