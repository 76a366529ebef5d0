"""Alignment of two Predictors on the same prompts (von Oswald et al., section 3 and Figure 2).

Example:
  >>> from icl_gd import learners
  >>> from icl_gd.tasks import LinearRegression, draw_prompts
  >>> prompts = draw_prompts(LinearRegression(d_input=2, n_context=5).sample, jax.random.key(0), 8)
  >>> one_step, half_step = learners.gradient_descent([1.0]), learners.gradient_descent([0.5])
  >>> result = alignment(half_step, one_step, prompts)
  >>> bool(jnp.isclose(result.sensitivity_cosine, 1.0)), bool(result.sensitivity_difference > 0.0)
  (True, True)
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from icl_gd.analysis.risk import batch_last, with_program
from icl_gd.types import Array, Predictor, Prompt, batched


class Alignment(NamedTuple):
    """Three measures of agreement of a Predictor with a reference, averaged over prompts.

    A sensitivity is the derivative `d y_hat / d x_query [m d]`, flattened to `[md]`. The cosine cannot detect a wrong
    step size, so report all three measures.

    Attributes:
      sensitivity_cosine: cosine of the angle between the sensitivities.
      sensitivity_difference: Euclidean norm of the difference of sensitivities.
      prediction_difference: Euclidean norm of the difference of predictions; for one output, its absolute value.
    """

    sensitivity_cosine: Array
    sensitivity_difference: Array
    prediction_difference: Array


class Response(NamedTuple):
    """Predictions for a batch of prompts, and their derivatives with respect to the query.

    If the Predictor returns one output per layer or step, the second axis (`depth`) is that of layers or steps.

    Attributes:
      y_hat: predictions.
      sensitivity: derivatives `d y_hat / d x_query`, with outputs and inputs flattened in the last axis.
    """

    y_hat: Float[Array, "prompt *depth m"]
    sensitivity: Float[Array, "prompt *depth md"]


def response(predictor: Predictor, prompts: Prompt) -> Response:
    """Predictions of a Predictor for a batch of prompts, and their derivatives with respect to the query.

    To compare a Predictor with several others, compute its Response once and use `compare`.

    Returns:
      Response with `y_hat` `[prompt *depth m]` and `sensitivity` `[prompt *depth md]`.
    """
    return with_program(_response, predictor, prompts)


def _response(predictor: Predictor, prompts: Prompt) -> Response:
    if (on_batch := batched(predictor)) is not None:
        x, y, x_query = batch_last(prompts)
        y_hat, pullback = jax.vjp(partial(on_batch, x, y), x_query)
        # A prediction does not depend on the queries of other prompts. So one backward pass for the sum over prompts
        # gives the gradients of one output for all prompts.
        m = len(y_hat)
        cotangents = jnp.broadcast_to(jnp.eye(m, dtype=y_hat.dtype)[..., None], (m, *y_hat.shape))
        sensitivity = jnp.concatenate([pullback(cotangent)[0] for cotangent in cotangents])  # [md prompt]
        return Response(y_hat.T, sensitivity.T)

    def on_prompt(x: Array, y: Array, x_query: Array) -> Response:
        sensitivity = jax.jacrev(predictor, argnums=2)(x, y, x_query)
        return Response(predictor(x, y, x_query), sensitivity.reshape(*sensitivity.shape[:-2], -1))

    return jax.vmap(on_prompt)(prompts.x, prompts.y, prompts.x_query)


def alignment(predictor: Predictor, reference: Predictor, prompts: Prompt) -> Alignment:
    """Alignment of a Predictor to a reference, averaged over a batch of prompts.

    Args:
      predictor: a Predictor.
      reference: the Predictor with which it is compared.
      prompts: a batch of Prompts (leading axis).

    Returns:
      An Alignment with three scalar fields.
    """
    return with_program(_alignment, predictor, reference, prompts)


def _alignment(predictor: Predictor, reference: Predictor, prompts: Prompt) -> Alignment:
    return compare(response(predictor, prompts), response(reference, prompts))


def compare(actual: Response, reference: Response) -> Alignment:
    """Alignment of two Responses to the same prompts.

    Returns:
      Alignment, averaged over prompts. Axes of the Responses between the prompt axis and the output axis, such as
      depth, remain.
    """
    cosine = jnp.sum(_unit(actual.sensitivity) * _unit(reference.sensitivity), axis=-1)
    return Alignment(
        sensitivity_cosine=jnp.mean(cosine, axis=0),
        sensitivity_difference=jnp.mean(_distance(actual.sensitivity, reference.sensitivity), axis=0),
        prediction_difference=jnp.mean(_distance(actual.y_hat, reference.y_hat), axis=0),
    )


def alignment_map(layerwise: Predictor, reference: Predictor, prompts: Prompt) -> Alignment:
    """Alignment of every layer of a network to every step of a learner.

    Args:
      layerwise: Predictor with output `[depth m]`, such as `models.layerwise_predictor`.
      reference: Predictor with output `[iterate m]`, such as `learners.layerwise_gradient_descent`.
      prompts: a batch of Prompts (leading axis).

    Returns:
      Alignment whose fields are `[depth iterate]`. Index 0 of either axis is the state before any layer or step.
    """
    return with_program(_alignment_map, layerwise, reference, prompts)


def _alignment_map(layerwise: Predictor, reference: Predictor, prompts: Prompt) -> Alignment:
    return compare_layers(response(layerwise, prompts), response(reference, prompts))


def compare_layers(layerwise: Response, reference: Response) -> Alignment:
    """Like `alignment_map`, for Responses `[prompt depth ...]` and `[prompt iterate ...]` that are already computed.

    Returns:
      Alignment whose fields are `[depth iterate]`.
    """
    layers = Response(*(jnp.expand_dims(leaf, 2) for leaf in layerwise))  # [prompt depth 1 ...]
    steps = Response(*(jnp.expand_dims(leaf, 1) for leaf in reference))  # [prompt 1 iterate ...]
    return compare(layers, steps)


def _distance(u: Array, v: Array) -> Array:
    return jnp.linalg.norm(u - v, axis=-1)


def _unit(v: Array) -> Array:
    """v `[... md]` divided by its norm. Zero stays zero: a predictor that ignores its query has cosine 0, not nan."""
    tiny = jnp.finfo(v.dtype).tiny
    # v is first divided by its largest entry, because the squares of small sensitivities would underflow.
    v = v / jnp.maximum(jnp.abs(v).max(-1, keepdims=True), tiny)
    return v / jnp.maximum(jnp.linalg.norm(v, axis=-1, keepdims=True), tiny)
