"""Attention modified as its dual model suggests (Ren & Liu 2310.13220): regularised, augmented, with negative samples.

What a token reads are demonstrations and its own, the query's: to all tokens of a prompt the last is the query; in
causal attention every token is one to itself.
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
    """What is changed, and by how much; None for what is not there at all. Zero changes nothing.

    They are parameters that nobody trains, so that members of a population may differ in them.

    Attributes:
      alpha: what the query's own token writes is multiplied by 1 - alpha; in [-1, 1].
      beta: of the value of every demonstration beta times the mean value of its negative samples is taken away; in
        [0, 1].
      share: how many of the other demonstrations are negative samples: those of the lowest scores; in (0, 1/2].
      augment_keys, augment_values: z becomes `z + augment g(z)`, with a small perceptron g that is learned.
    """

    alpha: Alpha = None
    beta: Fraction = None
    share: Share = None
    augment_keys: Fraction = None
    augment_values: Fraction = None

    @property
    def there(self) -> dict[str, Values]:
        """Those that are there."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def demonstrations(n_tokens: int, causal: bool) -> Bool[Array, "t t"]:
    """Which tokens are demonstrations, [query token, key token]; of the others one that is read is the query's own."""
    place = jnp.arange(n_tokens)
    last = place if causal else jnp.full(n_tokens, n_tokens - 1)
    return place[None] < last[:, None]


def negative_samples(
    scores: Float[Array, "head t t *batch"], share: Scalar, causal: bool
) -> Float[Array, "head t t *batch"]:
    """For every demonstration the weights of a mean over its negative samples, [demonstration, sample].

    They are the share of the others, rounded and one at least, on which its own query has the lowest scores, of equal
    ones the first. In causal attention the others are those before it: the first has none. A batch may stand in
    trailing axes.
    """
    t, last = scores.shape[1], (1,) * (scores.ndim - 3)
    place = jnp.arange(t)
    others = demonstrations(t, causal) & (place[None] != place[:, None])
    if not causal:
        others = others & (place[:, None] < t - 1)
    # Ranks by counting: of as few tokens as these prompts have a sort takes longer.
    lowest = jnp.where(others.reshape(1, t, t, *last), scores, jnp.inf)
    one, other = lowest[:, :, :, None], lowest[:, :, None, :]
    first = (place[None] < place[:, None]).reshape(1, 1, t, t, *last)
    in_front = jnp.sum((other < one) | ((other == one) & first), axis=3)
    count = jnp.maximum(jnp.round(share * jnp.sum(others, axis=-1)), 1.0).astype(scores.dtype).reshape(1, t, 1, *last)
    return jnp.where(others.reshape(1, t, t, *last) & (in_front < count), 1.0 / count, 0.0)


def modified(
    held: Mapping[str, Any],
    pattern: Float[Array, "head query t *batch"],
    scores: Float[Array, "head t t *batch"] | None,
    causal: bool,
) -> Float[Array, "head query t *batch"]:
    """The pattern that multiplies values, of the last tokens: what is taken away of others' values counts against it.

    Args:
      held: the parameters of attention, alpha and beta among them where they are there.
      scores: of all tokens that are read, by their own queries; None where there is no beta.
    """
    t = pattern.shape[2]
    shape = (1, pattern.shape[1], t, *(1,) * (pattern.ndim - 3))
    is_demonstration = demonstrations(t, causal)[t - pattern.shape[1] :].reshape(shape)
    if scores is not None:
        beta, share = (jax.lax.stop_gradient(held[name]) for name in ("beta", "share"))
        # Apart, as in `models.transformer`: as one with what reads it, ranks are counted again for every use.
        negative = jax.lax.optimization_barrier(negative_samples(jax.lax.stop_gradient(scores), share, causal))
        taken = jnp.einsum("hij...,hjl...->hil...", jnp.where(is_demonstration, pattern, 0.0), negative)
        pattern = pattern - beta * taken
    if "alpha" in held:
        pattern = jnp.where(is_demonstration, pattern, (1.0 - jax.lax.stop_gradient(held["alpha"])) * pattern)
    return pattern


AUGMENTED = {"K": "augment_keys", "V": "augment_values"}


def augmented(held: Mapping[str, Any], name: str, inner: Float[Array, "head d_head *any"]) -> Array:
    """Keys or values, "K" or "V", with what the perceptron makes of them, as much of it as is held."""
    if AUGMENTED[name] not in held:
        return inner
    much = jax.lax.stop_gradient(held[AUGMENTED[name]])

    def grown(one: Array) -> Array:
        flat = one.reshape(len(one), -1)
        return one + much * (held[f"g_{name}_2"] @ jax.nn.gelu(held[f"g_{name}_1"] @ flat)).reshape(one.shape)

    return jnp.stack([grown(one) for one in inner])
