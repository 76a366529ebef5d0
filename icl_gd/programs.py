"""Caching of compiled programs: functions that make functions return the same function for equal arguments.

JAX caches what it compiles by function object, so a function that is made anew is compiled anew (see `kept`).

    >>> @kept
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
KEPT = 32  # cached results per function; the least recently used one is dropped first

_caches: list[Any] = []


def kept(make: Callable[P, R]) -> Callable[P, R]:
    """Decorator that caches the results of a function for arguments that are immutable values (see `is_value`).

    Use it for functions that make functions, so that equal arguments give the same function object, which JAX
    compiles once. A call with an argument that may change, such as an array or an object of a user's class, is not
    cached. `forget` clears all caches.

    Returns:
      The function with a cache of at most `KEPT` results.
    """
    cached = lru_cache(maxsize=KEPT, typed=True)(make)
    _caches.append(cached)

    @wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        values = all(map(is_value, (*args, *kwargs.values())))
        return cached(*args, **kwargs) if values else make(*args, **kwargs)

    return call


def is_value(x: Any) -> bool:
    """Whether an object is immutable and compares by value.

    Returns:
      True for numbers, strings, None, functions, classes, and frozen dataclasses and tuples of these.
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
    """A bound method that equals the same method of an equal object."""

    instance: Any
    name: str

    def __call__(self, *args: Any) -> Any:
        return getattr(self.instance, self.name)(*args)


def held(f: Any) -> Any:
    """The Predictor inside a `Model`, a pytree.

    Returns:
      `f.predictor` if there is one, otherwise `f` itself.
    """
    return getattr(f, "predictor", f)


def as_partial(f: Callable) -> Partial:
    """A function as a pytree, whose leaves are arguments of compiled programs.

    The leaves of a Predictor of this library are its parameters. Other functions have no leaves. Methods of equal
    values give equal results. A method of an object that may change gives a new function at every call, which is
    compiled anew.

    Returns:
      The function as a `jax.tree_util.Partial`.
    """
    if isinstance(own := held(f), Partial):
        return own
    if not inspect.ismethod(f):
        return Partial(f)
    if is_value(f):
        return Partial(_Method(f.__self__, f.__name__))
    return Partial(lambda *args: f(*args))


def forget() -> None:
    """Clears the caches of all `kept` functions and of JAX."""
    for cached in _caches:
        cached.cache_clear()
    jax.clear_caches()


def brief(function: Callable, static_argnums: tuple[int, ...] = ()) -> Any:
    """`jax.jit` with fewer LLVM optimisations on CPU, for functions that run for a few seconds at most.

    Drawing prompts compiles in a third of the time, runs as fast, and returns the same bits. Do not call the result
    inside other compiled programs.

    Returns:
      The compiled function.
    """
    less = jax.default_backend() == "cpu" and not jax.config.read("jax_disable_most_optimizations")
    return _jit(function, static_argnums, less)


@kept
def _jit(function: Callable, static_argnums: tuple[int, ...], less: bool) -> Any:
    options = {"xla_backend_optimization_level": 1} if less else None
    return jax.jit(function, static_argnums=static_argnums, compiler_options=options)
