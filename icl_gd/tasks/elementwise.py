"""Regression on elementwise features: `y = W f(x)`, where f acts on every coordinate of x (Ren & Liu 2310.13220).

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

# By name: the function f and its mean square E f(x)^2 for x ~ U(-1, 1).
ELEMENTWISE: dict[str, tuple[Callable[[Array], Array], float]] = {
    "linear": (lambda x: x, 1 / 3),
    "trigonometric": (lambda x: jnp.sin(jnp.pi * x), 1 / 2),
    "exponential": (jnp.exp, float((jnp.e**2 - jnp.e**-2) / 4)),
}


@dataclass(frozen=True)
class ElementwiseRegression:
    """The task `y = W f(x)`: f acts on every coordinate of x, and every prompt has a new `W [m d]`.

    The coordinates of x are drawn from U(-1, 1). The entries of W are normal with mean zero. Their variance is chosen
    such that labels have variance one: `E y^2 = Var(W_ij) d E f(x_i)^2 = 1`.

    Attributes:
      function: name of f, a key of `ELEMENTWISE`: x ("linear"), sin(pi x) ("trigonometric") or exp(x) ("exponential").
      d_input, d_output, n_context: sizes d, m and n of a prompt.
    """

    function: Annotated[str, OneOf(ELEMENTWISE)] = "linear"
    d_input: Size = 5
    d_output: Size = 1
    n_context: Size = 15

    def __post_init__(self):
        check(self)

    def sample(self, key: Array) -> Prompt:
        """Draws one prompt. For a fixed key, the first k examples are the same for every `n_context >= k`.

        Returns:
          A Prompt; its `w` are the weights `[m d]`.
        """
        x, y, *_, w = self.sample_prefixes(key)
        return Prompt(x[:-1], y[:-1], x[-1], y[-1], w)

    def sample_prefixes(self, key: Array, active: Array | int | None = None) -> PrefixPrompt:
        """Draws the prompt of `sample` with a query after every prefix: query k, counted from zero, is input k.

        Args:
          key: a JAX random key.
          active: the first `active` input coordinates are kept, the others are set to zero (in a curriculum).
            Default: None, all are active.

        Returns:
          A PrefixPrompt of `n_context + 1` points, the last of which is the query of `sample`. Its `w` are the weights
          `[m d]`.
        """
        key_x, key_w = jax.random.split(key)
        apply, mean_square = ELEMENTWISE[self.function]
        # The query is drawn first, then moved to the end: the first k examples are the same for every n_context >= k.
        x = jax.random.uniform(key_x, (self.n_context + 1, self.d_input), minval=-1.0, maxval=1.0)
        x = jnp.roll(x, -1, axis=0)
        if active is not None:
            x = jnp.where(jnp.arange(self.d_input)[None] < active, x, 0.0)
        w = jax.random.normal(key_w, (self.d_output, self.d_input)) / (self.d_input * mean_square) ** 0.5
        y = apply(x) @ w.T
        return PrefixPrompt(x, y, x, y, w)
