"""Caches for functions that return functions, so that JAX compiles equal programs once.

JAX caches compiled programs by function object. So a function that is defined again, with the same code, is compiled
again. `cached_by_value` returns the same function object for equal arguments.

    >>> @cached_by_value
    ... def adder(n: int):
    ...     return jax.jit(lambda x: x + n)
    >>> adder(2) is adder(2)  # compiled once
    True
"""

import dataclasses
import inspect
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import jax
from jax.tree_util import Partial

P = ParamSpec("P")
R = TypeVar("R")
CACHE_SIZE = 32  # cached results per function; the least recently used one is dropped first

_caches: list[Any] = []


def cached_by_value(make: Callable[P, R]) -> Callable[P, R]:
    """Decorator that caches the results of a function for arguments that are immutable values (see `is_value`).

    Use it for functions that return functions. Equal arguments then give the same function object, which JAX compiles
    once. A call with any other argument, such as an array or a mutable object, is not cached.
    `clear_caches` clears all caches.

    Returns:
      The function with a cache of at most `CACHE_SIZE` results.
    """
    cached = lru_cache(maxsize=CACHE_SIZE, typed=True)(make)
    _caches.append(cached)

    @wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        is_cached = all(map(is_value, (*args, *kwargs.values())))
        return cached(*args, **kwargs) if is_cached else make(*args, **kwargs)

    return call


def is_value(x: Any) -> bool:
    """Whether an object is immutable and compares by value.

    Returns:
      True for numbers, strings, None, functions and classes; for frozen dataclasses and tuples of these; and for
      methods of these.
    """
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        frozen = type(x).__dataclass_params__.frozen and type(x).__hash__ is not object.__hash__  # pyright: ignore
        return frozen and all(is_value(getattr(x, field.name)) for field in dataclasses.fields(x))
    if isinstance(x, tuple):
        return all(map(is_value, x))
    if inspect.ismethod(x):
        return is_value(x.__self__)
    return x is None or isinstance(x, bool | int | float | str) or inspect.isroutine(x) or inspect.isclass(x)


@dataclasses.dataclass(frozen=True)
class _Method:
    """A bound method that compares equal to the same method of an equal object."""

    instance: Any
    name: str

    def __call__(self, *args: Any) -> Any:
        return getattr(self.instance, self.name)(*args)


def unwrapped(f: Any) -> Any:
    """The Predictor of a `Model`, which is a pytree.

    Returns:
      `f.predictor` if `f` has this attribute, otherwise `f`.
    """
    return getattr(f, "predictor", f)


def as_partial(f: Callable) -> Partial:
    """Converts a function to a pytree, so that it can be an argument of compiled programs.

    The leaves of a Predictor of this library are its parameters. Other functions have no leaves. The same method of
    two equal immutable objects gives equal pytrees. A method of a mutable object gives a new function at every call,
    which is compiled again.

    Returns:
      The function as a `jax.tree_util.Partial`.
    """
    predictor = unwrapped(f)
    if isinstance(predictor, Partial):
        return predictor
    if not inspect.ismethod(f):
        return Partial(f)
    if is_value(f):
        return Partial(_Method(f.__self__, f.__name__))
    return Partial(lambda *args: f(*args))


def clear_caches() -> None:
    """Clears the caches of all `cached_by_value` functions and of JAX."""
    for cached in _caches:
        cached.cache_clear()
    jax.clear_caches()


def quick_jit(function: Callable, static_argnums: tuple[int, ...] = ()) -> Any:
    """`jax.jit` with fewer LLVM optimisations on CPU, for functions that run for a few seconds at most.

    For example, a function that draws prompts compiles in a third of the time, runs as fast, and returns the same
    bits. Do not call the result inside another compiled function: JAX raises ValueError for compiler options there.

    Returns:
      The compiled function.
    """
    has_fewer_passes = jax.default_backend() == "cpu" and not jax.config.read("jax_disable_most_optimizations")
    return _jit(function, static_argnums, has_fewer_passes)


@cached_by_value
def _jit(function: Callable, static_argnums: tuple[int, ...], has_fewer_passes: bool) -> Any:
    options = {"xla_backend_optimization_level": 1} if has_fewer_passes else None
    return jax.jit(function, static_argnums=static_argnums, compiler_options=options)
