"""Weights that merge separate tokens x_1, y_1, x_2, ... in a first layer, and then take steps of gradient descent.

Claim. Let tokens be those of the interleaved layout with slots of their own, (x part, y part, place, prediction):
(x_j, 0, p_i, 0) at the places i = 2j - 1, (0, y_j, p_i, 0) at i = 2j, and, last, the query (x_q, 0, p_{2n+1}, 0). Let R
be a matrix with R p_i = p_{i+1} for every place, and let the codes p be of one norm, no two of them equal. Then, as s
goes to infinity, the layer of softmax attention with

    W_K = [0, 0, I, 0]    W_Q = sqrt(d_head) s [0, 0, R, 0]    P W_V = diag(0, I_m, 0, 0)

merges neighbours, (x_j, y_j, p, 0), and the layers of linear attention behind it, l = 1..K, with

    W_K = [I_d, 0, 0, 0]    W_Q = [A, 0, 0, 0]    W_V = [0, -I_m, 0, -I_m]    P = eta_l / n into the prediction's slots

take steps of gradient descent from zero: they leave -W_l x_q in the query's last slots; A = I is gradient descent.

Proof. The score of token i on token j is, over sqrt(d_head), s <p_{i+1}, p_j>. By Cauchy and Schwarz that is s |p|^2
for j = i + 1, and for every other j less by s g at least, where g > 0 is the smallest of finitely many gaps. So the
pattern of a token whose successor is in the context is one there and zero elsewhere, up to 2n exp(-s g). What it
receives is its successor's y part. Hence

    the token of x_j receives y_j, and becomes (x_j, y_j, p, 0);
    the token of y_j receives the y part of x_{j+1}, which is zero; that of y_n, whose successor is the query, which is
    never read, receives some mean of y parts; all have an x part of zero;
    the query too receives some mean of y parts, and has zero in its last slots.

In the layers behind it nobody writes x parts and y parts. Tokens of labels have keys of zero, whatever their values:
they are never heard. For the tokens of inputs let the last slots hold -W_{l-1} x_j before layer l, and for the query
-W_{l-1} x_q; before the first that is zero. Values are then W_{l-1} x_j - y_j, and with scores x_j^T A x every token of
x part x receives eta_l/n sum_j (W_{l-1} x_j - y_j) x_j^T A x = -(W_l - W_{l-1}) x. The y part of the query is a value,
and queries are never read. QED

Why slots of their own: where y shares those of x, as in the published layout, tokens of labels have keys that are not
zero, and where the prediction has none, the query starts from what its softmax has to read though nothing follows it.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from icl_gd.models.config import TransformerConfig
from icl_gd.models.transformer import Params
from icl_gd.schema import Count, Size, checked
from icl_gd.types import Array, Positive


@checked
def copying_config(d_input: Size, d_output: Size, d_positions: Size, n_steps: Count = 1) -> TransformerConfig:
    """The smallest Transformer that holds the copying layer and `n_steps` steps of gradient descent."""
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
    step_sizes: Sequence[float] | np.ndarray,
    next_place: Array | np.ndarray,
    scale: Positive,
    preconditioner: Array | np.ndarray | None = None,
) -> Params:
    """Parameters for `config` whose first layer copies and whose others are gradient steps; one head writes.

    Args:
      config: tokens of width d + 2 m + d_positions, softmax in the first layer and linear layers behind it, as many as
        steps, heads that hold the widest part of a token, no clip below what is copied.
      n_context: the number of examples n the step is averaged over.
      step_sizes: eta of every step.
      next_place: the matrix R `[d_positions d_positions]` that takes the code of every place to the next one's.
      scale: s, of the scores; what is left of other tokens falls exponentially with it.
      preconditioner: the matrix A `[d d]`; identity when left out.

    Raises:
      ValueError: if the config cannot hold them.
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
            f"attention={config.kinds}, shared={config.shared}: needs softmax, then a linear layer of its own for each "
            f"of {len(step_sizes)} steps"
        )
    x, y, place, out = slice(0, d), slice(d, d + m), slice(d + m, d + m + d_positions), slice(config.d_token - m, None)
    first = lambda size: slice(0, size)  # rows of the head
    empty, write = jnp.zeros((heads, width, config.d_token)), jnp.zeros((heads, config.d_token, width))
    identity = jnp.eye(m)
    copy = {
        "W_K": empty.at[0, first(d_positions), place].set(jnp.eye(d_positions)),
        "W_Q": empty.at[0, first(d_positions), place].set(width**0.5 * scale * jnp.asarray(next_place)),
        "W_V": empty.at[0, first(m), y].set(identity),
        "P": write.at[0, y, first(m)].set(identity),
    }
    a = jnp.eye(d) if preconditioner is None else jnp.asarray(preconditioner)
    step = {
        "W_K": empty.at[0, first(d), x].set(jnp.eye(d)),
        "W_Q": empty.at[0, first(d), x].set(a),
        "W_V": empty.at[0, first(m), y].set(-identity).at[0, first(m), out].set(-identity),
    }
    steps = [{**step, "P": write.at[0, out, first(m)].set(float(eta) / n_context * identity)} for eta in step_sizes]
    return {name: {"attention": layer} for name, layer in zip(config.blocks, [copy, *steps], strict=True)}
