"""A model as two files that others can read: weights as safetensors, and a config.json that says what they are of."""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

from icl_gd import models
from icl_gd.migrations import LEAVES, PRETRAINED, migrated, newest_of
from icl_gd.models import TransformerConfig
from icl_gd.models.transformer import Params
from icl_gd.paths import local
from icl_gd.tokens import LAYOUTS
from icl_gd.training.checkpoint import by_name, flatten, nested, tuples
from icl_gd.types import Layout, Predictor, PrefixPredictor

WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True)
class Pretrained:
    """A model with all that is needed to use it.

    Attributes:
      params: of one member, or of several, on a leading axis.
      layout: a name in `tokens.LAYOUTS`.
    """

    config: TransformerConfig
    params: Params
    layout: str
    d_input: int
    d_output: int = 1

    @property
    def tokens(self) -> Layout:
        return LAYOUTS[self.layout](self.d_input, self.d_output)

    @property
    def predictor(self) -> Predictor:
        """Of one member."""
        return models.predictor(self.config, self.params, self.tokens)

    @property
    def prefix_predictor(self) -> PrefixPredictor:
        """Of one member, where it is causal and its tokens hold x and y apart."""
        return models.prefix_predictor(self.config, self.params, self.tokens)

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes model.safetensors, then config.json, each whole or not at all; leaves are named by dotted paths.

        Args:
          directory: made where it is missing; `~` is the home directory.

        Raises:
          ValueError: of the address of an object store.
        """
        directory = local(directory, "directory")
        directory.mkdir(parents=True, exist_ok=True)
        leaves = {name: np.asarray(leaf, order="C") for name, leaf in flatten(self.params).items()}
        about = {
            "format": newest_of(PRETRAINED),
            "model": asdict(self.config),
            "layout": self.layout,
            "d_input": self.d_input,
            "d_output": self.d_output,
        }
        part = directory / f"{WEIGHTS}.part"
        save_file(leaves, part, metadata={"format": "np"})
        os.replace(part, directory / WEIGHTS)
        part = directory / f"{CONFIG}.part"
        part.write_text(json.dumps(about, indent=2) + "\n")
        os.replace(part, directory / CONFIG)


def from_pretrained(directory: str | Path) -> Pretrained:
    """The model that `save_pretrained` wrote.

    Args:
      directory: that it was written to; `~` is the home directory.

    Raises:
      FileNotFoundError: if it is not there.
      ValueError: if the files are not whole, or weights and config are not of one model; of the address of an object
        store.
    """
    directory = local(directory, "directory")
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise FileNotFoundError(f"{directory} has no {name}; save_pretrained writes it")
    try:
        about = json.loads((directory / CONFIG).read_text())
        about = migrated({**about, LEAVES: load_file(directory / WEIGHTS)}, about["format"], PRETRAINED)
        if unknown := sorted(set(about["model"]) - {field.name for field in fields(TransformerConfig)}):
            raise ValueError(f"{', '.join(unknown)}: not known here; a newer version wrote it")
        config = TransformerConfig(**tuples(about["model"]))
        params = jax.tree.map(jnp.asarray, nested(about[LEAVES]))
        found = Pretrained(config, params, about["layout"], about["d_input"], about["d_output"])
    except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise ValueError(f"{directory} holds no model that can be read: {type(error).__name__} {error}") from error
    check(found)
    return found


def check(model: Pretrained) -> None:
    """Whether the parameters are those of the config, for one member or several.

    Raises:
      ValueError: if they are not.
    """
    if model.layout not in LAYOUTS or model.tokens.d_token != model.config.d_token:
        raise ValueError(f"layout={model.layout}, d_input={model.d_input} do not give d_token={model.config.d_token}")
    expected = by_name(models.shapes(model.config))
    there = by_name(model.params)
    if names := sorted(set(expected) ^ set(there)):
        raise ValueError(f"{', '.join(names)}: weights and config are not of one model")
    first, *_ = expected
    members = there[first].shape[: there[first].ndim - expected[first].ndim]
    for name, leaf in expected.items():
        if there[name].shape != (*members, *leaf.shape) or len(members) > 1:
            asked = f"{leaf.shape}, or the same axis of members before that of every leaf"
            raise ValueError(f"{name} has shape {there[name].shape}, the config asks for {asked}")
