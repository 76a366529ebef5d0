"""Paths as users write them."""

import re
from pathlib import Path


def local(path: str | Path, name: str = "path") -> Path:
    """A path on a file system of this machine, with `~` as the home directory.

    Args:
      name: by which a message speaks of it.

    Raises:
      ValueError: of the address of an object store.
    """
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:/", str(path)):
        said = "object stores are neither read nor written; give a directory, as of a mounted bucket"
        raise ValueError(f"{name}={path}: {said}")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # of a user that there is not
        raise ValueError(f"{name}={path}: {error}; give a directory") from error
