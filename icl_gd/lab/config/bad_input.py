"""Bad input, said in one line that names what was wrong and what would do."""

import difflib
from collections.abc import Collection
from typing import Any, NoReturn


class BadInput(Exception):
    """What the user asked for cannot be run; the message is one line that names the field and what would do."""


def nearest(word: str, names: Collection[str]) -> str:
    """What may have been meant, and what is accepted, as a message says it."""
    near = difflib.get_close_matches(word, list(names), 1, 0.5)
    return (f"did you mean {near[0]}? " if near else "") + f"accepted: {', '.join(names)}"


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def reject(field: str, value: Any, accepted: str) -> NoReturn:
    raise BadInput(f"{field}={value}: {accepted}")


def check_word(field: str, value: Any, accepted: Collection[str]) -> None:
    if value not in accepted:
        reject(field, value, nearest(str(value), accepted))
