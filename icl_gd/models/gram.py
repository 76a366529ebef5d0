"""The Gram form: linear self-attention layers, computed from the second moment of the context instead of its tokens.

The form is exact for linear layers without clip. Let G = sum_j e_j e_j^T over the context. The update of token i is
sum_h W_PV^h sum_j e_j (e_j^T W_KQ^h e_i) = (sum_h W_PV^h G W_KQ^h) e_i. So a layer maps every token e_i, of the context
and of the query, to M e_i with M = I + sum_h W_PV^h G W_KQ^h. Hence G becomes M G M^T, and the query q becomes M q. QED

    >>> circuits = Circuits(W_KQ=jnp.ones((2, 1, 3, 3)), W_PV=jnp.ones((2, 1, 3, 3)))  # [layer head e e]
    >>> gram = Gram.of(jnp.ones((5, 3)))  # 5 tokens; the last is the query
    >>> queries, contexts = apply_gram(circuits, gram)
    >>> queries.shape, contexts.shape
    ((3, 3), (3, 3, 3))
    >>> bool(read_gram(circuits, gram, d_output=1)[0] == -queries[-1, -1])
    True
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from icl_gd.schema import Size, checked
from icl_gd.types import Array, Circuits, Gram


def apply_gram(
    circuits: Circuits, gram: Gram
) -> tuple[Float[Array, "depth e *batch"], Float[Array, "depth e e *batch"]]:
    """Applies linear attention layers to the Gram form of a prompt.

    Returns:
      The query residuals `[depth e *batch]` and the context second moments `[depth e e *batch]`, before the first
      layer and after each one.
    """
    context, query = gram
    queries, contexts = [query], [context]
    for w_kq, w_pv in zip(circuits.W_KQ, circuits.W_PV, strict=True):
        # The query needs only matrix-vector products. If `contexts` is not used, XLA eliminates the other products.
        heads = jnp.einsum("ab...,hb...->ha...", context, jnp.einsum("hbc,c...->hb...", w_kq, query))
        query = query + jnp.einsum("hra,ha...->r...", w_pv, heads)
        layer_map = _layer_map(w_kq, w_pv, context)
        context = context + _product(layer_map, context)
        context = context + _product(context, layer_map.swapaxes(0, 1))
        queries.append(query)
        contexts.append(context)
    return jnp.stack(queries), jnp.stack(contexts)


def _layer_map(
    w_kq: Float[Array, "h e e"], w_pv: Float[Array, "h e e"], context: Float[Array, "e e *batch"]
) -> Float[Array, "e e *batch"]:
    """`sum_h W_PV^h G W_KQ^h`, where G is `context`. Weights and data are multiplied as two-dimensional arrays."""
    heads, e, batch = len(w_kq), len(context), context.shape[2:]
    w_kq_g = w_kq.swapaxes(1, 2).reshape(heads * e, e) @ context.reshape(e, -1)  # W_KQ^T G of every head
    g_w_kq = w_kq_g.reshape(heads, e, e, *batch).swapaxes(1, 2)  # G is symmetric, so this is G W_KQ
    return (w_pv.swapaxes(0, 1).reshape(e, heads * e) @ g_w_kq.reshape(heads * e, -1)).reshape(e, e, *batch)


def _product(a: Float[Array, "i j *batch"], b: Float[Array, "j k *batch"]) -> Float[Array, "i k *batch"]:
    """`a @ b` for every prompt of a trailing batch axis."""
    return a @ b if a.ndim == 2 else _batched_product(a, b)


@jax.custom_vjp
def _batched_product(a: Float[Array, "i j *batch"], b: Float[Array, "j k *batch"]) -> Float[Array, "i k *batch"]:
    """`a @ b` for every prompt, on CPU as a sum of outer products.

    The sum adds vectors with one entry per prompt, and its partial sums fit in cache. On CPU, XLA's batched product of
    small matrices takes four times as long.
    """

    def outer(a: Array, b: Array, j: Array | int) -> Array:
        return a[:, j][:, None] * b[j][None]

    def sum_of_outer(a: Array, b: Array) -> Array:
        return jax.lax.fori_loop(1, len(b), lambda j, total: total + outer(a, b, j), outer(a, b, 0))

    def einsum(a: Array, b: Array) -> Array:
        return jnp.einsum("ij...,jk...->ik...", a, b)

    return jax.lax.platform_dependent(a, b, cpu=sum_of_outer, default=einsum)


def _batched_product_forward(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return _batched_product(a, b), (a, b)


def _batched_product_backward(factors: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    a, b = factors
    return _batched_product(cotangent, b.swapaxes(0, 1)), _batched_product(a.swapaxes(0, 1), cotangent)


# Automatic differentiation of the loop would store every partial sum, so the gradient is defined here.
_batched_product.defvjp(_batched_product_forward, _batched_product_backward)


@checked
def read_gram(circuits: Circuits, gram: Gram, d_output: Size) -> Float[Array, " m *batch"]:
    """The prediction of linear attention layers, computed at low cost for batches of prompts.

    In the last layer, only the slots of the prediction are computed. Weights and data are multiplied as
    two-dimensional arrays with the prompts as columns; on CPU, batched products take five times as long.

    Args:
      circuits: QK and OV circuits of all layers.
      gram: the Gram form of a prompt, or of a batch in trailing axes.
      d_output: width m of the prediction.

    Returns:
      y_hat `[m *batch]`: minus the last `d_output` slots of the query.
    """
    queries, contexts = apply_gram(Circuits(circuits.W_KQ[:-1], circuits.W_PV[:-1]), gram)
    query, context = queries[-1], contexts[-1]
    w_kq, w_pv = circuits.W_KQ[-1], circuits.W_PV[-1, :, -d_output:]
    heads, rows, e = w_pv.shape
    batch = query.shape[1:]
    w_kq_q = (w_kq.reshape(heads * e, e) @ query.reshape(e, -1)).reshape(heads, 1, e, *batch)
    w_pv_g = (w_pv.reshape(heads * rows, e) @ context.reshape(e, -1)).reshape(heads, rows, e, *batch)
    return -query[-d_output:] - jnp.sum(w_kq_q * w_pv_g, axis=(0, 2))
