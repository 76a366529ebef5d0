"""Self-attention: of the context only and without biases, as von Oswald et al. have it, or causal, as GPT-2 has it."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool

from icl_gd.models.initial import Initializers
from icl_gd.models.modifications import AUGMENTED, Modification, augmented, modified
from icl_gd.types import Array

TINY = 1e-6  # beside the sum that keys and queries are divided by, as published
MIX_SLOPE = 10  # of the sigmoid that the learned mix passes through

Seen = Bool[Array, "reading read"] | None  # which tokens are read by which; None: all there are


def _softmax(scores: Array, d_head: int, seen: Seen, axis: int) -> Array:
    exact = scores.astype(jnp.promote_types(scores.dtype, jnp.float32)) / d_head**0.5
    exact = exact if seen is None else jnp.where(seen, exact, -jnp.inf)
    return jax.nn.softmax(exact, axis=axis).astype(scores.dtype)


def _relu(scores: Array, seen: Seen, axis: int) -> Array:
    """ReLU of the scores over the number of tokens that are read (Bai et al. 2306.04637)."""
    read = scores.shape[axis] if seen is None else jnp.sum(jnp.broadcast_to(seen, scores.shape), axis, keepdims=True)
    return jax.nn.relu(scores) / jnp.maximum(read, 1)


# From scores, zero where nothing is read, to the pattern that multiplies the values; `axis` is that of the tokens that
# are read. Only softmax scales its scores.
KINDS: dict[str, Callable[[Array, int, Array, Seen, int], Array]] = {
    "linear": lambda scores, d_head, mix, seen, axis: scores,
    "softmax": lambda scores, d_head, mix, seen, axis: _softmax(scores, d_head, seen, axis),
    "relu": lambda scores, d_head, mix, seen, axis: _relu(scores, seen, axis),
    "mixed": lambda scores, d_head, mix, seen, axis: mix * _softmax(scores, d_head, seen, axis) + (1 - mix) * scores,
}


class SelfAttention(nn.Module):
    """`e_i <- sum_heads P W_V sum_j e_j pattern(W_K e_j, W_Q e_i)`, the update of one layer.

    Returns `(update [t e], scores [head t t], pattern [head t t])`. Tokens read the context, which is all but the last:
    that is the query, it reads and is not read, but with `attend_to_query`. In causal attention a token reads itself
    and those before it. What is not read has zero in scores and pattern. With `query_only` the last token alone reads:
    the rows of all three are one, the last of the t.
    """

    n_heads: int
    d_head: int
    initial: Initializers
    kind: str = "linear"  # in KINDS; "mixed" learns how much of it is softmax
    sum_normalised: bool = False  # keys and queries are divided by their sums (Schlag et al. 2102.11174)
    causal: bool = False
    biases: bool = False
    attend_to_query: bool = False
    modification: Modification = Modification()

    @nn.compact
    def __call__(self, tokens: Array, query_only: bool = False) -> tuple[Array, Array, Array]:
        all_read = self.causal or self.attend_to_query
        reading, read = tokens[-1:] if query_only else tokens, tokens if all_read else tokens[:-1]
        e = tokens.shape[-1]
        inner = (self.n_heads, self.d_head, e)
        w_k, w_q, w_v = (self.param(f"W_{name}", self.initial.inputs, inner) for name in "KQV")
        # P reads all heads, side by side: with all of them its fan-in is n_heads * d_head.
        p = self.param("P", self.initial.outputs(self.n_heads), (self.n_heads, e, self.d_head))
        mix = jnp.zeros(())
        if self.kind == "mixed":
            # The published code's one weight, of fan-in one, behind a steep sigmoid.
            mix = jax.nn.sigmoid(MIX_SLOPE * self.param("mix", self.initial.inputs, (1, 1, 1))[0, 0, 0])
        bias = lambda name, *shape: self.param(f"b_{name}", nn.initializers.zeros, shape)
        biases = {name: bias(name, self.n_heads, self.d_head)[:, None] for name in "QKV"} if self.biases else {}
        held = self._held()

        def in_heads(name: str, weights: Array, tokens: Array) -> Array:
            """Keys, queries or values `[head t d_head]`."""
            found = jnp.einsum("hke,te->htk", weights, tokens)
            found = found + biases[name] if self.biases else found
            if name == "Q" or AUGMENTED[name] not in held:
                return found
            return augmented(held, name, found.swapaxes(1, 2)).swapaxes(1, 2)

        # Weights of heads as wide as a token meet each other before they meet tokens: so there are fewer products per
        # token, and, in the first layer, gradients need half as many of the products over pairs of tokens.
        grown = "augment_keys" in held or "augment_values" in held
        wide = self.d_head >= e and not self.biases and not grown
        keys = None if wide else in_heads("K", w_k, read)

        def scores_of(reading: Array) -> Array:
            if keys is None:
                return jnp.einsum("hic,jc->hij", jnp.einsum("hkc,hke,ie->hic", w_k, w_q, reading), read)
            return jnp.einsum("hik,hjk->hij", in_heads("Q", w_q, reading), keys)

        scores = scores_of(reading)
        if self.sum_normalised:
            total = lambda w, tokens: jnp.einsum("hke,te->ht", w, tokens) + TINY
            scores = scores / (total(w_q, reading)[:, :, None] * total(w_k, read)[:, None, :])
        seen = jnp.tri(len(reading), len(read), len(read) - len(reading), dtype=bool) if self.causal else None
        if seen is not None:
            scores = jnp.where(seen, scores, 0.0)
        pattern = KINDS[self.kind](scores, self.d_head, mix, seen, -1)
        if self.modification.there:
            own = None
            if "beta" in held:  # every demonstration has its own negative samples, by what it would read itself
                own = scores_of(read) if query_only else scores
            pattern = modified(held, pattern, own, self.causal)
        if wide:
            update = jnp.einsum("hek,hkc,hic->ie", p, w_v, jnp.einsum("hij,jc->hic", pattern, read))
        else:
            update = jnp.einsum("hek,hik->ie", p, jnp.einsum("hij,hjk->hik", pattern, in_heads("V", w_v, read)))
        if self.biases:
            update = update + bias("P", e)[None]
        if all_read:
            return update, scores, pattern
        unread = lambda of_context: jnp.pad(of_context, ((0, 0), (0, 0), (0, 1)))
        return update, unread(scores), unread(pattern)

    def _held(self) -> dict[str, Array]:
        """What is there of a modification, which nobody trains, and the perceptrons that augment, one for all heads."""
        values = self.modification.there.items()
        held = {name: self.param(name, lambda key, value=value: jnp.asarray(value, float)) for name, value in values}
        square = (self.d_head, self.d_head)
        for name in (name for name, asked in AUGMENTED.items() if asked in held):
            held |= {f"g_{name}_{i}": self.param(f"g_{name}_{i}", self.initial.inputs, square) for i in (1, 2)}
        return held
