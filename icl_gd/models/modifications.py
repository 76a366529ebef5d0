"""Attention modifications suggested by the dual model: regularisation, augmentation and negative samples.

A token attends to demonstrations and to one own token. Without a causal mask, the last token (the query) is the own
token of all tokens, and the others are demonstrations. With a causal mask, every token is its own, and the tokens
before it are demonstrations.

Source: Ren & Liu 2310.13220.

    >>> demonstrations(3, causal=False).tolist()  # [query token, key token]
    [[True, True, False], [True, True, False], [True, True, False]]
    >>> demonstrations(3, causal=True).tolist()
    [[False, False, False], [True, False, False], [True, True, False]]
"""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt, Le
from jaxtyping import Bool, Float

from icl_gd.types import Array, Scalar

Values = Scalar | tuple[float, ...]
Alpha = Annotated[Values | None, Ge(-1), Le(1)]
Fraction = Annotated[Values | None, Ge(0), Le(1)]
Share = Annotated[Values | None, Gt(0), Le(0.5)]


class Modification(NamedTuple):
    """Strengths of the attention modifications. None disables a modification; 0 leaves the output unchanged.

    The strengths are stored among the parameters and are not trained, so members of a population may differ in them.

    Attributes:
      alpha: regularisation: the attention to the own token is multiplied by 1 - alpha; in [-1, 1].
      beta: negative samples: beta times the mean value of a demonstration's negative samples is subtracted from its
        value; in [0, 1].
      share: fraction of the other demonstrations that are negative samples, those with the lowest scores; in (0, 1/2].
      augment_keys, augment_values: augmentation: keys or values z are replaced by `z + augment * g(z)`, where g is a
        trained MLP; in [0, 1].
    """

    alpha: Alpha = None
    beta: Fraction = None
    share: Share = None
    augment_keys: Fraction = None
    augment_values: Fraction = None

    @property
    def there(self) -> dict[str, Values]:
        """The enabled modifications: strengths by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def demonstrations(n_tokens: int, causal: bool) -> Bool[Array, "t t"]:
    """Which tokens are demonstrations to a query token.

    Returns:
      `[t t]`, [query token, key token]. An attended key token that is not a demonstration is the own token.
    """
    position = jnp.arange(n_tokens)
    own = position if causal else jnp.full(n_tokens, n_tokens - 1)
    return position[None] < own[:, None]


def negative_samples(
    scores: Float[Array, "head t t *batch"], share: Scalar, causal: bool
) -> Float[Array, "head t t *batch"]:
    """Weights of the mean over the negative samples of every demonstration.

    The negative samples of a demonstration are the `share` of the other demonstrations to which its own query gives
    the lowest scores: their number is rounded and at least one, and of equal scores the first counts as lower. With a
    causal mask, only the demonstrations before it are candidates, so the first has none.

    Args:
      scores: `[head t t *batch]`, [query token, key token]; a batch has trailing axes.
      share: fraction of the candidates, in (0, 1/2].
      causal: whether attention is causal.

    Returns:
      `[head t t *batch]`, [demonstration, sample]: 1 / (number of samples) at every sample, otherwise zero.
    """
    t, batch = scores.shape[1], (1,) * (scores.ndim - 3)
    position = jnp.arange(t)
    others = demonstrations(t, causal) & (position[None] != position[:, None])
    if not causal:
        others = others & (position[:, None] < t - 1)
    # Ranks are found by counting, which is faster than sorting for prompts of few tokens.
    lowest = jnp.where(others.reshape(1, t, t, *batch), scores, jnp.inf)
    one, other = lowest[:, :, :, None], lowest[:, :, None, :]
    first = (position[None] < position[:, None]).reshape(1, 1, t, t, *batch)
    rank = jnp.sum((other < one) | ((other == one) & first), axis=3)
    count = jnp.maximum(jnp.round(share * jnp.sum(others, axis=-1)), 1.0).astype(scores.dtype).reshape(1, t, 1, *batch)
    return jnp.where(others.reshape(1, t, t, *batch) & (rank < count), 1.0 / count, 0.0)


def modified(
    params: Mapping[str, Any],
    pattern: Float[Array, "head query t *batch"],
    scores: Float[Array, "head t t *batch"] | None,
    causal: bool,
) -> Float[Array, "head query t *batch"]:
    """Applies alpha and beta to the attention pattern of the last query tokens.

    Subtracting beta times the mean value of the negative samples from every demonstration's value is linear in the
    values, so it is the same as subtracting `beta * pattern @ negative_samples` from the pattern.

    Args:
      params: parameters of the attention, with `alpha`, `beta` and `share` if they are enabled.
      pattern: `[head query t *batch]`, the pattern of the last `query` tokens.
      scores: `[head t t *batch]`, the scores of all attended tokens as queries; None if beta is disabled.
      causal: whether attention is causal.

    Returns:
      `[head query t *batch]`, the pattern that multiplies the values.
    """
    n_queries, t = pattern.shape[1:3]
    shape = (1, n_queries, t, *(1,) * (pattern.ndim - 3))
    is_demonstration = demonstrations(t, causal)[t - n_queries :].reshape(shape)
    if scores is not None:
        beta, share = (jax.lax.stop_gradient(params[name]) for name in ("beta", "share"))
        # The barrier makes XLA count the ranks once, as in `models.transformer`. Fused, it would repeat the count for
        # every use.
        negative = jax.lax.optimization_barrier(negative_samples(jax.lax.stop_gradient(scores), share, causal))
        subtracted = jnp.einsum("hij...,hjl...->hil...", jnp.where(is_demonstration, pattern, 0.0), negative)
        pattern = pattern - beta * subtracted
    if "alpha" in params:
        pattern = jnp.where(is_demonstration, pattern, (1.0 - jax.lax.stop_gradient(params["alpha"])) * pattern)
    return pattern


AUGMENTED = {"K": "augment_keys", "V": "augment_values"}


def augmented(params: Mapping[str, Any], name: str, inner: Float[Array, "head d_head *any"]) -> Array:
    """Augments keys or values: `z + augment * W_2 gelu(W_1 z)`. All heads share the MLP.

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
