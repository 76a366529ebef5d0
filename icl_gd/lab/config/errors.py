"""Bad input, said in one line that names what was wrong and what would do."""

import difflib
from collections.abc import Collection
from typing import Any, NoReturn


class ConfigError(ValueError):
    """What the user asked for cannot be run; the message is one line that names the field and what would do."""


def nearest(word: str, names: Collection[str]) -> str:
    """What may have been meant, and what is accepted, as a message says it."""
    near = difflib.get_close_matches(word, list(names), 1, 0.5)
    return (f"did you mean {near[0]}? " if near else "") + f"accepted: {', '.join(names)}"


def nearest_field(field: str, fields: Collection[str]) -> str:
    """What may have been meant: a field of this last name elsewhere, one it shortens, one spelt alike, a section's."""
    if section := [name for name in fields if name.startswith(f"{field}.")]:
        return f"did you mean one of {', '.join(section)}?"
    part, _, leaf = field.rpartition(".")
    inside = [name for name in fields if name.rpartition(".")[0] == part]
    words = {name: name.rpartition(".")[2].split("_") for name in inside}
    short = [name for name, its in words.items() if leaf in ("".join(word[0] for word in its), *its)]
    elsewhere = [name for name in fields if name.rpartition(".")[2] == leaf]
    alike = difflib.get_close_matches(field, fields, 1, 0.75) if len(leaf) > 3 else []
    found = difflib.get_close_matches(field, elsewhere, 1, 0.0) or alike or short[:1]
    return f"did you mean {found[0]}?" if found else f"accepted: {', '.join(inside or fields)}"


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def reject(field: str, value: Any, accepted: str) -> NoReturn:
    raise ConfigError(f"{field}={value}: {accepted}")
