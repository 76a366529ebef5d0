"""A finite training set: prompts of a task that come back (von Oswald et al., recycled training data)."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax

from icl_gd.schema import PoolSize, Seed, check
from icl_gd.tasks.regression import FunctionRegression
from icl_gd.types import Array, PrefixPrompt, Prompt

POOL_KEY = 2**31 - 2  # folded into a key whose first children members of a population train on


@runtime_checkable
class Sampled(Protocol):
    """What a pool asks of a task."""

    @property
    def d_input(self) -> int: ...
    @property
    def d_output(self) -> int: ...
    def sample(self, key: Array) -> Prompt: ...


@dataclass(frozen=True)
class FinitePool:
    """Prompts drawn uniformly, with replacement, from `size` of a task's.

    Nothing is stored: the prompt of an index is made again from its key whenever the index is drawn. Published code
    resets the key of its batches every `cycle_data` steps, which is a pool of that many batches in a fixed order.

    Attributes:
      task: what the prompts are of.
      size: how many there are.
      seed: of the pool, not of what is drawn from it.
    """

    task: Sampled
    size: PoolSize
    seed: Seed = 0

    def __post_init__(self):
        check(self)

    @property
    def d_input(self) -> int:
        return self.task.d_input

    @property
    def d_output(self) -> int:
        return self.task.d_output

    def prompt(self, index: Array | int) -> Prompt:
        """One of the pool's prompts, `index` from 0 to `size - 1`."""
        return self.task.sample(self._key(index))

    def _drawn(self, key: Array) -> Array:
        return self._key(jax.random.randint(key, (), 0, self.size))

    def _key(self, index: Array | int) -> Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), POOL_KEY), index)

    def sample(self, key: Array) -> Prompt:
        """One prompt of the pool, each as likely as any other."""
        return self.task.sample(self._drawn(key))


@dataclass(frozen=True)
class FinitePrefixPool(FinitePool):
    """A finite pool of prompts that are problems at every length."""

    task: FunctionRegression

    @property
    def n_context(self) -> int:
        return self.task.n_context

    @property
    def logistic(self) -> bool:
        return self.task.logistic

    @property
    def in_order(self) -> bool:
        return self.task.in_order

    def sample_prefixes(self, key: Array, active: Array | int | None = None) -> PrefixPrompt:
        """One prompt of the pool, each as likely as any other."""
        return self.task.sample_prefixes(self._drawn(key), active)
