"""Prompt distributions: how the inputs and the query after each prefix are drawn (Garg et al. 2208.01066, section 4).

As in the paper's code, a prompt distribution draws `(x [n d], x_query [n d])`: n inputs and n queries. Query k, counted
from zero, comes after the first k inputs. In the distributions "standard", "half_subspace" and "skewed", query k is
the next input `x[k]`, as in training; then `x` and `x_query` are the same array.

A prompt distribution is based on a distribution of inputs, an entry of `INPUTS` (default: "normal"). In the list of
these entries, x is one coordinate of an input. Where only even k are listed, moments of odd order are zero.

    normal       N(0, I). E x^k = (k - 1)!! for even k.
    uniform      U(-sqrt(3), sqrt(3)) in every coordinate. E x^k = 3^(k/2) / (k + 1) for even k.
    sphere       uniform on the sphere of radius sqrt(d).
                 E x^k = d^(k/2) (k - 1)!! / (d (d + 2) ... (d + k - 2)) for even k.
    exponential  Exp(1) / sqrt(2) in every coordinate. E x^k = k! / 2^(k/2): the mean is 1/sqrt(2) and the variance 1/2.
                 No other entry has a mean different from zero.
    laplace      density exp(-sqrt(2) |x|) / sqrt(2) in every coordinate. E x^k = k! / 2^(k/2) for even k.
    ar1          a first-order autoregressive process over the input vectors x_j: x_1 = z_1 and
                 x_j = a x_(j-1) + sqrt(1 - a^2) z_j with z_j ~ N(0, I) and a = `CORRELATION`. The marginal distribution
                 of every x_j is N(0, I). In every coordinate, the correlation of x_j and x_(j+k) is a^k.

Example:
  >>> x, x_query = PROMPT_DISTRIBUTIONS["opposite_quadrants"].draw(jax.random.key(0), 4, 2)
  >>> x.shape, bool((x_query == -x).all())
  ((4, 2), True)
"""

from collections.abc import Callable
from math import factorial, prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from icl_gd.types import Array

Inputs = tuple[Float[Array, "n d"], Float[Array, "n d"]]  # inputs and queries
Draw = Callable[[Array, tuple[int, ...]], Array]  # (key, shape) -> array of this shape
CORRELATION = 0.9  # between the same coordinate of two successive inputs, for inputs="ar1"


class InputDistribution(NamedTuple):
    """A distribution of inputs whose coordinates have second moment one, so that `E |x|^2 = d`.

    Attributes:
      draw: `draw(key, (n, d))` returns n inputs `[n d]`.
      moment: `moment(k, d)` is `E x_i^k` for one coordinate of an input of dimension d.
      is_normal: whether the marginal distribution of each input is N(0, I).
    """

    draw: Draw
    moment: Callable[[int, int], float]
    is_normal: bool = False


def _on_sphere(key: Array, shape: tuple[int, ...]) -> Array:
    z = jax.random.normal(key, shape)
    return shape[1] ** 0.5 * z / jnp.linalg.norm(z, axis=1, keepdims=True)


def _autoregressive(key: Array, shape: tuple[int, ...]) -> Array:
    z = jax.random.normal(key, shape)

    def step(x: Array, z: Array) -> tuple[Array, Array]:
        x = CORRELATION * x + (1 - CORRELATION**2) ** 0.5 * z
        return x, x

    return jnp.concatenate([z[:1], jax.lax.scan(step, z[0], z[1:])[1]])


def _symmetric(even_moment: Callable[[int, int], float]) -> Callable[[int, int], float]:
    """The moments of a symmetric distribution: `even_moment(k, d)` for even k, zero for odd k."""
    return lambda k, d: 0.0 if k % 2 else even_moment(k, d)


_normal_moment = _symmetric(lambda k, d: float(prod(range(1, k, 2))))  # (k - 1)!!

INPUTS: dict[str, InputDistribution] = {
    "normal": InputDistribution(jax.random.normal, _normal_moment, True),
    "uniform": InputDistribution(
        lambda key, shape: jax.random.uniform(key, shape, minval=-(3**0.5), maxval=3**0.5),
        _symmetric(lambda k, d: 3 ** (k / 2) / (k + 1)),
    ),
    "sphere": InputDistribution(
        _on_sphere,
        _symmetric(lambda k, d: prod(d * j / (d + j - 1) for j in range(1, k, 2))),
    ),
    "exponential": InputDistribution(
        lambda key, shape: jax.random.exponential(key, shape) / 2**0.5,
        lambda k, d: factorial(k) / 2 ** (k / 2),
    ),
    "laplace": InputDistribution(
        lambda key, shape: jax.random.laplace(key, shape) / 2**0.5,
        _symmetric(lambda k, d: factorial(k) / 2 ** (k / 2)),
    ),
    "ar1": InputDistribution(_autoregressive, _normal_moment, True),
}


class PromptDistribution(NamedTuple):
    """A distribution of the inputs and queries of a prompt.

    Attributes:
      draw: `draw(key, n, d, inputs)` returns inputs and queries, both `[n d]`. `inputs` is the `draw` of an entry of
        `INPUTS`.
      in_order: whether query k is the next input `x[k]`.
    """

    draw: Callable[..., Inputs]
    in_order: bool


def _standard(key: Array, n: int, d: int, inputs: Draw = jax.random.normal) -> Inputs:
    x = inputs(key, (n, d))
    return x, x


def _quadrant(key: Array, n: int, d: int, inputs: Draw = jax.random.normal) -> Inputs:
    """Inputs reflected into one random quadrant; query k is input k before its reflection."""
    key_x, key_quadrant = jax.random.split(key)
    x = inputs(key_x, (n, d))
    return jnp.abs(x) * jax.random.rademacher(key_quadrant, (1, d), x.dtype), x


def _opposite_quadrant(key: Array, n: int, d: int, inputs: Draw = jax.random.normal) -> Inputs:
    x, _ = _quadrant(key, n, d, inputs)
    return x, -x


def _orthogonal_query(key: Array, n: int, d: int, inputs: Draw = jax.random.normal) -> Inputs:
    """Query k is input k, projected to be orthogonal to the first k inputs and rescaled to its original norm.

    After d or more inputs no such query exists; the query is then nan on purpose. With `jax_debug_nans`, use n <= d.
    """
    x, _ = _standard(key, n, d, inputs)

    def project(projector: Array, x: Array) -> tuple[Array, Array]:
        outside = projector @ (projector @ x)  # applied twice, because the projector has rounding errors
        unit = outside / jnp.linalg.norm(outside)
        return projector - unit[:, None] * unit[None, :], unit * jnp.linalg.norm(x)

    _, queries = jax.lax.scan(project, jnp.eye(d, dtype=x.dtype), x[:d])
    return x, jnp.concatenate([queries, jnp.full((max(n - d, 0), d), jnp.nan, x.dtype)])


def _repeated_query(key: Array, n: int, d: int, inputs: Draw = jax.random.normal) -> Inputs:
    """Query k repeats one of the first k inputs, chosen uniformly; query 0 is input 0."""
    key_x, key_index = jax.random.split(key)
    x, _ = _standard(key_x, n, d, inputs)
    index = jnp.floor(jax.random.uniform(key_index, (n,)) * jnp.arange(n)).astype(int)
    return x, x[index]


def _transformed(spectrum: Callable[[int], np.ndarray]) -> Callable[..., Inputs]:
    """A `draw` of inputs `T z`, where z is drawn from an entry of `INPUTS` and T is a random symmetric matrix.

    The eigenvalues of T are `spectrum(d)`, rescaled so that the squared Frobenius norm of T is d. The eigenvectors are
    drawn anew for every prompt. If the coordinates of z are uncorrelated with variance c, the covariance of the inputs
    is `c T^2`.
    """

    def draw(key: Array, n: int, d: int, inputs: Draw = jax.random.normal) -> Inputs:
        key_x, key_basis = jax.random.split(key)
        eigenvalues = spectrum(d) * (d / np.sum(spectrum(d) ** 2)) ** 0.5
        basis = jax.random.orthogonal(key_basis, d)
        x = inputs(key_x, (n, d)) @ (basis * jnp.asarray(eigenvalues, basis.dtype)[None]) @ basis.T
        return x, x

    return draw


def _half_spectrum(d: int) -> np.ndarray:
    """Eigenvalue 1 in the first `d // 2` dimensions, at least one, and 0 in the others."""
    return (np.arange(d) < max(d // 2, 1)).astype(float)


def _harmonic_spectrum(d: int) -> np.ndarray:
    """The eigenvalues 1, 1/2, ..., 1/d."""
    return 1 / np.arange(1.0, d + 1)


PROMPT_DISTRIBUTIONS: dict[str, PromptDistribution] = {
    "standard": PromptDistribution(_standard, True),
    "random_quadrants": PromptDistribution(_quadrant, False),
    "opposite_quadrants": PromptDistribution(_opposite_quadrant, False),
    "orthogonal_query": PromptDistribution(_orthogonal_query, False),
    "repeated_query": PromptDistribution(_repeated_query, False),
    "half_subspace": PromptDistribution(_transformed(_half_spectrum), True),
    "skewed": PromptDistribution(_transformed(_harmonic_spectrum), True),
}
