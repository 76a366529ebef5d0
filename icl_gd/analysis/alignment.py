"""How alike two Predictors are on the same prompts (von Oswald et al., section 3 and Figure 2)."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from icl_gd.analysis.risk import batch_last, with_program
from icl_gd.types import Array, Predictor, Prompt, batched


class Alignment(NamedTuple):
    """Means over prompts. The cosine alone is blind to step size, so always look at all three.

    Sensitivities are `d y_hat / d x_query [m d]`, flattened where there are several outputs.
    """

    sensitivity_cosine: Array
    sensitivity_difference: Array  # |difference of sensitivities|_2
    prediction_difference: Array  # |difference of predictions|_2; the absolute value for one output


class Response(NamedTuple):
    """What a Predictor says of a batch of prompts, and how that changes with the query; flattened outputs stand last.

    Of one that is read out after every layer or step, both have that axis in between.
    """

    y_hat: Float[Array, "prompt *depth m"]
    sensitivity: Float[Array, "prompt *depth md"]  # d y_hat / d x_query


def response(predictor: Predictor, prompts: Prompt) -> Response:
    """The Response of a Predictor. What is compared with many others is computed once."""
    return with_program(_response, predictor, prompts)


def _response(predictor: Predictor, prompts: Prompt) -> Response:
    if (many := batched(predictor)) is not None:
        x, y, x_query = batch_last(prompts)
        y_hat, pull = jax.vjp(partial(many, x, y), x_query)
        # No prompt's prediction depends on another's query: the gradient of their sum is that of each.
        ones = jnp.broadcast_to(jnp.eye(len(y_hat), dtype=y_hat.dtype)[..., None], (len(y_hat), *y_hat.shape))
        sensitivity = jnp.concatenate([pull(one)[0] for one in ones])  # [md prompt]
        return Response(y_hat.T, sensitivity.T)

    def one(x: Array, y: Array, x_query: Array) -> Response:
        sensitivity = jax.jacrev(predictor, argnums=2)(x, y, x_query)
        return Response(predictor(x, y, x_query), sensitivity.reshape(*sensitivity.shape[:-2], -1))

    return jax.vmap(one)(prompts.x, prompts.y, prompts.x_query)


def alignment(predictor: Predictor, reference: Predictor, prompts: Prompt) -> Alignment:
    """Alignment of a Predictor to a reference over a batch of prompts."""
    return with_program(_alignment, predictor, reference, prompts)


def _alignment(predictor: Predictor, reference: Predictor, prompts: Prompt) -> Alignment:
    return compare(response(predictor, prompts), response(reference, prompts))


def compare(ours: Response, theirs: Response) -> Alignment:
    """Alignment of two Responses to the same prompts."""
    cosine = jnp.sum(_unit(ours.sensitivity) * _unit(theirs.sensitivity), axis=-1)
    distance = lambda u, v: jnp.linalg.norm(u - v, axis=-1)
    differences = map(distance, (ours.sensitivity, ours.y_hat), (theirs.sensitivity, theirs.y_hat))
    return Alignment(*(jnp.mean(values, axis=0) for values in (cosine, *differences)))


def alignment_map(layerwise: Predictor, reference: Predictor, prompts: Prompt) -> Alignment:
    """Alignment of what a network predicts after every layer to what a learner predicts after every step.

    Args:
      layerwise: y_hat `[depth m]`, as `models.layerwise_predictor` gives it.
      reference: y_hat `[iterate m]`, as `learners.layerwise_gradient_descent` gives it.

    Returns:
      Alignment whose fields are `[depth iterate]`; the first of both are before any layer or step.
    """
    return with_program(_alignment_map, layerwise, reference, prompts)


def _alignment_map(layerwise: Predictor, reference: Predictor, prompts: Prompt) -> Alignment:
    return compare_layers(response(layerwise, prompts), response(reference, prompts))


def compare_layers(ours: Response, theirs: Response) -> Alignment:
    """As `alignment_map`, of Responses `[prompt depth ...]` and `[prompt iterate ...]`."""
    return compare(*(Response(*(jnp.expand_dims(leaf, axis) for leaf in of)) for of, axis in ((ours, 2), (theirs, 1))))


def _unit(v: Array) -> Array:
    """v `[... md]` over its norm; zero stays zero, so a predictor that ignores its query has cosine 0, not nan."""
    tiny = jnp.finfo(v.dtype).tiny
    v = v / jnp.maximum(jnp.abs(v).max(-1, keepdims=True), tiny)  # or the squares of small sensitivities underflow
    return v / jnp.maximum(jnp.linalg.norm(v, axis=-1, keepdims=True), tiny)
