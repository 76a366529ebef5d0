"""Errors in a configuration: one line that names the field, its value, and what is accepted instead."""

import difflib
from collections.abc import Collection
from typing import Any, NoReturn


class ConfigError(ValueError):
    """The requested run is invalid. The message is one line that names the field and what is accepted."""


def nearest(word: str, names: Collection[str]) -> str:
    """The end of an error message about an unknown word.

    Returns:
      "did you mean NAME? accepted: NAMES", without the question if no name is similar.
    """
    near = difflib.get_close_matches(word, list(names), 1, 0.5)
    question = f"did you mean {near[0]}? " if near else ""
    return f"{question}accepted: {', '.join(names)}"


def nearest_field(field: str, fields: Collection[str]) -> str:
    """The end of an error message about an unknown field.

    The suggestion is, in this order: the fields of a section with that name; a field with the same last name in another
    section; a field that is spelt similarly; a field of the same section that is abbreviated.

    Returns:
      "did you mean FIELD?", or "accepted: FIELDS" if no field is similar.
    """
    if section := [name for name in fields if name.startswith(f"{field}.")]:
        return f"did you mean one of {', '.join(section)}?"
    part, _, leaf = field.rpartition(".")
    same_section = [name for name in fields if name.rpartition(".")[0] == part]
    same_leaf = [name for name in fields if name.rpartition(".")[2] == leaf]
    alike = difflib.get_close_matches(field, fields, 1, 0.75) if len(leaf) > 3 else []
    abbreviated = [name for name in same_section if _abbreviates(leaf, name.rpartition(".")[2])]
    near = difflib.get_close_matches(field, same_leaf, 1, 0.0) or alike or abbreviated
    return f"did you mean {near[0]}?" if near else f"accepted: {', '.join(same_section or fields)}"


def _abbreviates(short: str, name: str) -> bool:
    """Whether `short` is one word of a name (`size` of batch_size), or its initials (`bs`)."""
    words = name.split("_")
    return short in words or short == "".join(word[0] for word in words)


def one_line(error: BaseException) -> str:
    """The message of an exception in one line; its class name if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def reject(field: str, value: Any, accepted: str) -> NoReturn:
    """Raises `ConfigError` about the value of a field: "FIELD=VALUE: ACCEPTED"."""
    raise ConfigError(f"{field}={value}: {accepted}")
