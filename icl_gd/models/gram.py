"""The moment form: a stack of linear self-attention layers, run on the context's second moment alone.

Exact for linear layers without clip: with G = sum_j e_j e_j^T over the context, layer l maps every token, context
and query alike, by M = I + sum_h W_PV^h G W_KQ^h, because the update of token i is
sum_h W_PV^h sum_j e_j (e_j^T W_KQ^h e_i). Hence G becomes M G M^T and the query token q becomes M q. QED
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from icl_gd.schema import Size, checked
from icl_gd.types import Array, Circuits, Gram


def apply_gram(
    circuits: Circuits, moments: Gram
) -> tuple[Float[Array, "depth e *batch"], Float[Array, "depth e e *batch"]]:
    """Query residuals and context moments before the first layer and after each one."""
    context, query = moments
    queries, contexts = [query], [context]
    for w_kq, w_pv in zip(circuits.W_KQ, circuits.W_PV, strict=True):
        # The query needs matrix-vector products only; XLA drops the matrix products nobody reads.
        seen = jnp.einsum("ab...,hb...->ha...", context, jnp.einsum("hbc,c...->hb...", w_kq, query))
        query = query + jnp.einsum("hra,ha...->r...", w_pv, seen)
        layer_map = _layer_map(w_kq, w_pv, context)
        context = context + _product(layer_map, context)
        context = context + _product(context, layer_map.swapaxes(0, 1))
        queries.append(query)
        contexts.append(context)
    return jnp.stack(queries), jnp.stack(contexts)


def _layer_map(
    w_kq: Float[Array, "h e e"], w_pv: Float[Array, "h e e"], context: Float[Array, "e e *batch"]
) -> Float[Array, "e e *batch"]:
    """`sum_h W_PV^h G W_KQ^h` of a symmetric G. Weights meet data in two-dimensional products, as below."""
    heads, e, batch = len(w_kq), len(context), context.shape[2:]
    read = w_kq.swapaxes(1, 2).reshape(heads * e, e) @ context.reshape(e, -1)
    read = read.reshape(heads, e, e, *batch).swapaxes(1, 2)  # [h a d *batch]
    return (w_pv.swapaxes(0, 1).reshape(e, heads * e) @ read.reshape(heads * e, -1)).reshape(e, e, *batch)


def _product(a: Float[Array, "i j *batch"], b: Float[Array, "j k *batch"]) -> Float[Array, "i k *batch"]:
    """`a @ b`, for every prompt of a batch that stands last."""
    return a @ b if a.ndim == 2 else _batched_product(a, b)


@jax.custom_vjp
def _batched_product(a: Float[Array, "i j *batch"], b: Float[Array, "j k *batch"]) -> Float[Array, "i k *batch"]:
    """On a CPU as a sum of outer products, one after another: vectors run along prompts, and what is added up stays in
    cache. The compiler's own product of many small matrices takes four times as long.
    """
    outer = lambda a, b, j: a[:, j][:, None] * b[j][None]
    added_up = lambda a, b: jax.lax.fori_loop(1, len(b), lambda j, sum_: sum_ + outer(a, b, j), outer(a, b, 0))
    plain = lambda a, b: jnp.einsum("ij...,jk...->ik...", a, b)
    return jax.lax.platform_dependent(a, b, cpu=added_up, default=plain)


# Or a gradient would keep every partial sum.
_batched_product.defvjp(
    lambda a, b: (_batched_product(a, b), (a, b)),
    lambda kept, slope: (
        _batched_product(slope, kept[1].swapaxes(0, 1)),
        _batched_product(kept[0].swapaxes(0, 1), slope),
    ),
)


@checked
def read_gram(circuits: Circuits, moments: Gram, d_output: Size) -> Float[Array, " m *batch"]:
    """The prediction, minus the last `d_output` slots of the query, at the least cost for a batch.

    Only what is read of the last layer is computed, and its weights meet the data in two-dimensional products that
    batch and members share: with the batch among a product's own batch axes a CPU needs five times as long.
    """
    queries, contexts = apply_gram(Circuits(circuits.W_KQ[:-1], circuits.W_PV[:-1]), moments)
    query, context = queries[-1], contexts[-1]
    w_kq, w_pv = circuits.W_KQ[-1], circuits.W_PV[-1, :, -d_output:]
    heads, rows, e = w_pv.shape
    batch = query.shape[1:]
    read = (w_kq.reshape(heads * e, e) @ query.reshape(e, -1)).reshape(heads, 1, e, *batch)
    written = (w_pv.reshape(heads * rows, e) @ context.reshape(e, -1)).reshape(heads, rows, e, *batch)
    return -query[-d_output:] - jnp.sum(read * written, axis=(0, 2))
