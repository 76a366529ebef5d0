"""Curriculum: training begins with few active inputs and short prompts (Garg et al. 2208.01066, appendix A).

Inputs that are not active are set to zero. Points beyond the current prompt length have weight zero in the loss. The
shapes stay the same, so a single compiled program serves all stages.

>>> ramp = Ramp(start=5, end=20, increase=1, every=2000)
>>> [int(ramp.at(step)) for step in (0, 1999, 2000, 30_000, 10**6)]
[5, 5, 6, 20, 20]
>>> ramp.steps
30000
"""

from dataclasses import dataclass

import jax.numpy as jnp

from icl_gd.schema import Size, check
from icl_gd.types import Array


@dataclass(frozen=True)
class Ramp:
    """A number that grows in stages during training.

    Attributes:
      start: the value at step 0.
      end: the largest value.
      increase: the growth from one stage to the next.
      every: training steps per stage.
    """

    start: Size
    end: Size
    increase: Size = 1
    every: Size = 2000

    def __post_init__(self):
        check(self)
        if self.end < self.start:
            raise ValueError(f"end={self.end} must be at least start={self.start}")

    def at(self, step: Array | int) -> Array:
        """The value at a training step.

        Args:
          step: the index of the step, from 0; it may be traced.

        Returns:
          An integer scalar between `start` and `end`.
        """
        return jnp.minimum(self.start + self.increase * (step // self.every), self.end)

    @property
    def steps(self) -> int:
        """The first step at which the value is `end`."""
        n_increases = -(-(self.end - self.start) // self.increase)  # rounded up
        return n_increases * self.every


@dataclass(frozen=True)
class Curriculum:
    """The number of active inputs and of points per prompt, by training step.

    Attributes:
      inputs: the number of input coordinates, from the first, that are not set to zero.
      points: the number of points of a prompt, from the first, whose predictions enter the loss.
    """

    inputs: Ramp
    points: Ramp

    def __post_init__(self):
        check(self)
