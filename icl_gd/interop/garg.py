"""Imports published PyTorch checkpoints of Garg et al. (2208.01066).

The model is HuggingFace's GPT-2 with a linear read-in and a linear read-out. Files are read by `torch.load` in its
weights-only mode, which executes no code. Only `from_garg` needs PyTorch; `of_state` converts arrays without PyTorch.

In the table, l is the index of a layer, and `h.l` is short for `_backbone.h.l`.

| name in the checkpoint                 | name in `icl_gd`                                                        |
|----------------------------------------|-------------------------------------------------------------------------|
| `_read_in`, `_read_out`                | `embedding.{W_E, b_E}`, `unembed.{W_U, b_U}`                            |
| `_backbone.wpe`, `_backbone.ln_f`      | `positions`, `unembed.norm`                                             |
| `h.l.ln_1`, `h.l.ln_2`                 | `block_l.norm`, `block_l.mlp_norm`                                      |
| `h.l.attn.c_attn` [e 3e], acts on rows | `block_l.attention.{W_Q, W_K, W_V}` [head d_head e] and their biases    |
| `h.l.attn.c_proj`                      | `block_l.attention.{P, b_P}`                                            |
| `h.l.mlp.c_fc`, `h.l.mlp.c_proj`       | `block_l.mlp.{W_1, b_1, W_2, b_2}`                                      |
| `wte`, `attn.bias`, `attn.masked_bias` | ignored: the unused embedding of words, and the causal masks            |

An incomplete state dict is refused:

    >>> d, e, tokens = 5, 8, 21
    >>> state = {"_read_in.weight": np.zeros((e, d)), "_read_in.bias": np.zeros(e)}
    >>> state |= {"_backbone.wpe.weight": np.zeros((tokens, e))}
    >>> state |= {"_backbone.ln_f.weight": np.ones(e), "_backbone.ln_f.bias": np.zeros(e)}
    >>> of_state(state, n_heads=2)
    Traceback (most recent call last):
    ValueError: _read_out.weight is missing: this is not a checkpoint of Garg et al.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import yaml

from icl_gd.models import Model, gpt2_config
from icl_gd.models.saved import check
from icl_gd.paths import local
from icl_gd.schema import Size, checked
from icl_gd.tokens import alternating

IGNORED = re.compile(r"_backbone\.(wte\.weight|h\.\d+\.attn\.(bias|masked_bias))$")
FIRST = "_read_in.weight"


@checked
def from_garg(path: str | Path, n_heads: Size | None = None) -> Model:
    """Imports a published checkpoint of Garg et al. from a file.

    The network may have been wrapped by `DataParallel`, `torch.compile` or both.

    Source: Garg et al. (2208.01066).

    Args:
      path: the directory of a run with a state.pt, or a file state.pt or model_STEP.pt; `~` is the home directory.
      n_heads: number of heads, which cannot be inferred from the weights. Default: read from config.yaml in the
        directory of the file.

    Returns:
      The model, with its config and parameters.

    Raises:
      FileNotFoundError: if the file does not exist.
      ModuleNotFoundError: if PyTorch is not installed.
      ValueError: if the file is not such a checkpoint, contains more than weights, or the number of heads is unknown.
    """
    path = local(path)
    file = path / "state.pt" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; pass a run's directory with state.pt, or a model_STEP.pt file")
    if n_heads is None:
        n_heads = _heads_of(file.parent / "config.yaml")
    return of_state(_weights(file), n_heads)


@checked
def of_state(state: Mapping[str, Any], n_heads: Size) -> Model:
    """Converts a published state dict, a mapping from names to arrays, into a model.

    A prefix that all names share is removed: `DataParallel` adds "module.", `torch.compile` adds "_orig_mod.".

    Returns:
      The model, with its config and parameters.

    Raises:
      ValueError: if names or shapes are not those of such a model.
    """
    state = _without_prefix(state)
    remaining = {name: np.asarray(value) for name, value in state.items() if not IGNORED.match(name)}

    def take(name: str) -> np.ndarray:
        if name not in remaining:
            raise ValueError(f"{name} is missing: this is not a checkpoint of Garg et al.")
        return remaining.pop(name)

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": take(f"{name}.weight"), "bias": take(f"{name}.bias")}

    w_e = take(FIRST)
    e, d = w_e.shape
    layers = sum(name.endswith("ln_1.weight") for name in remaining)
    if e % n_heads:
        raise ValueError(f"n_heads={n_heads} does not divide the width {e}; pass the number of heads of the checkpoint")

    def by_head(matrix: np.ndarray) -> np.ndarray:
        """Reshapes [in, head * d_head] to [head d_head in]."""
        return np.moveaxis(matrix.reshape(e, n_heads, -1), 0, 2)

    params: dict[str, Any] = {"embedding": {"W_E": w_e, "b_E": take("_read_in.bias")}}
    params["positions"] = take("_backbone.wpe.weight")
    for layer in range(layers):
        block = f"_backbone.h.{layer}"
        w, b = take(f"{block}.attn.c_attn.weight"), take(f"{block}.attn.c_attn.bias")
        attention = {}
        for i, name in enumerate("QKV"):
            attention[f"W_{name}"] = by_head(w[:, i * e : (i + 1) * e])
            attention[f"b_{name}"] = b[i * e : (i + 1) * e].reshape(n_heads, -1)
        attention["P"] = np.swapaxes(take(f"{block}.attn.c_proj.weight").reshape(n_heads, -1, e), 1, 2)
        attention["b_P"] = take(f"{block}.attn.c_proj.bias")
        mlp = {
            "W_1": take(f"{block}.mlp.c_fc.weight").T,
            "b_1": take(f"{block}.mlp.c_fc.bias"),
            "W_2": take(f"{block}.mlp.c_proj.weight").T,
            "b_2": take(f"{block}.mlp.c_proj.bias"),
        }
        params[f"block_{layer}"] = {
            "attention": attention,
            "norm": norm(f"{block}.ln_1"),
            "mlp": mlp,
            "mlp_norm": norm(f"{block}.ln_2"),
        }
    params["unembed"] = {"norm": norm("_backbone.ln_f"), "W_U": take("_read_out.weight"), "b_U": take("_read_out.bias")}
    if remaining:
        names = ", ".join(sorted(remaining))
        raise ValueError(f"unsupported parameters: {names}; this is not a checkpoint of Garg et al.")
    config = gpt2_config(d, len(params["positions"]), e, layers, n_heads, len(params["unembed"]["W_U"]))
    config = replace(config, block_mlp_width=len(params["block_0"]["mlp"]["b_1"]) if layers else None)
    model = Model(config, jax.tree.map(jnp.asarray, params), alternating(d, 1))
    check(model.config, model.params, model.layout)
    return model


def _without_prefix(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict without the prefix that wrappers such as `DataParallel` add to every name."""
    prefixes = {name.removesuffix(FIRST) for name in state if name.endswith(f".{FIRST}")}
    prefix = prefixes.pop() if len(prefixes) == 1 else ""
    if not all(name.startswith(prefix) for name in state):
        return state
    return {name.removeprefix(prefix): value for name, value in state.items()}


def _heads_of(config: Path) -> int:
    """The number of heads: `model.n_head` in the config.yaml of a run."""
    if not config.is_file():
        raise ValueError(f"the weights do not determine the number of heads, and {config} does not exist; give n_heads")
    try:
        return int(yaml.safe_load(config.read_text())["model"]["n_head"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{config} has no valid model.n_head ({reason}); give n_heads") from error


def _weights(file: Path) -> dict[str, np.ndarray]:
    """The state dict of a PyTorch file as float32 arrays; no code of the file is executed."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("reading PyTorch checkpoints needs PyTorch: pip install 'icl-gd[interop]'") from error
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{file} is refused: it is not a PyTorch file, or contains more than weights ({reason})"
        ) from error
    state = content.get("model_state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{file} contains no state dict; pass a state.pt or model_STEP.pt of Garg et al.")
    return {name: value.detach().to(torch.float32).numpy() for name, value in state.items()}
