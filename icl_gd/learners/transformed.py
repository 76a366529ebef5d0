"""Learners on transformed prompts: centred, or standardised as by LayerNorm.

`centred` and `standardised` return a learner that transforms its prompt first. `centre` and `standardise` transform a
batch of prompts in the same way, for example to fit rates on them. One gradient step before and after centring:

    >>> from icl_gd.learners import gradient_descent
    >>> x, y, x_query = jnp.array([[1.0], [3.0]]), jnp.array([[2.0], [8.0]]), jnp.ones(1)
    >>> learner = gradient_descent([1.0])
    >>> learner(x, y, x_query).tolist(), centred(learner)(x, y, x_query).tolist()
    ([13.0], [3.0])
"""

import jax.numpy as jnp
from jax.tree_util import Partial

from icl_gd.problems import on_problem
from icl_gd.programs import as_partial
from icl_gd.types import Array, Predictor, Prompt


def centred(learner: Predictor) -> Predictor:
    """Applies a learner to the centred context `x - mean x`, `y - mean y`; the query is not changed.

    One step of gradient descent then has the update `step_size / n sum_i (y_i - mean y) (x_i - mean x)^T`. Softmax
    heads can compute this update to first order, because their patterns sum to one (`analysis.softmax`).

    Args:
      learner: any Predictor.

    Returns:
      A Predictor with the output shape of `learner`.
    """
    return Partial(_centred, as_partial(learner))


@on_problem
def _centred(learner: Predictor, x: Array, y: Array, x_query: Array) -> Array:
    return learner(_without_mean(x), _without_mean(y), x_query)


def centre(prompts: Prompt) -> Prompt:
    """Centres prompts as `centred` does: subtracts the mean input and the mean label of every context.

    Args:
      prompts: a batch of Prompts (leading axis).

    Returns:
      The prompts with centred `x` and `y`.
    """
    return prompts._replace(x=_without_mean(prompts.x, 1), y=_without_mean(prompts.y, 1))


def standardised(learner: Predictor) -> Predictor:
    """Applies a learner to standardised tokens: the entries of each token (x, y) have mean 0 and standard deviation 1.

    The query is standardised as the token (x_query, 0). LayerNorm without scale and offset has the same output. It
    removes the mean and the norm of each token, and so also the scale of its label.

    Args:
      learner: any Predictor.

    Returns:
      A Predictor with the output shape of `learner`.
    """
    return Partial(_standardised, as_partial(learner))


@on_problem
def _standardised(learner: Predictor, x: Array, y: Array, x_query: Array) -> Array:
    x, y = _standard(x, y)
    x_query, _ = _standard(x_query, jnp.zeros_like(y[0]))
    return learner(x, y, x_query)


def standardise(prompts: Prompt) -> Prompt:
    """Standardises prompts as `standardised` does.

    Args:
      prompts: a batch of Prompts (leading axis).

    Returns:
      The prompts with standardised `x`, `y` and `x_query`; `y_query` is not changed.
    """
    x, y = _standard(prompts.x, prompts.y)
    x_query, _ = _standard(prompts.x_query, jnp.zeros_like(prompts.y_query))
    return prompts._replace(x=x, y=y, x_query=x_query)


def _standard(x: Array, y: Array) -> tuple[Array, Array]:
    tokens = _without_mean(jnp.concatenate([x, y], axis=-1), -1)
    deviation = jnp.std(tokens, axis=-1, keepdims=True)
    tokens = tokens / jnp.maximum(deviation, jnp.finfo(tokens.dtype).tiny)  # a token with equal entries becomes zero
    return tokens[..., : x.shape[-1]], tokens[..., x.shape[-1] :]


def _without_mean(values: Array, axis: int = 0) -> Array:
    return values - values.mean(axis, keepdims=True)
