"""Self-attention as von Oswald et al. write it: no biases, keys and values from the context only."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import variance_scaling

from icl_gd.types import Array, Scalar

TINY = 1e-6  # beside the sum that keys and queries are divided by, as published


def _softmax(scores: Array, d_head: int) -> Array:
    return jax.nn.softmax(scores / d_head**0.5, axis=-1)


# From scores to the pattern that multiplies the values. Only softmax scales its scores.
KINDS: dict[str, Callable[[Array, int, Array], Array]] = {
    "linear": lambda scores, d_head, mix: scores,
    "softmax": lambda scores, d_head, mix: _softmax(scores, d_head),
    "mixed": lambda scores, d_head, mix: mix * _softmax(scores, d_head) + (1 - mix) * scores,
}


class SelfAttention(nn.Module):
    """`e_i <- sum_heads P W_V sum_{j in context} e_j pattern(W_K e_j, W_Q e_i)`, the update of one layer.

    Returns `(update [t e], scores [head t t], pattern [head t t])`. The last token is the query: it reads and is
    never read, so its column of the scores and of the pattern is zero. With `query_only` it alone reads: the rows
    of all three are one, the last of the t.
    """

    n_heads: int
    d_head: int
    init_variance: Scalar  # of a weight, times its fan-in
    kind: str = "linear"  # in KINDS; "mixed" learns how much of it is softmax
    normalised: bool = False  # keys and queries are divided by their sums (Schlag et al. 2102.11174)

    @nn.compact
    def __call__(self, tokens: Array, query_only: bool = False) -> tuple[Array, Array, Array]:
        reading, context, e = tokens[-1:] if query_only else tokens, tokens[:-1], tokens.shape[-1]
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
        mix = jnp.zeros(())
        if self.kind == "mixed":
            # The published code's one weight, of fan-in one, behind a sigmoid of slope ten.
            mix = jax.nn.sigmoid(10 * self.param("mix", into, (1, 1, 1))[0, 0, 0])

        # Weights meet each other before they meet tokens: so there are fewer products per token, and, in the first
        # layer, gradients need half as many of the products over pairs of tokens.
        asked = jnp.einsum("hkc,hke,ie->hic", w_k, w_q, reading)
        scores = jnp.einsum("hic,jc->hij", asked, context)
        if self.normalised:
            total = lambda w, tokens: jnp.einsum("hke,te->ht", w, tokens) + TINY
            scores = scores / (total(w_q, reading)[:, :, None] * total(w_k, context)[:, None, :])
        pattern = KINDS[self.kind](scores, self.d_head, mix)
        seen = jnp.einsum("hij,jc->hic", pattern, context)
        update = jnp.einsum("hek,hkc,hic->ie", p, w_v, seen)
        unread = lambda of_context: jnp.pad(of_context, ((0, 0), (0, 0), (0, 1)))
        return update, unread(scores), unread(pattern)
