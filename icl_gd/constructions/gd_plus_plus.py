"""Weights that make linear self-attention take steps of GD++ (von Oswald et al., appendix A.10).

Claim. With concatenated tokens e_j = (x_j, y_j), query (x_q, 0), the layer l = 1..K with

    W_K = W_Q = diag(I_d, 0)    W_V = diag(I_d, -I_m)    P = diag(-gamma_l / n I_d, eta_l / n I_m)

takes the step l of GD++ from zero on every token, and leaves minus its prediction in the query's y slot.

Proof. The score of token i for a token j is x_i^T x_j, with the inputs as they are before the layer. The value of
context token i is (x_i, -y_i). So token j receives (-gamma_l/n sum_i x_i x_i^T x_j, -eta_l/n sum_i y_i x_i^T x_j): its
x slots take the step on the inputs, a context token's y slot that on the labels, and the query's, which starts at -0,
that of minus the prediction. QED
"""

from functools import partial

import jax
import jax.numpy as jnp

from icl_gd.constructions.gradient_descent import gradient_descent_weights
from icl_gd.models.config import TransformerConfig
from icl_gd.models.transformer import Params
from icl_gd.schema import Size, checked
from icl_gd.types import Rates, Scalar


@checked
def gd_plus_plus_weights(
    config: TransformerConfig, d_input: Size, n_context: Size, step_sizes: Rates, gammas: Rates
) -> Params:
    """Parameters for `config` whose layer l is the l-th step of GD++ from zero.

    Args:
      config: token width d + m; as many layers as steps; `d_head` at least d + m; one pair of rates if shared.
      n_context: the number of examples n the steps are averaged over.
      step_sizes, gammas: eta and gamma of every step.

    Raises:
      ValueError: if the config cannot hold the steps.
    """
    params = gradient_descent_weights(config, d_input, n_context, step_sizes)
    if len(gammas) != config.n_layers:
        raise ValueError(f"{len(gammas)} gammas for a Transformer with n_layers={config.n_layers}")
    if config.shared and len(set(map(float, gammas))) > 1:
        raise ValueError("layers with shared weights take one gamma; the gammas differ")
    if config.head_width < config.d_token:
        raise ValueError(f"d_head={config.head_width} must hold x and y: at least d_token={config.d_token}")
    d, m = d_input, config.d_token - d_input
    sizes = {name: -float(gamma) / n_context for name, gamma in zip(config.blocks, gammas, strict=True)}
    return _with_inputs((d, m), sizes, params)


@partial(jax.jit, static_argnums=0)  # one program for all of a shape
def _with_inputs(shape: tuple[int, int], sizes: dict[str, Scalar], params: Params) -> Params:
    """Layers whose heads carry inputs too, each written back times its size."""
    d, m = shape
    # Of a head's entries the first m carry labels; the inputs stand after them.
    x, carried = slice(0, d), slice(m, m + d)
    built = {}
    for name, size in sizes.items():
        layer = params[name]["attention"]
        w_v = layer["W_V"].at[0, carried, x].set(jnp.eye(d))
        built[name] = {"attention": {**layer, "W_V": w_v, "P": layer["P"].at[0, x, carried].set(size * jnp.eye(d))}}
    return built
