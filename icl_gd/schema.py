"""What fields and arguments accept, written once, where they are: `check` and `checked` read it off annotations.

    >>> @dataclass(frozen=True)
    ... class Ball:
    ...     d: Size = 3
    ...     radius: Annotated[float, Gt(0)] = 1.0
    ...     norm: Annotated[str, OneOf(("euclidean", "largest"))] = "euclidean"
    ...
    ...     def __post_init__(self):
    ...         check(self)
    >>> Ball(radius=-1.0)
    Traceback (most recent call last):
    ValueError: radius=-1.0 must be a number above 0
    >>> Ball(d=2.0)
    Traceback (most recent call last):
    ValueError: d=2.0 must be a whole number of at least 1

Numbers of Python and NumPy are checked; JAX arrays and tracers pass, since their values may not be known yet. A bool is
no number, a float is no whole number, and no number may be nan or infinite.
"""

import difflib
import inspect
import math
import types
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from functools import cache, wraps
from typing import Annotated, Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import jax
import numpy as np
from annotated_types import Ge, Gt, Le, Lt

P = ParamSpec("P")
R = TypeVar("R")

LARGEST = 1e6  # of scales: moments of sixth order stay finite in float32
Size = Annotated[int, Ge(1)]
Count = Annotated[int, Ge(0)]
Seed = Annotated[int, Ge(0), Le(2**31 - 1)]
PoolSize = Annotated[int, Ge(1), Le(2**31 - 1)]
_SAYS = {Ge: ("at least", "ge"), Gt: ("above", "gt"), Le: ("at most", "le"), Lt: ("below", "lt")}
_KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a word"}


@dataclass(frozen=True, eq=False)
class OneOf:
    """A word that is accepted: one of `words`, which may be added to, as the keys of a dict are."""

    words: Collection[str]


def check(config: Any) -> None:
    """Checks every field of a dataclass against its annotation: type, bounds (of `annotated_types`) and words.

    Raises:
      ValueError: at the first that will not do; says its name, its value and what is accepted.
    """
    for field, hint in hints(type(config)).items():
        check_value(field, getattr(config, field), hint)


def check_value(name: str, value: Any, hint: Any) -> None:
    """Checks one value against an annotation, as `check` does.

    Raises:
      ValueError: if it will not do.
    """
    if not accepts(hint, value):
        raise ValueError(f"{name}={value!r} {wanted(hint, value)}")


@cache
def hints(of: type) -> dict[str, Any]:
    """The annotations of a dataclass's fields, in order, with their bounds."""
    found = get_type_hints(of, include_extras=True)
    return {field.name: found[field.name] for field in fields(of)}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Checks the numbers, words and truths that a function is given against its annotations, as `check` does fields.

        >>> @checked
        ... def ridge(penalty: Annotated[float, Ge(0)]): ...
        >>> ridge(-1.0)
        Traceback (most recent call last):
        ValueError: penalty=-1.0 must be a number of at least 0

    Other arguments (arrays, functions, configs) are not looked at; of what may be traced the annotation is `Scalar`.
    Stands below `programs.kept`, so that what is given again is not checked again.

    Returns:
      The function; it raises ValueError at the first argument that will not do, before anything of it runs.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:  # which the function raises below, with its name
            given = {}
        for name, hint in scalars(function).items():
            if name in given:
                check_value(name, given[name], hint)
        return function(*args, **kwargs)

    call.is_checked = True  # pyright: ignore[reportAttributeAccessIssue]
    return call


@cache
def scalars(function: Callable) -> dict[str, Any]:
    """The annotations of a function's arguments that are numbers, words or truths, or arrays in place of a number."""
    # At the first call, not before: an annotation may name what is defined further down.
    found = get_type_hints(function, include_extras=True)
    return {name: hint for name, hint in found.items() if name != "return" and _is_scalar(hint)}


def _is_scalar(hint: Any) -> bool:
    plain, its = (int, float, bool, str), kinds(hint)
    return any(kind in plain for kind in its) and all(
        kind in plain or kind is type(None) or is_array(kind) for kind in its
    )


def _parts(hint: Any) -> tuple[Any, tuple]:
    """The type of an annotation, and what else it says."""
    if get_origin(hint) is Annotated:
        kind, *more = get_args(hint)
        return kind, tuple(more)
    return hint, ()


def _alternatives(hint: Any) -> tuple:
    """The types of a union, each with what the whole says."""
    kind, more = _parts(hint)
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(_annotated(one, more) for one in get_args(kind))
    return (hint,)


def _annotated(kind: Any, more: tuple) -> Any:
    return Annotated[kind, *more] if more and kind is not type(None) else kind


def accepts(hint: Any, value: Any) -> bool:
    """Whether an annotation accepts a value."""
    if isinstance(value, jax.Array):
        return any(is_array(_parts(one)[0]) for one in _alternatives(hint))
    return any(_accepts_one(*_parts(one), value) for one in _alternatives(hint))


def _accepts_one(kind: Any, more: tuple, value: Any) -> bool:
    if kind is Any:
        return True
    if kind is type(None):
        return value is None
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and _accepts_items(get_args(kind), more, value)
    if kind in (int, float):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        there = whole or (kind is float and isinstance(value, float | np.floating) and math.isfinite(value))
        return there and all(_holds(bound, value) for bound in more)
    if kind is bool:
        return isinstance(value, bool | np.bool_)
    if kind is str:
        return isinstance(value, str) and all(value in rule.words for rule in more if isinstance(rule, OneOf))
    if not isinstance(kind, type) or is_array(kind):
        return False
    return isinstance(value, kind)


def _accepts_items(of: tuple, more: tuple, values: tuple) -> bool:
    if len(of) == 2 and of[1] is Ellipsis:
        return len(values) > 0 and all(accepts(_annotated(of[0], more), value) for value in values)
    return len(of) == len(values) and all(
        accepts(_annotated(one, more), value) for one, value in zip(of, values, strict=True)
    )


def _holds(bound: Any, value: Any) -> bool:
    tests = {
        Ge: lambda b: value >= b.ge,
        Gt: lambda b: value > b.gt,
        Le: lambda b: value <= b.le,
        Lt: lambda b: value < b.lt,
    }
    return type(bound) not in tests or bool(tests[type(bound)](bound))


def is_array(kind: Any) -> bool:
    """Whether a type is JAX's array, or one of jaxtyping's."""
    return isinstance(kind, type) and (kind is jax.Array or getattr(kind, "array_type", None) is jax.Array)


def kinds(hint: Any) -> tuple:
    """The types that an annotation accepts."""
    return tuple(_parts(one)[0] for one in _alternatives(hint))


def rules(hint: Any) -> tuple:
    """The bounds and words of an annotation."""
    return tuple(dict.fromkeys(rule for one in _alternatives(hint) for rule in _parts(one)[1]))


def wanted(hint: Any, value: Any) -> str:
    """What is to be given in place of a value that is not accepted, as "must be a number above 0, or None"."""
    of = said(hint)
    if isinstance(value, float | np.floating) and not math.isfinite(value):
        of = of.replace("a number", "a finite number")
    words = [word for rule in rules(hint) if isinstance(rule, OneOf) for word in rule.words]
    given = [word for word in (value if isinstance(value, tuple | list) else (value,)) if isinstance(word, str)]
    near = [found for word in given if word not in words for found in difflib.get_close_matches(word, words, 1, 0.5)]
    return f"must be {of}" + (f"; did you mean {near[0]}?" if near else "")


def said(hint: Any) -> str:
    """What an annotation accepts, in words: "a whole number of at least 1, or None"."""
    of: list[str] = []
    for one in _alternatives(hint):
        kind, more = _parts(one)
        if kind == tuple[()]:
            of.append("()")
        elif get_origin(kind) is tuple:
            each, many = (
                said(_annotated(get_args(kind)[0], more)),
                "" if ... in get_args(kind) else f" of {len(get_args(kind))}",
            )
            of.append("a tuple of such" if each in of else f"a tuple{many}, each of it {each}")
        elif not is_array(kind):
            of.append(_said_one(kind, more))
    return ", or ".join(dict.fromkeys(of))


def _said_one(kind: Any, more: tuple) -> str:
    if kind is type(None):
        return "None"
    if words := [word for rule in more if isinstance(rule, OneOf) for word in rule.words]:
        return f"one of {', '.join(words)}"
    name = _KINDS.get(kind) or f"a {getattr(kind, '__name__', kind)}"
    bounds = [
        f"{_SAYS[type(bound)][0]} {getattr(bound, _SAYS[type(bound)][1]):.10g}"
        for bound in more
        if type(bound) in _SAYS
    ]
    return f"{name}{' of' * bounds[0].startswith('at ')} {' and '.join(bounds)}" if bounds else name
