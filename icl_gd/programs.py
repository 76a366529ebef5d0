"""Programs are compiled once for what they depend on, and kept: see `kept`."""

import dataclasses
import inspect
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import jax
from jax.tree_util import Partial

P = ParamSpec("P")
R = TypeVar("R")
KEPT = 32  # results of each function; the one that was not used for longest goes first

_caches: list[Any] = []


def kept(make: Callable[P, R]) -> Callable[P, R]:
    """Keeps what a function makes of values, to give it again for equal ones.

    What JAX compiles belongs to a function object: one that is made anew is compiled anew. So functions that make
    functions are `kept`. Arguments that may change, as objects of a user's class or arrays, are nothing to keep results
    by: with one of those every call makes a new one. `forget` drops all.
    """
    cached = lru_cache(maxsize=KEPT, typed=True)(make)
    _caches.append(cached)

    @wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        values = all(map(is_value, (*args, *kwargs.values())))
        return cached(*args, **kwargs) if values else make(*args, **kwargs)

    return call


def is_value(x: Any) -> bool:
    """Whether an object is a value that cannot change: numbers, words, functions, and frozen dataclasses and tuples of
    them."""
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
    """A method of a value: equal to that of an equal value."""

    of: Any
    name: str

    def __call__(self, *args: Any) -> Any:
        return getattr(self.of, self.name)(*args)


def held(f: Any) -> Any:
    """The pytree that a `Model` is a Predictor by; anything else as it is."""
    return getattr(f, "predictor", f)


def as_partial(f: Callable) -> Partial:
    """A function as a pytree, of which compiled programs take the leaves as arguments.

    The leaves of a Predictor of the library are its parameters; of another function there are none. Methods of equal
    values are equal; a method of what may change is a function of its own each time, and so compiled anew.
    """
    if isinstance(own := held(f), Partial):
        return own
    if not inspect.ismethod(f):
        return Partial(f)
    return Partial(_Method(f.__self__, f.__name__) if is_value(f) else lambda *args: f(*args))


def forget() -> None:
    """Drops everything that was kept, and all that JAX has compiled."""
    for cached in _caches:
        cached.cache_clear()
    jax.clear_caches()


def brief(function: Callable, static_argnums: tuple[int, ...] = ()) -> Any:
    """`jax.jit` of a function that runs for seconds at most: on a CPU, LLVM optimises its code less.

    Drawing prompts compiles in a third of the time and runs as fast, to the same bit. Not for use inside other
    programs.
    """
    less = jax.default_backend() == "cpu" and not jax.config.read("jax_disable_most_optimizations")
    return _jit(function, static_argnums, less)


@kept
def _jit(function: Callable, static_argnums: tuple[int, ...], less: bool) -> Any:
    options = {"xla_backend_optimization_level": 1} if less else None
    return jax.jit(function, static_argnums=static_argnums, compiler_options=options)
