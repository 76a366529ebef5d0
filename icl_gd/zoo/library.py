"""Loads the models of the zoo, which ship with the package.

>>> import jax
>>> model = load("one_layer_0")
>>> prompt = task("one_layer_0").sample(jax.random.key(0))
>>> model(prompt.x, prompt.y, prompt.x_query).shape
(1,)
>>> load("one_layr_0")
Traceback (most recent call last):
ValueError: the zoo has no model 'one_layr_0'; did you mean 'one_layer_0'? icl_gd.zoo.names() lists all
"""

import difflib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from icl_gd import models
from icl_gd.models import Model
from icl_gd.models.saved import WEIGHTS
from icl_gd.zoo.cards import Card, decode_task

DATA = Path(__file__).parent / "data"  # a directory for every model
CARD = "card.json"


def names() -> tuple[str, ...]:
    """The names of all models of the zoo, sorted. Those of constructions end in `_construction`.

    Returns:
      The names, for `load`, `card` and `task`.
    """
    return tuple(sorted(path.parent.name for path in DATA.glob(f"*/{CARD}")))


def card(name: str) -> Card:
    """The card of a model: its task, its training, the verdicts on its claims, its loss and its checksum.

    Returns:
      The card; `print` shows it.

    Raises:
      ValueError: if the zoo has no such model.
    """
    return Card.from_json(json.loads((_directory(name) / CARD).read_text(encoding="utf-8")))


def load(name: str) -> Model:
    """Loads a model of the zoo.

    Returns:
      The model.

    Raises:
      ValueError: if the zoo has no such model, or the file of its weights is not that of its card.
    """
    directory, expected = _directory(name), card(name).sha256
    if checksum(directory / WEIGHTS) != expected:
        raise ValueError(f"{directory / WEIGHTS} is not the file of its card, sha256 {expected}; install icl_gd again")
    return models.load_model(directory)


def task(name: str) -> Any:
    """The task that a model was trained on.

    Returns:
      The task: `task(name).sample(key)` draws a prompt.

    Raises:
      ValueError: if the zoo has no such model.
    """
    return decode_task(card(name).task)


def load_model(source: str | Path) -> Model:
    """Loads a model from a directory that `Model.save` wrote, or from the zoo.

    Args:
      source: the directory, or a name of `icl_gd.zoo.names()`; `~` is the home directory.

    Returns:
      The model; its leaves have a leading member axis if it was saved with one.

    Raises:
      FileNotFoundError: if there is no such directory and the zoo has no such model, or the directory lacks a file.
      ValueError: if a file is damaged, if weights and config belong to different models, if `source` is an address of
        an object store, or if it names both a model of the zoo and a directory.
    """
    if not isinstance(source, str) or source != os.path.basename(source) or source.startswith("~"):
        return models.load_model(source)
    if Path(source).exists():
        if source in names():
            raise ValueError(
                f"{source!r} is a model of the zoo and a path here; use icl_gd.zoo.load({source!r}), or give the path "
                f"as {os.path.join('.', source)!r}"
            )
        return models.load_model(source)
    if source not in names():
        raise FileNotFoundError(f"{source!r} is no directory here, and {_unknown(source)}")
    return load(source)


def checksum(path: Path) -> str:
    """The SHA-256 checksum of a file.

    Returns:
      64 hexadecimal digits.
    """
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _directory(name: str) -> Path:
    if name not in names():
        raise ValueError(_unknown(name))
    return DATA / name


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, names(), 1, 0.0)
    question = f"; did you mean {near[0]!r}?" if near else ";"
    return f"the zoo has no model {name!r}{question} icl_gd.zoo.names() lists all"
