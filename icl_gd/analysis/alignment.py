"""How alike two Predictors are on the same prompts (von Oswald et al., section 3 and Figure 2)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from icl_gd.types import Array, Predictor, Prompt


class Alignment(NamedTuple):
    """Means over prompts. The cosine alone is blind to step size, so always look at all three.

    Sensitivities are `d y_hat / d x_query [m d]`, flattened where there are several outputs.
    """

    sensitivity_cosine: Array
    sensitivity_difference: Array  # |difference of sensitivities|_2
    prediction_difference: Array  # |difference of predictions|_2; the absolute value for one output


def alignment(predictor: Predictor, reference: Predictor, prompts: Prompt) -> Alignment:
    """Alignment of a Predictor to a reference over a batch of prompts."""

    def one(x: Array, y: Array, x_query: Array) -> Alignment:
        y_hat, y_reference = predictor(x, y, x_query), reference(x, y, x_query)
        a = jax.jacrev(predictor, argnums=2)(x, y, x_query).ravel()
        b = jax.jacrev(reference, argnums=2)(x, y, x_query).ravel()
        return Alignment(_unit(a) @ _unit(b), jnp.linalg.norm(a - b), jnp.linalg.norm(y_hat - y_reference))

    return jax.tree.map(jnp.mean, jax.vmap(one)(prompts.x, prompts.y, prompts.x_query))


def _unit(v: Array) -> Array:
    """v over its norm; zero stays zero, so a predictor that ignores its query has cosine 0, not nan."""
    tiny = jnp.finfo(v.dtype).tiny
    v = v / jnp.maximum(jnp.abs(v).max(), tiny)  # or the squares of small sensitivities underflow
    return v / jnp.maximum(jnp.linalg.norm(v), tiny)
