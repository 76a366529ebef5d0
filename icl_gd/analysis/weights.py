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

from icl_gd.schema import Size, checked
from icl_gd.types import Array, Circuits


@checked
def canonical_form(circuits: Circuits, d_input: Size, w0: Float[Array, "m d"] | None = None) -> Float[Array, "m e e d"]:
    """The canonical form T of a one-layer model.

    Args:
      d_input: x slots of a token; the rest are the y slots that are read out.
      w0: start of the layout, whose query token is `(x, -W_0 x)`; zero when left out.

    Raises:
      ValueError: if the model has more than one layer.
    """
    w_kq, w_pv = _only_layer(circuits)
    read = w_kq[:, :, :d_input]
    if w0 is not None:
        read = read - w_kq[:, :, d_input:] @ w0
    tensor = jnp.einsum("hra,hbc->rabc", w_pv[:, d_input:], read)
    return 0.5 * (tensor + tensor.swapaxes(1, 2))


@checked
def gauge_distance(circuits: Circuits, reference: Circuits, d_input: Size) -> Array:
    """`|T - T_ref| / |T_ref|` (Frobenius) between two one-layer models: zero for the same function."""
    ours, theirs = canonical_form(circuits, d_input), canonical_form(reference, d_input)
    return jnp.linalg.norm((ours - theirs).ravel()) / jnp.linalg.norm(theirs.ravel())


def _only_layer(circuits: Circuits) -> tuple[Float[Array, "head e e"], Float[Array, "head e e"]]:
    if len(circuits.W_KQ) != 1:
        raise ValueError(f"this is known of one-layer models only, got {len(circuits.W_KQ)} layers")
    return circuits.W_KQ[0], circuits.W_PV[0]


@checked
def effective_preconditioner(circuits: Circuits, d_input: Size, n_context: Size) -> Float[Array, "m d d"]:
    """The matrix A in `y_hat_r = x_q^T A_r^T (1/n) sum_i y_ir x_i`: what a layer makes of the labels.

    The (y, x) and (x, y) entries of the symmetric G both hold sum_i y_i x_i, hence the factor two; the sign is the
    read-out's.
    """
    form = canonical_form(circuits, d_input)
    rows = [-2 * n_context * form[r, d_input + r, :d_input, :] for r in range(form.shape[0])]
    return jnp.stack(rows)


def participation_ratio(matrix: Float[Array, "d d"]) -> Array:
    """`(sum s^2)^2 / sum s^4` over the singular values s: d for a multiple of a rotation, 1 for rank one."""
    power = jnp.linalg.svd(matrix, compute_uv=False) ** 2
    return jnp.sum(power) ** 2 / jnp.sum(power**2)


class LabelPaths(NamedTuple):
    """Shares, adding up to one, of the ways on which a layer's prediction can read G; see `label_paths`."""

    direct: Array  # W_PV[y, y] W_KQ[x, x]: the label as value, the input in the score, as gradient descent does
    exchanged: Array  # W_PV[y, x] W_KQ[y, x]: key and value have exchanged roles
    label_free: Array  # W_PV[y, x] W_KQ[x, x]: inputs only
    label_squared: Array  # W_PV[y, y] W_KQ[y, x]: labels only


@checked
def label_paths(circuits: Circuits, d_input: Size) -> LabelPaths:
    """On which ways the weights of a one-layer model read the context, as shares of their squared Frobenius norms.

    sum_i y_i x_i stands twice in G, so there are two ways to it: the direct one can be any matrix, the exchanged one
    is an outer product, of rank one in every head. A layer whose training starts on another way than the direct one
    can be trapped there. This is a statement about weights: the function does not tell the two ways apart.

    Raises:
      ValueError: if the model has more than one layer.
    """
    w_kq, w_pv = _only_layer(circuits)
    tensor = jnp.einsum("hra,hbc->rabc", w_pv[:, d_input:], w_kq[:, :, :d_input])
    x, y = slice(0, d_input), slice(d_input, None)
    norms = [jnp.sum(tensor[:, a, b] ** 2) for a, b in ((y, x), (x, y), (x, x), (y, y))]
    return LabelPaths(*(norm / sum(norms) for norm in norms))


def match_scale(circuits: Circuits, reference: Circuits) -> Circuits:
    """The same functions with the scale between W_KQ and W_PV set, head by head, to that of the reference.

    W_KQ / c and c W_PV are the same layer for every c. This takes the c that makes the ratio of their norms the
    reference's, with the sign that turns W_KQ towards the reference's.
    """
    norm = lambda w: jnp.sqrt(jnp.sum(w**2, axis=(-2, -1), keepdims=True))
    inner = jnp.sum(circuits.W_KQ * reference.W_KQ, axis=(-2, -1), keepdims=True)
    square = norm(circuits.W_KQ) * norm(reference.W_PV) / (norm(circuits.W_PV) * norm(reference.W_KQ))
    c = jnp.where(inner < 0, -1.0, 1.0).astype(inner.dtype) * jnp.sqrt(square)
    return Circuits(circuits.W_KQ / c, circuits.W_PV * c)
