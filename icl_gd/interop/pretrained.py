"""Saves and loads a model as two files that other programs can read: model.safetensors and config.json.

>>> import tempfile
>>> config = TransformerConfig(d_token=3)
>>> shape = {"W_K": (1, 3, 3), "W_Q": (1, 3, 3), "W_V": (1, 3, 3), "P": (1, 3, 3)}
>>> params = {"block_0": {"attention": {name: np.ones(size, "f") for name, size in shape.items()}}}
>>> with tempfile.TemporaryDirectory() as directory:
...     Pretrained(config, params, "concatenated", d_input=2).save_pretrained(directory)
...     from_pretrained(directory).config == config
True
"""

import json
import os
from dataclasses import asdict, dataclass
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
from icl_gd.training.checkpoint import by_name, flatten, nested
from icl_gd.types import Layout, Predictor, PrefixPredictor

WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True)
class Pretrained:
    """A model: its config, its parameters and its token layout.

    Attributes:
      config: the architecture.
      params: parameters of one model, or of several with a leading member axis.
      layout: name of the token layout, a key of `tokens.LAYOUTS`.
      d_input, d_output: dimensions of x and y.
    """

    config: TransformerConfig
    params: Params
    layout: str
    d_input: int
    d_output: int = 1

    @property
    def tokens(self) -> Layout:
        """The token layout."""
        return LAYOUTS[self.layout](self.d_input, self.d_output)

    @property
    def predictor(self) -> Predictor:
        """The model as a Predictor. `params` must not have a member axis."""
        return models.predictor(self.config, self.params, self.tokens)

    @property
    def prefix_predictor(self) -> PrefixPredictor:
        """The model as a PrefixPredictor. It must be causal, with separate tokens for x and y, and no member axis."""
        return models.prefix_predictor(self.config, self.params, self.tokens)

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes model.safetensors, then config.json. Each file is replaced atomically; arrays have dotted names.

        Args:
          directory: created if missing; `~` is the home directory.

        Raises:
          ValueError: if `directory` is an address of an object store, such as gs://bucket.
        """
        directory = local(directory, "directory")
        directory.mkdir(parents=True, exist_ok=True)
        leaves = {name: np.asarray(leaf, order="C") for name, leaf in flatten(self.params).items()}
        contents = {
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
        part.write_text(json.dumps(contents, indent=2) + "\n")
        os.replace(part, directory / CONFIG)


def from_pretrained(directory: str | Path) -> Pretrained:
    """Loads a model that `save_pretrained` wrote.

    Args:
      directory: the directory with both files; `~` is the home directory.

    Returns:
      The model, with its config and parameters.

    Raises:
      FileNotFoundError: if a file does not exist.
      ValueError: if a file is damaged, if weights and config belong to different models, or if `directory` is an
        address of an object store.
    """
    directory = local(directory, "directory")
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise FileNotFoundError(f"{directory} has no {name}; pass a directory written by save_pretrained")
    try:
        contents = json.loads((directory / CONFIG).read_text())
        contents = migrated({**contents, LEAVES: load_file(directory / WEIGHTS)}, contents["format"], PRETRAINED)
        config = TransformerConfig.from_json(contents["model"])
        params = jax.tree.map(jnp.asarray, nested(contents[LEAVES]))
        model = Pretrained(config, params, contents["layout"], contents["d_input"], contents["d_output"])
    except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise ValueError(f"{directory} contains no readable model: {type(error).__name__} {error}") from error
    check(model)
    return model


def check(model: Pretrained) -> None:
    """Checks that the layout and the parameters fit the config. A leading member axis is allowed.

    Raises:
      ValueError: if the layout or the parameters do not fit the config.
    """
    if model.layout not in LAYOUTS:
        raise ValueError(f"layout={model.layout!r} must be one of {', '.join(LAYOUTS)}")
    if model.tokens.d_token != model.config.d_token:
        raise ValueError(
            f"layout={model.layout}, d_input={model.d_input}, d_output={model.d_output} give tokens of width "
            f"{model.tokens.d_token}, but the config has d_token={model.config.d_token}"
        )
    expected = by_name(models.shapes(model.config))
    actual = by_name(model.params)
    missing, unexpected = sorted(expected.keys() - actual.keys()), sorted(actual.keys() - expected.keys())
    if missing or unexpected:
        raise ValueError(
            "weights and config belong to different models; "
            f"missing: {', '.join(missing) or 'none'}; not in the config: {', '.join(unexpected) or 'none'}"
        )
    first, *_ = expected
    members = actual[first].shape[: actual[first].ndim - expected[first].ndim]
    for name, leaf in expected.items():
        if actual[name].shape != (*members, *leaf.shape) or len(members) > 1:
            raise ValueError(
                f"{name} has shape {actual[name].shape}; the config requires {leaf.shape}, after one leading member "
                "axis if all leaves have it"
            )
