"""Token copying: measures whether the first layer merges the separate tokens of x and y (von Oswald et al.).

Example:
  >>> previous = jnp.eye(5, k=-1)[None]  # a head in which every token attends to the token before it
  >>> scores = neighbour_scores(previous)
  >>> scores.previous.tolist(), scores.following.tolist()
  ([1.0], [0.0])
"""

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
    """Derivatives of the outputs of all context tokens with respect to the contents of all tokens.

    The derivative is `d/d token_j  sum_r layer(tokens)[k, r]` for context token k and token j. The content of a token
    is its x and y slots, without the positional encoding.

    Args:
      layer: maps tokens `[t e]` to the layer's output `[t e]`.
      tokens: the tokens of one prompt.
      d_content: number of content slots, which are the first slots of a token.

    Returns:
      Derivatives `[k j d_content]`.
    """

    def summed_outputs(tokens: Array) -> Array:
        return jnp.sum(layer(tokens)[:-1], axis=-1)

    return jax.jacrev(summed_outputs)(tokens)[..., :d_content]


class DerivativeNorms(NamedTuple):
    """Norms of the derivatives of context token k, averaged over all k except the last, which the query follows.

    Attributes:
      own: norm of the derivative with respect to token k itself.
      following: norm of the derivative with respect to token k + 1.
      others: mean norm of the derivatives with respect to the other context tokens.
    """

    own: Array
    following: Array
    others: Array


@checked
def derivative_norms(derivatives: Float[Array, "prompt k t d_content"], faithful: bool = False) -> DerivativeNorms:
    """Norms of the derivatives of a token with respect to itself, the following token and the other context tokens.

    The norm is computed for every prompt and then averaged.

    Args:
      derivatives: results of the function `derivatives`, stacked along a leading prompt axis.
      faithful: follow the published `analyse_copy`. It computes the norm after averaging derivatives over prompts, so
        contributions of different signs cancel. It also counts token k + 1 among the others. Default: False.

    Returns:
      DerivativeNorms of scalars.
    """
    vectors = derivatives.mean(0, keepdims=True) if faithful else derivatives
    norms = jnp.linalg.norm(vectors, axis=-1).mean(0)[:-1]  # [k t]
    own, following = (jnp.mean(jnp.diagonal(norms, offset)) for offset in (0, 1))
    n_others = norms.shape[1] - (2 if faithful else 3)  # without the query, for which the derivative is zero
    others = jnp.mean(jnp.sum(norms, axis=1)) - own - (0.0 if faithful else following)
    return DerivativeNorms(own, following, others / max(n_others, 1))


class NeighbourScores(NamedTuple):
    """Shares of attention on neighbouring tokens, per head: 1 for a head that attends to that neighbour only.

    A share is |pattern| at the neighbour, divided by the sum of |pattern| over keys. It is averaged over the query
    positions that have such a neighbour in the context.

    Attributes:
      previous: share on the previous token `[head]`.
      following: share on the next token `[head]`.
      label: share of input tokens on the next token, which is their label `[head]`.
    """

    previous: Array
    following: Array
    label: Array


def neighbour_scores(pattern: Float[Array, "head t t"]) -> NeighbourScores:
    """Previous-token and next-token scores of every head of a layer, for one prompt.

    For a uniform pattern over the 2n tokens of the context, all scores are 1 / (2n).

    Returns:
      NeighbourScores with `[head]` fields.
    """
    shares = _shares(pattern)
    previous, following = (jnp.diagonal(shares, offset, 1, 2) for offset in (-1, 1))
    following = following[:, :-1]  # without the last context token, which is followed by the query
    return NeighbourScores(previous.mean(-1), following.mean(-1), following[:, ::2].mean(-1))


def induction_score(
    patterns: Callable[[Array], Float[Array, "layer head t t"]], layout: Layout, prompt: Prompt
) -> Float[Array, "layer head"]:
    """Share of the query's attention on the example with the same input: 1 for an induction head, 1 / n if uniform.

    For every example of the context, its input is used as the query. The score is the share of |pattern| on the two
    tokens of this example, averaged over examples.

    Args:
      patterns: maps tokens `[t e]` to attention patterns `[layer head t t]`.
      layout: a layout with two tokens per example.
      prompt: one prompt. Its query is not used.

    Returns:
      Scores `[layer head]`.
    """
    n = len(prompt.x)

    def score_of_example(i: Array) -> Array:
        shares = _shares(patterns(layout.encode(prompt.x, prompt.y, prompt.x[i])))[..., -1, :-1]
        return shares[..., 2 * i] + shares[..., 2 * i + 1]

    return jnp.mean(jax.vmap(score_of_example)(jnp.arange(n)), axis=0)


def _shares(pattern: Float[Array, "*axes t t"]) -> Float[Array, "*axes t t"]:
    """|pattern| divided by its sum over keys; a row of zeros stays zero."""
    size = jnp.abs(pattern)
    return size / jnp.maximum(jnp.sum(size, axis=-1, keepdims=True), jnp.finfo(size.dtype).tiny)
