"""Non-linear regression in context: sine waves (von Oswald et al. 2212.07677, section on non-linear regression)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd.schema import Size, check
from icl_gd.types import Array, Prompt


@dataclass(frozen=True)
class SineRegression:
    """`y = amplitude * sin(x + phase)` with `x ~ U(-5, 5)`; a Prompt's `w` is `[[amplitude, phase]]`.

    Amplitude and phase are uniform on [.1, .5] and [0, pi]: two free parameters, or, `faithful` to the published code,
    one, as there both come from one key: `amplitude = .1 + .4 u`, `phase = pi u` with one `u ~ U(0, 1)`.

    With L = 5 and k = 2L, averages over x are `E sin(x + phase) = sin(phase) sin(L)/L` and
    `E sin^2(x + phase) = (1 - cos(2 phase) sin(k)/k) / 2`. Over prompts, `E a = .3`, `E a^2 = .31/3`, and

        E y   = .6/pi sin(L)/L                                  both ways: E a sin(phase) = .6/pi
        E y^2 = (.31/3 - c sin(k)/k) / 2, c = E a^2 cos(2 phase) = 0 for free parameters, .08/pi^2 for one:
                with one, c = int (.01 + .08u + .16u^2) cos(2 pi u) du = .16 / (2 pi^2).
    """

    n_context: Size = 10
    faithful: bool = False

    def __post_init__(self):
        check(self)

    @property
    def d_input(self) -> int:
        return 1

    @property
    def d_output(self) -> int:
        return 1

    @property
    def label_moments(self) -> tuple[float, float]:
        """`E y` and `E y^2`, as above."""
        mean = 0.6 / np.pi * np.sin(5.0) / 5.0
        c = 0.08 / np.pi**2 if self.faithful else 0.0
        return float(mean), float(0.31 / 3 - c * np.sin(10.0) / 10.0) / 2

    def sample(self, key: Array) -> Prompt:
        """One prompt. The query is drawn first, so the first k examples are the same for every n_context >= k."""
        key_x, key_amplitude, key_phase = jax.random.split(key, 3)
        x = jax.random.uniform(key_x, (self.n_context + 1, 1), minval=-5.0, maxval=5.0)
        amplitude = jax.random.uniform(key_amplitude, minval=0.1, maxval=0.5)
        phase = jax.random.uniform(key_amplitude if self.faithful else key_phase, minval=0.0, maxval=np.pi)
        y = amplitude * jnp.sin(x + phase)
        return Prompt(x[1:], y[1:], x[0], y[0], jnp.stack([amplitude, phase])[None])
