"""Weights that make linear self-attention take steps of gradient descent (von Oswald et al., Proposition 1).

Claim. With concatenated tokens e_j = (x_j, y_j), query (x_q, -W_0 x_q), the layer l = 1..K with

    W_K = diag(I_d, 0)    W_Q = diag(A, 0)    W_V = [[0, 0], [W_0, -I_m]]    P = (eta_l / n) I

leaves in the query's y slot -W_l x_q, where W_l = W_{l-1} - eta_l/n sum_i (W_{l-1} x_i - y_i) x_i^T A; A = I is
gradient descent.

Proof, by induction over l with the invariant that, before layer l, x slots hold x_j, the y slot of a context token
holds y_j - (W_{l-1} - W_0) x_j, and that of the query -W_{l-1} x_q. Before layer 1 this is the encoding.
The value of context token i is (0, W_0 x_i - [y_i - (W_{l-1} - W_0) x_i]) = (0, W_{l-1} x_i - y_i), its score for a
token j is (W_K e_i)^T (W_Q e_j) = x_i^T A x_j. So token j receives (0, eta_l/n sum_i (W_{l-1} x_i - y_i) x_i^T A x_j)
= (0, -(W_l - W_{l-1}) x_j). For a context token that gives y_j - (W_l - W_0) x_j, for the query
-W_{l-1} x_q - (W_l - W_{l-1}) x_q = -W_l x_q; x slots are untouched. QED

The invariant shows why the context's y slots equal the residuals y_j - W_l x_j only when W_0 = 0.

Deep features. Behind an embedding that leaves (phi_j, t_j) of token j and (phi_q, t_q) of the query, the same layers
with W_0 = 0 take steps on a linear head W of the features phi towards the targets t, from W = 0, and predict
W_K phi_q - t_q: the layers cannot tell (phi_j, t_j) from (x_j, y_j), and that the query's slot starts at t_q, not at
0, is added to it in every layer (the induction's last line, with t_q - W_l phi_q for -W_l x_q). QED
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd.models.config import TransformerConfig
from icl_gd.models.transformer import Params
from icl_gd.schema import Size, checked
from icl_gd.types import Array, Rates, Scalar


@checked
def gradient_descent_config(d_input: Size, d_output: Size, n_steps: Size, shared: bool = False) -> TransformerConfig:
    """The smallest Transformer that holds `n_steps` steps of gradient descent."""
    return TransformerConfig(d_token=d_input + d_output, n_layers=n_steps, shared=shared)


@checked
def gradient_descent_weights(
    config: TransformerConfig,
    d_input: Size,
    n_context: Size,
    step_sizes: Rates,
    w0: Array | np.ndarray | None = None,
    preconditioner: Array | np.ndarray | None = None,
) -> Params:
    """Parameters for `config` whose layer l is the l-th gradient step; heads beyond the first write nothing.

    Args:
      config: residuals of width d + m; as many layers as steps; `d_head` at least max(d, m); one step size if shared.
        Where tokens are embedded, d is the width of features and these are the blocks without the embedding.
      n_context: the number of examples n the step is averaged over.
      step_sizes: eta of every step.
      w0: `[m d]` start, the same as that given to the layout; zero when left out.
      preconditioner: the matrix A `[d d]`; identity when left out.

    Raises:
      ValueError: if the config cannot hold the steps.
    """
    d, m = d_input, config.width - d_input
    width = config.head_width
    if len(step_sizes) != config.n_layers:
        raise ValueError(f"{len(step_sizes)} step sizes for a Transformer with n_layers={config.n_layers}")
    if config.shared and len(set(map(float, step_sizes))) > 1:
        raise ValueError("layers with shared weights take one step size; the step sizes differ")
    if m < 1 or width < max(d, m):
        raise ValueError(f"width={config.width}, d_head={width} cannot hold d_input={d}: needs m>=1, d_head>=max(d,m)")

    sizes = {name: float(step_size) / n_context for name, step_size in zip(config.blocks, step_sizes, strict=True)}
    zero, identity = np.zeros((m, d)), np.eye(d)
    shape = config.n_heads, width, d, m
    return _built(shape, sizes, zero if w0 is None else w0, identity if preconditioner is None else preconditioner)


@partial(jax.jit, static_argnums=0)  # one program for all of a shape
def _built(shape: tuple[int, int, int, int], sizes: dict[str, Scalar], w0: Array, a: Array) -> Params:
    """Layers of `(n_heads, d_head, d, m)`, each with its step size over n."""
    heads, width, d, m = shape
    x, y, kept = slice(0, d), slice(d, d + m), slice(0, m)
    empty = jnp.zeros((heads, width, d + m))
    # The head carries the y part of a value in its first m entries: rows of W_V that are zero need no room.
    w_v = empty.at[0, kept, x].set(w0).at[0, kept, y].set(-jnp.eye(m))
    layer = {"W_K": empty.at[0, x, x].set(jnp.eye(d)), "W_Q": empty.at[0, x, x].set(a), "W_V": w_v}
    write = jnp.zeros((heads, d + m, width)).at[0, y, kept].set(jnp.eye(m))
    return {name: {"attention": {**layer, "P": size * write}} for name, size in sizes.items()}
