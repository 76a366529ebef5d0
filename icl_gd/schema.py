"""Validation of dataclass fields and function arguments against their annotations, by `check` and `checked`.

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

Python and NumPy numbers are checked. If the annotation accepts arrays, every JAX array or tracer is accepted, because
its value may not be known yet. A bool is not accepted as a number, nor a float as a whole number. nan and infinity are
refused.
"""

import difflib
import inspect
import math
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, wraps
from typing import Annotated, Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import jax
import numpy as np
from annotated_types import Ge, Gt, Le, Lt

P = ParamSpec("P")
R = TypeVar("R")

LARGEST = 1e6  # largest accepted scale; with it, sixth-order moments are finite in float32
Size = Annotated[int, Ge(1)]
Count = Annotated[int, Ge(0)]
Seed = Annotated[int, Ge(0), Le(2**31 - 1)]
PoolSize = Annotated[int, Ge(1), Le(2**31 - 1)]
_SCALARS = (int, float, bool, str)
_KIND_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}


@dataclass(frozen=True, eq=False)
class OneOf:
    """Metadata of an annotation that accepts one of `words`.

    Attributes:
      words: the accepted strings. If this is a dict, keys that are added to it later are accepted too.
    """

    words: Collection[str]


def check(config: Any) -> None:
    """Checks every field of a dataclass against its annotation: type, bounds (of `annotated_types`) and `OneOf`.

    Raises:
      ValueError: if a field is invalid. The message has the name and value of the first invalid field, and says which
        values are accepted.
    """
    for field, hint in hints(type(config)).items():
        check_value(field, getattr(config, field), hint)


def check_value(name: str, value: Any, hint: Any) -> None:
    """Checks one value against an annotation, as `check` does.

    Args:
      name: the name in the error message.
      value: the value to check.
      hint: the annotation.

    Raises:
      ValueError: if the annotation does not accept the value.
    """
    if not accepts(hint, value):
        raise ValueError(f"{name}={shown(value)} {requirement(hint, value)}")


def check_function(name: str, value: Any, arguments: Sequence[str]) -> None:
    """Checks that a value is a function of some arguments, without calling it.

        >>> check_function("predictor", lambda x, y: y[0], ("x", "y", "x_query"))
        Traceback (most recent call last):
        ValueError: predictor cannot be called with (x, y, x_query): too many positional arguments; give a function \
of (x, y, x_query)

    Args:
      name: the name in the error message.
      value: the value to check.
      arguments: the names of the arguments, in order.

    Raises:
      ValueError: if the value is no function, or a function of other arguments.
    """
    taken = f"({', '.join(arguments)})"
    if not callable(value):
        raise ValueError(f"{name}={shown(value)} must be a function of {taken}")
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # some functions in C have no signature
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise ValueError(f"{name} cannot be called with {taken}: {error}; give a function of {taken}") from error


def shown(value: Any) -> str:
    """A value as text, for an error message; arrays and keys of JAX would have several lines.

    Returns:
      One line.
    """
    return " ".join(repr(value).split())


@cache
def hints(dataclass_type: type) -> dict[str, Any]:
    """The annotations of the fields of a dataclass, including their bounds.

    Returns:
      Annotations by field name, in the order of the fields.
    """
    annotations = get_type_hints(dataclass_type, include_extras=True)
    return {field.name: annotations[field.name] for field in fields(dataclass_type)}


def tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Converts lists back to tuples: JSON stores tuples as lists.

    Returns:
      A new dict, in which every value that is a list is a tuple. Lists inside a value are not converted.
    """
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator that checks the scalar arguments of a function against their annotations, as `check` checks fields.

        >>> @checked
        ... def ridge(penalty: Annotated[float, Ge(0)]): ...
        >>> ridge(-1.0)
        Traceback (most recent call last):
        ValueError: penalty=-1.0 must be a number of at least 0

    Scalars are numbers, strings and bools. Other arguments (arrays, functions, configs) are not checked. Use the
    annotation `types.Scalar` for numbers that may be traced. Place this decorator below `programs.cached_by_value`;
    then a call whose result is cached is not checked again.

    Returns:
      The function. It raises ValueError for the first invalid argument, before its body runs.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            arguments = signature.bind(*args, **kwargs).arguments
        except TypeError:  # the call below raises this error again, with the name of the function
            arguments = {}
        for name, hint in scalars(function).items():
            if name in arguments:
                check_value(name, arguments[name], hint)
        return function(*args, **kwargs)

    call.is_checked = True  # pyright: ignore[reportAttributeAccessIssue]
    return call


@cache
def scalars(function: Callable) -> dict[str, Any]:
    """The annotations of the scalar arguments of a function: numbers, strings and bools.

    A scalar argument may also accept None, or an array in place of a number.

    Returns:
      Annotations by argument name.
    """
    # Resolved at the first call, because an annotation may name a class that is defined below the function.
    annotations = get_type_hints(function, include_extras=True)
    return {name: hint for name, hint in annotations.items() if name != "return" and _is_scalar(hint)}


def _is_scalar(hint: Any) -> bool:
    """Whether an annotation accepts scalars, and otherwise only None and arrays."""
    accepted = kinds(hint)
    has_scalar = any(kind in _SCALARS for kind in accepted)
    return has_scalar and all(kind in _SCALARS or kind is type(None) or is_array(kind) for kind in accepted)


def _parts(hint: Any) -> tuple[Any, tuple]:
    """Splits an annotation into its type and its metadata."""
    if get_origin(hint) is Annotated:
        kind, *metadata = get_args(hint)
        return kind, tuple(metadata)
    return hint, ()


def _alternatives(hint: Any) -> tuple:
    """The types of a union, each annotated with the metadata of the union; a single type if there is no union.

    Unions inside a union are flattened, for example `Positive | None`, where `Positive` annotates a union.
    """
    kind, metadata = _parts(hint)
    if get_origin(kind) in (Union, types.UnionType):
        nested = (_alternatives(_annotated(alternative, metadata)) for alternative in get_args(kind))
        return tuple(alternative for alternatives in nested for alternative in alternatives)
    return (hint,)


def _annotated(kind: Any, metadata: tuple) -> Any:
    return Annotated[kind, *metadata] if metadata and kind is not type(None) else kind


def accepts(hint: Any, value: Any) -> bool:
    """Whether an annotation accepts a value.

    Returns:
      True or False. For a JAX array or tracer, this is whether the annotation accepts arrays; bounds are not checked.
    """
    if isinstance(value, jax.Array):
        return any(is_array(kind) for kind in kinds(hint))
    return any(_accepts_one(*_parts(alternative), value) for alternative in _alternatives(hint))


def _accepts_one(kind: Any, metadata: tuple, value: Any) -> bool:
    """Whether one type of a union accepts a value that is not a JAX array."""
    if kind is Any:
        return True
    if kind is type(None):
        return value is None
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and _accepts_items(get_args(kind), metadata, value)
    if kind in (int, float):
        is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        is_real = kind is float and isinstance(value, float | np.floating) and math.isfinite(value)
        return (is_whole or is_real) and all(_satisfies(bound, value) for bound in metadata)
    if kind is bool:
        return isinstance(value, bool | np.bool_)
    if kind is str:
        return isinstance(value, str) and all(value in rule.words for rule in metadata if isinstance(rule, OneOf))
    if not isinstance(kind, type) or is_array(kind):
        return False
    return isinstance(value, kind)


def _accepts_items(item_kinds: tuple, metadata: tuple, values: tuple) -> bool:
    """Whether the items of a tuple are accepted; `tuple[kind, ...]` needs at least one item."""
    if len(item_kinds) == 2 and item_kinds[1] is Ellipsis:
        return len(values) > 0 and all(accepts(_annotated(item_kinds[0], metadata), value) for value in values)
    if len(item_kinds) != len(values):
        return False
    pairs = zip(item_kinds, values, strict=True)
    return all(accepts(_annotated(kind, metadata), value) for kind, value in pairs)


def _satisfies(bound: Any, value: Any) -> bool:
    """Whether a number satisfies a bound. Metadata of other types accept every number."""
    match bound:
        case Ge(limit):
            return bool(value >= limit)
        case Gt(limit):
            return bool(value > limit)
        case Le(limit):
            return bool(value <= limit)
        case Lt(limit):
            return bool(value < limit)
    return True


def is_array(kind: Any) -> bool:
    """Whether a type is `jax.Array` or a jaxtyping annotation of `jax.Array`.

    Returns:
      False for the types of NumPy arrays.
    """
    return isinstance(kind, type) and (kind is jax.Array or getattr(kind, "array_type", None) is jax.Array)


def kinds(hint: Any) -> tuple:
    """The types that an annotation accepts.

    Returns:
      One type, or the types of a union in order.
    """
    return tuple(_parts(alternative)[0] for alternative in _alternatives(hint))


def rules(hint: Any) -> tuple:
    """The metadata of an annotation: bounds and `OneOf`.

    Returns:
      The metadata without duplicates, in order.
    """
    return tuple(dict.fromkeys(rule for alternative in _alternatives(hint) for rule in _parts(alternative)[1]))


def requirement(hint: Any, value: Any) -> str:
    """For a refused value: the part of the error message that says which values are accepted.

    Returns:
      For example "must be a number above 0, or None". For a misspelt word, the nearest accepted word is added.
    """
    accepted = description(hint)
    if isinstance(value, float | np.floating) and not math.isfinite(value):
        accepted = accepted.replace("a number", "a finite number")
    words = _accepted_words(rules(hint))
    items = value if isinstance(value, tuple | list) else (value,)
    for item in items:
        if not isinstance(item, str) or item in words:
            continue
        if matches := difflib.get_close_matches(item, words, n=1, cutoff=0.5):
            return f"must be {accepted}; did you mean {matches[0]}?"
    return f"must be {accepted}"


def description(hint: Any) -> str:
    """A description of the values that an annotation accepts.

    Returns:
      For example "a whole number of at least 1, or None".
    """
    descriptions: list[str] = []
    for alternative in _alternatives(hint):
        kind, metadata = _parts(alternative)
        if kind == tuple[()]:
            descriptions.append("()")
        elif get_origin(kind) is tuple:
            descriptions.append(_described_tuple(get_args(kind), metadata, descriptions))
        elif not is_array(kind):
            descriptions.append(_described(kind, metadata))
    return ", or ".join(dict.fromkeys(descriptions))


def _described_tuple(item_kinds: tuple, metadata: tuple, before: list[str]) -> str:
    """A description of a tuple. Items that `before` already describes are called "these"."""
    item = description(_annotated(item_kinds[0], metadata))
    if item in before:
        return "a tuple of these"
    if ... in item_kinds:
        return f"a tuple, each element {item}"
    return f"a tuple of {len(item_kinds)}, each element {item}"


def _described(kind: Any, metadata: tuple) -> str:
    """A description of one type that is neither a tuple nor an array."""
    if kind is type(None):
        return "None"
    if words := _accepted_words(metadata):
        return f"one of {', '.join(words)}"
    name = _KIND_NAMES.get(kind) or f"a {getattr(kind, '__name__', kind)}"
    bounds = [_described_bound(rule) for rule in metadata]
    joined = " and ".join(bound for bound in bounds if bound is not None)
    if not joined:
        return name
    return f"{name} of {joined}" if joined.startswith("at ") else f"{name} {joined}"


def _described_bound(rule: Any) -> str | None:
    match rule:
        case Ge(limit):
            return f"at least {limit:.10g}"
        case Gt(limit):
            return f"above {limit:.10g}"
        case Le(limit):
            return f"at most {limit:.10g}"
        case Lt(limit):
            return f"below {limit:.10g}"
    return None


def _accepted_words(metadata: tuple) -> list[str]:
    return [word for rule in metadata if isinstance(rule, OneOf) for word in rule.words]
