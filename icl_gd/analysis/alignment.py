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


def alignment_map(layerwise: Predictor, reference: Predictor, prompts: Prompt) -> Alignment:
    """Alignment of what a network predicts after every layer to what a learner predicts after every step.

    Args:
      layerwise: y_hat `[depth m]`, as `models.layerwise_predictor` gives it.
      reference: y_hat `[iterate m]`, as `learners.layerwise_gradient_descent` gives it.

    Returns:
      Alignment whose fields are `[depth iterate]`; the first of both are before any layer or step.
    """

    def one(x: Array, y: Array, x_query: Array) -> Alignment:
        y_hat, y_reference = layerwise(x, y, x_query), reference(x, y, x_query)
        flat = lambda f: (sensitivity := jax.jacrev(f, argnums=2)(x, y, x_query)).reshape(len(sensitivity), -1)
        a, b = flat(layerwise), flat(reference)
        distance = lambda u, v: jnp.linalg.norm(u[:, None] - v[None], axis=-1)
        return Alignment(jax.vmap(_unit)(a) @ jax.vmap(_unit)(b).T, distance(a, b), distance(y_hat, y_reference))

    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), jax.vmap(one)(prompts.x, prompts.y, prompts.x_query))


def _unit(v: Array) -> Array:
    """v over its norm; zero stays zero, so a predictor that ignores its query has cosine 0, not nan."""
    tiny = jnp.finfo(v.dtype).tiny
    v = v / jnp.maximum(jnp.abs(v).max(), tiny)  # or the squares of small sensitivities underflow
    return v / jnp.maximum(jnp.linalg.norm(v), tiny)
