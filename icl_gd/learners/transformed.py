"""Learners on prompts that are transformed before they see them, and batches of such prompts to tune them on."""

import jax.numpy as jnp
from jax.tree_util import Partial

from icl_gd.problems import on_problem
from icl_gd.programs import as_partial
from icl_gd.types import Array, Predictor, Prompt


def centred(learner: Predictor) -> Predictor:
    """The learner on `x - mean x`, `y - mean y` of the context; the query is left as it is.

    Gradient descent then takes `step_size / n sum_i (y_i - mean y) (x_i - mean x)^T`: what softmax heads, whose
    patterns sum to one, can take to first order (`analysis.softmax`).
    """
    return Partial(_centred, as_partial(learner))


@on_problem
def _centred(learner: Predictor, x: Array, y: Array, x_query: Array) -> Array:
    return learner(_without_mean(x), _without_mean(y), x_query)


def centre(prompts: Prompt) -> Prompt:
    """A batch of prompts (leading axis) with the means of their contexts removed."""
    return prompts._replace(x=_without_mean(prompts.x, 1), y=_without_mean(prompts.y, 1))


def standardised(learner: Predictor) -> Predictor:
    """The learner on tokens (x, y) less the mean of their entries, over their standard deviation; y of the query is 0.

    What LayerNorm without scale and offset shows to attention: a token's mean and length are gone, and with them the
    size of a label.
    """
    return Partial(_standardised, as_partial(learner))


@on_problem
def _standardised(learner: Predictor, x: Array, y: Array, x_query: Array) -> Array:
    x, y = _standard(x, y)
    x_query, _ = _standard(x_query, jnp.zeros_like(y[0]))
    return learner(x, y, x_query)


def standardise(prompts: Prompt) -> Prompt:
    """A batch of prompts (leading axis) as `standardised` shows them; `y_query` is left as it is."""
    x, y = _standard(prompts.x, prompts.y)
    x_query, _ = _standard(prompts.x_query, jnp.zeros_like(prompts.y_query))
    return prompts._replace(x=x, y=y, x_query=x_query)


def _standard(x: Array, y: Array) -> tuple[Array, Array]:
    tokens = _without_mean(jnp.concatenate([x, y], axis=-1), -1)
    deviation = jnp.std(tokens, axis=-1, keepdims=True)
    tokens = tokens / jnp.maximum(deviation, jnp.finfo(tokens.dtype).tiny)  # a token of equal entries has become zero
    return tokens[..., : x.shape[-1]], tokens[..., x.shape[-1] :]


def _without_mean(values: Array, axis: int = 0) -> Array:
    return values - values.mean(axis, keepdims=True)
