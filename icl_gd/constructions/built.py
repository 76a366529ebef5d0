"""Constructions as models: Transformers that are built to compute a known learner, ready to predict and to look into.

>>> import jax.numpy as jnp
>>> model = gd_plus_plus_model(d_input=2, d_output=1, n_context=2, step_sizes=[0.5, 0.3], gammas=[0.2, 0.0])
>>> model(jnp.eye(2), jnp.ones((2, 1)), jnp.ones(2)).shape
(1,)
>>> model.config.n_layers
2
"""

import numpy as np

from icl_gd import tokens
from icl_gd.constructions.copying import copying_config, copying_weights
from icl_gd.constructions.gd_plus_plus import gd_plus_plus_weights
from icl_gd.constructions.gradient_descent import gradient_descent_config, gradient_descent_weights
from icl_gd.models.model import Model
from icl_gd.schema import Size, checked
from icl_gd.tokens import D_POSITIONS, PositionWidth
from icl_gd.types import Array, Positive, Rates

COPYING_SCALE = 32.0  # in float32, the copying error is then below rounding


@checked
def gradient_descent_model(
    d_input: Size,
    d_output: Size,
    n_context: Size,
    step_sizes: Rates,
    shared: bool = False,
    w0: Array | np.ndarray | None = None,
    preconditioner: Array | np.ndarray | None = None,
) -> Model:
    """The smallest Transformer that performs gradient descent, one step per layer.

    Args:
      d_input: d, the width of x.
      d_output: m, the width of y.
      n_context: number of examples n over which a step averages.
      step_sizes: eta of every step, not divided by n.
      shared: all layers share one set of weights; all step sizes must be equal. Default: False.
      w0: start W_0 `[m d]`. Default: zero.
      preconditioner: the matrix A `[d d]`. Default: the identity.

    Returns:
      The model: `learners.gradient_descent(step_sizes)` for the default start and preconditioner.

    Raises:
      ValueError: if a size is not positive, or shared layers have different step sizes.

    Source: von Oswald et al. 2212.07677, Proposition 1; the proof is in `constructions.gradient_descent`.
    """
    config = gradient_descent_config(d_input, d_output, len(step_sizes), shared)
    weights = gradient_descent_weights(config, d_input, n_context, step_sizes, w0, preconditioner)
    return Model(config, weights, tokens.concatenated(d_input, d_output, w0))


@checked
def gd_plus_plus_model(
    d_input: Size, d_output: Size, n_context: Size, step_sizes: Rates, gammas: Rates, shared: bool = False
) -> Model:
    """The smallest Transformer that performs GD++, one step per layer.

    Args:
      d_input: d, the width of x.
      d_output: m, the width of y.
      n_context: number of examples n over which a step averages.
      step_sizes, gammas: eta and gamma of every step, not divided by n.
      shared: all layers share one set of weights; all pairs of rates must be equal. Default: False.

    Returns:
      The model: `learners.gd_plus_plus(step_sizes, gammas)`.

    Raises:
      ValueError: if a size is not positive, the numbers of rates differ, or shared layers have different rates.

    Source: von Oswald et al. 2212.07677, appendix A.10; the proof is in `constructions.gd_plus_plus`.
    """
    config = gradient_descent_config(d_input, d_output, len(step_sizes), shared)
    weights = gd_plus_plus_weights(config, d_input, n_context, step_sizes, gammas)
    return Model(config, weights, tokens.concatenated(d_input, d_output))


@checked
def copying_model(
    d_input: Size,
    d_output: Size,
    n_context: Size,
    step_sizes: Rates,
    d_positions: PositionWidth = D_POSITIONS,
    scale: Positive = COPYING_SCALE,
) -> Model:
    """The smallest Transformer that merges separate tokens of x and y in one layer, and then performs gradient descent.

    Args:
      d_input: d, the width of x.
      d_output: m, the width of y.
      n_context: number of examples n over which a step averages.
      step_sizes: eta of every step, not divided by n.
      d_positions: width of the positional encodings. Default: 10.
      scale: scale of the copying layer's scores; the copying error decreases exponentially with it. Default: 32.

    Returns:
      The model: `learners.gradient_descent(step_sizes)`, up to the copying error.

    Raises:
      ValueError: if a size is not positive.

    Source: von Oswald et al. 2212.07677, section on separate tokens; the proof is in `constructions.copying`.
    """
    config = copying_config(d_input, d_output, d_positions, len(step_sizes))
    next_place = tokens.shift(d_positions, 1)
    weights = copying_weights(config, d_input, n_context, step_sizes, next_place, scale)
    return Model(config, weights, tokens.interleaved(d_input, d_output, d_positions, own_slots=True))
