"""Batches of prompts for whoever evaluates."""

from collections.abc import Callable
from typing import Any

import jax

from icl_gd.programs import as_partial, brief
from icl_gd.schema import Size, checked
from icl_gd.types import Array


@checked
def draw_prompts(sample: Callable[[Array], Any], key: Array, n_prompts: Size) -> Any:
    """A batch of prompts, on the leading axis of every leaf.

    Args:
      sample: a key to one prompt, as a task's `sample` and `sample_prefixes` are; the program is kept for equal tasks.
      n_prompts: how many; the i-th is that of the i-th key of `jax.random.split(key, n_prompts)`.
    """
    return brief(_batch, (2,))(as_partial(sample), key, n_prompts)


def _batch(sample: Callable[[Array], Any], key: Array, n_prompts: int) -> Any:
    return jax.vmap(sample)(jax.random.split(key, n_prompts))
