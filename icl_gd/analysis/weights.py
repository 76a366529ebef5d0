"""Weights modulo gauge: the part of a linear self-attention layer's weights that its function determines.

The prediction of one layer from W_0 = 0 is

    y_hat_r = - sum_h sum_abc W_PV^h[r, a] G[a, b] W_KQ^h[b, c] x_c

for output r and query input x, with the Gram matrix of the context G = sum_j e_j e_j^T. The prediction is linear in the
products G[a, b] x_c, and G ranges over symmetric matrices. Two layers therefore compute the same function if and only
if they have the same tensor

    T[r, a, b, c] = sum_h W_PV^h[r, a] W_KQ^h[b, c],  symmetrised over (a, b).

T is the canonical form. Three changes of the weights do not affect T: a change of basis in a head, by any matrix in
GL(d_head); a factor that is moved from one circuit to the other; and a permutation of heads.

Example:
  >>> circuits = Circuits(W_KQ=jnp.ones((1, 2, 3, 3)), W_PV=jnp.arange(18.0).reshape(1, 2, 3, 3))
  >>> rescaled = Circuits(2 * circuits.W_KQ, circuits.W_PV / 2)
  >>> float(gauge_distance(circuits, rescaled, d_input=2))
  0.0
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

from icl_gd.schema import Size, checked
from icl_gd.types import Array, Circuits


@checked
def canonical_form(circuits: Circuits, d_input: Size, w0: Float[Array, "m d"] | None = None) -> Float[Array, "m e e d"]:
    """The canonical form T of a one-layer model; the module docstring derives it.

    Args:
      circuits: circuits of a one-layer model, `[1 head e e]` each.
      d_input: number of x slots of a token. The other slots are y slots, from which the prediction is read.
      w0: the W_0 of the layout, whose query token is `(x, -W_0 x)`. Default: zero.

    Returns:
      T `[m e e d]`.

    Raises:
      ValueError: if the model has more than one layer.
    """
    w_kq, w_pv = _only_layer(circuits)
    from_query = w_kq[:, :, :d_input]
    if w0 is not None:
        from_query = from_query - w_kq[:, :, d_input:] @ w0
    tensor = jnp.einsum("hra,hbc->rabc", w_pv[:, d_input:], from_query)
    return 0.5 * (tensor + tensor.swapaxes(1, 2))


@checked
def gauge_distance(circuits: Circuits, reference: Circuits, d_input: Size) -> Array:
    """Relative distance between the functions of two one-layer models: `|T - T_ref| / |T_ref|` in Frobenius norm.

    Args:
      circuits: circuits of a one-layer model.
      reference: circuits of the one-layer model with which it is compared.
      d_input: number of x slots of a token.

    Returns:
      A scalar, zero if and only if the functions are the same.

    Raises:
      ValueError: if a model has more than one layer.
    """
    form, reference_form = canonical_form(circuits, d_input), canonical_form(reference, d_input)
    return jnp.linalg.norm((form - reference_form).ravel()) / jnp.linalg.norm(reference_form.ravel())


def _only_layer(circuits: Circuits) -> tuple[Float[Array, "head e e"], Float[Array, "head e e"]]:
    if len(circuits.W_KQ) != 1:
        raise ValueError(f"circuits must be those of a one-layer model, got {len(circuits.W_KQ)} layers")
    return circuits.W_KQ[0], circuits.W_PV[0]


@checked
def effective_preconditioner(circuits: Circuits, d_input: Size, n_context: Size) -> Float[Array, "m d d"]:
    """The matrix A in `y_hat_r = x_query^T A_r^T (1/n) sum_i y_ir x_i`: the layer as preconditioned gradient descent.

    The code has a factor 2, because the (y, x) and (x, y) entries of the symmetric G are both sum_i y_i x_i. It has a
    minus sign, because the prediction is minus the y slot.

    Args:
      circuits: circuits of a one-layer model.
      d_input: number of x slots of a token.
      n_context: number n of context examples.

    Returns:
      A `[m d d]`, one matrix per output.

    Raises:
      ValueError: if the model has more than one layer.
    """
    form = canonical_form(circuits, d_input)
    rows = [-2 * n_context * form[r, d_input + r, :d_input, :] for r in range(form.shape[0])]
    return jnp.stack(rows)


def participation_ratio(matrix: Float[Array, "d d"]) -> Array:
    """Effective rank `(sum s^2)^2 / sum s^4` over the singular values s.

    Returns:
      A scalar: d for a multiple of a rotation, 1 for a matrix of rank one.
    """
    power = jnp.linalg.svd(matrix, compute_uv=False) ** 2
    return jnp.sum(power) ** 2 / jnp.sum(power**2)


class LabelPaths(NamedTuple):
    """Shares of the four paths from the context to a layer's prediction; the shares add up to one. See `label_paths`.

    Attributes:
      direct: W_PV[y, y] W_KQ[x, x]: labels are values, inputs are keys, as in gradient descent.
      exchanged: W_PV[y, x] W_KQ[y, x]: inputs are values, labels are keys.
      label_free: W_PV[y, x] W_KQ[x, x]: inputs only.
      label_squared: W_PV[y, y] W_KQ[y, x]: labels only.
    """

    direct: Array
    exchanged: Array
    label_free: Array
    label_squared: Array


@checked
def label_paths(circuits: Circuits, d_input: Size) -> LabelPaths:
    """Paths by which the weights of a one-layer model use the context, as shares of squared Frobenius norms.

    The Gram matrix G contains sum_i y_i x_i twice, so two paths lead from it to the prediction. The direct path can
    realise any matrix. The exchanged path is an outer product, of rank one per head. Training that starts on a path
    other than the direct one can get stuck there.

    The shares depend on the weights: the function alone does not distinguish the direct path from the exchanged one.

    Returns:
      LabelPaths of scalars.

    Raises:
      ValueError: if the model has more than one layer.
    """
    w_kq, w_pv = _only_layer(circuits)
    tensor = jnp.einsum("hra,hbc->rabc", w_pv[:, d_input:], w_kq[:, :, :d_input])
    x, y = slice(0, d_input), slice(d_input, None)
    norms = [jnp.sum(tensor[:, a, b] ** 2) for a, b in ((y, x), (x, y), (x, x), (y, y))]
    return LabelPaths(*(norm / sum(norms) for norm in norms))


def match_scale(circuits: Circuits, reference: Circuits) -> Circuits:
    """Rescales W_KQ and W_PV of every head to the scales of the reference, without changing the layer's function.

    For every c, `W_KQ / c` and `c W_PV` give the same layer. The size of c is chosen so that the ratio of the two norms
    equals that of the reference. The sign of c is chosen so that W_KQ and the W_KQ of the reference have a positive
    inner product.

    Returns:
      Rescaled circuits.
    """

    def norm(matrices: Array) -> Array:
        return jnp.sqrt(jnp.sum(matrices**2, axis=(-2, -1), keepdims=True))

    inner = jnp.sum(circuits.W_KQ * reference.W_KQ, axis=(-2, -1), keepdims=True)
    square = norm(circuits.W_KQ) * norm(reference.W_PV) / (norm(circuits.W_PV) * norm(reference.W_KQ))
    c = jnp.where(inner < 0, -1.0, 1.0).astype(inner.dtype) * jnp.sqrt(square)
    return Circuits(circuits.W_KQ / c, circuits.W_PV * c)
