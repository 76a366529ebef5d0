"""Linear regression in context: `y = W x + noise` with a fresh Gaussian `W` in every prompt."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Gt, Le
from jaxtyping import Float, Int

from icl_gd.schema import LARGEST, OneOf, Size, check
from icl_gd.types import Array, Gram, Prompt, Scalar, second_moment


class InputDistribution(NamedTuple):
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


INPUT_DISTRIBUTIONS: dict[str, InputDistribution] = {
    # The published code of von Oswald et al. draws from U(-1/2, 1/2), though the paper's text says U(-1, 1).
    "uniform": InputDistribution(
        lambda key, shape: jax.random.uniform(key, shape) - 0.5, lambda d: (1 / 12, 1 / 80), True
    ),
    "normal": InputDistribution(jax.random.normal, lambda d: (1.0, 3.0), True),
    "laplace": InputDistribution(jax.random.laplace, lambda d: (2.0, 24.0), True),
    "exponential": InputDistribution(jax.random.exponential, lambda d: (2.0, 24.0), False),
    "normalised": InputDistribution(_on_sphere, lambda d: (1 / d, 3 / (d * (d + 2))), False),
}


TERMS_AT_ONCE = 32  # of a sum over inputs that is written out
DIRECT_FROM = 40  # examples from which drawing moments directly is the cheaper way, as measured on a CPU


def _labels(x: Array, w: Array) -> Array:
    """`W x` for inputs `[n d *batch]` and weights `[m d *batch]`: `[n m *batch]`."""
    if x.ndim == 2:
        return x @ w.T
    # Written out, the sum is one pass over the result; as a reduction XLA's CPU code takes twice as long for all of x.
    terms = (x[:, None, i] * w[None, :, i] for i in range(min(x.shape[1], TERMS_AT_ONCE)))
    rest = jnp.sum(x[:, None, TERMS_AT_ONCE:] * w[None, :, TERMS_AT_ONCE:], axis=2)
    return reduce(jnp.add, terms, rest)


Scale = Annotated[Scalar, Gt(0), Le(LARGEST)]
Spread = Annotated[Scalar, Ge(0), Le(LARGEST)]
Corrupted = Annotated[int | Float[Array, ""] | Int[Array, ""], Ge(0)]


@dataclass(frozen=True)
class LinearRegression:
    """Dense linear regression (von Oswald et al. section 3; Garg et al. "linear", "noisy", "skewed").

    Attributes:
      d_input, d_output, n_context: sizes d, m and n of a prompt.
      inputs: a name in `INPUT_DISTRIBUTIONS`, from which coordinates are drawn.
      input_scale: by which they are multiplied.
      covariance: optional `[d d]` nested tuple. Inputs are then `C^(1/2) z` with `z` standardised to unit second
        moment, so that `E x x^T = input_scale^2 C` for every family whose coordinates are centred.
      weight_scale: standard deviation of every entry of `W`.
      noise_std: standard deviation of the Gaussian noise on context labels; `y_query` is noise-free.
      corrupted_labels: how many of the context's labels are replaced by N(0, 1), whatever the scale of the others;
        which ones is drawn without replacement (von Oswald et al., published `size_distract`).
    """

    d_input: Size = 10
    d_output: Size = 1
    n_context: Size = 10
    inputs: Annotated[str, OneOf(INPUT_DISTRIBUTIONS)] = "uniform"
    input_scale: Scale = 1.0
    covariance: tuple[tuple[float, ...], ...] | None = None
    weight_scale: Scale = 1.0
    noise_std: Spread = 0.0
    corrupted_labels: Corrupted = 0

    def __post_init__(self):
        check(self)
        if self.covariance is not None and np.shape(self.covariance) != (self.d_input, self.d_input):
            raise ValueError(f"covariance has shape {np.shape(self.covariance)}, d_input={self.d_input} needs a square")
        if not isinstance(self.corrupted_labels, jax.Array) and self.corrupted_labels > self.n_context:
            raise ValueError(f"corrupted_labels={self.corrupted_labels} must be at most n_context={self.n_context}")

    @property
    def second_moment(self) -> np.ndarray:
        """`E x x^T [d d]`, exact for families with centred independent or rotation-invariant coordinates."""
        if self.covariance is not None:
            return float(self.input_scale) ** 2 * np.asarray(self.covariance)
        second, _ = INPUT_DISTRIBUTIONS[self.inputs].moments(self.d_input)
        return float(self.input_scale) ** 2 * second * np.eye(self.d_input)

    @property
    def fourth_moment(self) -> float:
        """`E x_i^4` of one coordinate; only defined without a covariance."""
        if self.covariance is not None:
            raise ValueError("fourth_moment is that of independent coordinates; this task has a covariance")
        return float(self.input_scale) ** 4 * INPUT_DISTRIBUTIONS[self.inputs].moments(self.d_input)[1]

    def sample_inputs(self, key: Array, n: int, batch: tuple[int, ...] = ()) -> Float[Array, "n d *batch"]:
        """n input vectors for every prompt of a batch."""
        z = INPUT_DISTRIBUTIONS[self.inputs].draw(key, (n, self.d_input, *batch))
        return jnp.einsum("ab,nb...->na...", self._root.astype(z.dtype), z) if self.covariance else self.input_scale * z

    @property
    def _root(self) -> Array:
        """The matrix `[d d]` that takes coordinates of a family to inputs."""
        if self.covariance is None:
            return self.input_scale * jnp.eye(self.d_input)
        second, _ = INPUT_DISTRIBUTIONS[self.inputs].moments(self.d_input)
        eigenvalues, basis = np.linalg.eigh(np.asarray(self.covariance))
        root = (basis * np.sqrt(np.maximum(eigenvalues, 0.0))) @ basis.T
        return self.input_scale * jnp.asarray(root / second**0.5)

    def sample(self, key: Array, batch: tuple[int, ...] = ()) -> Prompt:
        """One prompt, or with `batch` as many from one key, along trailing axes (cheaper to draw than by vmap).

        The same key gives the same prompt, whatever is vmapped or jitted around it. The query is drawn first, so a
        prompt's first k examples are the same for every n_context >= k.
        """
        key_x, key_w, key_noise, key_corrupted = jax.random.split(key, 4)
        x = self.sample_inputs(key_x, self.n_context + 1, batch)
        w = self.weight_scale * jax.random.normal(key_w, (self.d_output, self.d_input, *batch))
        y = _labels(x, w)
        x_query, x, y_query, y = x[0], x[1:], y[0], y[1:]
        if (noise := self._noise(key_noise, y.shape)) is not None:
            y = y + noise
        if (corruption := self._corruption(key_corrupted, y.shape)) is not None:
            which, instead = corruption
            y = jnp.where(which, instead, y)
        return Prompt(x, y, x_query, y_query, w)

    def sample_gram(
        self, key: Array, n_prompts: int, direct: bool | None = None
    ) -> tuple[Gram, Float[Array, "m prompt"]]:
        """A batch of prompts as linear attention sees them: moments of the tokens (x, y), and y_query.

        Args:
          direct: draw the moments themselves, at a cost that does not depend on n_context, rather than a context to
            sum over. It has the same law, but other prompts for a key. By itself where it is cheaper.

        Raises:
          ValueError: if asked for directly drawn moments of inputs that are not normal, or of corrupted labels.
        """
        if direct is None:
            direct = self.inputs == "normal" and self.n_context >= DIRECT_FROM and not self._corrupts
        if direct and self.inputs != "normal":
            raise ValueError(f"moments are drawn directly for normal inputs only, not for inputs={self.inputs!r}")
        if direct and self._corrupts:
            raise ValueError(
                f"corrupted_labels={self.corrupted_labels}: moments of such a context are not drawn directly"
            )
        key_x, key_w, key_noise, key_corrupted = jax.random.split(key, 4)
        w = self.weight_scale * jax.random.normal(key_w, (self.d_output, self.d_input, n_prompts))
        x = self.sample_inputs(key_x, 1 if direct else self.n_context + 1, (n_prompts,))
        y_query = _labels(x[:1], w)[0]
        query = jnp.concatenate([x[0], jnp.zeros_like(y_query)])
        if direct:
            return Gram(self._sample_second_moment(key_noise, w), query), y_query
        noise = self._noise(key_noise, (self.n_context, self.d_output, n_prompts))
        corruption = self._corruption(key_corrupted, (self.n_context, self.d_output, n_prompts))

        def tokens(start: Array | int, size: int) -> Array:
            part = lambda of, skip: jax.lax.dynamic_slice_in_dim(of, skip + start, size)
            labels = _labels(inputs := part(x, 1), w)
            labels = labels if noise is None else labels + part(noise, 0)
            if corruption is not None:
                which, instead = corruption
                labels = jnp.where(part(which, 0), part(instead, 0), labels)
            return jnp.concatenate([inputs, labels], axis=1)

        return Gram(second_moment(tokens, self.n_context), query), y_query

    def _noise(self, key: Array, shape: tuple[int, ...]) -> Array | None:
        return self.noise_std * jax.random.normal(key, shape) if self.noise_std > 0.0 else None

    @property
    def _corrupts(self) -> bool:
        return isinstance(self.corrupted_labels, jax.Array) or self.corrupted_labels > 0  # traced: it may

    def _corruption(self, key: Array, shape: tuple[int, ...]) -> tuple[Array, Array] | None:
        """Where labels `[n m *batch]` are replaced, and by what; the same keys replace more of them for larger k."""
        if not self._corrupts:
            return None
        key_which, key_noise = jax.random.split(key)
        n, _, *batch = shape
        order = jnp.argsort(jax.random.uniform(key_which, (n, *batch)), axis=0)  # uniform over permutations
        which = jnp.broadcast_to((order < self.corrupted_labels)[:, None], shape)
        return which, jax.random.normal(key_noise, shape)

    def _sample_second_moment(self, key: Array, w: Float[Array, "m d *batch"]) -> Float[Array, "e e *batch"]:
        """`sum_j e_j e_j^T` over a context of normal inputs, given the weights, without drawing the context.

        Tokens are e = B z with z ~ N(0, I) of size k = d, or d + m with label noise, and B = [[R, 0], [W R, sigma I]],
        so the sum is B Z Z^T B^T with Z `[k n]` of standard normals. Z = A Q with A lower trapezoidal and Q of
        orthonormal rows, and independent entries A_ii ~ chi_{n-i}, A_ij ~ N(0, 1) below (Bartlett's decomposition of
        the Wishart distribution; for n < k its first n columns), hence Z Z^T = A A^T. QED
        """
        n, d, m = self.n_context, self.d_input, self.d_output
        batch, k = w.shape[2:], d + (m if self.noise_std > 0.0 else 0)
        rank = min(n, k)
        key_normal, key_chi = jax.random.split(key)
        last = (1,) * len(batch)
        freedom = (n - jnp.arange(rank, dtype=w.dtype)).reshape(rank, *last)
        chi = jnp.sqrt(jax.random.chisquare(key_chi, freedom, shape=(rank, *batch)))
        normal = jax.random.normal(key_normal, (k, rank, *batch))
        below, on = np.tri(k, rank, -1, dtype=bool).reshape(k, rank, *last), np.eye(k, rank, dtype=bool)
        a = jnp.where(below, normal, jnp.where(on.reshape(k, rank, *last), chi[None], 0.0))
        inputs = jnp.einsum("ab,bi...->ai...", self._root.astype(w.dtype), a[:d])
        labels = jnp.sum(w[:, :, None] * inputs[None], axis=1)
        if self.noise_std > 0.0:
            labels = labels + self.noise_std * a[d:]
        factor = jnp.concatenate([inputs, labels])
        columns = factor.swapaxes(0, 1)  # as if they were the context's tokens
        return second_moment(partial(jax.lax.dynamic_slice_in_dim, columns), rank)
