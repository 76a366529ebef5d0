"""Prompt families: how the inputs of a prompt, and the queries after each of its prefixes, are drawn.

Garg et al. 2208.01066, section 4 and their code. A family is `(key, n, d, inputs) -> (x [n d], x_query [n d])`; the
k-th query, from zero, comes after the first k inputs. In most, as in training, it is the next, and both are one array.
`inputs(key, (n, d))` draws what a family makes its inputs of: it is the `draw` of one of `INPUTS`, normal if left out.

    normal       N(0, I). E x^k = (k - 1)!! for even k, of every coordinate x.
    uniform      U(-sqrt(3), sqrt(3)) in every coordinate. E x^k = 3^(k/2) / (k + 1) for even k.
    sphere       uniform on the sphere |x|^2 = d. E x^k = d^(k/2) (k - 1)!! / (d (d + 2) ... (d + k - 2)) for even k.
    exponential  Exp(1) / sqrt(2) in every coordinate. E x^k = k! / 2^(k/2), so that the mean is 1/sqrt(2) and the
                 variance 1/2: it is not centred, and the others are.
    laplace      density exp(-2 |x| / b) / b in every coordinate, with b = sqrt(2). E x^k = k! / 2^(k/2) for even k.
    ar1          over the examples x_1 = z_1, x_j = a x_(j-1) + sqrt(1 - a^2) z_j with z ~ N(0, I), a = `CORRELATION`.
                 Every x_j is from N(0, I), and correlates by a^k with the input k examples later.
"""

from collections.abc import Callable
from math import factorial, prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from icl_gd.types import Array

Inputs = tuple[Float[Array, "n d"], Float[Array, "n d"]]
Draw = Callable[[Array, tuple[int, ...]], Array]
CORRELATION = 0.9  # of a coordinate with that of the next example, of inputs="ar1"


class InputDistribution(NamedTuple):
    """A distribution of inputs whose coordinates have second moment one, so that `E |x|^2 = d`.

    `draw(key, (n, d))` gives n inputs; `moment(k, d)` is `E x^k` of a coordinate; `is_normal` says whether every input
    by itself is from N(0, I).
    """

    draw: Draw
    moment: Callable[[int, int], float]
    is_normal: bool = False


def _on_sphere(key: Array, shape: tuple[int, ...]) -> Array:
    z = jax.random.normal(key, shape)
    return shape[1] ** 0.5 * z / jnp.linalg.norm(z, axis=1, keepdims=True)


def _autoregressive(key: Array, shape: tuple[int, ...]) -> Array:
    z = jax.random.normal(key, shape)

    def follow(x: Array, z: Array) -> tuple[Array, Array]:
        x = CORRELATION * x + (1 - CORRELATION**2) ** 0.5 * z
        return x, x

    return jnp.concatenate([z[:1], jax.lax.scan(follow, z[0], z[1:])[1]])


def _even(of: Callable[[int, int], float]) -> Callable[[int, int], float]:
    """The moments of a symmetric distribution, by those of even order."""
    return lambda k, d: 0.0 if k % 2 else of(k, d)


_normal = _even(lambda k, d: float(prod(range(1, k, 2))))  # (k - 1)!!

INPUTS: dict[str, InputDistribution] = {
    "normal": InputDistribution(jax.random.normal, _normal, True),
    "uniform": InputDistribution(
        lambda key, shape: jax.random.uniform(key, shape, minval=-(3**0.5), maxval=3**0.5),
        _even(lambda k, d: 3 ** (k / 2) / (k + 1)),
    ),
    "sphere": InputDistribution(_on_sphere, _even(lambda k, d: prod(d * j / (d + j - 1) for j in range(1, k, 2)))),
    "exponential": InputDistribution(
        lambda key, shape: jax.random.exponential(key, shape) / 2**0.5, lambda k, d: factorial(k) / 2 ** (k / 2)
    ),
    "laplace": InputDistribution(
        lambda key, shape: jax.random.laplace(key, shape) / 2**0.5, _even(lambda k, d: factorial(k) / 2 ** (k / 2))
    ),
    "ar1": InputDistribution(_autoregressive, _normal, True),
}


class PromptDistribution(NamedTuple):
    """How inputs are drawn, and whether queries are the inputs to come."""

    draw: Callable[..., Inputs]
    in_order: bool


def _standard(key: Array, n: int, d: int, inputs: Draw = jax.random.normal) -> Inputs:
    x = inputs(key, (n, d))
    return x, x


def _quadrant(key: Array, n: int, d: int, inputs: Draw = jax.random.normal) -> Inputs:
    """Inputs in one random quadrant, and as many where their distribution has them: if it is symmetric, anywhere."""
    key_x, key_quadrant = jax.random.split(key)
    x = inputs(key_x, (n, d))
    return jnp.abs(x) * jax.random.rademacher(key_quadrant, (1, d), x.dtype), x


def _opposite_quadrant(key: Array, n: int, d: int, inputs: Draw = jax.random.normal) -> Inputs:
    x, _ = _quadrant(key, n, d, inputs)
    return x, -x


def _orthogonal_query(key: Array, n: int, d: int, inputs: Draw = jax.random.normal) -> Inputs:
    """Queries projected off the span of the inputs before them, with their old norm; nan where these span all.

    Queries that do not exist are nan on purpose: with `jax_debug_nans` take no more examples than inputs.
    """
    x, _ = _standard(key, n, d, inputs)

    def project(free: Array, x: Array) -> tuple[Array, Array]:
        outside = free @ (free @ x)  # twice: the projector has rounding errors of its own
        unit = outside / jnp.linalg.norm(outside)
        return free - unit[:, None] * unit[None, :], unit * jnp.linalg.norm(x)

    _, queries = jax.lax.scan(project, jnp.eye(d, dtype=x.dtype), x[:d])
    return x, jnp.concatenate([queries, jnp.full((max(n - d, 0), d), jnp.nan, x.dtype)])


def _repeated_query(key: Array, n: int, d: int, inputs: Draw = jax.random.normal) -> Inputs:
    """Queries that are one of the inputs before them, each as likely; the first has none, and is its own."""
    key_x, key_which = jax.random.split(key)
    x, _ = _standard(key_x, n, d, inputs)
    which = jnp.floor(jax.random.uniform(key_which, (n,)) * jnp.arange(n)).astype(int)
    return x, x[which]


def _transformed(spectrum: Callable[[int], np.ndarray]) -> Callable[..., Inputs]:
    """Inputs `T z` with a symmetric T of this spectrum, its eigenvectors drawn for every prompt, and `|T|^2 = d`.

    Their covariance is `c T^2` where coordinates of z are uncorrelated and have variance c.
    """

    def draw(key: Array, n: int, d: int, inputs: Draw = jax.random.normal) -> Inputs:
        key_x, key_basis = jax.random.split(key)
        eigenvalues = spectrum(d) * (d / np.sum(spectrum(d) ** 2)) ** 0.5
        basis = jax.random.orthogonal(key_basis, d)
        x = inputs(key_x, (n, d)) @ (basis * jnp.asarray(eigenvalues, basis.dtype)[None]) @ basis.T
        return x, x

    return draw


PROMPT_DISTRIBUTIONS: dict[str, PromptDistribution] = {
    "standard": PromptDistribution(_standard, True),
    "random_quadrants": PromptDistribution(_quadrant, False),
    "opposite_quadrants": PromptDistribution(_opposite_quadrant, False),
    "orthogonal_query": PromptDistribution(_orthogonal_query, False),
    "repeated_query": PromptDistribution(_repeated_query, False),
    "half_subspace": PromptDistribution(_transformed(lambda d: (np.arange(d) < max(d // 2, 1)).astype(float)), True),
    "skewed": PromptDistribution(_transformed(lambda d: 1 / np.arange(1.0, d + 1)), True),
}
