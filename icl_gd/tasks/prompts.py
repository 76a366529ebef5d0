"""Batches of prompts for evaluation.

Example:
  >>> from icl_gd.tasks import LinearRegression
  >>> prompts = draw_prompts(LinearRegression(d_input=2, n_context=5).sample, jax.random.key(0), 3)
  >>> prompts.x.shape, prompts.y_query.shape
  ((3, 5, 2), (3, 1))
"""

from collections.abc import Callable
from typing import Any

import jax

from icl_gd.programs import as_partial, quick_jit
from icl_gd.schema import Size, checked
from icl_gd.types import Array


@checked
def draw_prompts(sample: Callable[[Array], Any], key: Array, n_prompts: Size) -> Any:
    """Draws a batch of prompts in one compiled program.

    Args:
      sample: a function from a key to one prompt, such as `task.sample` or `task.sample_prefixes`. Equal tasks share
        one compiled program.
      key: a JAX random key. Prompt i is drawn with `jax.random.split(key, n_prompts)[i]`.
      n_prompts: size of the batch.

    Returns:
      The prompts: the pytree that `sample` returns, with the batch on the leading axis of every leaf.
    """
    return quick_jit(_batch, (2,))(as_partial(sample), key, n_prompts)


def _batch(sample: Callable[[Array], Any], key: Array, n_prompts: int) -> Any:
    return jax.vmap(sample)(jax.random.split(key, n_prompts))
