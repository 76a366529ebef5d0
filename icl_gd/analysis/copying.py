"""Does the first layer of a network copy neighbours together? (von Oswald et al., tokens that hold x and y apart)"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from icl_gd.schema import Size, checked
from icl_gd.types import Array, Layout, Prompt


@checked
def derivatives(
    layer: Callable[[Array], Array], tokens: Float[Array, "t e"], d_content: Size
) -> Float[Array, "t-1 t d_content"]:
    """`d/d token_j  sum_r layer(tokens)[k, r]` of every context token k, by the content of token_j and not its place.

    Args:
      layer: tokens `[t e]` to what a layer leaves of them `[t e]`.
      d_content: the first slots of a token, in which it has x or y.
    """
    return jax.jacrev(lambda tokens: jnp.sum(layer(tokens)[:-1], axis=-1))(tokens)[..., :d_content]


class DerivativeNorms(NamedTuple):
    """Means over context tokens k but the last, whose next token, the query, is never read."""

    own: Array  # to token k
    following: Array  # to token k + 1
    others: Array  # to one other token


@checked
def derivative_norms(derivatives: Float[Array, "prompt k t d_content"], faithful: bool = False) -> DerivativeNorms:
    """Norms of the derivatives of a layer's outputs, of a batch of prompts.

    The norm is taken prompt by prompt, and others are the context's tokens that are neither k nor k + 1.

    Args:
      faithful: as the published `analyse_copy` has it: the norm of the *mean* derivative over prompts, which forgets
        what differs in sign between prompts; and the norm for k + 1 is counted among the others too.
    """
    mean = derivatives.mean(0, keepdims=True) if faithful else derivatives
    norms = jnp.linalg.norm(mean, axis=-1).mean(0)[:-1]  # [k t]
    own, following = (jnp.mean(jnp.diagonal(norms, offset)) for offset in (0, 1))
    n_others = norms.shape[1] - (2 if faithful else 3)  # with the query, which gives zero
    others = jnp.mean(jnp.sum(norms, axis=1)) - own - (0.0 if faithful else following)
    return DerivativeNorms(own, following, others / max(n_others, 1))


class NeighbourScores(NamedTuple):
    """How much of what a token reads stands next to it `[head]`: 1 for a head that reads nothing else.

    Shares of the sum of |pattern| over keys, means over the tokens that have such a neighbour among the readable ones.
    """

    previous: Array
    following: Array
    label: Array  # of inputs only, for the label that stands behind them


def neighbour_scores(pattern: Float[Array, "head t t"]) -> NeighbourScores:
    """Previous-token and next-token score of every head of a layer, for one problem.

    Of a uniform pattern over the 2n tokens of the context they are 1 / 2n.
    """
    shares = _shares(pattern)
    previous, following = (jnp.diagonal(shares, offset, 1, 2) for offset in (-1, 1))
    following = following[:, :-1]  # the last context token stands before the query
    return NeighbourScores(previous.mean(-1), following.mean(-1), following[:, ::2].mean(-1))


def induction_score(
    patterns: Callable[[Array], Float[Array, "layer head t t"]], layout: Layout, prompt: Prompt
) -> Float[Array, "layer head"]:
    """How much of what the query reads is the example it repeats: 1 for a head that reads only that, 1 / n if uniform.

    The query becomes each of the context's inputs in turn; counted is the share of |pattern| on both tokens of that
    example, in a layout of two tokens an example.
    """
    n = len(prompt.x)

    def of(i: Array) -> Array:
        shares = _shares(patterns(layout.encode(prompt.x, prompt.y, prompt.x[i])))[..., -1, :-1]
        return shares[..., 2 * i] + shares[..., 2 * i + 1]

    return jnp.mean(jax.vmap(of)(jnp.arange(n)), axis=0)


def _shares(pattern: Float[Array, "*axes t t"]) -> Float[Array, "*axes t t"]:
    """Of the sum of absolute values over keys; of a row of zeros, zero."""
    size = jnp.abs(pattern)
    return size / jnp.maximum(jnp.sum(size, axis=-1, keepdims=True), jnp.finfo(size.dtype).tiny)
