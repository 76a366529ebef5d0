"""The moment form: a stack of linear self-attention layers, run on the context's second moment alone.

Exact for linear layers without clip: with G = sum_j e_j e_j^T over the context, layer l maps every token, context
and query alike, by M = I + sum_h W_PV^h G W_KQ^h, because the update of token i is
sum_h W_PV^h sum_j e_j (e_j^T W_KQ^h e_i). Hence G becomes M G M^T and the query token q becomes M q. QED
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from icl_gd.types import Array, Circuits, Layout, Moments, Predictor


def moments_of(tokens: Float[Array, "t e"]) -> Moments:
    """The second moment of the context tokens, and the query token, which is the last."""
    context, query = tokens[:-1], tokens[-1]
    return Moments(context.T @ context, query)


def apply_moments(
    circuits: Circuits, moments: Moments
) -> tuple[Float[Array, "layer+1 e"], Float[Array, "layer+1 e e"]]:
    """Query residuals and context moments before the first layer and after each one."""
    context, query = moments
    queries, contexts = [query], [context]
    for w_kq, w_pv in zip(circuits.W_KQ, circuits.W_PV, strict=True):
        # The query needs matrix-vector products only; XLA drops the matrix products nobody reads.
        query = query + jnp.einsum("hab,bc,hcd,d->a", w_pv, context, w_kq, query)
        layer_map = jnp.eye(len(query), dtype=query.dtype) + jnp.einsum("hab,bc,hcd->ad", w_pv, context, w_kq)
        context = layer_map @ context @ layer_map.T
        queries.append(query)
        contexts.append(context)
    return jnp.stack(queries), jnp.stack(contexts)


def layerwise_circuit_predictor(circuits: Circuits, layout: Layout) -> Predictor:
    """As `circuit_predictor`, read out after every layer: y_hat `[layer+1 m]`."""

    def predict(x: Array, y: Array, x_query: Array) -> Array:
        queries, _ = apply_moments(circuits, moments_of(layout.encode(x, y, x_query)))
        return jax.vmap(layout.read_out)(queries)

    return predict


def circuit_predictor(circuits: Circuits, layout: Layout) -> Predictor:
    """A linear Transformer known by its circuits only, as a Predictor."""
    layerwise = layerwise_circuit_predictor(circuits, layout)
    return lambda x, y, x_query: layerwise(x, y, x_query)[-1]
