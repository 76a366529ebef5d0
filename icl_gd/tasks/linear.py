"""Linear regression in context: `y = W x + noise`, and every prompt has a new Gaussian `W`.

Example:
  >>> task = LinearRegression(d_input=3, d_output=1, n_context=5)
  >>> prompt = task.sample(jax.random.key(0))
  >>> prompt.x.shape, prompt.y.shape, prompt.x_query.shape, prompt.y_query.shape
  ((5, 3), (5, 1), (3,), (1,))
  >>> bool(jnp.allclose(prompt.y, prompt.x @ prompt.w.T, atol=1e-5))
  True
"""

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

    Attributes:
      draw: `draw(key, (n, d, *batch))` returns n vectors `[n d *batch]`.
      moments: `moments(d)` is `(E x_i^2, E x_i^4)`.
      independent: whether coordinates are independent with mean zero, as the closed forms of `learners.closed_form`
        require.
    """

    draw: Callable[[Array, tuple[int, ...]], Array]
    moments: Callable[[int], tuple[float, float]]
    independent: bool


def _on_sphere(key: Array, shape: tuple[int, ...]) -> Array:
    z = jax.random.normal(key, shape)
    return z / jnp.linalg.norm(z, axis=1, keepdims=True)


INPUT_DISTRIBUTIONS: dict[str, InputDistribution] = {
    # The published code of von Oswald et al. draws from U(-1/2, 1/2). The paper's text says U(-1, 1).
    "uniform": InputDistribution(
        lambda key, shape: jax.random.uniform(key, shape) - 0.5,
        lambda d: (1 / 12, 1 / 80),
        True,
    ),
    "normal": InputDistribution(jax.random.normal, lambda d: (1.0, 3.0), True),
    "laplace": InputDistribution(jax.random.laplace, lambda d: (2.0, 24.0), True),
    "exponential": InputDistribution(jax.random.exponential, lambda d: (2.0, 24.0), False),
    "normalised": InputDistribution(_on_sphere, lambda d: (1 / d, 3 / (d * (d + 2))), False),
}


TERMS_AT_ONCE = 32  # number of terms that `_labels` unrolls in the sum over input coordinates
DIRECT_FROM = 40  # smallest context length for which drawing Gram matrices directly is cheaper (measured on a CPU)


def _labels(x: Array, w: Array) -> Array:
    """`W x` for inputs `[n d *batch]` and weights `[m d *batch]`: `[n m *batch]`."""
    if x.ndim == 2:
        return x @ w.T
    # Unrolled, the sum needs one pass over the result. XLA's CPU code for the equivalent reduction takes twice as long.
    terms = (x[:, None, i] * w[None, :, i] for i in range(min(x.shape[1], TERMS_AT_ONCE)))
    rest = jnp.sum(x[:, None, TERMS_AT_ONCE:] * w[None, :, TERMS_AT_ONCE:], axis=2)
    return reduce(jnp.add, terms, rest)


Scale = Annotated[Scalar, Gt(0), Le(LARGEST)]
Spread = Annotated[Scalar, Ge(0), Le(LARGEST)]
Corrupted = Annotated[int | Float[Array, ""] | Int[Array, ""], Ge(0)]


@dataclass(frozen=True)
class LinearRegression:
    """Linear regression with Gaussian weights (von Oswald et al., section 3; Garg et al. "linear", "noisy", "skewed").

    Attributes:
      d_input, d_output, n_context: sizes d, m and n of a prompt.
      inputs: distribution of the inputs, a key of `INPUT_DISTRIBUTIONS`.
      input_scale: factor of all inputs.
      covariance: optional matrix C `[d d]` as a nested tuple. Inputs are then `x = input_scale * C^(1/2) z`, where the
        coordinates of z have second moment 1. If their mean is zero, `E x x^T = input_scale^2 C`.
      weight_scale: standard deviation of every entry of `W`.
      noise_std: standard deviation of the Gaussian noise on context labels. `y_query` is noise-free.
      corrupted_labels: number of context labels, chosen at random, that are replaced by N(0, 1) draws. The scale of
        these draws is always 1 (`size_distract` in the published code of von Oswald et al.).
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
            raise ValueError(
                f"covariance has shape {np.shape(self.covariance)}; d_input={self.d_input} needs shape "
                f"({self.d_input}, {self.d_input})"
            )
        if not isinstance(self.corrupted_labels, jax.Array) and self.corrupted_labels > self.n_context:
            raise ValueError(f"corrupted_labels={self.corrupted_labels} must be at most n_context={self.n_context}")

    @property
    def second_moment(self) -> np.ndarray:
        """`E x x^T [d d]`, exact for inputs with mean zero: all distributions except "exponential"."""
        if self.covariance is not None:
            return float(self.input_scale) ** 2 * np.asarray(self.covariance)
        second, _ = INPUT_DISTRIBUTIONS[self.inputs].moments(self.d_input)
        return float(self.input_scale) ** 2 * second * np.eye(self.d_input)

    @property
    def fourth_moment(self) -> float:
        """`E x_i^4` of one coordinate. Defined only for tasks without a covariance.

        Raises:
          ValueError: if the task has a covariance.
        """
        if self.covariance is not None:
            raise ValueError(
                "fourth_moment is not defined for a task with a covariance: its coordinates have different moments; "
                "use covariance=None"
            )
        return float(self.input_scale) ** 4 * INPUT_DISTRIBUTIONS[self.inputs].moments(self.d_input)[1]

    def sample_inputs(self, key: Array, n: int, batch: tuple[int, ...] = ()) -> Float[Array, "n d *batch"]:
        """Draws n input vectors for every prompt of a batch.

        Args:
          key: a JAX random key.
          n: number of vectors per prompt.
          batch: shape of the batch. Default: (), one prompt.

        Returns:
          Inputs `[n d *batch]`.
        """
        z = INPUT_DISTRIBUTIONS[self.inputs].draw(key, (n, self.d_input, *batch))
        if self.covariance:
            return jnp.einsum("ab,nb...->na...", self._root.astype(z.dtype), z)
        return self.input_scale * z

    @property
    def _root(self) -> Array:
        """The matrix R `[d d]` that maps vectors z of the input distribution to inputs `x = R z`."""
        if self.covariance is None:
            return self.input_scale * jnp.eye(self.d_input)
        second, _ = INPUT_DISTRIBUTIONS[self.inputs].moments(self.d_input)
        eigenvalues, basis = np.linalg.eigh(np.asarray(self.covariance))
        root = (basis * np.sqrt(np.maximum(eigenvalues, 0.0))) @ basis.T
        return self.input_scale * jnp.asarray(root / second**0.5)

    def sample(self, key: Array, batch: tuple[int, ...] = ()) -> Prompt:
        """Draws one prompt, or a batch of prompts from one key.

        The result depends only on the key, not on a surrounding `vmap` or `jit`. For a fixed key, the first k examples
        are the same for every `n_context >= k`.

        Args:
          key: a JAX random key.
          batch: shape of the batch axes, the last axes of every leaf. A batch from one key is cheaper than `jax.vmap`
            over keys. Default: (), one prompt.

        Returns:
          A Prompt with noisy labels `y` and a noise-free `y_query`; its `w` are the weights `[m d *batch]`.
        """
        key_x, key_w, key_noise, key_corrupted = jax.random.split(key, 4)
        x = self.sample_inputs(key_x, self.n_context + 1, batch)
        w = self.weight_scale * jax.random.normal(key_w, (self.d_output, self.d_input, *batch))
        y = _labels(x, w)
        # The query is drawn first: the first k examples are then the same for every n_context >= k.
        x_query, x, y_query, y = x[0], x[1:], y[0], y[1:]
        if (noise := self._noise(key_noise, y.shape)) is not None:
            y = y + noise
        if (corruption := self._corruption(key_corrupted, y.shape)) is not None:
            is_corrupted, replacement = corruption
            y = jnp.where(is_corrupted, replacement, y)
        return Prompt(x, y, x_query, y_query, w)

    def sample_gram(
        self, key: Array, n_prompts: int, direct: bool | None = None
    ) -> tuple[Gram, Float[Array, "m prompt"]]:
        """Draws a batch of prompts in Gram form.

        Linear attention depends on the context only through the second moment `sum_j e_j e_j^T` of the tokens
        `e_j = (x_j, y_j)`.

        Args:
          key: a JAX random key.
          n_prompts: size of the batch.
          direct: draw the second moment itself instead of summing over a drawn context. The cost then does not depend
            on n_context. The distribution is the same, but the samples for a key differ. Default: None, the cheaper
            method.

        Returns:
          `(gram, y_query [m prompt])` with `gram.context [e e prompt]` and `gram.query [e prompt]`.

        Raises:
          ValueError: if `direct` is True but the inputs are not normal, or some labels are corrupted.
        """
        if direct is None:
            direct = self.inputs == "normal" and self.n_context >= DIRECT_FROM and not self._corrupts
        if direct and self.inputs != "normal":
            raise ValueError(
                f"inputs={self.inputs!r}: direct=True needs inputs='normal'; use direct=False or omit direct"
            )
        if direct and self._corrupts:
            raise ValueError(
                f"corrupted_labels={self.corrupted_labels}: direct=True needs corrupted_labels=0; use direct=False or "
                "omit direct"
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
            """The context tokens `[size e prompt]` from index `start` on."""

            def block(values: Array, offset: int = 0) -> Array:
                return jax.lax.dynamic_slice_in_dim(values, offset + start, size)

            inputs = block(x, 1)  # x[0] is the query
            labels = _labels(inputs, w)
            if noise is not None:
                labels = labels + block(noise)
            if corruption is not None:
                is_corrupted, replacement = corruption
                labels = jnp.where(block(is_corrupted), block(replacement), labels)
            return jnp.concatenate([inputs, labels], axis=1)

        return Gram(second_moment(tokens, self.n_context), query), y_query

    def _noise(self, key: Array, shape: tuple[int, ...]) -> Array | None:
        return self.noise_std * jax.random.normal(key, shape) if self.noise_std > 0.0 else None

    @property
    def _corrupts(self) -> bool:
        # The value of a traced number is unknown, so it is treated as if it were above zero.
        return isinstance(self.corrupted_labels, jax.Array) or self.corrupted_labels > 0

    def _corruption(self, key: Array, shape: tuple[int, ...]) -> tuple[Array, Array] | None:
        """The mask of corrupted labels and their replacements, both `[n m *batch]`; None without corrupted labels.

        For a fixed key, increasing `corrupted_labels` only adds corrupted labels.
        """
        if not self._corrupts:
            return None
        key_which, key_noise = jax.random.split(key)
        n, _, *batch = shape
        order = jnp.argsort(jax.random.uniform(key_which, (n, *batch)), axis=0)  # a random permutation
        is_corrupted = jnp.broadcast_to((order < self.corrupted_labels)[:, None], shape)
        return is_corrupted, jax.random.normal(key_noise, shape)

    def _sample_second_moment(self, key: Array, w: Float[Array, "m d *batch"]) -> Float[Array, "e e *batch"]:
        """Draws `sum_j e_j e_j^T` over a context of normal inputs, for fixed weights, without drawing the context.

        Tokens are e = B z with z ~ N(0, I). Let R = `_root` and sigma = `noise_std`. Without label noise, z has size
        k = d and B = [[R], [W R]]. With label noise, z has size k = d + m and B = [[R, 0], [W R, sigma I]]. The sum is
        B Z Z^T B^T, where the entries of Z `[k n]` are standard normal. By Bartlett's decomposition, Z = A Q, where Q
        has orthonormal rows and A `[k min(n, k)]` is lower trapezoidal with independent entries: A_ii ~ chi_(n-i),
        counting i from zero, and A_ij ~ N(0, 1) below the diagonal. Hence Z Z^T = A A^T, and A is drawn instead of Z.
        """
        n, d, m = self.n_context, self.d_input, self.d_output
        batch, k = w.shape[2:], d + (m if self.noise_std > 0.0 else 0)
        rank = min(n, k)
        key_normal, key_chi = jax.random.split(key)
        ones = (1,) * len(batch)
        degrees = (n - jnp.arange(rank, dtype=w.dtype)).reshape(rank, *ones)
        chi = jnp.sqrt(jax.random.chisquare(key_chi, degrees, shape=(rank, *batch)))
        normal = jax.random.normal(key_normal, (k, rank, *batch))
        below_diagonal = np.tri(k, rank, -1, dtype=bool).reshape(k, rank, *ones)
        on_diagonal = np.eye(k, rank, dtype=bool).reshape(k, rank, *ones)
        a = jnp.where(below_diagonal, normal, jnp.where(on_diagonal, chi[None], 0.0))
        inputs = jnp.einsum("ab,bi...->ai...", self._root.astype(w.dtype), a[:d])
        labels = jnp.sum(w[:, :, None] * inputs[None], axis=1)
        if self.noise_std > 0.0:
            labels = labels + self.noise_std * a[d:]
        product = jnp.concatenate([inputs, labels])  # B A
        # B A A^T B^T is computed as the second moment of the columns of B A.
        columns = product.swapaxes(0, 1)
        return second_moment(partial(jax.lax.dynamic_slice_in_dim, columns), rank)
