"""A curriculum: training starts on fewer inputs and shorter prompts (Garg et al. 2208.01066, appendix A).

Inputs beyond the active ones are zero, points beyond those of the stage weigh nothing in the loss, and shapes stay what
they are, so no stage compiles anew.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from icl_gd.schema import Size, check
from icl_gd.types import Array


@dataclass(frozen=True)
class Ramp:
    """`start`, and `increase` more after every `every` steps, up to `end`."""

    start: Size
    end: Size
    increase: Size = 1
    every: Size = 2000

    def __post_init__(self):
        check(self)
        if self.end < self.start:
            raise ValueError(f"end={self.end} must be at least start={self.start}")

    def at(self, step: Array | int) -> Array:
        """The value at a step, the first of which is zero."""
        return jnp.minimum(self.start + self.increase * (step // self.every), self.end)

    @property
    def steps(self) -> int:
        """After how many steps it is at its end."""
        return -(-(self.end - self.start) // self.increase) * self.every


@dataclass(frozen=True)
class Curriculum:
    """How many inputs are active, and how many points of a prompt count, by step."""

    inputs: Ramp
    points: Ramp

    def __post_init__(self):
        check(self)
