"""Layouts: how a problem becomes tokens and how the prediction is read back."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Float

from icl_gd.types import Array, Layout


def concatenated(d_input: int, d_output: int, w0: Array | None = None) -> Layout:
    """Tokens `e_j = (x_j, y_j)` and, last, the query `(x_query, -W_0 x_query)` (von Oswald et al. eq. 5-6).

    Args:
      d_input, d_output: sizes of x and y; the token width is their sum.
      w0: `[m d]`, the weights gradient descent starts from; zero when left out.

    The prediction is minus the query's y slot, so a network that writes nothing predicts `W_0 x_query`.
    """
    start = jnp.zeros((d_output, d_input)) if w0 is None else jnp.asarray(w0)
    if start.shape != (d_output, d_input):
        raise ValueError(f"w0 has shape {start.shape}, expected (d_output, d_input) = {(d_output, d_input)}")

    def encode(x: Float[Array, "n d"], y: Float[Array, "n m"], x_query: Float[Array, " d"]) -> Float[Array, "n+1 e"]:
        context = jnp.concatenate([x, y], axis=-1)
        query = jnp.concatenate([x_query, -start.astype(x_query.dtype) @ x_query])
        return jnp.concatenate([context, query[None]], axis=0)

    def read_out(token: Float[Array, " e"]) -> Float[Array, " m"]:
        return -token[-d_output:]  # of an embedded token too, whatever its width

    return Layout(encode, read_out, d_input + d_output)


LAYOUTS: dict[str, Callable[[int, int], Layout]] = {"concatenated": concatenated}  # by (d_input, d_output)
