"""Linear regression in context: `y = W x + noise` with a fresh Gaussian `W` in every prompt."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from icl_gd.types import Array, Moments, Prompt


class Family(NamedTuple):
    """A distribution of input vectors, with the moments of their coordinates at scale 1.

    `draw(key, (n, d, *batch))` gives n vectors; `moments(d)` gives `(E x_i^2, E x_i^4)`; `independent` says whether
    coordinates are independent and of mean zero, which is what the closed forms of `learners.closed_form` ask for.
    """

    draw: Callable[[Array, tuple[int, ...]], Array]
    moments: Callable[[int], tuple[float, float]]
    independent: bool


def _on_sphere(key: Array, shape: tuple[int, ...]) -> Array:
    z = jax.random.normal(key, shape)
    return z / jnp.linalg.norm(z, axis=1, keepdims=True)


FAMILIES: dict[str, Family] = {
    # The published code of von Oswald et al. draws from U(-1/2, 1/2), though the paper's text says U(-1, 1).
    "uniform": Family(lambda key, shape: jax.random.uniform(key, shape) - 0.5, lambda d: (1 / 12, 1 / 80), True),
    "normal": Family(jax.random.normal, lambda d: (1.0, 3.0), True),
    "laplace": Family(jax.random.laplace, lambda d: (2.0, 24.0), True),
    "exponential": Family(jax.random.exponential, lambda d: (2.0, 24.0), False),
    "normalised": Family(_on_sphere, lambda d: (1 / d, 3 / (d * (d + 2))), False),
}


Scalar = float | Float[Array, ""]  # a shift's value may be traced


@dataclass(frozen=True)
class LinearRegression:
    """Dense linear regression (von Oswald et al. section 3; Garg et al. "linear", "noisy", "skewed").

    Attributes:
      d_input, d_output, n_context: sizes d, m and n of a prompt.
      inputs: a name in `FAMILIES`; coordinates are drawn from it and multiplied by `input_scale`.
      covariance: optional `[d d]` nested tuple. Inputs are then `C^(1/2) z` with `z` standardised to unit second
        moment, so that `E x x^T = input_scale^2 C` for every family whose coordinates are centred.
      weight_scale: standard deviation of every entry of `W`.
      noise_std: standard deviation of the Gaussian noise on context labels; `y_query` is noise-free.
    """

    d_input: int = 10
    d_output: int = 1
    n_context: int = 10
    inputs: str = "uniform"
    input_scale: Scalar = 1.0
    covariance: tuple[tuple[float, ...], ...] | None = None
    weight_scale: Scalar = 1.0
    noise_std: float = 0.0

    def __post_init__(self):
        if self.inputs not in FAMILIES:
            raise ValueError(f"inputs={self.inputs!r} is not a family of inputs; choose from {', '.join(FAMILIES)}")
        if self.covariance is not None and np.shape(self.covariance) != (self.d_input, self.d_input):
            raise ValueError(f"covariance has shape {np.shape(self.covariance)}, d_input={self.d_input} needs a square")

    @property
    def second_moment(self) -> np.ndarray:
        """`E x x^T [d d]`, exact for families with centred independent or rotation-invariant coordinates."""
        if self.covariance is not None:
            return float(self.input_scale) ** 2 * np.asarray(self.covariance)
        second, _ = FAMILIES[self.inputs].moments(self.d_input)
        return float(self.input_scale) ** 2 * second * np.eye(self.d_input)

    @property
    def fourth_moment(self) -> float:
        """`E x_i^4` of one coordinate; only defined without a covariance."""
        if self.covariance is not None:
            raise ValueError("fourth_moment is that of independent coordinates; this task has a covariance")
        return float(self.input_scale) ** 4 * FAMILIES[self.inputs].moments(self.d_input)[1]

    def sample_inputs(self, key: Array, n: int, batch: tuple[int, ...] = ()) -> Float[Array, "n d *batch"]:
        """n input vectors for every prompt of a batch."""
        z = FAMILIES[self.inputs].draw(key, (n, self.d_input, *batch))
        if self.covariance is not None:
            second, _ = FAMILIES[self.inputs].moments(self.d_input)
            eigenvalues, basis = np.linalg.eigh(np.asarray(self.covariance))
            root = (basis * np.sqrt(np.maximum(eigenvalues, 0.0))) @ basis.T
            z = jnp.einsum("ab,nb...->na...", jnp.asarray(root, z.dtype), z) / second**0.5
        return self.input_scale * z

    def sample(self, key: Array, batch: tuple[int, ...] = ()) -> Prompt:
        """One prompt, or with `batch` as many from one key, along trailing axes (cheaper to draw than by vmap).

        The same key gives the same prompt, whatever is vmapped or jitted around it. The query is drawn first, so a
        prompt's first k examples are the same for every n_context >= k.
        """
        key_x, key_w, key_noise = jax.random.split(key, 3)
        x = self.sample_inputs(key_x, self.n_context + 1, batch)
        w = self.weight_scale * jax.random.normal(key_w, (self.d_output, self.d_input, *batch))
        y = jnp.sum(x[:, None] * w[None], axis=2)
        x_query, x, y_query, y = x[0], x[1:], y[0], y[1:]
        if self.noise_std > 0.0:
            y = y + self.noise_std * jax.random.normal(key_noise, y.shape)
        return Prompt(x, y, x_query, y_query, w)

    def sample_moments(self, key: Array, n_prompts: int) -> tuple[Moments, Float[Array, "m prompt"]]:
        """A batch of prompts as linear attention sees them: moments of the tokens (x, y), and y_query."""
        prompt = self.sample(key, (n_prompts,))
        inputs = jnp.concatenate([prompt.x, prompt.x_query[None]])
        labels = jnp.concatenate([prompt.y, jnp.zeros_like(prompt.y_query)[None]])
        return Moments.of(jnp.concatenate([inputs, labels], axis=1)), prompt.y_query
