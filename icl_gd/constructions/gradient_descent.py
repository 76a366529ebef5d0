"""Weights with which linear self-attention performs gradient descent (von Oswald et al. 2212.07677, Proposition 1).

Claim. Let the tokens be concatenated, e_j = (x_j, y_j), with the query (x_q, -W_0 x_q). Layers l = 1..K with

    W_K = diag(I_d, 0)    W_Q = diag(A, 0)    W_V = [[0, 0], [W_0, -I_m]]    P = (eta_l / n) I

leave -W_l x_q in the y slot of the query, where W_l = W_{l-1} - eta_l/n sum_i (W_{l-1} x_i - y_i) x_i^T A. For A = I,
this is plain gradient descent from W_0.

Proof by induction over l. Invariant: before layer l, the x slots are x_j, the y slot of a context token is
y_j - (W_{l-1} - W_0) x_j, and the y slot of the query is -W_{l-1} x_q. Before layer 1 this is true by the encoding.

The value of context token i is (0, W_0 x_i - [y_i - (W_{l-1} - W_0) x_i]) = (0, W_{l-1} x_i - y_i). The score of query
token j on key token i is (W_K e_i)^T (W_Q e_j) = x_i^T A x_j. Token j therefore receives
(0, eta_l/n sum_i (W_{l-1} x_i - y_i) x_i^T A x_j) = (0, -(W_l - W_{l-1}) x_j). The y slot of a context token becomes
y_j - (W_l - W_0) x_j, and that of the query becomes -W_{l-1} x_q - (W_l - W_{l-1}) x_q = -W_l x_q. The x slots do not
change. QED

By the invariant, the y slots of the context are the residuals y_j - W_l x_j only if W_0 = 0.

Deep features. Suppose an embedding produces (phi_j, t_j) for token j and (phi_q, t_q) for the query. The same layers,
built with W_0 = 0, perform gradient steps from W = 0 on a linear head W of the features phi with targets t. The
prediction of the layers is W phi_q - t_q, where W is the head after the last step. Proof: the layers process
(phi_j, t_j) as they process (x_j, y_j). The y slot of the query starts at t_q instead of 0, and every layer only adds
to this slot. So the induction holds with t_q - W_l phi_q in place of -W_l x_q. QED

The layers make the same prediction as gradient descent:

    >>> from icl_gd import learners, models, tokens
    >>> config = gradient_descent_config(d_input=2, d_output=1, n_steps=2)
    >>> params = gradient_descent_weights(config, d_input=2, n_context=2, step_sizes=[0.5, 0.3])
    >>> problem = jnp.eye(2), jnp.array([[1.0], [2.0]]), jnp.array([1.0, -2.0])
    >>> y_hat = jax.jit(models.predictor(config, params, tokens.concatenated(2, 1)))(*problem)
    >>> np.allclose(y_hat, learners.gradient_descent([0.5, 0.3])(*problem), atol=1e-6)
    True
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
    """Config of the smallest Transformer that can perform `n_steps` steps of gradient descent.

    Args:
      d_input: width of x.
      d_output: width of y.
      n_steps: number of steps and of layers.
      shared: all layers share one set of weights, so all steps have the same step size. Default: False.

    Returns:
      The config, for concatenated tokens.

    Raises:
      ValueError: if a size is not positive.
    """
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
    """Parameters with which layer l of a Transformer performs step l of gradient descent.

    Only the first head is used; the outputs of the other heads are zero.

    Args:
      config: a Transformer with residual width d + m, one layer per step, and `d_head` at least max(d, m). If layers
        share weights, all step sizes must be equal. If the config embeds its tokens, d is the number of features, and
        the returned parameters have no embedding.
      d_input: d, the width of x or of the features; m is the rest of the residual width.
      n_context: number of examples n over which a step averages.
      step_sizes: eta of every step, not divided by n.
      w0: start W_0 `[m d]`; pass the same to the layout (`tokens.concatenated`). Default: zero.
      preconditioner: the matrix A `[d d]`. Default: the identity.

    Returns:
      The parameters of the attention layers.

    Raises:
      ValueError: if the config does not have these widths and layers, or shared layers have different step sizes.
    """
    d, m = d_input, config.width - d_input
    width = config.head_width
    if len(step_sizes) != config.n_layers:
        raise ValueError(f"{len(step_sizes)} step sizes for n_layers={config.n_layers}; give one step size per layer")
    if config.shared and len(set(map(float, step_sizes))) > 1:
        raise ValueError("the step sizes differ, but shared=True needs equal step sizes; set shared=False")
    if m < 1 or width < max(d, m):
        raise ValueError(
            f"width={config.width}, d_head={width} cannot hold d_input={d}: needs width=d_input+m with m>=1, and "
            "d_head>=max(d_input,m)"
        )

    sizes = {name: float(step_size) / n_context for name, step_size in zip(config.blocks, step_sizes, strict=True)}
    start = np.zeros((m, d)) if w0 is None else w0
    a = np.eye(d) if preconditioner is None else preconditioner
    return _build((config.n_heads, width, d, m), sizes, start, a)


@partial(jax.jit, static_argnums=0)  # compiled once per shape
def _build(shape: tuple[int, int, int, int], sizes: dict[str, Scalar], w0: Array, a: Array) -> Params:
    """Layers with the sizes `(n_heads, d_head, d, m)`; `sizes` maps every layer to its step size / n."""
    heads, width, d, m = shape
    x, y, label = slice(0, d), slice(d, d + m), slice(0, m)
    empty = jnp.zeros((heads, width, d + m))
    # The first m entries of the head are the y part of the value. The zero rows of W_V in the claim are omitted.
    w_v = empty.at[0, label, x].set(w0).at[0, label, y].set(-jnp.eye(m))
    layer = {"W_K": empty.at[0, x, x].set(jnp.eye(d)), "W_Q": empty.at[0, x, x].set(a), "W_V": w_v}
    write = jnp.zeros((heads, d + m, width)).at[0, y, label].set(jnp.eye(m))
    return {name: {"attention": {**layer, "P": size * write}} for name, size in sizes.items()}
