"""Expands and checks the local paths that users type, and writes files whole.

    >>> local("~/runs") == Path.home() / "runs"
    True
    >>> local("gs://bucket/run", "workdir")
    Traceback (most recent call last):
    ValueError: workdir=gs://bucket/run: object stores are neither read nor written; give a directory, \
for example a mounted bucket
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path


def local(path: str | Path, name: str = "path") -> Path:
    """A path on a file system of this machine, with `~` expanded to the home directory.

    Args:
      path: the path as the user typed it.
      name: the name of the argument in error messages.

    Returns:
      The expanded path. It need not exist.

    Raises:
      ValueError: if the path is the address of an object store (`gs://...`), the user of `~user` does not exist, or
        the file system accepts no such name.
    """
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:/", str(path)):
        raise ValueError(
            f"{name}={path}: object stores are neither read nor written; give a directory, for example a mounted bucket"
        )
    try:
        expanded = Path(path).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            expanded.lstat()
    except RuntimeError as error:  # the user of `~user` does not exist
        raise ValueError(f"{name}={path}: the user does not exist; give another path") from error
    except (OSError, ValueError) as error:  # the name is too long, or has a null character
        shortened = str(path) if len(str(path)) < 100 else f"{str(path)[:100]}..."
        why = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{name}={shortened}: no such path is possible ({why}); give another path") from error
    return expanded


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replaces a file at once, so that no reader and no crash finds it half written.

    Yields:
      The path to write to, beside the file. If nothing is raised it replaces the file; otherwise it is removed.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
