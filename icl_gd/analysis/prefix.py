"""Predictions, errors and sensitivities at every context length of a prompt (Garg et al. 2208.01066, section 4).

`squared_errors` and `prefix_squared_errors` have no factor 1/2, as in the paper. `analysis.losses` has the factor 1/2,
which is the convention of `icl_gd.types`.

Example:
  >>> from icl_gd import learners
  >>> from icl_gd.tasks import FunctionRegression, Linear, draw_prompts
  >>> task = FunctionRegression(Linear(d_input=2), n_context=4)
  >>> prompts = draw_prompts(task.sample_prefixes, jax.random.key(0), 8)
  >>> errors = prefix_squared_errors(learners.prefix_least_squares, prompts, task.in_order)
  >>> errors.shape
  (8, 5)
  >>> bool((errors[:, 3:] < 1e-3).all())  # with at least d_input = 2 examples, least squares is exact
  True
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from icl_gd.schema import Size, checked
from icl_gd.types import Array, PrefixPredictor, PrefixPrompt

# A few prompts fit in cache. Under vmap, a while loop also runs until the slowest prompt of the batch has finished.
PROMPTS_AT_ONCE = 8


@checked
def prefix_predictions(
    predictor: PrefixPredictor, prompts: PrefixPrompt, in_order: bool, at_once: Size = PROMPTS_AT_ONCE
) -> Float[Array, "... prompt n m"]:
    """Predictions for the k-th query of every prompt, given its first k examples: the in-context learning curve.

    Args:
      predictor: a PrefixPredictor. Its output `[n m]` may have leading axes, as for `prefix_lasso_path`.
      prompts: a batch of PrefixPrompts (leading axis).
      in_order: whether the k-th query is the input `x[k]`, as `task.in_order` reports. If so, one evaluation of the
        predictor predicts all queries of a prompt; otherwise there is one evaluation per query.
      at_once: number of prompts processed together. Default: 8, which fits in cache.

    Returns:
      Predictions `[... prompt n m]`, with the predictor's leading axes first.
    """

    def predict_prompt(prompt: PrefixPrompt) -> Array:
        if in_order:
            return predictor(prompt.x, prompt.y)

        def predict_query(k: Array) -> Array:
            return _predict_at(predictor, prompt, k, prompt.x_query)

        return jnp.moveaxis(jax.lax.map(predict_query, jnp.arange(len(prompt.x))), 0, -2)

    predictions = jax.lax.map(predict_prompt, prompts, batch_size=at_once)
    return jnp.moveaxis(predictions, 0, -3)


@checked
def prefix_squared_errors(
    predictor: PrefixPredictor,
    prompts: PrefixPrompt,
    in_order: bool,
    at_once: Size = PROMPTS_AT_ONCE,
    are_classes: bool = False,
) -> Float[Array, "... prompt n"]:
    """Squared errors `|y_hat - y_query|^2` at every context length, without the factor 1/2 of `losses`.

    Args:
      predictor: a PrefixPredictor, see `prefix_predictions`.
      prompts: a batch of PrefixPrompts (leading axis).
      in_order: whether the k-th query is the input `x[k]`, as `task.in_order` reports.
      at_once: number of prompts processed together. Default: 8.
      are_classes: whether labels are the classes 1 and -1, as `task.logistic` reports; see `squared_errors`. Default:
        False.

    Returns:
      Errors `[... prompt n]`, with the predictor's leading axes first.
    """
    return squared_errors(prefix_predictions(predictor, prompts, in_order, at_once), prompts.y_query, are_classes)


@checked
def prefix_responses(
    predictor: PrefixPredictor, prompts: PrefixPrompt, at_once: Size = PROMPTS_AT_ONCE
) -> tuple[Float[Array, "prompt n m"], Float[Array, "prompt n m d"]]:
    """Predictions for the k-th query given the first k examples, and their derivatives `d y_hat / d x_query`.

    The examples are fixed. Each query takes one forward and one backward pass. Garg et al., section 4.3, use these
    derivatives to test whether a Transformer computes the same function as least squares.

    Args:
      predictor: a PrefixPredictor with output `[n m]`.
      prompts: a batch of PrefixPrompts (leading axis).
      at_once: number of prompts processed together. Default: 8.

    Returns:
      Predictions `[prompt n m]` and derivatives `[prompt n m d]`.
    """

    def prompt_responses(prompt: PrefixPrompt) -> tuple[Array, Array]:
        def query_response(k: Array) -> tuple[Array, Array]:
            def predict(query: Array) -> Array:
                return _predict_at(predictor, prompt, k, query[None])

            query = jnp.take(prompt.x_query, k, axis=0)
            return predict(query), jax.jacrev(predict)(query)

        return jax.lax.map(query_response, jnp.arange(len(prompt.x)))

    return jax.lax.map(prompt_responses, prompts, batch_size=at_once)


def _predict_at(predictor: PrefixPredictor, prompt: PrefixPrompt, k: Array, x_query: Array) -> Float[Array, "... m"]:
    """Prediction given the first k examples, for one query `[1 d]` or for the k-th of several queries `[n d]`."""
    here = (jnp.arange(len(prompt.x)) == k)[:, None]
    return jnp.take(predictor(jnp.where(here, x_query, prompt.x), prompt.y), k, axis=-2)


@checked
def squared_errors(
    y_hat: Float[Array, "... m"], y_query: Float[Array, "... m"], are_classes: bool = False
) -> Float[Array, "..."]:
    """Squared errors `|y_hat - y_query|^2`, summed over outputs, without the factor 1/2 of `losses`.

    For classes, the error is `1 - sign(y_hat) sign(y_query)`, summed over outputs. Its mean is twice the
    misclassification rate, so it is 1 for random guesses. The error is also 1 if the prediction is zero, which chooses
    no class.

    Args:
      y_hat: predictions. They may have leading axes that `y_query` does not have.
      y_query: labels of the queries.
      are_classes: whether labels are the classes 1 and -1. Default: False, squared errors.

    Returns:
      Errors `[...]`.
    """
    y_query = jnp.reshape(y_query, (1,) * (y_hat.ndim - y_query.ndim) + y_query.shape)
    if are_classes:
        return jnp.sum(1 - jnp.sign(y_hat) * jnp.sign(y_query), axis=-1)
    return jnp.sum((y_hat - y_query) ** 2, axis=-1)
