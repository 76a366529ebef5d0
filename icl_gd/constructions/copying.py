"""Weights for separate tokens x_1, y_1, x_2, ...: the first layer merges x_j and y_j, the others run gradient descent.

Claim. A token has four parts: x, y, positional encoding p and prediction, each in separate slots (the interleaved
layout with `own_slots=True`). The tokens are (x_j, 0, p_i, 0) at position i = 2j - 1, (0, y_j, p_i, 0) at i = 2j, and
last the query (x_q, 0, p_{2n+1}, 0). Let all positional encodings have the same norm, let no two of them be equal, and
let R be a matrix with R p_i = p_{i+1} for every position. In the limit of large s, the layer of softmax attention with

    W_K = [0, 0, I, 0]    W_Q = sqrt(d_head) s [0, 0, R, 0]    P W_V = diag(0, I_m, 0, 0)

turns the token of x_j into (x_j, y_j, p, 0). The following layers of linear attention, l = 1..K, with

    W_K = [I_d, 0, 0, 0]    W_Q = [A, 0, 0, 0]    W_V = [0, -I_m, 0, -I_m]    P = eta_l / n to the prediction slots

perform gradient descent from W_0 = 0 with preconditioner A: layer l leaves -W_l x_q in the prediction slots of the
query, where W_l are the weights after l steps. With A = I this is plain gradient descent.

Proof. First layer. The score of query token i on key token j, divided by sqrt(d_head), is s <p_{i+1}, p_j>. By
Cauchy-Schwarz, it is largest for j = i + 1, where it is s |p|^2. For every other j it is smaller by at least s g, where
g > 0 is the smallest of the finitely many gaps |p|^2 - <p_{i+1}, p_j>. If the next token is in the context, the
attention pattern of a token is therefore one at the next token and zero elsewhere, up to 2n exp(-s g). So the token
receives the y part of the next token. Hence:

* The token of x_j receives y_j, and becomes (x_j, y_j, p, 0).
* The token of y_j with j < n receives the y part of the token of x_{j+1}, which is zero. After the token of y_n comes
  the query, which is never a key, so the token of y_n receives some mean of y parts. In all label tokens, the x part
  is zero.
* The query receives some mean of y parts. Its prediction slots are zero.

Following layers. They do not write into x parts and y parts. Label tokens have keys equal to zero, so their values do
not matter. Assume that before layer l the prediction slots are -W_{l-1} x_j in the token of x_j, and -W_{l-1} x_q in
the query. Before layer 1 this is true, because W_0 = 0. The value of the token of x_j is then W_{l-1} x_j - y_j, and
the score of a query token with x part x on this key token is x_j^T A x. So every token with x part x receives
eta_l/n sum_j (W_{l-1} x_j - y_j) x_j^T A x = -(W_l - W_{l-1}) x. The y part of the query affects only the value of the
query, which is not used, because the query is never a key. QED

Separate slots are needed for two reasons. First, in the published layout y shares the slots of x, so the keys of label
tokens are not zero. Second, without prediction slots, the prediction would start at the positional encoding of the
query. This encoding is not zero, because all positional encodings have the same norm.

The layers make the same prediction as gradient descent:

    >>> import jax
    >>> from icl_gd import learners, models, tokens
    >>> config = copying_config(d_input=2, d_output=1, d_positions=6)
    >>> layout = tokens.interleaved(2, 1, d_positions=6, own_slots=True)
    >>> @jax.jit
    ... def predict(x, y, x_query):
    ...     next_place = tokens.shift(6, 1)
    ...     params = copying_weights(config, 2, n_context=2, step_sizes=[0.5], next_place=next_place, scale=1e3)
    ...     return models.predictor(config, params, layout)(x, y, x_query)
    >>> problem = jnp.eye(2), jnp.array([[1.0], [2.0]]), jnp.array([1.0, -2.0])
    >>> abs(predict(*problem) - learners.gradient_descent([0.5])(*problem)).item() < 1e-4
    True
"""

import jax.numpy as jnp
import numpy as np

from icl_gd.models.config import TransformerConfig
from icl_gd.models.transformer import Params
from icl_gd.schema import Count, Size, checked
from icl_gd.types import Array, Positive, Rates


@checked
def copying_config(d_input: Size, d_output: Size, d_positions: Size, n_steps: Count = 1) -> TransformerConfig:
    """Config of the smallest Transformer with a copying layer and `n_steps` steps of gradient descent.

    Args:
      d_input: width of x.
      d_output: width of y.
      d_positions: width of the positional encodings.
      n_steps: number of gradient steps; the Transformer has `n_steps + 1` layers. Default: 1.

    Returns:
      The config, for `tokens.interleaved(d_input, d_output, d_positions, own_slots=True)`.

    Raises:
      ValueError: if a size is not positive.
    """
    return TransformerConfig(
        d_token=d_input + 2 * d_output + d_positions,
        n_layers=1 + n_steps,
        d_head=max(d_input, d_output, d_positions),
        attention=("softmax", *["linear"] * n_steps),
    )


@checked
def copying_weights(
    config: TransformerConfig,
    d_input: Size,
    n_context: Size,
    step_sizes: Rates,
    next_place: Array | np.ndarray,
    scale: Positive,
    preconditioner: Array | np.ndarray | None = None,
) -> Params:
    """Parameters of a Transformer whose first layer copies labels and whose other layers perform gradient descent.

    Only the first head of every layer is used; the outputs of the other heads are zero.

    Args:
      config: a Transformer with token width d + 2m + d_positions, a softmax layer followed by one linear layer per
        step, `shared=False`, and `d_head` at least max(d, m, d_positions). If there is a clip, it must be larger than
        all entries of the tokens.
      d_input: d, the width of x.
      n_context: number of examples n over which a step averages.
      step_sizes: eta of every step, not divided by n.
      next_place: the matrix R `[d_positions d_positions]`, which maps the encoding of every position to that of the
        next position (`tokens.shift`).
      scale: s, the scale of the scores. The copying error decreases exponentially with s.
      preconditioner: the matrix A `[d d]`. Default: the identity.

    Returns:
      The parameters of the attention layers.

    Raises:
      ValueError: if the config does not have these widths and layers.
    """
    d, d_positions, width, heads = d_input, len(next_place), config.head_width, config.n_heads
    m, odd = divmod(config.d_token - d - d_positions, 2)
    if m < 1 or odd or width < max(d, m, d_positions):
        raise ValueError(
            f"d_token={config.d_token}, d_head={width} cannot hold d_input={d}, d_positions={d_positions}: needs "
            f"d_token=d_input+2m+{d_positions} with m>=1, and d_head>=max(d_input,m,{d_positions})"
        )
    if config.kinds != ("softmax", *["linear"] * len(step_sizes)) or config.shared:
        raise ValueError(
            f"attention={config.kinds}, shared={config.shared}: needs softmax, then one linear layer for each of "
            f"{len(step_sizes)} steps, and shared=False"
        )
    x, y, out = slice(0, d), slice(d, d + m), slice(config.d_token - m, None)
    position = slice(d + m, d + m + d_positions)

    def rows(size: int) -> slice:
        """The first `size` rows of the head."""
        return slice(0, size)

    empty, write = jnp.zeros((heads, width, config.d_token)), jnp.zeros((heads, config.d_token, width))
    identity = jnp.eye(m)
    copy = {
        "W_K": empty.at[0, rows(d_positions), position].set(jnp.eye(d_positions)),
        "W_Q": empty.at[0, rows(d_positions), position].set(width**0.5 * scale * jnp.asarray(next_place)),
        "W_V": empty.at[0, rows(m), y].set(identity),
        "P": write.at[0, y, rows(m)].set(identity),
    }
    a = jnp.eye(d) if preconditioner is None else jnp.asarray(preconditioner)
    step = {
        "W_K": empty.at[0, rows(d), x].set(jnp.eye(d)),
        "W_Q": empty.at[0, rows(d), x].set(a),
        "W_V": empty.at[0, rows(m), y].set(-identity).at[0, rows(m), out].set(-identity),
    }
    steps = [{**step, "P": write.at[0, out, rows(m)].set(float(eta) / n_context * identity)} for eta in step_sizes]
    return {name: {"attention": layer} for name, layer in zip(config.blocks, [copy, *steps], strict=True)}
