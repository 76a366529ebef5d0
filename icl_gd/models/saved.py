"""Files of a saved model, which other programs can read: model.safetensors and config.json.

>>> import tempfile
>>> from icl_gd.models import init
>>> config, layout = TransformerConfig(d_token=3), LAYOUTS["concatenated"](2, 1)
>>> params = init(config, jax.random.key(0))
>>> with tempfile.TemporaryDirectory() as directory:
...     write(directory, config, params, layout)
...     read(directory)[0] == config
True
"""

import json
from dataclasses import asdict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

from icl_gd.migrations import LEAVES, PRETRAINED, migrated, newest_of
from icl_gd.models.config import TransformerConfig
from icl_gd.models.transformer import Params, shapes
from icl_gd.paths import local, replacing
from icl_gd.tokens import LAYOUTS
from icl_gd.trees import by_name, flatten, nested
from icl_gd.types import Layout

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def write(directory: str | Path, config: TransformerConfig, params: Params, layout: Layout) -> None:
    """Writes model.safetensors, then config.json. Each file is replaced atomically; leaves have dotted names.

    Args:
      directory: created if missing; `~` is the home directory.
      config: the architecture.
      params: parameters of one model, or of several with a leading member axis.
      layout: a layout of `tokens.LAYOUTS`.

    Raises:
      ValueError: if `directory` is an address of an object store, such as gs://bucket, or the layout has no name.
    """
    directory = local(directory, "directory")
    if layout.name not in LAYOUTS:
        raise ValueError(
            f"the layout has the name {layout.name!r}, so that it could not be read again; a saved model needs one of "
            f"tokens.LAYOUTS: {', '.join(LAYOUTS)}"
        )
    directory.mkdir(parents=True, exist_ok=True)
    leaves = {name: np.asarray(leaf, order="C") for name, leaf in flatten(params).items()}
    contents = {
        "format": newest_of(PRETRAINED),
        "model": asdict(config),
        "layout": layout.name,
        "d_input": layout.d_input,
        "d_output": layout.d_output,
    }
    with replacing(directory / WEIGHTS) as partial:
        save_file(leaves, partial, metadata={"format": "np"})
    with replacing(directory / CONFIG) as partial:
        partial.write_text(json.dumps(contents, indent=2) + "\n")


def read(directory: str | Path) -> tuple[TransformerConfig, Params, Layout]:
    """Reads a model that `write` wrote.

    Args:
      directory: the directory with both files; `~` is the home directory.

    Returns:
      `(config, params, layout)`.

    Raises:
      FileNotFoundError: if a file does not exist.
      ValueError: if a file is damaged, if weights and config belong to different models, or if `directory` is an
        address of an object store.
    """
    directory = local(directory, "directory")
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise FileNotFoundError(f"{directory} has no {name}; pass a directory written by Model.save")
    try:
        contents = json.loads((directory / CONFIG).read_text())
        contents = migrated({**contents, LEAVES: load_file(directory / WEIGHTS)}, contents["format"], PRETRAINED)
        config = TransformerConfig.from_json(contents["model"])
        params = jax.tree.map(jnp.asarray, nested(contents[LEAVES]))
        if contents["layout"] not in LAYOUTS:
            raise ValueError(f"layout={contents['layout']!r} must be one of {', '.join(LAYOUTS)}")
        layout = LAYOUTS[contents["layout"]](contents["d_input"], contents["d_output"])
    except (AttributeError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        why = " ".join(f"{type(error).__name__} {error}".split())
        raise ValueError(f"{directory} contains no readable model ({why}); write it again with Model.save") from error
    check(config, params, layout)
    return config, params, layout


def check(config: TransformerConfig, params: Params, layout: Layout) -> None:
    """Checks that the layout and the parameters fit the config. A leading member axis is allowed.

    Args:
      config: the architecture.
      params: parameters of one model, or of several with a leading member axis.
      layout: how a prompt is encoded as tokens.

    Raises:
      ValueError: if the layout or the parameters do not fit the config.
    """
    if layout.d_token != config.d_token:
        raise ValueError(
            f"layout={layout.name}, d_input={layout.d_input}, d_output={layout.d_output} give tokens of width "
            f"{layout.d_token}, but the config has d_token={config.d_token}"
        )
    expected, actual = by_name(shapes(config)), by_name(params)
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
