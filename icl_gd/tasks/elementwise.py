"""Regression on elementwise features: labels are linear in f(x) (Ren & Liu 2310.13220).

Example:
  >>> task = ElementwiseRegression("exponential", d_input=2, n_context=3)
  >>> prompt = task.sample(jax.random.key(0))
  >>> prompt.x.shape, prompt.y.shape
  ((3, 2), (3, 1))
  >>> bool(jnp.allclose(prompt.y, jnp.exp(prompt.x) @ prompt.w.T, atol=1e-5))
  True
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp

from icl_gd.schema import OneOf, Size, check
from icl_gd.types import Array, PrefixPrompt, Prompt

# The elementwise function f and its mean square E f(x)^2 for x ~ U(-1, 1).
ELEMENTWISE: dict[str, tuple[Callable[[Array], Array], float]] = {
    "linear": (lambda x: x, 1 / 3),
    "trigonometric": (lambda x: jnp.sin(jnp.pi * x), 1 / 2),
    "exponential": (jnp.exp, float((jnp.e**2 - jnp.e**-2) / 4)),
}


@dataclass(frozen=True)
class ElementwiseRegression:
    """`y = W f(x)`: f acts on every entry of `x ~ U(-1, 1)`, and every prompt has a new `W [m d]`.

    The entries of W are normal. Their variance is chosen such that labels have variance one:
    `E y^2 = Var(W_ij) d E f(x)^2 = 1`.

    Attributes:
      function: name of f in `ELEMENTWISE`: x itself ("linear"), sin(pi x) ("trigonometric") or exp(x) ("exponential").
      d_input, d_output, n_context: sizes d, m and n of a prompt.
    """

    function: Annotated[str, OneOf(ELEMENTWISE)] = "linear"
    d_input: Size = 5
    d_output: Size = 1
    n_context: Size = 15

    def __post_init__(self):
        check(self)

    def sample(self, key: Array) -> Prompt:
        """Draws one prompt. For a fixed key, a longer context extends a shorter one.

        Returns:
          Prompt with the weights `[m d]` as `w`.
        """
        x, y, *_, w = self.sample_prefixes(key)
        return Prompt(x[:-1], y[:-1], x[-1], y[-1], w)

    def sample_prefixes(self, key: Array, active: Array | int | None = None) -> PrefixPrompt:
        """Draws the prompt of `sample` with a query for every prefix: the next input, and at the end the query.

        Args:
          key: a JAX random key.
          active: number of leading input coordinates that are not set to zero (a stage of a curriculum).
            Default: all.

        Returns:
          PrefixPrompt of `n_context + 1` points with the weights `[m d]` as `w`.
        """
        key_x, key_w = jax.random.split(key)
        apply, mean_square = ELEMENTWISE[self.function]
        # The query is drawn first: the first k examples are then the same for every n_context >= k.
        x = jax.random.uniform(key_x, (self.n_context + 1, self.d_input), minval=-1.0, maxval=1.0)
        x = jnp.roll(x, -1, axis=0)
        if active is not None:
            x = jnp.where(jnp.arange(self.d_input)[None] < active, x, 0.0)
        w = jax.random.normal(key_w, (self.d_output, self.d_input)) / (self.d_input * mean_square) ** 0.5
        y = apply(x) @ w.T
        return PrefixPrompt(x, y, x, y, w)
