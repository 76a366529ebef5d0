"""Regression that is linear in a function of every input: the tasks of Ren & Liu (2310.13220)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp

from icl_gd.schema import OneOf, Size, check
from icl_gd.types import Array, PrefixPrompt, Prompt

# f, elementwise, with E f(x)^2 for x ~ U(-1, 1).
ELEMENTWISE: dict[str, tuple[Callable[[Array], Array], float]] = {
    "linear": (lambda x: x, 1 / 3),
    "trigonometric": (lambda x: jnp.sin(jnp.pi * x), 1 / 2),
    "exponential": (jnp.exp, float((jnp.e**2 - jnp.e**-2) / 4)),
}


@dataclass(frozen=True)
class ElementwiseRegression:
    """`y = W f(x)` with f on every entry of `x ~ U(-1, 1)`, and `W [m d]` fresh in every prompt.

    Attributes:
      function: f, in `ELEMENTWISE`: x itself, sin(pi x) or exp(x).
      d_input, d_output, n_context: sizes d, m and n of a prompt.

    Entries of W are normal, of such a variance that labels have variance one: `E y^2 = sd^2 d E f(x)^2`.
    """

    function: Annotated[str, OneOf(ELEMENTWISE)] = "linear"
    d_input: Size = 5
    d_output: Size = 1
    n_context: Size = 15

    def __post_init__(self):
        check(self)

    def sample(self, key: Array) -> Prompt:
        """One prompt. The query is drawn first, so the first k examples are the same for every n_context >= k."""
        x, y, *_, w = self.sample_prefixes(key)
        return Prompt(x[:-1], y[:-1], x[-1], y[-1], w)

    def sample_prefixes(self, key: Array, active: Array | int | None = None) -> PrefixPrompt:
        """The same prompt with a query for every prefix: the input that comes next, and at the end its query.

        Args:
          active: only the first so many inputs are not zero (a stage of a curriculum); all when left out.
        """
        key_x, key_w = jax.random.split(key)
        apply, square = ELEMENTWISE[self.function]
        x = jax.random.uniform(key_x, (self.n_context + 1, self.d_input), minval=-1.0, maxval=1.0)
        x = jnp.roll(x, -1, axis=0)
        if active is not None:
            x = jnp.where(jnp.arange(self.d_input)[None] < active, x, 0.0)
        w = jax.random.normal(key_w, (self.d_output, self.d_input)) / (self.d_input * square) ** 0.5
        y = apply(x) @ w.T
        return PrefixPrompt(x, y, x, y, w)
