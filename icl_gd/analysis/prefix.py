"""Errors at every length of a prompt (Garg et al. 2208.01066, section 4)."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from icl_gd.types import Array, PrefixPredictor, PrefixPrompt

PROMPTS_AT_ONCE = 8  # they stay in cache, and no prompt waits for the slowest of all


def prefix_predictions(
    predictor: PrefixPredictor, prompts: PrefixPrompt, in_order: bool = True, at_once: int = PROMPTS_AT_ONCE
) -> Float[Array, "... prompt n m"]:
    """What is predicted for the k-th query of every prompt after its first k examples.

    Args:
      predictor: may have leading axes beside its `[n m]`, as `prefix_lasso_path` has; they lead here too.
      prompts: a batch, on the leading axis of every leaf.
      in_order: queries are the inputs to come, so that one pass answers all; otherwise each takes a pass of its own.
      at_once: how many prompts are met together.
    """

    def of_prompt(prompt: PrefixPrompt) -> Array:
        if in_order:
            return predictor(prompt.x, prompt.y)

        def at(k: Array) -> Array:
            here = (jnp.arange(len(prompt.x)) == k)[:, None]
            return jnp.take(predictor(jnp.where(here, prompt.x_query, prompt.x), prompt.y), k, axis=-2)

        return jnp.moveaxis(jax.lax.map(at, jnp.arange(len(prompt.x))), 0, -2)

    found = jax.lax.map(of_prompt, prompts, batch_size=at_once)
    return jnp.moveaxis(found, 0, -3)


def prefix_errors(
    predictor: PrefixPredictor, prompts: PrefixPrompt, in_order: bool = True, at_once: int = PROMPTS_AT_ONCE
) -> Float[Array, "... prompt n"]:
    """Square errors `|y_hat - y_query|^2` of `prefix_predictions`."""
    y_hat = prefix_predictions(predictor, prompts, in_order, at_once)
    return jnp.sum((y_hat - prompts.y_query.reshape((1,) * (y_hat.ndim - 3) + prompts.y_query.shape)) ** 2, axis=-1)
