"""The page: one self-contained HTML file, with its data, style and program inside."""

import json
import os
from html import escape
from pathlib import Path
from typing import Any

from icl_gd.lab.config.errors import ConfigError
from icl_gd.paths import replacing

LIMIT = 10_000_000  # bytes of a page
MARK = '<meta name="generator" content="icl-gd inspect">'  # in every page, so that no other file is overwritten
HERE = Path(__file__).parent
PROGRAM = ("dom.js", "pictures.js", "sections.js", "page.js")  # in this order


def write_page(data: dict[str, Any], path: Path) -> int:
    """Writes the page atomically.

    Args:
      data: the content.
      path: the file; an existing page is replaced, another file is not.

    Returns:
      The size of the page in bytes.

    Raises:
      ConfigError: if the page is too large, or the file cannot be written or is no page of this command.
    """
    page = html(data).encode()
    if len(page) > LIMIT:
        raise _too_large(len(page), len(data["prompts"]), len(data["sides"]))
    check_output(path)
    try:
        with replacing(path) as partial:
            partial.write_bytes(page)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}); give another --output=FILE") from error
    return len(page)


def check_output(path: Path) -> None:
    """Checks that a page can be written to a path.

    Raises:
      ConfigError: if the directory is missing or not writable, or the path holds something other than a page.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a directory; give a file: --output={path / 'inspect.html'}")
    if path.exists() and MARK.encode() not in path.read_bytes()[:1000]:
        raise ConfigError(f"{path} exists and was not written by icl-gd inspect; give another --output=FILE")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: the directory {path.parent} does not exist; give another --output=FILE")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"{path}: cannot write to {path.parent}; give a file in a writable directory: --output=FILE")


def html(data: dict[str, Any]) -> str:
    """The page as text. It refers to no other file.

    Returns:
      HTML with the data, style and program inside.
    """
    page, style, program = _files()
    content = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    content = content.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    page = page.replace("<!--mark-->", MARK).replace("<!--title-->", escape(data["title"]))
    page = page.replace("/*style*/", style).replace("/*program*/", program)
    return page.replace("/*data*/", content)


def _files() -> tuple[str, str, str]:
    """The page without content, its style and its program."""
    program = "\n".join((HERE / name).read_text("utf-8") for name in PROGRAM)
    return (HERE / "page.html").read_text("utf-8"), (HERE / "page.css").read_text("utf-8"), program


def check_size(one: Any, n_prompts: int, n_sides: int) -> None:
    """Checks the expected size of a page, before everything is computed.

    Args:
      one: the values of one prompt of one model.
      n_prompts: number of prompts.
      n_sides: number of models.

    Raises:
      ConfigError: if it is over the limit.
    """
    size = sum(map(len, _files())) + n_prompts * n_sides * len(json.dumps(one, separators=(",", ":")))
    if size > LIMIT:
        raise _too_large(size, n_prompts, n_sides)


def _too_large(size: int, n_prompts: int, n_sides: int) -> ConfigError:
    """The error about a page over the limit, with a number of prompts that fits."""
    fixed = sum(map(len, _files()))
    fits = int(0.8 * n_prompts * (LIMIT - fixed) / (size - fixed))
    one = "give --members=0 --prompts=1, or a smaller --n_context"
    return ConfigError(
        f"the page would have {size / 1e6:.3g} MB, but at most {LIMIT / 1e6:.3g} MB are written; {n_prompts} "
        f"prompt{'s' * (n_prompts > 1)} of {n_sides} model{'s' * (n_sides > 1)} would be shown: "
        + (f"give --prompts={fits}{', or fewer --members' * (n_sides > 1)}" if fits > 0 else one)
    )
