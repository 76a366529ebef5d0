"""Attention modified as its dual model suggests (Ren & Liu 2310.13220): regularised, augmented, with negative samples.

What a token reads are demonstrations and its own, the query's: to all tokens of a prompt the last is the query; in
causal attention every token is one to itself.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float

from icl_gd.types import Array, Scalar

Values = Scalar | tuple[float, ...]


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

    alpha: Values | None = None
    beta: Values | None = None
    share: Values | None = None
    augment_keys: Values | None = None
    augment_values: Values | None = None

    @property
    def there(self) -> dict[str, Values]:
        """Those that are there."""
        return {name: value for name, value in self._asdict().items() if value is not None}


BOUNDS = {"alpha": (-1.0, 1.0), "beta": (0.0, 1.0), "share": (0.0, 0.5), "augment_keys": (0.0, 1.0),
          "augment_values": (0.0, 1.0)}  # fmt: skip


def check(asked: Modification) -> None:
    """Whether every value is one that is accepted.

    Raises:
      ValueError: if one is not, or if there is a share of negative samples without beta, or the other way round.
    """
    for name, values in asked.there.items():
        low, high = BOUNDS[name]
        for value in values if isinstance(values, tuple) else (values,):
            if isinstance(value, float | int) and (not low <= value <= high or (name == "share" and value == 0.0)):
                within = f"above {low:g} and at most {high:g}" if name == "share" else f"from {low:g} to {high:g}"
                raise ValueError(f"{name}={value} must be {within}")
    if (asked.beta is None) != (asked.share is None):
        raise ValueError(f"beta={asked.beta}, share={asked.share}: negative samples take both of them, or neither")


def demonstrations(n_tokens: int, causal: bool) -> Bool[Array, "t t"]:
    """Which tokens are demonstrations, [query token, key token]; of the others one that is read is the query's own."""
    place = jnp.arange(n_tokens)
    last = place if causal else jnp.full(n_tokens, n_tokens - 1)
    return place[None] < last[:, None]


def negative_samples(scores: Float[Array, "head t t"], share: Scalar, causal: bool) -> Float[Array, "head t t"]:
    """For every demonstration the weights of a mean over its negative samples, [demonstration, sample].

    They are the share of the others, to the next whole number and one at least, on which its own query has the lowest
    scores, of equal ones the first. In causal attention the others are those before it: the first has none.
    """
    t = scores.shape[-1]
    place = jnp.arange(t)
    others = demonstrations(t, causal) & (place[None] != place[:, None])
    if not causal:
        others = others & (place[:, None] < t - 1)
    # Ranks by counting: of as few tokens as these prompts have a sort takes longer.
    lowest = jnp.where(others[None], scores, jnp.inf)
    one, other = lowest[..., :, None], lowest[..., None, :]
    in_front = (other < one) | ((other == one) & (place[None] < place[:, None])[None, None])
    count = jnp.maximum(jnp.round(share * jnp.sum(others, axis=-1)), 1.0)[None, :, None].astype(scores.dtype)
    chosen = others[None] & (jnp.sum(in_front, axis=-1) < count)
    return jnp.where(chosen, 1.0 / count, 0.0)


def modified(
    pattern: Float[Array, "head query t"],
    is_demonstration: Bool[Array, "query t"],
    alpha: Scalar | None,
    beta: Scalar | None,
    negative: Float[Array, "head t t"] | None,
) -> Float[Array, "head query t"]:
    """The pattern that multiplies values: those that are taken away from others' count less."""
    if beta is not None and negative is not None:
        of_demonstrations = jnp.where(is_demonstration[None], pattern, 0.0)
        pattern = pattern - beta * jnp.einsum("hij,hjl->hil", of_demonstrations, negative)
    return pattern if alpha is None else jnp.where(is_demonstration[None], pattern, (1.0 - alpha) * pattern)
