"""The door of every learner and model: what a problem is made of, checked by its shapes.

Shapes are known when a function is compiled, so that a compiled one costs nothing more.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

Shape: TypeAlias = tuple[int, ...]


def on_problem(predict: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose last arguments are a problem `x [n d]`, `y [n m]`, `x_query [d]`, which is checked first.

    NumPy arrays and whole numbers are taken as arrays of JAX's default floating type.

    Raises (the function that is returned):
      ValueError: if shapes do not agree, or a part is no array.
    """

    @wraps(predict)
    def checked(*given: Any) -> Any:
        *own, x, y, x_query = given
        return predict(*own, *problem(x, y, x_query))

    return checked


def on_prefixes(predict: Callable[..., Any]) -> Callable[..., Any]:
    """As `on_problem`, of a function whose last arguments are examples `x [n d]` and `y [n m]`."""

    @wraps(predict)
    def checked(*given: Any) -> Any:
        *own, x, y = given
        return predict(*own, *examples(x, y))

    return checked


def problem(x: Any, y: Any, x_query: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A problem as arrays of floating type, whose shapes agree."""
    x, y = examples(x, y)
    x_query = _floating("x_query", x_query)
    check_shapes(x.shape, y.shape, x_query.shape)
    return x, y, x_query


def examples(x: Any, y: Any) -> tuple[jax.Array, jax.Array]:
    """Examples as arrays of floating type, whose shapes agree."""
    x, y = _floating("x", x), _floating("y", y)
    check_shapes(x.shape, y.shape)
    return x, y


def check_shapes(x: Shape, y: Shape, x_query: Shape | None = None) -> None:
    """Whether shapes are those of a problem, or of examples.

    Raises:
      ValueError: if they are not.
    """
    if len(x) != 2:
        raise ValueError(f"x has shape {x}: inputs are [n d]; of several problems, jax.vmap over them")
    if len(y) == 1:
        raise ValueError(f"y has shape {y}: labels are [n m]; give y[:, None]")
    if len(y) != 2 or y[0] != x[0]:
        raise ValueError(f"y has shape {y}: labels are [n m], with n={x[0]} of x {x}")
    if x_query is not None and x_query != x[1:]:
        said = f"one query is [d], with d={x[1]} of x {x}; of several, jax.vmap over them"
        raise ValueError(f"x_query has shape {x_query}: {said}")


def _floating(name: str, value: Any) -> jax.Array:
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.floating):
        return value
    if not isinstance(value, jax.Array | np.ndarray):
        raise ValueError(f"{name} is a {type(value).__name__}; give an array, as jnp.array({name})")
    return jnp.asarray(value, float)
