"""Errors at every length of a prompt (Garg et al. 2208.01066, section 4)."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from icl_gd.schema import Size, checked
from icl_gd.types import Array, PrefixPredictor, PrefixPrompt

PROMPTS_AT_ONCE = 8  # they stay in cache, and no prompt waits for the slowest of all


@checked
def prefix_predictions(
    predictor: PrefixPredictor, prompts: PrefixPrompt, in_order: bool, at_once: Size = PROMPTS_AT_ONCE
) -> Float[Array, "... prompt n m"]:
    """What is predicted for the k-th query of every prompt after its first k examples.

    Args:
      predictor: may have leading axes beside its `[n m]`, as `prefix_lasso_path` has; they lead here too.
      prompts: a batch, on the leading axis of every leaf.
      in_order: queries are the inputs to come, so that one pass answers all, as `task.in_order` says; otherwise each
        takes a pass of its own.
      at_once: how many prompts are met together.
    """

    def of_prompt(prompt: PrefixPrompt) -> Array:
        if in_order:
            return predictor(prompt.x, prompt.y)

        at = lambda k: _asked(predictor, prompt, k, prompt.x_query)
        return jnp.moveaxis(jax.lax.map(at, jnp.arange(len(prompt.x))), 0, -2)

    found = jax.lax.map(of_prompt, prompts, batch_size=at_once)
    return jnp.moveaxis(found, 0, -3)


@checked
def prefix_squared_errors(
    predictor: PrefixPredictor,
    prompts: PrefixPrompt,
    in_order: bool,
    at_once: Size = PROMPTS_AT_ONCE,
    are_classes: bool = False,
) -> Float[Array, "... prompt n"]:
    """`squared_errors` what `prefix_predictions` gives."""
    return squared_errors(prefix_predictions(predictor, prompts, in_order, at_once), prompts.y_query, are_classes)


@checked
def prefix_responses(
    predictor: PrefixPredictor, prompts: PrefixPrompt, at_once: Size = PROMPTS_AT_ONCE
) -> tuple[Float[Array, "prompt n m"], Float[Array, "prompt n m d"]]:
    """Predictions for the k-th query after the first k examples, and how they change with it, `d y_hat / d x_query`.

    A pass forward and one back for every query: all that goes through other points of the prompt is held fast (section
    4.3, "is the Transformer's function the one of least squares?").
    """

    def of_prompt(prompt: PrefixPrompt) -> tuple[Array, Array]:
        def at(k: Array) -> tuple[Array, Array]:
            predict = lambda query: _asked(predictor, prompt, k, query[None])
            query = jnp.take(prompt.x_query, k, axis=0)
            return predict(query), jax.jacrev(predict)(query)

        return jax.lax.map(at, jnp.arange(len(prompt.x)))

    return jax.lax.map(of_prompt, prompts, batch_size=at_once)


def _asked(predictor: PrefixPredictor, prompt: PrefixPrompt, k: Array, x_query: Array) -> Float[Array, "... m"]:
    """What is predicted after the first k examples for a query `[1 d]`, or the k-th of `[n d]`."""
    here = (jnp.arange(len(prompt.x)) == k)[:, None]
    return jnp.take(predictor(jnp.where(here, x_query, prompt.x), prompt.y), k, axis=-2)


@checked
def squared_errors(
    y_hat: Float[Array, "... m"], y_query: Float[Array, "... m"], are_classes: bool = False
) -> Float[Array, "..."]:
    """Square errors `|y_hat - y_query|^2`; of classes, which signs tell, `1 - sign(y_hat) sign(y_query)`, summed alike.

    The latter is twice the share of wrong answers, so that guessing has error one, and so has zero, which is none.
    """
    y_query = jnp.reshape(y_query, (1,) * (y_hat.ndim - y_query.ndim) + y_query.shape)
    if are_classes:
        return jnp.sum(1 - jnp.sign(y_hat) * jnp.sign(y_query), axis=-1)
    return jnp.sum((y_hat - y_query) ** 2, axis=-1)
