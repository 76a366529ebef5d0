"""Errors in a configuration. A message is one line that names the field, its value and the accepted values."""

import difflib
from collections.abc import Collection
from typing import Any, NoReturn


class ConfigError(ValueError):
    """The requested run is invalid. The message is one line that names the field and the accepted values."""


def nearest(word: str, names: Collection[str]) -> str:
    """The end of an error message about an unknown word: the most similar name, and all accepted names.

    Returns:
      "did you mean NAME? accepted: NAMES". If no name is similar, the question is missing.
    """
    near = difflib.get_close_matches(word, list(names), 1, 0.5)
    question = f"did you mean {near[0]}? " if near else ""
    return f"{question}accepted: {', '.join(names)}"


def nearest_field(field: str, fields: Collection[str]) -> str:
    """The end of an error message about an unknown field: a suggestion, or the accepted fields.

    The suggestion is the first of these that exists: the fields of the section with that name; a field of any section
    with the same last name; a field with a similar spelling; a field of the same section that the name abbreviates.

    Returns:
      "did you mean FIELD?", or "accepted: FIELDS" if no field is similar.
    """
    if section := [name for name in fields if name.startswith(f"{field}.")]:
        return f"did you mean one of {', '.join(section)}?"
    part, _, leaf = field.rpartition(".")
    same_section = [name for name in fields if name.rpartition(".")[0] == part]
    same_leaf = [name for name in fields if name.rpartition(".")[2] == leaf]
    similar = difflib.get_close_matches(field, fields, 1, 0.75) if len(leaf) > 3 else []
    abbreviated = [name for name in same_section if _abbreviates(leaf, name.rpartition(".")[2])]
    near = difflib.get_close_matches(field, same_leaf, 1, 0.0) or similar or abbreviated
    return f"did you mean {near[0]}?" if near else f"accepted: {', '.join(same_section or fields)}"


def _abbreviates(short: str, name: str) -> bool:
    """Whether `short` is one word of a name (`size` in batch_size), or the initials of the name (`bs`)."""
    words = name.split("_")
    return short in words or short == "".join(word[0] for word in words)


def one_line(error: BaseException) -> str:
    """The message of an exception as one line. If the message is empty, the name of the class."""
    return " ".join(str(error).split()) or type(error).__name__


def reject(field: str, value: Any, accepted: str) -> NoReturn:
    """Raises a `ConfigError` with the message "FIELD=VALUE: ACCEPTED".

    Args:
      field: the name of the field.
      value: the value that is not accepted.
      accepted: what is accepted instead.
    """
    raise ConfigError(f"{field}={value}: {accepted}")
