"""Shape checks for the arguments of learners and models.

Shapes are static under `jax.jit`, so the checks add no cost to a compiled function.

    >>> @on_problem
    ... def nearest_label(x, y, x_query):
    ...     return y[jnp.argmin(jnp.sum((x - x_query[None]) ** 2, axis=1))]
    >>> nearest_label(np.array([[0.0], [1.0]]), np.array([[5.0], [6.0]]), np.array([0.9])).tolist()
    [6.0]
    >>> nearest_label(np.zeros((2, 1)), np.zeros(2), np.zeros(1))
    Traceback (most recent call last):
    ValueError: y has shape (2,): labels are [n m]; give y[:, None]
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

Shape: TypeAlias = tuple[int, ...]


def on_problem(predict: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator that checks and converts the last three arguments: `x [n d]`, `y [n m]`, `x_query [d]`.

    NumPy arrays and arrays of whole numbers become JAX arrays of the default floating type.

    Returns:
      The function. It raises ValueError if the shapes do not agree or an argument is not an array.
    """

    @wraps(predict)
    def checked(*args: Any) -> Any:
        *other_args, x, y, x_query = args
        return predict(*other_args, *problem(x, y, x_query))

    return checked


def on_prefixes(predict: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator that checks and converts the last two arguments, `x [n d]` and `y [n m]`, as `on_problem` does.

    Returns:
      The function. It raises ValueError if the shapes do not agree or an argument is not an array.
    """

    @wraps(predict)
    def checked(*args: Any) -> Any:
        *other_args, x, y = args
        return predict(*other_args, *examples(x, y))

    return checked


def problem(x: Any, y: Any, x_query: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Converts a context and a query to JAX arrays of floating type, and checks their shapes.

    Args:
      x: inputs `[n d]`.
      y: labels `[n m]`.
      x_query: query `[d]`.

    Returns:
      `x [n d]`, `y [n m]` and `x_query [d]`.

    Raises:
      ValueError: if the shapes do not agree or an argument is not an array.
    """
    x, y = examples(x, y)
    x_query = _floating("x_query", x_query)
    check_shapes(x.shape, y.shape, x_query.shape)
    return x, y, x_query


def examples(x: Any, y: Any) -> tuple[jax.Array, jax.Array]:
    """Converts examples to JAX arrays of floating type, and checks their shapes.

    Returns:
      `x [n d]` and `y [n m]`.

    Raises:
      ValueError: if the shapes do not agree or an argument is not an array.
    """
    x, y = _floating("x", x), _floating("y", y)
    check_shapes(x.shape, y.shape)
    return x, y


def check_shapes(x: Shape, y: Shape, x_query: Shape | None = None) -> None:
    """Checks the shapes of a context, and of a query if there is one.

    Args:
      x: shape of the inputs, (n, d).
      y: shape of the labels, (n, m).
      x_query: shape of the query, (d,). Default: no query.

    Raises:
      ValueError: if a shape has the wrong number of axes, or the shapes do not agree.
    """
    if len(x) != 2:
        raise ValueError(f"x has shape {x}: inputs are [n d]; apply jax.vmap for several prompts")
    if len(y) == 1:
        raise ValueError(f"y has shape {y}: labels are [n m]; give y[:, None]")
    if len(y) != 2 or y[0] != x[0]:
        raise ValueError(f"y has shape {y}: labels are [n m], with n={x[0]} as in x {x}")
    if x_query is not None and x_query != x[1:]:
        raise ValueError(
            f"x_query has shape {x_query}: one query is [d], with d={x[1]} as in x {x}; apply jax.vmap for several "
            "queries"
        )


def _floating(name: str, value: Any) -> jax.Array:
    """Converts an array to the default floating type. A JAX array of floating type is returned unchanged."""
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.floating):
        return value
    if not isinstance(value, jax.Array | np.ndarray):
        raise ValueError(f"{name} is a {type(value).__name__}; give an array, for example jnp.array({name})")
    return jnp.asarray(value, float)
