"""Self-attention as von Oswald et al. write it: no biases, no 1/sqrt(d_head), keys and values from the context only."""

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.initializers import variance_scaling

from icl_gd.types import Array, Scalar


class LinearSelfAttention(nn.Module):
    """`e_i <- sum_heads P W_V sum_{j in context} e_j (W_K e_j)^T (W_Q e_i)`, the update of one layer.

    Returns `(update [t e], scores [head t t], pattern [head t t])`. The last token is the query: it reads and is
    never read, so its column of the scores is zero.
    """

    n_heads: int
    d_head: int
    init_variance: Scalar  # of a weight, times its fan-in

    @nn.compact
    def __call__(self, tokens: Array) -> tuple[Array, Array, Array]:
        t, e = tokens.shape
        # Truncated normal with variance init_variance / fan_in, corrected for the truncation, as in the published code.
        into = variance_scaling(self.init_variance, "fan_in", "truncated_normal", in_axis=-1, out_axis=-2, batch_axis=0)
        shape = (self.n_heads, self.d_head, e)
        w_k = self.param("W_K", into, shape)
        w_q = self.param("W_Q", into, shape)
        w_v = self.param("W_V", into, shape)
        # P reads all heads, side by side: with all of them its fan-in is n_heads * d_head.
        out = variance_scaling(self.init_variance / self.n_heads, "fan_in", "truncated_normal", in_axis=-1, out_axis=-2,
                               batch_axis=0)  # fmt: skip
        p = self.param("P", out, (self.n_heads, e, self.d_head))

        queries = jnp.einsum("hke,te->htk", w_q, tokens)
        keys = jnp.einsum("hke,te->htk", w_k, tokens)
        values = jnp.einsum("hke,te->htk", w_v, tokens)
        in_context = (jnp.arange(t) < t - 1).astype(tokens.dtype)
        scores = jnp.einsum("hik,hjk->hij", queries, keys) * in_context[None, None, :]
        pattern = scores
        update = jnp.einsum("hek,hij,hjk->ie", p, pattern, values)
        return update, scores, pattern
