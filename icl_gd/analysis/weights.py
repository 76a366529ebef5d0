"""Weights modulo gauge: what of a linear self-attention layer its function determines.

One layer's prediction from W_0 = 0 is y_hat_r = - sum_h sum_abc W_PV^h[r, a] G[a, b] W_KQ^h[b, c] x_c with the
context's second moment G = sum_j e_j e_j^T. It is a linear function of G tensor x, and G runs over symmetric
matrices, so two layers are the same function exactly when the tensors T[r, a, b, c] = sum_h W_PV^h[r, a] W_KQ^h[b, c],
symmetrised over (a, b), agree: T is the canonical form. Every GL(d_head) change inside a head, exchange of scale
between the circuits and permutation of heads leaves it alone.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

from icl_gd.types import Array, Circuits


def canonical_form(
    circuits: Circuits, d_input: int, layer: int = 0, w0: Float[Array, "m d"] | None = None
) -> Float[Array, "m e e d"]:
    """The canonical form T of one layer as a read-out layer.

    Args:
      d_input: x slots of a token; the rest are the y slots that are read out.
      w0: start of the layout, whose query token is `(x, -W_0 x)`; zero when left out.
    """
    w_kq, w_pv = circuits.W_KQ[layer], circuits.W_PV[layer]
    read = w_kq[:, :, :d_input]
    if w0 is not None:
        read = read - w_kq[:, :, d_input:] @ w0
    tensor = jnp.einsum("hra,hbc->rabc", w_pv[:, d_input:], read)
    return 0.5 * (tensor + tensor.swapaxes(1, 2))


def gauge_distance(circuits: Circuits, reference: Circuits, d_input: int) -> Array:
    """`|T - T_ref| / |T_ref|` (Frobenius) between two one-layer models: zero for the same function."""
    ours, theirs = canonical_form(circuits, d_input), canonical_form(reference, d_input)
    return jnp.linalg.norm((ours - theirs).ravel()) / jnp.linalg.norm(theirs.ravel())


def effective_preconditioner(circuits: Circuits, d_input: int, n_context: int) -> Float[Array, "m d d"]:
    """The matrix A in `y_hat_r = x_q^T A_r^T (1/n) sum_i y_ir x_i`: what a layer makes of the labels.

    The (y, x) and (x, y) entries of the symmetric G both hold sum_i y_i x_i, hence the factor two; the sign is the
    read-out's.
    """
    form = canonical_form(circuits, d_input)
    rows = [-2 * n_context * form[r, d_input + r, :d_input, :] for r in range(form.shape[0])]
    return jnp.stack(rows)


def effective_rank(matrix: Float[Array, "d d"]) -> Array:
    """`(sum s^2)^2 / sum s^4` over the singular values s: d for a multiple of a rotation, 1 for rank one."""
    power = jnp.linalg.svd(matrix, compute_uv=False) ** 2
    return jnp.sum(power) ** 2 / jnp.sum(power**2)


class Routes(NamedTuple):
    """Shares, adding up to one, of the ways on which a layer's prediction can read G; see `routes`."""

    direct: Array  # W_PV[y, y] W_KQ[x, x]: the label as value, the input in the score, as gradient descent does
    exchanged: Array  # W_PV[y, x] W_KQ[y, x]: key and value have exchanged roles
    label_free: Array  # W_PV[y, x] W_KQ[x, x]: inputs only
    label_squared: Array  # W_PV[y, y] W_KQ[y, x]: labels only


def routes(circuits: Circuits, d_input: int) -> Routes:
    """On which ways a one-layer model reads the context, as shares of squared Frobenius norms.

    sum_i y_i x_i stands twice in G, so there are two ways to it: the direct one can be any matrix, the exchanged one
    is an outer product, of rank one in every head. A layer whose training starts on another way than the direct one
    can be trapped there.
    """
    w_kq, w_pv = circuits.W_KQ[0, :, :, :d_input], circuits.W_PV[0, :, d_input:]
    tensor = jnp.einsum("hra,hbc->rabc", w_pv, w_kq)
    x, y = slice(0, d_input), slice(d_input, None)
    norms = [jnp.sum(tensor[:, a, b] ** 2) for a, b in ((y, x), (x, y), (x, x), (y, y))]
    return Routes(*(norm / sum(norms) for norm in norms))


def match_scale(circuits: Circuits, reference: Circuits) -> Circuits:
    """The same functions with the scale between W_KQ and W_PV set, head by head, to fit the reference.

    W_KQ / c and c W_PV are the same layer for every c; this takes the projection on the reference,
    c = <W_KQ, W_KQ_ref> / |W_KQ_ref|^2, which also fixes the sign.
    """
    inner = jnp.sum(circuits.W_KQ * reference.W_KQ, axis=(-2, -1), keepdims=True)
    c = inner / jnp.sum(reference.W_KQ**2, axis=(-2, -1), keepdims=True)
    return Circuits(circuits.W_KQ / c, circuits.W_PV * c)
