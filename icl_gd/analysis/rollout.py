"""One layer applied again and again (von Oswald et al., roll-out of a trained layer)."""

import jax.numpy as jnp

from icl_gd.schema import Size, checked
from icl_gd.types import Circuits, Scalar


@checked
def roll_out(circuits: Circuits, d_input: Size, n_iterations: Size, damping: Scalar = 1.0) -> Circuits:
    """The stack that applies a one-layer model `n_iterations` times, writing `damping` times its update of y slots.

    Only y slots are written, as gradient descent would: x slots stay the inputs. Against it stands gradient
    descent with `damping` times the step size. Without damping the step tuned for one application is too long for many:
    step_size * lambda_max(X X^T / n) exceeds 2 on a good part of prompts.

    Raises:
      ValueError: if the model has more than one layer.
    """
    if circuits.W_KQ.shape[0] != 1:
        raise ValueError(f"roll-out takes a one-layer model, got {circuits.W_KQ.shape[0]} layers")
    write = damping * (jnp.arange(circuits.W_PV.shape[-2]) >= d_input).astype(circuits.W_PV.dtype)
    w_pv = write[None, None, :, None] * circuits.W_PV
    return Circuits(jnp.repeat(circuits.W_KQ, n_iterations, 0), jnp.repeat(w_pv, n_iterations, 0))
