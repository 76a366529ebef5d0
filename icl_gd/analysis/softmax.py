"""What a layer of softmax heads is to first order in its scores: a mean of values, and a linear layer.

With scores s_j = e_j^T W_KQ q and k the width of a head, the pattern is softmax(s / sqrt(k))_j =
1/n + (s_j - mean s) / (n sqrt(k)) + O(s^2), so the layer's update of the query is

    sum_h W_PV^h (1/n) sum_j e_j  +  1/(n sqrt(k)) sum_h W_PV^h sum_j (e_j - mean e) e_j^T W_KQ^h q  +  O(s^2).

The first term does not depend on the query: heads must cancel it, sum_h W_PV^h = 0 in the y row, and one head alone
cannot without writing nothing. The second is that of linear heads W_KQ^h, W_PV^h / (n sqrt(k)) on a context with its
mean removed, as sum_j (e_j - mean e) e_j^T = sum_j (e_j - mean e)(e_j - mean e)^T. Two heads with opposite W_PV read
W_PV (W_KQ^1 - W_KQ^2): what both have in common is free, and so is the sum of the W_KQ. Being odd in the scores, their
difference has no second order if the W_KQ are opposite too. QED
"""

import jax.numpy as jnp
from jaxtyping import Float

from icl_gd.schema import Size, checked
from icl_gd.types import Array, Circuits


@checked
def first_order(circuits: Circuits, d_head: Size, n_context: Size) -> Circuits:
    """The linear layer that softmax heads are to first order, on contexts of mean zero."""
    return Circuits(circuits.W_KQ, circuits.W_PV / (n_context * d_head**0.5))


@checked
def mean_pattern_residue(circuits: Circuits, d_input: Size) -> Float[Array, " layer"]:
    """What is left of the mean pattern's part in the y rows when heads are summed: 1 for one head, 0 if they cancel."""
    rows = circuits.W_PV[:, :, d_input:]
    norm = lambda of: jnp.sqrt(jnp.sum(of**2, axis=(-2, -1)))
    return norm(rows.sum(1)) / norm(rows).sum(1)


@checked
def minimal_norm_qk(circuits: Circuits, d_input: Size) -> Circuits:
    """The W_KQ of least norm with the same products W_PV[y, y] W_KQ: what is free to first order is taken away.

    With B `[m m, head]` the y to y entries of W_PV, the products are B W_KQ, and the least W_KQ of those products is
    B^+ B W_KQ. Of two heads with opposite W_PV it is half their difference, with either sign.

    Raises:
      ValueError: if there is more than one layer.
    """
    if len(circuits.W_KQ) != 1:
        raise ValueError(f"this is known of one-layer models only, got {len(circuits.W_KQ)} layers")
    written = circuits.W_PV[0, :, d_input:, d_input:]
    b = written.reshape(len(written), -1).T
    return circuits._replace(W_KQ=jnp.einsum("gh,lhab->lgab", jnp.linalg.pinv(b) @ b, circuits.W_KQ))


def anisotropy(matrix: Float[Array, "d d"]) -> Array:
    """Relative distance to the nearest multiple of the identity, from 0 to 1."""
    nearest = jnp.trace(matrix) / len(matrix) * jnp.eye(len(matrix), dtype=matrix.dtype)
    return jnp.linalg.norm(matrix - nearest) / jnp.linalg.norm(matrix)
