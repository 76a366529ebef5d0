"""Published checkpoints of Garg et al. (2208.01066): GPT-2 of HuggingFace between a linear map in and one out.

They are files of PyTorch, which are read with its loader for weights alone: it executes nothing. PyTorch is imported
when one is read, and needed for nothing else.

| there                                  | here                                                               |
|----------------------------------------|--------------------------------------------------------------------|
| `_read_in`, `_read_out`                | `embedding.{W_E, b_E}`, `unembed.{W_U, b_U}`                          |
| `_backbone.wpe`, `_backbone.ln_f`      | `positions`, `head.norm`                                           |
| `_backbone.h.l.ln_1`, `ln_2`           | `block_l.norm`, `mlp_norm`                                         |
| `h.l.attn.c_attn` [e 3e], rows read    | `attention.{W_Q, W_K, W_V}` [head d_head e] and their biases       |
| `h.l.attn.c_proj`                      | `attention.{P, b_P}`                                               |
| `h.l.mlp.c_fc`, `c_proj`               | `mlp.{W_1, b_1, W_2, b_2}`                                         |
| `wte`, `attn.bias`, `attn.masked_bias` | nothing: an embedding of words that is not read, and causal masks  |
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

from icl_gd.interop.pretrained import Pretrained, check
from icl_gd.models import gpt2_config
from icl_gd.paths import local
from icl_gd.schema import Size, checked

UNREAD = re.compile(r"_backbone\.(wte\.weight|h\.\d+\.attn\.(bias|masked_bias))$")
FIRST = "_read_in.weight"


@checked
def from_garg(path: str | Path, n_heads: Size | None = None) -> Pretrained:
    """A published checkpoint as a model of ours, also of a network in `DataParallel`, `torch.compile` or both.

    Args:
      path: of a run's directory, whose state.pt is read, or of a file: state.pt, or a model_STEP.pt; `~` is the home
        directory.
      n_heads: which no weight tells; read from the config.yaml beside the file when left out.

    Raises:
      FileNotFoundError: if it is not there.
      ModuleNotFoundError: without PyTorch.
      ValueError: if it is no such checkpoint, holds more than weights, or the number of heads is not known.
    """
    path = local(path)
    file = path / "state.pt" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there; give a run's directory with state.pt, or a model_STEP.pt")
    if n_heads is None:
        n_heads = _heads_of(file.parent / "config.yaml")
    return of_state(_weights(file), n_heads)


@checked
def of_state(state: Mapping[str, Any], n_heads: Size) -> Pretrained:
    """The model of a published state dict, by arrays.

    A prefix that all names have is taken off: `DataParallel` puts "module." there, `torch.compile` "_orig_mod.".

    Raises:
      ValueError: if names or shapes are not those of such a model.
    """
    state = _without_prefix(state)
    left = {name: np.asarray(value) for name, value in state.items() if not UNREAD.match(name)}

    def take(name: str) -> np.ndarray:
        if name not in left:
            raise ValueError(f"{name} is missing: not a checkpoint of Garg et al.")
        return left.pop(name)

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": take(f"{name}.weight"), "bias": take(f"{name}.bias")}

    w_e = take(FIRST)
    e, d = w_e.shape
    layers = sum(name.endswith("ln_1.weight") for name in left)
    if e % n_heads:
        raise ValueError(f"n_heads={n_heads} does not divide the width {e}")
    heads = lambda matrix: np.moveaxis(matrix.reshape(e, n_heads, -1), 0, 2)  # [in, head d_head] -> [head d_head in]
    params: dict[str, Any] = {"embedding": {"W_E": w_e, "b_E": take("_read_in.bias")}}
    params["positions"] = take("_backbone.wpe.weight")
    for layer in range(layers):
        block = f"_backbone.h.{layer}"
        w, b = take(f"{block}.attn.c_attn.weight"), take(f"{block}.attn.c_attn.bias")
        attention = {}
        for i, name in enumerate("QKV"):
            attention[f"W_{name}"] = heads(w[:, i * e : (i + 1) * e])
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
    if left:
        raise ValueError(f"{', '.join(sorted(left))}: not known here, so this is another kind of network")
    config = gpt2_config(d, len(params["positions"]), e, layers, n_heads, len(params["unembed"]["W_U"]))
    config = replace(config, block_mlp_width=len(params["block_0"]["mlp"]["b_1"]) if layers else None)
    found = Pretrained(config, jax.tree.map(jnp.asarray, params), "alternating", d)
    check(found)
    return found


def _without_prefix(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same by the names of the published network, where all begin with the modules that were put around it."""
    around = {name.removesuffix(FIRST) for name in state if name.endswith(f".{FIRST}")}
    prefix = around.pop() if len(around) == 1 else ""
    if not all(name.startswith(prefix) for name in state):
        return state
    return {name.removeprefix(prefix): value for name, value in state.items()}


def _heads_of(config: Path) -> int:
    """`model.n_head` of a run's config.yaml; its own tags are read as nothing."""
    if not config.is_file():
        raise ValueError(f"{config} is not there, and no weight tells the number of heads; give n_heads")
    try:
        return int(yaml.safe_load(config.read_text())["model"]["n_head"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{config} does not say model.n_head ({why}); give n_heads") from error


def _weights(file: Path) -> dict[str, np.ndarray]:
    """The state dict of a file of PyTorch, of which nothing is executed."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("checkpoints of PyTorch are read with it: pip install 'icl-gd[interop]'") from error
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{file} is refused: no file of PyTorch, or one of more than weights ({why})") from error
    state = found.get("model_state_dict", found) if isinstance(found, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{file} holds no state dict")
    return {name: value.detach().to(torch.float32).numpy() for name, value in state.items()}
