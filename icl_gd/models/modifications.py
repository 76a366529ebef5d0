"""Attention modifications suggested by the dual model: regularisation, augmentation and negative samples.

A query token attends to demonstrations and to one more token, its own token. Without a causal mask, the own token of
every query token is the last token of the prompt (the query), and all other tokens are demonstrations. With a causal
mask, the own token of a query token is the query token itself, and the tokens before it are demonstrations.

Source: Ren & Liu 2310.13220.

    >>> demonstrations(3, causal=False).tolist()  # [query token, key token]
    [[True, True, False], [True, True, False], [True, True, False]]
    >>> demonstrations(3, causal=True).tolist()
    [[False, False, False], [True, False, False], [True, True, False]]
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt, Le
from jaxtyping import Bool, Float

from icl_gd.schema import check
from icl_gd.types import Array, Scalar

Values = Scalar | tuple[float, ...]  # one value, or the values of a sweep
Strength = Annotated[Values | None, Ge(0), Le(1)]


@dataclass(frozen=True)
class Modification:
    """Strengths of the attention modifications. None disables a modification; 0 leaves the output unchanged.

    The strengths are stored as parameters that are not trained, so members of a population may differ in them. A tuple
    of values is a sweep; only training accepts it.

    Attributes:
      query_damping: alpha of the paper (regularisation): the attention weight of the own token is multiplied by
        1 - alpha.
      negative_weight: beta of the paper: from the value of a demonstration, beta times the mean value of its negative
        samples is subtracted. Set the fraction of negative samples too.
      negative_fraction: the negative samples of a demonstration are this fraction of the other demonstrations: those
        with the lowest scores. Set the weight of negative samples too.
      augment_keys: augmentation: every key z is replaced by `z + augment_keys * g(z)`, where g is a trained MLP.
      augment_values: augmentation: every value z is replaced by `z + augment_values * g(z)`, where g is a trained MLP.
    """

    query_damping: Annotated[Values | None, Ge(-1), Le(1)] = None
    negative_weight: Strength = None
    negative_fraction: Annotated[Values | None, Gt(0), Le(0.5)] = None
    augment_keys: Strength = None
    augment_values: Strength = None

    def __post_init__(self):
        check(self)
        if (self.negative_weight is None) != (self.negative_fraction is None):
            raise ValueError(
                f"negative_weight={self.negative_weight}, negative_fraction={self.negative_fraction}: negative samples "
                "need both; set both or neither"
            )

    @property
    def enabled(self) -> dict[str, Values]:
        """The strengths of the enabled modifications by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


UNMODIFIED = Modification()


def demonstrations(n_tokens: int, causal: bool) -> Bool[Array, "t t"]:
    """Mask of the key tokens that are demonstrations for each query token.

    Returns:
      `[t t]`, [query token, key token]. The one attended key token that is not a demonstration is the own token.
    """
    position = jnp.arange(n_tokens)
    own = position if causal else jnp.full(n_tokens, n_tokens - 1)
    return position[None] < own[:, None]


def negative_samples(
    scores: Float[Array, "head t t *batch"], fraction: Scalar, causal: bool
) -> Float[Array, "head t t *batch"]:
    """Weights that average over the negative samples of every demonstration.

    The candidates for the negative samples of a demonstration are the other demonstrations. With a causal mask, only
    earlier demonstrations are candidates, so the first demonstration has no negative samples. The negative samples are
    the candidates with the lowest scores for the demonstration as query token. Their number is `fraction` times the
    number of candidates, rounded, but at least one. If two scores are equal, the earlier candidate ranks lower.

    Args:
      scores: `[head t t *batch]`, [query token, key token]; a batch has trailing axes.
      fraction: number of negative samples divided by number of candidates, in (0, 1/2].
      causal: whether attention is causal.

    Returns:
      `[head t t *batch]`, [demonstration, sample]: 1 / (number of samples) at every sample, otherwise zero.
    """
    t, batch = scores.shape[1], (1,) * (scores.ndim - 3)
    position = jnp.arange(t)
    is_candidate = demonstrations(t, causal) & (position[None] != position[:, None])
    if not causal:
        is_candidate = is_candidate & (position[:, None] < t - 1)
    # Ranks are computed by counting, which is faster than sorting for short prompts.
    candidate_scores = jnp.where(is_candidate.reshape(1, t, t, *batch), scores, jnp.inf)
    score, other = candidate_scores[:, :, :, None], candidate_scores[:, :, None, :]
    other_is_earlier = (position[None] < position[:, None]).reshape(1, 1, t, t, *batch)
    rank = jnp.sum((other < score) | ((other == score) & other_is_earlier), axis=3)
    count = jnp.maximum(jnp.round(fraction * jnp.sum(is_candidate, axis=-1)), 1.0)
    count = count.astype(scores.dtype).reshape(1, t, 1, *batch)
    return jnp.where(is_candidate.reshape(1, t, t, *batch) & (rank < count), 1.0 / count, 0.0)


def modified(
    params: Mapping[str, Any],
    pattern: Float[Array, "head query t *batch"],
    scores: Float[Array, "head t t *batch"] | None,
    causal: bool,
) -> Float[Array, "head query t *batch"]:
    """Applies query damping and negative samples to an attention pattern.

    The mean over negative samples is linear in the values. So instead of changing the values, the layer subtracts
    `negative_weight * pattern @ negative_samples` from the pattern, where the product runs over demonstrations.

    Args:
      params: parameters of the attention, with the strengths of the enabled modifications.
      pattern: `[head query t *batch]`; the query tokens are all tokens or the last one.
      scores: `[head t t *batch]`, the scores with every attended token as query token. None: no negative samples.
      causal: whether attention is causal.

    Returns:
      `[head query t *batch]`, the pattern that multiplies the values.
    """
    n_queries, t = pattern.shape[1:3]
    shape = (1, n_queries, t, *(1,) * (pattern.ndim - 3))
    is_demonstration = demonstrations(t, causal)[t - n_queries :].reshape(shape)
    if scores is not None:
        weight, fraction = (jax.lax.stop_gradient(params[f"negative_{name}"]) for name in ("weight", "fraction"))
        # Without this barrier, XLA would fuse the computation of ranks into each of its uses, and so repeat it.
        negative = jax.lax.optimization_barrier(negative_samples(jax.lax.stop_gradient(scores), fraction, causal))
        subtracted = jnp.einsum("hij...,hjl...->hil...", jnp.where(is_demonstration, pattern, 0.0), negative)
        pattern = pattern - weight * subtracted
    if "query_damping" in params:
        factor = 1.0 - jax.lax.stop_gradient(params["query_damping"])
        pattern = jnp.where(is_demonstration, pattern, factor * pattern)
    return pattern


AUGMENTED = {"K": "augment_keys", "V": "augment_values"}  # names of the augmentation strengths


def augmented(params: Mapping[str, Any], name: str, inner: Float[Array, "head d_head *any"]) -> Array:
    """Augments keys or values z: `z + strength * W_2 gelu(W_1 z)`. All heads share the MLP.

    Args:
      params: parameters of the attention, with `augment_keys` or `augment_values` if it is enabled.
      name: "K" for keys or "V" for values.
      inner: `[head d_head *any]`, the keys or values.

    Returns:
      `[head d_head *any]`; `inner` itself if the augmentation is disabled.
    """
    if AUGMENTED[name] not in params:
        return inner
    strength = jax.lax.stop_gradient(params[AUGMENTED[name]])

    def augment(z: Array) -> Array:
        flat = z.reshape(len(z), -1)
        return z + strength * (params[f"g_{name}_2"] @ jax.nn.gelu(params[f"g_{name}_1"] @ flat)).reshape(z.shape)

    return jnp.stack([augment(z) for z in inner])
