"""Softmax heads to first order in their scores: a mean of values plus a linear attention layer.

Let e_j, j = 1..n, be the context tokens, q the query token, s_j = e_j^T W_KQ q the scores of a head, and k the width of
a head. The attention pattern is

    softmax(s / sqrt(k))_j = 1/n + (s_j - mean s) / (n sqrt(k)) + O(s^2).

The layer's update of the query is therefore

    sum_h W_PV^h (1/n) sum_j e_j  +  1/(n sqrt(k)) sum_h W_PV^h sum_j (e_j - mean e) e_j^T W_KQ^h q  +  O(s^2).

First term. It does not depend on the query. To perform linear attention, heads must cancel this term:
sum_h W_PV^h = 0 in the y row. A single head can cancel it only if its W_PV is zero in the y row.

Second term. Since sum_j (e_j - mean e) e_j^T = sum_j (e_j - mean e)(e_j - mean e)^T, the second term is the output of
linear heads with circuits W_KQ^h and W_PV^h / (n sqrt(k)) on the context minus its mean. Two heads with opposite W_PV
act through W_PV (W_KQ^1 - W_KQ^2). Adding a matrix to both W_KQ does not change this difference, so the sum of the two
W_KQ is not determined to first order.

Second order. If the two W_KQ are opposite too, the difference of the two patterns is an odd function of the scores, so
the layer has no second-order term.

Example:
  >>> heads = Circuits(W_KQ=jnp.ones((1, 2, 3, 3)), W_PV=jnp.stack([jnp.ones((3, 3)), -jnp.ones((3, 3))])[None])
  >>> mean_pattern_residue(heads, d_input=2).tolist()  # two heads with opposite W_PV cancel the first term
  [0.0]
"""

import jax.numpy as jnp
from jaxtyping import Float

from icl_gd.schema import Size, checked
from icl_gd.types import Array, Circuits


@checked
def first_order(circuits: Circuits, d_head: Size, n_context: Size) -> Circuits:
    """The linear attention layer that approximates softmax heads to first order, on contexts of mean zero.

    Args:
      circuits: circuits of softmax heads.
      d_head: width k of a head.
      n_context: number n of context tokens.

    Returns:
      Circuits with `W_PV` divided by `n sqrt(k)`.
    """
    return Circuits(circuits.W_KQ, circuits.W_PV / (n_context * d_head**0.5))


@checked
def mean_pattern_residue(circuits: Circuits, d_input: Size) -> Float[Array, " layer"]:
    """Relative size of the query-independent first term in the y rows: 0 if heads cancel it, 1 for a single head.

    The relative size is `|sum_h W_PV^h| / sum_h |W_PV^h|`, with the Frobenius norm of the y rows.

    Returns:
      The ratio of every layer.
    """
    rows = circuits.W_PV[:, :, d_input:]

    def norm(matrices: Array) -> Array:
        return jnp.sqrt(jnp.sum(matrices**2, axis=(-2, -1)))

    return norm(rows.sum(1)) / norm(rows).sum(1)


@checked
def minimal_norm_qk(circuits: Circuits, d_input: Size) -> Circuits:
    """Replaces W_KQ by the smallest W_KQ with the same first-order output: removes the part that is not determined.

    Let column h of B `[m*m head]` be W_PV^h[y, y], flattened. The first-order output depends on the sums over heads
    B W_KQ. The W_KQ of smallest norm with the same B W_KQ is B^+ B W_KQ. For two heads with opposite W_PV, this is half
    the difference of their W_KQ, with opposite signs for the two heads.

    Returns:
      Circuits with the new W_KQ and the same W_PV.

    Raises:
      ValueError: if there is more than one layer.
    """
    if len(circuits.W_KQ) != 1:
        raise ValueError(f"circuits must be those of a one-layer model, got {len(circuits.W_KQ)} layers")
    written = circuits.W_PV[0, :, d_input:, d_input:]
    b = written.reshape(len(written), -1).T
    return circuits._replace(W_KQ=jnp.einsum("gh,lhab->lgab", jnp.linalg.pinv(b) @ b, circuits.W_KQ))


def anisotropy(matrix: Float[Array, "d d"]) -> Array:
    """Frobenius distance of a matrix to the nearest multiple of the identity, divided by the norm of the matrix.

    Returns:
      A scalar from 0 (a multiple of the identity) to 1.
    """
    nearest = jnp.trace(matrix) / len(matrix) * jnp.eye(len(matrix), dtype=matrix.dtype)
    return jnp.linalg.norm(matrix - nearest) / jnp.linalg.norm(matrix)
