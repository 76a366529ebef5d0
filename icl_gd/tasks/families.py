"""Prompt families: how the inputs of a prompt, and the queries after each of its prefixes, are drawn.

Garg et al. 2208.01066, section 4 and their code. A family is `(key, n, d) -> (x [n d], x_query [n d])`; the k-th query,
from zero, comes after the first k inputs. In most, as in training, it is the next input, and both are one array.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from icl_gd.types import Array

Inputs = tuple[Float[Array, "n d"], Float[Array, "n d"]]


class PromptFamily(NamedTuple):
    """How inputs are drawn, and whether queries are the inputs to come."""

    draw: Callable[[Array, int, int], Inputs]
    in_order: bool


def _standard(key: Array, n: int, d: int) -> Inputs:
    x = jax.random.normal(key, (n, d))
    return x, x


def _quadrant(key: Array, n: int, d: int) -> Inputs:
    """Inputs in one random quadrant, and as many anywhere."""
    key_x, key_quadrant = jax.random.split(key)
    x = jax.random.normal(key_x, (n, d))
    return jnp.abs(x) * jax.random.rademacher(key_quadrant, (1, d), x.dtype), x


def _opposite_quadrant(key: Array, n: int, d: int) -> Inputs:
    x, _ = _quadrant(key, n, d)
    return x, -x


def _orthogonal_query(key: Array, n: int, d: int) -> Inputs:
    """Queries projected off the span of the inputs before them, with their old norm; nan where these span all."""
    x, _ = _standard(key, n, d)

    def project(free: Array, x: Array) -> tuple[Array, Array]:
        outside = free @ (free @ x)  # twice: the projector has rounding errors of its own
        unit = outside / jnp.linalg.norm(outside)
        return free - unit[:, None] * unit[None, :], unit * jnp.linalg.norm(x)

    _, queries = jax.lax.scan(project, jnp.eye(d, dtype=x.dtype), x[:d])
    return x, jnp.concatenate([queries, jnp.full((max(n - d, 0), d), jnp.nan, x.dtype)])


def _repeated_query(key: Array, n: int, d: int) -> Inputs:
    """Queries that are one of the inputs before them, each as likely; the first has none, and is its own."""
    key_x, key_which = jax.random.split(key)
    x, _ = _standard(key_x, n, d)
    which = jnp.floor(jax.random.uniform(key_which, (n,)) * jnp.arange(n)).astype(int)
    return x, x[which]


def _transformed(spectrum: Callable[[int], np.ndarray]) -> Callable[[Array, int, int], Inputs]:
    """Inputs `T z` with a symmetric T of this spectrum, its eigenvectors drawn for every prompt, and `|T|^2 = d`."""

    def draw(key: Array, n: int, d: int) -> Inputs:
        key_x, key_basis = jax.random.split(key)
        eigenvalues = spectrum(d) * (d / np.sum(spectrum(d) ** 2)) ** 0.5
        basis = jax.random.orthogonal(key_basis, d)
        x = jax.random.normal(key_x, (n, d)) @ (basis * jnp.asarray(eigenvalues, basis.dtype)[None]) @ basis.T
        return x, x

    return draw


PROMPT_FAMILIES: dict[str, PromptFamily] = {
    "standard": PromptFamily(_standard, True),
    "random_quadrants": PromptFamily(_quadrant, False),
    "opposite_quadrants": PromptFamily(_opposite_quadrant, False),
    "orthogonal_query": PromptFamily(_orthogonal_query, False),
    "repeated_query": PromptFamily(_repeated_query, False),
    "half_subspace": PromptFamily(_transformed(lambda d: (np.arange(d) < max(d // 2, 1)).astype(float)), True),
    "skewed": PromptFamily(_transformed(lambda d: 1 / np.arange(1.0, d + 1)), True),
}
