"""Weights with which linear self-attention performs GD++ (von Oswald et al. 2212.07677, appendix A.10).

Claim. Let the tokens be concatenated, e_j = (x_j, y_j), with the query (x_q, 0). Layer l = 1..K with

    W_K = W_Q = diag(I_d, 0)    W_V = diag(I_d, -I_m)    P = diag(-gamma_l / n I_d, eta_l / n I_m)

performs step l of GD++ from zero on every token, and leaves minus the prediction in the y slot of the query.

Proof. Let (x_i, y_i) be token i before the layer. The score of query token j on key token i is x_i^T x_j, and the value
of context token i is (x_i, -y_i). So token j receives (-gamma_l/n sum_i x_i x_i^T x_j, -eta_l/n sum_i y_i x_i^T x_j).
For every token, the first part is the GD++ update of the input. For a context token, the second part is the update of
the residual label. For the query, the second part is minus the update of the prediction. The y slot of the query starts
at zero, which is minus the first prediction. QED

The layers make the same prediction as GD++:

    >>> from icl_gd import constructions, learners, models, tokens
    >>> config = constructions.gradient_descent_config(d_input=2, d_output=1, n_steps=2)
    >>> params = gd_plus_plus_weights(config, d_input=2, n_context=2, step_sizes=[0.5, 0.3], gammas=[0.2, 0.0])
    >>> problem = jnp.eye(2), jnp.array([[1.0], [2.0]]), jnp.array([1.0, -2.0])
    >>> y_hat = jax.jit(models.predictor(config, params, tokens.concatenated(2, 1)))(*problem)
    >>> learned = jax.jit(learners.gd_plus_plus([0.5, 0.3], [0.2, 0.0]))(*problem)
    >>> abs(y_hat - learned).item() < 1e-6
    True
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
    """Parameters with which layer l of a Transformer performs step l of GD++ from zero.

    Only the first head is used; the outputs of the other heads are zero.

    Args:
      config: a Transformer with token width d + m, one layer per step, and `d_head` at least d + m. If layers share
        weights, all pairs of rates must be equal.
      d_input: d, the width of x; m is the rest of the token width.
      n_context: number of examples n over which a step averages.
      step_sizes, gammas: eta and gamma of every step, not divided by n.

    Returns:
      The parameters of the attention layers.

    Raises:
      ValueError: if the config does not have these widths and layers, or shared layers have different rates.
    """
    params = gradient_descent_weights(config, d_input, n_context, step_sizes)
    if len(gammas) != config.n_layers:
        raise ValueError(f"{len(gammas)} gammas for n_layers={config.n_layers}; give one gamma per layer")
    if config.shared and len(set(map(float, gammas))) > 1:
        raise ValueError("the gammas differ, but shared=True needs equal gammas; set shared=False")
    if config.head_width < config.d_token:
        raise ValueError(f"d_head={config.head_width} cannot hold x and y: needs d_head>=d_token={config.d_token}")
    d, m = d_input, config.d_token - d_input
    sizes = {name: -float(gamma) / n_context for name, gamma in zip(config.blocks, gammas, strict=True)}
    return _with_inputs((d, m), sizes, params)


@partial(jax.jit, static_argnums=0)  # compiled once per shape
def _with_inputs(shape: tuple[int, int], sizes: dict[str, Scalar], params: Params) -> Params:
    """Adds the GD++ update of the inputs to gradient-descent layers; `sizes` maps every layer to its -gamma / n."""
    d, m = shape
    # The first m entries of the head are used for labels, the next d for inputs.
    x, head_x = slice(0, d), slice(m, m + d)
    built = {}
    for name, size in sizes.items():
        layer = params[name]["attention"]
        w_v = layer["W_V"].at[0, head_x, x].set(jnp.eye(d))
        built[name] = {"attention": {**layer, "W_V": w_v, "P": layer["P"].at[0, x, head_x].set(size * jnp.eye(d))}}
    return built
