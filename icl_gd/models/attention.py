"""Self-attention, either over the context only (von Oswald et al. 2212.07677) or causal (GPT-2).

>>> from icl_gd.models.initial import von_oswald
>>> layer = SelfAttention(n_heads=2, d_head=3, initial=von_oswald(init_scale=1.0, n_layers=1))
>>> (update, scores, pattern), params = layer.init_with_output(jax.random.key(0), jnp.ones((5, 4)))
>>> update.shape, scores.shape, pattern.shape
((5, 4), (2, 5, 5), (2, 5, 5))
>>> scores[0, :, -1].tolist()  # the query, the last token, is not a key
[0.0, 0.0, 0.0, 0.0, 0.0]
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from icl_gd.models.initial import Initializers
from icl_gd.models.modifications import AUGMENTED, UNMODIFIED, Modification, augmented, modified
from icl_gd.types import Array

TINY = 1e-6  # added to the sums by which keys and queries are divided, as in the code of von Oswald et al.
MIX_SLOPE = 10  # slope of the sigmoid of the learned mix, as in the code of von Oswald et al.

At = Callable[[str, Array], Array]  # `(name of a site, value) -> value`: records or edits an intermediate value

Mask = Bool[Array, "query key"] | None  # True where the query token attends to the key token; None: True everywhere


def _linear(scores: Array, d_head: int, mix: Array, mask: Mask, axis: int) -> Array:
    return scores


def _softmax(scores: Array, d_head: int, mix: Array, mask: Mask, axis: int) -> Array:
    """Softmax of `scores / sqrt(d_head)`, computed in float32 or a wider type."""
    logits = scores.astype(jnp.promote_types(scores.dtype, jnp.float32)) / d_head**0.5
    logits = logits if mask is None else jnp.where(mask, logits, -jnp.inf)
    return jax.nn.softmax(logits, axis=axis).astype(scores.dtype)


def _relu(scores: Array, d_head: int, mix: Array, mask: Mask, axis: int) -> Array:
    """ReLU of the scores, divided by the number of attended tokens (Bai et al. 2306.04637)."""
    if mask is None:
        n_keys = scores.shape[axis]
    else:
        n_keys = jnp.sum(jnp.broadcast_to(mask, scores.shape), axis, keepdims=True)
    return jax.nn.relu(scores) / jnp.maximum(n_keys, 1)


def _mixed(scores: Array, d_head: int, mix: Array, mask: Mask, axis: int) -> Array:
    """The learned combination `mix * softmax + (1 - mix) * linear`."""
    return mix * _softmax(scores, d_head, mix, mask, axis) + (1 - mix) * scores


# Functions `(scores, d_head, mix, mask, axis) -> pattern`, by the kind of attention. `mix` is the softmax fraction of
# mixed attention, and `axis` is the axis of key tokens. Masked scores are zero. Only softmax divides by sqrt(d_head).
KINDS: dict[str, Callable[[Array, int, Array, Mask, int], Array]] = {
    "linear": _linear,
    "softmax": _softmax,
    "relu": _relu,
    "mixed": _mixed,
}


class _Weights(NamedTuple):
    """The parameters of one attention layer."""

    k: Float[Array, "head d_head e"]
    q: Float[Array, "head d_head e"]
    v: Float[Array, "head d_head e"]
    p: Float[Array, "head e d_head"]
    mix: Float[Array, ""]
    biases: dict[str, Array]  # [head 1 d_head] by "Q", "K" and "V"; empty without biases
    modification: dict[str, Array]

    def project(self, name: str, weights: Array | np.ndarray, tokens: Array) -> Array:
        """Projects tokens to keys, queries or values `[head t d_head]`.

        Args:
          name: "K", "Q" or "V".
          weights: `[head d_head e]`, those of the layer for this name.
          tokens: `[t e]`.
        """
        projected = jnp.einsum("hke,te->htk", weights, tokens)
        if self.biases:
            projected = projected + self.biases[name]
        if name == "Q" or AUGMENTED[name] not in self.modification:
            return projected
        return augmented(self.modification, name, projected.swapaxes(1, 2)).swapaxes(1, 2)


class SelfAttention(nn.Module):
    """One attention layer. The update of token i is `sum_heads P W_V sum_j e_j pattern(W_K e_j, W_Q e_i)`.

    By default, every token attends to the context: all tokens except the last, which is the query. With
    `attend_to_query`, every token attends to the query too. In causal attention, a token attends to itself and to the
    tokens before it.

    Attributes:
      n_heads: number of heads.
      d_head: width of a head.
      initial: initialisers of the weights.
      kind: a name in `KINDS`; "mixed" learns a combination of softmax and linear attention.
      sum_normalised: divide keys and queries by the sums of their entries (Schlag et al. 2102.11174).
      causal: mask the tokens after each query token.
      biases: add biases to keys, queries, values and the output.
      attend_to_query: include the last token among the keys of every token.
      modification: strengths of the modifications.
    """

    n_heads: int
    d_head: int
    initial: Initializers
    kind: str = "linear"
    sum_normalised: bool = False
    causal: bool = False
    biases: bool = False
    attend_to_query: bool = False
    modification: Modification = UNMODIFIED

    @nn.compact
    def __call__(self, tokens: Array, query_only: bool = False, at: At | None = None) -> tuple[Array, Array, Array]:
        """Computes the update of tokens `[t e]`.

        Args:
          tokens: `[t e]`, the query last.
          query_only: compute the update of the last token only. Default: False.
          at: function through which every intermediate value passes (see `models.sites`). Weights are not merged then,
            and `query_only` has no effect. Default: None, no value passes through a function.

        Returns:
          `(update [t e], scores [head t t], pattern [head t t])`, where scores and pattern are
          [query token, key token] and zero where the key is masked. With `query_only`, the shapes are `[1 e]` and
          `[head 1 t]`.
        """
        all_attended = self.causal or self.attend_to_query
        query_tokens = tokens[-1:] if query_only else tokens
        key_tokens = tokens if all_attended else tokens[:-1]
        e = tokens.shape[-1]
        weights = self._weights(e)
        if at is not None:
            return self._at_sites(weights, tokens, at)

        merged = self._merges_weights(e, weights)
        if merged:
            scores_of = partial(_merged_scores, weights, key_tokens)
        else:
            scores_of = partial(_scores, weights, weights.project("K", weights.k, key_tokens))
        scores = scores_of(query_tokens)
        if self.sum_normalised:
            scores = scores / (_sums(weights.q, query_tokens)[:, :, None] * _sums(weights.k, key_tokens)[:, None, :])
        mask = _causal_mask(len(query_tokens), len(key_tokens)) if self.causal else None
        if mask is not None:
            scores = jnp.where(mask, scores, 0.0)

        pattern = KINDS[self.kind](scores, self.d_head, weights.mix, mask, -1)
        if self.modification.enabled:
            all_scores = None
            if "negative_weight" in weights.modification:
                # The negative samples of a demonstration depend on its scores as query token.
                all_scores = scores_of(key_tokens) if query_only else scores
            pattern = modified(weights.modification, pattern, all_scores, self.causal)

        update = _merged_update(weights, key_tokens, pattern) if merged else _update(weights, key_tokens, pattern)
        if self.biases:
            update = update + self._bias("P", e)[None]
        if all_attended:
            return update, scores, pattern
        return update, _pad_query(scores), _pad_query(pattern)

    def _at_sites(self, weights: _Weights, tokens: Array, at: At) -> tuple[Array, Array, Array]:
        """Update, scores and pattern, with every intermediate value passed through `at`.

        Keys and values of all tokens are computed, and a mask excludes those that are not attended to.
        """
        t = len(tokens)
        mask = None if self.attend_to_query else jnp.broadcast_to(jnp.arange(t) < t - 1, (t, t))
        if self.causal:
            mask = _causal_mask(t, t)

        def projected(name: str, matrix: Array) -> Array:
            heads = weights.project(name, matrix, tokens).swapaxes(0, 1)
            return at(f"attn.{name.lower()}", heads).swapaxes(0, 1)

        def masked(scores: Array) -> Array:
            return scores if mask is None else jnp.where(mask, scores, 0.0)

        q, k, v = projected("Q", weights.q), projected("K", weights.k), projected("V", weights.v)
        scores = jnp.einsum("hik,hjk->hij", q, k)
        if self.sum_normalised:
            sums = [jnp.sum(z - weights.biases.get(name, 0.0), -1) + TINY for name, z in (("Q", q), ("K", k))]
            scores = scores / (sums[0][:, :, None] * sums[1][:, None, :])
        scores = masked(at("attn.scores", masked(scores)))
        pattern = KINDS[self.kind](scores, self.d_head, weights.mix, mask, -1)
        if self.modification.enabled:
            own_scores = scores if self.modification.negative_weight is not None else None
            pattern = modified(weights.modification, pattern, own_scores, self.causal)
        pattern = at("attn.pattern", pattern)
        z = at("attn.z", jnp.einsum("hij,hjk->ihk", pattern, v))
        update = jnp.sum(at("attn.result", jnp.einsum("hek,ihk->ihe", weights.p, z)), axis=1)
        if self.biases:
            update = update + self._bias("P", tokens.shape[-1])[None]
        return at("attn_out", update), scores, pattern

    def _weights(self, e: int) -> _Weights:
        """Creates or reads the parameters. The order in which they are created determines their initial values."""
        shape = (self.n_heads, self.d_head, e)
        w_k, w_q, w_v = (self.param(f"W_{name}", self.initial.inputs, shape) for name in "KQV")
        # P acts on the concatenated heads, so its fan-in is n_heads * d_head.
        p = self.param("P", self.initial.outputs(self.n_heads), (self.n_heads, e, self.d_head))
        mix = jnp.zeros(())
        if self.kind == "mixed":
            # As in the code of von Oswald et al., the mix is a steep sigmoid of one weight, with fan-in 1.
            mix = jax.nn.sigmoid(MIX_SLOPE * self.param("mix", self.initial.inputs, (1, 1, 1))[0, 0, 0])
        biases = {}
        if self.biases:
            biases = {name: self._bias(name, self.n_heads, self.d_head)[:, None] for name in "QKV"}
        return _Weights(w_k, w_q, w_v, p, mix, biases, self._modification())

    def _bias(self, name: str, *shape: int) -> Array:
        return self.param(f"b_{name}", nn.initializers.zeros, shape)

    def _modification(self) -> dict[str, Array]:
        """The untrained modification strengths, and the trained augmentation MLPs, which all heads share."""
        params: dict[str, Array] = {}
        for name, value in self.modification.enabled.items():
            params[name] = self.param(name, lambda key, value=value: jnp.asarray(value, float))
        shape = (self.d_head, self.d_head)
        for name, strength in AUGMENTED.items():
            if strength in params:
                params[f"g_{name}_1"] = self.param(f"g_{name}_1", self.initial.inputs, shape)
                params[f"g_{name}_2"] = self.param(f"g_{name}_2", self.initial.inputs, shape)
        return params

    def _merges_weights(self, e: int, weights: _Weights) -> bool:
        """Whether to multiply weights with weights before tokens, as `_merged_scores` and `_merged_update` do.

        If heads are at least as wide as a token, this order takes fewer products per token, and the gradient of the
        first layer needs half as many products over pairs of tokens. This order is exact if keys and values are linear
        in the tokens.
        """
        augments = "augment_keys" in weights.modification or "augment_values" in weights.modification
        return self.d_head >= e and not self.biases and not augments


def _scores(weights: _Weights, keys: Array, query_tokens: Array) -> Array:
    """Scores `[head query key]`, computed from keys `[head key d_head]`."""
    return jnp.einsum("hik,hjk->hij", weights.project("Q", weights.q, query_tokens), keys)


def _merged_scores(weights: _Weights, key_tokens: Array, query_tokens: Array) -> Array:
    """Scores `[head query key]`, computed from the QK circuit `W_K^T W_Q`."""
    return jnp.einsum("hic,jc->hij", jnp.einsum("hkc,hke,ie->hic", weights.k, weights.q, query_tokens), key_tokens)


def _sums(weights: Array, tokens: Array) -> Array:
    """Sums `[head t]` over the entries of each key or query; `weights` are W_K or W_Q."""
    return jnp.einsum("hke,te->ht", weights, tokens) + TINY


def _causal_mask(n_queries: int, n_keys: int) -> Bool[Array, "query key"]:
    """The causal mask, for the last `n_queries` of `n_keys` tokens as query tokens."""
    return jnp.tri(n_queries, n_keys, n_keys - n_queries, dtype=bool)


def _update(weights: _Weights, key_tokens: Array, pattern: Array) -> Array:
    """The update `[query e]`: the pattern weights the values, and P projects the result."""
    heads = jnp.einsum("hij,hjk->hik", pattern, weights.project("V", weights.v, key_tokens))
    return jnp.einsum("hek,hik->ie", weights.p, heads)


def _merged_update(weights: _Weights, key_tokens: Array, pattern: Array) -> Array:
    """The update `[query e]`, computed from the OV circuit `P W_V`."""
    return jnp.einsum("hek,hkc,hic->ie", weights.p, weights.v, jnp.einsum("hij,jc->hic", pattern, key_tokens))


def _pad_query(weights: Array) -> Array:
    """Appends a zero to the key axis, for the query: no token attends to it."""
    return jnp.pad(weights, ((0, 0), (0, 0), (0, 1)))
