"""Sine regression in context (von Oswald et al. 2212.07677, section on non-linear regression).

Example:
  >>> prompt = SineRegression(n_context=4).sample(jax.random.key(0))
  >>> amplitude, phase = prompt.w[0]
  >>> bool(jnp.allclose(prompt.y, amplitude * jnp.sin(prompt.x + phase)))
  True
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd.schema import Size, check
from icl_gd.types import Array, Prompt


@dataclass(frozen=True)
class SineRegression:
    """`y = amplitude * sin(x + phase)` with `x ~ U(-5, 5)`. A Prompt's `w` is `[[amplitude, phase]]`.

    The amplitude is uniform on [.1, .5], the phase on [0, pi]. In the paper, amplitude and phase are independent, so
    a sine wave has two free parameters. The published code draws both from one key, so a sine wave has one free
    parameter: `amplitude = .1 + .4 u` and `phase = pi u` with the same `u ~ U(0, 1)`.

    Label moments. Let L = 5, k = 2L, and let a be the amplitude. The averages over x are
    `E sin(x + phase) = sin(phase) sin(L)/L` and `E sin^2(x + phase) = (1 - cos(2 phase) sin(k)/k) / 2`. The averages
    over prompts are `E a = .3` and `E a^2 = .31/3`. Therefore

        E y   = .6/pi sin(L)/L, because E a sin(phase) = .6/pi for one and for two free parameters;
        E y^2 = (.31/3 - c sin(k)/k) / 2 with c = E a^2 cos(2 phase). For two free parameters c = 0. For one,
                c = int (.01 + .08u + .16u^2) cos(2 pi u) du = .16 / (2 pi^2) = .08/pi^2.

    Attributes:
      n_context: examples per prompt.
      faithful: draw amplitude and phase from one key, as the published code does. Otherwise they are independent.
    """

    n_context: Size = 10
    faithful: bool = False

    def __post_init__(self):
        check(self)

    @property
    def d_input(self) -> int:
        """Input dimension, 1."""
        return 1

    @property
    def d_output(self) -> int:
        """Output dimension, 1."""
        return 1

    @property
    def label_moments(self) -> tuple[float, float]:
        """`E y` and `E y^2`; the class docstring derives them."""
        mean = 0.6 / np.pi * np.sin(5.0) / 5.0
        c = 0.08 / np.pi**2 if self.faithful else 0.0
        return float(mean), float(0.31 / 3 - c * np.sin(10.0) / 10.0) / 2

    def sample(self, key: Array) -> Prompt:
        """Draws one prompt. For a fixed key, the first k examples are the same for every `n_context >= k`.

        Returns:
          A Prompt; its `w` is `[[amplitude, phase]]`.
        """
        key_x, key_amplitude, key_phase = jax.random.split(key, 3)
        # The query is drawn first: the first k examples are then the same for every n_context >= k.
        x = jax.random.uniform(key_x, (self.n_context + 1, 1), minval=-5.0, maxval=5.0)
        amplitude = jax.random.uniform(key_amplitude, minval=0.1, maxval=0.5)
        phase = jax.random.uniform(key_amplitude if self.faithful else key_phase, minval=0.0, maxval=np.pi)
        y = amplitude * jnp.sin(x + phase)
        return Prompt(x[1:], y[1:], x[0], y[0], jnp.stack([amplitude, phase])[None])
