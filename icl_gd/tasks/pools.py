"""Finite training sets: a fixed number of prompts of a task (von Oswald et al., recycled training data).

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

# Folded into a key whose first children are the keys of a population's members; a large number avoids collisions.
POOL_KEY = 2**31 - 2


@runtime_checkable
class Sampled(Protocol):
    """What a pool requires of its task: two sizes and `sample`."""

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

    Nothing is stored: a prompt is drawn again from its key whenever its index comes up. The published code resets the
    key of its batches every `cycle_data` steps, which is a pool of that many batches in a fixed order.

    Attributes:
      task: the task that the prompts are drawn from.
      size: number of prompts in the pool.
      seed: seed of the pool's prompts. It does not affect which of them are drawn.
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
    """A `FinitePool` of prompts with a query for every prefix.

    Attributes:
      task: the task that the prompts are drawn from.
    """

    task: FunctionRegression

    @property
    def n_context(self) -> int:
        """Examples before the last query."""
        return self.task.n_context

    @property
    def logistic(self) -> bool:
        """Whether labels are the classes 1 and -1."""
        return self.task.logistic

    @property
    def in_order(self) -> bool:
        """Whether the k-th query is the next input `x[k]`."""
        return self.task.in_order

    def sample_prefixes(self, key: Array, active: Array | int | None = None) -> PrefixPrompt:
        """Draws one of the pool's prompts, uniformly, with a query for every prefix.

        Args:
          key: a JAX random key.
          active: number of leading input coordinates that are not set to zero. Default: all.

        Returns:
          PrefixPrompt of `n_context + 1` points.
        """
        return self.task.sample_prefixes(self._draw_prompt_key(key), active)
