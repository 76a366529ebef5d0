"""Imports and exports parameters of the implementation of von Oswald et al. (2212.07677), which uses Haiku.

Haiku stores parameters as a mapping from module names to arrays, such as
`{"transformer/multi_head_attention/query": {"w": [e, head * d_head]}, ...}` for the network named "transformer".
Matrices act on rows from the right, and heads are concatenated. Arrays may be NumPy or JAX arrays, or the entries
`module/leaf` of an .npz file. Pickled files are refused. Parameters of several members (a `vmap` over seeds) have a
leading member axis on every array.

| module, below the name of the network                      | parameters in `icl_gd`              |
|------------------------------------------------------------|-------------------------------------|
| `multi_head_attention/{query, key, value, linear}`         | `block_0`, shared by all layers     |
| `~trans_block/layer_l/{query, key, value, linear}`         | `block_l`                           |
| `.../non_lin_mix`, in the shared block or the first layer  | `attention.mix`, kind "mixed"       |
| `l_norm/layer_norm`, or `~trans_block/norm_l` from l = 1   | `norm` of the block                 |
| `emb`, `input_mlp/linear`, `input_mlp/linear_1`            | `embedding`                         |

    >>> modules = {f"multi_head_attention/{name}": {"w": np.eye(3)} for name in ("query", "key", "value", "linear")}
    >>> haiku = {f"transformer/{name}": arrays for name, arrays in modules.items()}
    >>> config, params = from_von_oswald(haiku, n_layers=2)
    >>> config.n_layers, config.shared, params["block_0"]["attention"]["W_K"].shape  # [head d_head e]
    (2, True, (1, 3, 3))
    >>> sorted(to_von_oswald(config, params)) == sorted(haiku)
    True
"""

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Le

from icl_gd.models import TransformerConfig
from icl_gd.models.config import MOST_LAYERS
from icl_gd.models.transformer import Params
from icl_gd.paths import local
from icl_gd.schema import Size, checked

Modules = Mapping[str, Mapping[str, Any]]
SHARED, SEPARATE = "multi_head_attention", "~trans_block/layer_"
QKV = {"query": "W_Q", "key": "W_K", "value": "W_V"}
UNSUPPORTED = {  # parts of the published network, by a substring of their module names
    "/mlp": "dense layers after attention",
    "token_vocab": "a vocabulary",
    "l_norm_1": "LayerNorm of dense layers",
}
AXES = {"w": 2, "b": 1, "scale": 1, "offset": 1}  # number of axes of each leaf without a member axis
NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK"  # of an .npz file


class _Reader:
    """Reads arrays by module name, without the network name, and reports arrays that were not read."""

    def __init__(self, modules: Modules):
        names = {name.split("/")[0] for name in modules}
        if len(names) != 1:
            raise ValueError(
                f"parameters must be those of one network, not of {', '.join(sorted(names)) or 'none'}; "
                "pass the modules whose names begin with the same network name"
            )
        self._network = names.pop()
        self._remaining = {
            f"{module}.{leaf}": np.asarray(value)
            for module, leaves in modules.items()
            for leaf, value in leaves.items()
        }
        for name in self._remaining:
            for part, description in UNSUPPORTED.items():
                if part in name:
                    raise ValueError(
                        f"{name}: {description} cannot be imported, because icl_gd.models has no such part"
                    )

    def __contains__(self, module: str) -> bool:
        return any(name.startswith(f"{self._network}/{module}.") for name in self._remaining)

    def take(self, module: str, leaf: str, *shape: int | None) -> np.ndarray:
        """Returns one array and removes it from the remaining ones; None in `shape` accepts any size."""
        name = f"{self._network}/{module}.{leaf}"
        if name not in self._remaining:
            raise ValueError(f"{name} is missing; the remaining parameters are {', '.join(sorted(self._remaining))}")
        value = self._remaining.pop(name)
        fits = len(value.shape) == len(shape) and all(
            size in (None, actual) for size, actual in zip(shape, value.shape, strict=True)
        )
        if not fits:
            expected = f"{shape} (None: any size), or one leading axis of members on every array"
            raise ValueError(f"{name} has shape {value.shape}, expected {expected}")
        return value

    def finish(self) -> None:
        """Raises ValueError if an array was not read."""
        if self._remaining:
            has_bias = any(".b" in name for name in self._remaining)
            example = "biases of attention" if has_bias else "a linear map of the output"
            raise ValueError(
                f"unsupported parameters: {', '.join(sorted(self._remaining))}; "
                f"icl_gd.models has no such part (for example, {example})"
            )


@checked
def from_von_oswald(
    params: Modules | str | Path,
    *,
    n_layers: Annotated[int, Ge(1), Le(MOST_LAYERS)] | None = None,
    n_heads: Size = 1,
    attention: str | tuple[str, ...] = "linear",
    clip: float | None = None,
    sum_normalised: bool = False,
    y_update: bool = False,
    dampening: float = 1.0,
) -> tuple[TransformerConfig, Params]:
    """Converts published parameters into a config and parameters of `icl_gd.models`.

    The module names show whether layers share weights, and whether the network has LayerNorm, an embedding, an input
    MLP, or a mix of linear and softmax attention. The arguments describe the other properties. In parentheses is the
    name of the corresponding switch in the published code.

    Source: von Oswald et al. (2212.07677) and its published code.

    Args:
      params: the mapping, or the path of an .npz file with arrays named `module/leaf`; `~` is the home directory. Every
        array may have a leading member axis.
      n_layers: number of layers of a network whose layers share weights (`num_layers`). Default: 1. If layers have
        separate weights, omit it: they are counted.
      n_heads: number of heads (`num_heads`).
      attention: "linear", "softmax" (`use_softmax`), or a tuple with the kind of each layer, such as ("softmax",
        "linear") for `first_layer_sm`. Mixed attention is inferred.
      clip: bound of the activations. Default: None, no clip. 0 also means no clip, as in the published code.
      sum_normalised: divide keys and queries by their sums (`sum_norm`).
      y_update: layers update only the y slot. The other rows of `P` are set to zero.
      dampening: factor of the update of every layer. `P` is multiplied by it. Default: 1.

    Returns:
      The config and the parameters, with a leading member axis on every leaf if `params` has one.

    Raises:
      FileNotFoundError: if the file does not exist.
      ValueError: if an argument is out of range, the file is pickled, or the parameters are not those of such a
        network. Biases of attention, dense layers, a linear map of the output, and a vocabulary are not supported.
    """
    if clip is not None and clip < 0:
        raise ValueError(f"clip={clip} must be a number above 0; None (or 0, as published) switches it off")
    clip = clip or None
    modules = _modules(params)
    switches: dict[str, Any] = {
        "n_layers": n_layers,
        "n_heads": n_heads,
        "attention": attention,
        "clip": clip,
        "sum_normalised": sum_normalised,
        "y_update": y_update,
        "dampening": dampening,
    }
    members = _members(modules)
    if not members:
        return _convert(modules, **switches)
    configs, trees = zip(*(_convert(member, **switches) for member in members), strict=True)
    return configs[0], jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *trees)


def _convert(
    modules: Modules,
    n_layers: int | None,
    n_heads: int,
    attention: str | tuple[str, ...],
    clip: float | None,
    sum_normalised: bool,
    y_update: bool,
    dampening: float,
) -> tuple[TransformerConfig, Params]:
    """The config and the parameters of one member."""
    reader = _Reader(modules)
    shared = f"{SHARED}/query" in reader
    n_separate = next(layer for layer in count() if f"{SEPARATE}{layer}/query" not in reader)
    if not shared and n_layers not in (None, n_separate or None):
        raise ValueError(
            f"n_layers={n_layers}, but the parameters have {n_separate} separate layers; leave n_layers out"
        )
    names = [SHARED] if shared else [f"{SEPARATE}{layer}" for layer in range(max(n_separate, 1))]
    layers = (n_layers or 1) if shared else len(names)
    embedding = _embedding(reader)
    kinds = [attention] * layers if isinstance(attention, str) else list(attention)
    blocks, norms = {}, set()
    for layer, module in enumerate(names):
        block: dict[str, Any] = {"attention": _attention(reader, module, n_heads, y_update, dampening)}
        if f"{module}/non_lin_mix" in reader:
            block["attention"]["mix"] = reader.take(f"{module}/non_lin_mix", "w", 1, 1).reshape(1, 1, 1)
            kinds[layer : layers if shared else layer + 1] = ["mixed"] * (layers if shared else 1)
        norm = _norm_name(shared, layer)
        if norm in reader:
            width = block["attention"]["W_K"].shape[-1]
            block["norm"] = {"scale": reader.take(norm, "scale", width), "bias": reader.take(norm, "offset", width)}
            norms.add(layer)
        blocks[f"block_{layer}"] = block
    reader.finish()
    expected_norms = set(range(0 if shared else 1, len(names)))  # the first of separate layers has no LayerNorm
    if norms and norms != expected_norms:
        raise ValueError(f"parameters have LayerNorm in layers {sorted(norms)}, expected {sorted(expected_norms)}")
    _, d_head, width = blocks["block_0"]["attention"]["W_K"].shape
    config = TransformerConfig(
        d_token=embedding["W_E"].shape[1] if "W_E" in embedding else width,
        n_layers=layers,
        n_heads=n_heads,
        d_head=d_head,
        shared=shared,
        clip=clip,
        attention=kinds[0] if len(set(kinds)) == 1 else tuple(kinds),
        layer_norm=bool(norms),
        sum_normalised=sum_normalised,
        d_embed=width if "W_E" in embedding else None,
        input_mlp_width=len(embedding["b_1"]) if "b_1" in embedding else None,
    )
    for name in ("W_E", "b_2"):
        if name in embedding and len(embedding[name]) != width:
            raise ValueError(
                f"the embedding has width {len(embedding[name])}, the residual {width}; "
                "positions concatenated to the embedding cannot be imported"
            )
    tree = {"embedding": embedding, **blocks} if embedding else blocks
    return config, jax.tree.map(jnp.asarray, tree)


def to_von_oswald(
    config: TransformerConfig, params: Params, name: str = "transformer"
) -> dict[str, dict[str, np.ndarray]]:
    """Converts parameters of one member to those of the published implementation; inverse of `from_von_oswald`.

    Args:
      config: the model's config.
      params: the parameters of one model.
      name: name of the network, the first part of every module name. Default: "transformer".

    Returns:
      Arrays by module and leaf name, as Haiku stores them.
    """
    modules: dict[str, dict[str, Any]] = {}
    if config.d_embed is not None:
        modules["emb"] = {"w": params["embedding"]["W_E"].T}
    if config.input_mlp_width is not None:
        for i, module in enumerate(("linear", "linear_1"), 1):
            modules[f"input_mlp/{module}"] = {"w": params["embedding"][f"W_{i}"].T, "b": params["embedding"][f"b_{i}"]}
    for layer, block in enumerate(dict.fromkeys(config.blocks)):
        module = SHARED if config.shared else f"{SEPARATE}{layer}"
        attention = params[block]["attention"]
        for projection, matrix in QKV.items():
            modules[f"{module}/{projection}"] = {"w": attention[matrix].reshape(-1, config.width).T}
        modules[f"{module}/linear"] = {"w": jnp.swapaxes(attention["P"], 1, 2).reshape(-1, config.width)}
        if "mix" in attention:
            modules[f"{module}/non_lin_mix"] = {"w": attention["mix"].reshape(1, 1)}
        if "norm" in params[block]:
            norm = params[block]["norm"]
            modules[_norm_name(config.shared, layer)] = {"scale": norm["scale"], "offset": norm["bias"]}
    return {
        f"{name}/{module}": {leaf: np.asarray(value) for leaf, value in leaves.items()}
        for module, leaves in modules.items()
    }


def _norm_name(shared: bool, layer: int) -> str:
    """Name of the LayerNorm module before a layer."""
    return "l_norm/layer_norm" if shared else f"~trans_block/norm_{layer}"


def _attention(reader: _Reader, module: str, n_heads: int, y_update: bool, dampening: float) -> dict[str, Any]:
    """The attention parameters of a layer; `y_update` and `dampening` are folded into P."""
    attention: dict[str, Any] = {}
    for projection, matrix in QKV.items():
        w = reader.take(f"{module}/{projection}", "w", None, None)
        if w.shape[1] % n_heads:
            raise ValueError(f"n_heads={n_heads} does not divide {w.shape[1]}, the width of {module}/{projection}")
        attention[matrix] = w.T.reshape(n_heads, -1, w.shape[0])
    _, d_head, width = attention["W_K"].shape
    p = reader.take(f"{module}/linear", "w", n_heads * d_head, width)
    p = dampening * np.swapaxes(p.reshape(n_heads, d_head, width), 1, 2)
    if y_update:
        is_y_slot = np.arange(width)[:, None] == width - 1
        p = np.where(is_y_slot, p, 0.0)
    attention["P"] = p
    return attention


def _embedding(reader: _Reader) -> dict[str, Any]:
    embedding: dict[str, Any] = {}
    if "emb" in reader:
        embedding["W_E"] = reader.take("emb", "w", None, None).T
    if "input_mlp/linear" in reader:
        for i, module in enumerate(("input_mlp/linear", "input_mlp/linear_1"), 1):
            embedding[f"W_{i}"] = reader.take(module, "w", None, None).T
            embedding[f"b_{i}"] = reader.take(module, "b", len(embedding[f"W_{i}"]))
    return embedding


def _modules(params: Any) -> Modules:
    """Arrays by module and leaf name, from a mapping or a file."""
    if isinstance(params, str | Path):
        return _from_npz(local(params, "params"))
    if not isinstance(params, Mapping) or not all(isinstance(leaves, Mapping) for leaves in params.values()):
        raise ValueError(
            f"params of type {type(params).__name__} must be a mapping from modules to mappings of arrays, or the path "
            "of an .npz file; stack a list of members first: "
            "jax.tree.map(lambda *leaves: numpy.stack(leaves), *params)"
        )
    return params


def _members(modules: Modules) -> list[Modules]:
    """The modules of every member if all arrays have one leading axis of the same size; otherwise an empty list."""
    arrays = {module: {leaf: np.asarray(value) for leaf, value in leaves.items()} for module, leaves in modules.items()}
    leading_shapes = set()
    for leaves in arrays.values():
        for leaf, value in leaves.items():
            leading = max(value.ndim - AXES.get(leaf, value.ndim), 0)
            leading_shapes.add(value.shape[:leading])
    if len(leading_shapes) != 1:
        return []
    shape = leading_shapes.pop()
    if len(shape) != 1:
        return []

    def member(i: int) -> Modules:
        return {module: {leaf: value[i] for leaf, value in leaves.items()} for module, leaves in arrays.items()}

    return [member(i) for i in range(shape[0])]


def _from_npz(path: Path) -> Modules:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; pass the path of an .npz file with arrays named module/leaf")
    with path.open("rb") as file:
        start = file.read(len(NPY_MAGIC))
    if not start.startswith(ZIP_MAGIC):
        raise ValueError(_how_to_convert(path, ".item()" if start == NPY_MAGIC else ""))
    modules: dict[str, dict[str, Any]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            try:
                value = arrays[name]
            except ValueError as error:  # a pickled object: all parameters, or those of one module
                has_all_modules = len(arrays.files) == 1 and "/" not in name
                access = f"[{name!r}].item()" if has_all_modules else ".items()"
                raise ValueError(_how_to_convert(path, access)) from error
            module, _, leaf = name.rpartition("/")
            modules.setdefault(module, {})[leaf] = value
    return modules


def _how_to_convert(path: Path, access: str) -> str:
    """Error message for a pickled file, with three lines of Python that convert it, for users who trust the file.

    Args:
      path: the file.
      access: the expression after `np.load(...)` that returns the parameters.
    """
    loaded = f"np.load({str(path)!r}, allow_pickle=True){access}"
    params = f"{{module: leaves.item() for module, leaves in {loaded}}}" if access == ".items()" else loaded
    names = 'f"{module}/{leaf}": value for module, leaves in params.items() for leaf, value in leaves.items()'
    return (
        f"{path} is not an .npz file of plain arrays, and pickled files are never loaded; if you trust the file, "
        "convert it with these three lines of Python and pass the new path:\n"
        "import numpy as np\n"
        f"params = {params}\n"
        f"np.savez({str(path.with_name(f'{path.stem}_arrays.npz'))!r}, **{{{names}}})"
    )
