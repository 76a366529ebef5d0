"""Finite training sets: a fixed number of prompts of a task, drawn repeatedly (von Oswald et al.).

Example:
  >>> from icl_gd.tasks import LinearRegression
  >>> pool = FinitePool(LinearRegression(d_input=2, n_context=3), size=1)
  >>> first, second = pool.sample(jax.random.key(0)), pool.sample(jax.random.key(1))
  >>> bool((first.x == second.x).all())
  True
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax

from icl_gd.schema import PoolSize, Seed, check
from icl_gd.tasks.regression import FunctionRegression
from icl_gd.types import Array, PrefixPrompt, Prompt

# Folded into `jax.random.key(seed)`. Training derives the keys of members from the same key; this number is so large
# that the keys of a pool differ from them.
POOL_KEY = 2**31 - 2


@runtime_checkable
class Sampled(Protocol):
    """The protocol that the task of a pool must satisfy."""

    @property
    def d_input(self) -> int:
        """Input dimension d."""
        ...

    @property
    def d_output(self) -> int:
        """Output dimension m."""
        ...

    def sample(self, key: Array) -> Prompt:
        """Draws one prompt.

        Returns:
          One Prompt.
        """
        ...


@dataclass(frozen=True)
class FinitePool:
    """A pool of `size` prompts of a task, from which prompts are drawn uniformly with replacement.

    No prompt is stored: prompt i is recomputed from its key whenever index i is drawn. The published code instead
    repeats the same `cycle_data` batches in a fixed order: it resets the key of the batches every `cycle_data` steps.

    Attributes:
      task: the task from which the prompts of the pool are drawn.
      size: number of prompts in the pool.
      seed: seed from which the prompts of the pool are drawn. It does not affect the order in which they are used.
    """

    task: Sampled
    size: PoolSize
    seed: Seed = 0

    def __post_init__(self):
        check(self)

    @property
    def d_input(self) -> int:
        """Input dimension d of the task."""
        return self.task.d_input

    @property
    def d_output(self) -> int:
        """Output dimension m of the task."""
        return self.task.d_output

    def prompt(self, index: Array | int) -> Prompt:
        """Recomputes the prompt with this index, from 0 to `size - 1`.

        Returns:
          One Prompt.
        """
        return self.task.sample(self._prompt_key(index))

    def _draw_prompt_key(self, key: Array) -> Array:
        return self._prompt_key(jax.random.randint(key, (), 0, self.size))

    def _prompt_key(self, index: Array | int) -> Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), POOL_KEY), index)

    def sample(self, key: Array) -> Prompt:
        """Draws one of the pool's prompts, uniformly.

        Returns:
          One Prompt.
        """
        return self.task.sample(self._draw_prompt_key(key))


@dataclass(frozen=True)
class FinitePrefixPool(FinitePool):
    """A `FinitePool` of prompts with a query after every prefix.

    Attributes:
      task: the task from which the prompts of the pool are drawn.
    """

    task: FunctionRegression

    @property
    def n_context(self) -> int:
        """Number of examples before the last query."""
        return self.task.n_context

    @property
    def logistic(self) -> bool:
        """Whether labels are the classes 1 and -1."""
        return self.task.logistic

    @property
    def in_order(self) -> bool:
        """Whether query k, counted from zero, is the next input `x[k]`."""
        return self.task.in_order

    def sample_prefixes(self, key: Array, active: Array | int | None = None) -> PrefixPrompt:
        """Draws one of the pool's prompts, uniformly, with a query after every prefix.

        Args:
          key: a JAX random key.
          active: number of active input coordinates, the first ones; the others are set to zero. Default: None, all
            are active.

        Returns:
          A PrefixPrompt of `n_context + 1` points.
        """
        return self.task.sample_prefixes(self._draw_prompt_key(key), active)
