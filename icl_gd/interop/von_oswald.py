"""Parameters of the published implementation of von Oswald et al. (2212.07677), in and out.

They are a mapping from module names to arrays, as Haiku keeps them: `{"transformer/multi_head_attention/query":
{"w": [e, head * d_head]}, ...}`, matrices acting from the right on rows, heads side by side. Arrays may be numpy's or
JAX's, or lie in an .npz file under `module/leaf`; nothing is unpickled. The arrays of several members, as a `vmap` over
seeds leaves them, have one axis more, the first of each.

| module below the network's own name                        | here                                |
|------------------------------------------------------------|-------------------------------------|
| `multi_head_attention/{query, key, value, linear}`         | `block_0`, shared by all layers     |
| `~trans_block/layer_l/{query, key, value, linear}`         | `block_l`                           |
| `.../non_lin_mix`, in all shared layers or the first       | `attention.mix`, kind "mixed"       |
| `l_norm/layer_norm`, or `~trans_block/norm_l` from l = 1   | `norm`                              |
| `emb`, `input_mlp/linear`, `input_mlp/linear_1`            | `embedding`                         |
"""

from collections.abc import Mapping
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
# What of the published network is not here, by what is in the names of its modules.
UNKNOWN = {"/mlp": "dense layers after attention", "token_vocab": "a vocabulary", "l_norm_1": "dense layers' LayerNorm"}
AXES = {"w": 2, "b": 1, "scale": 1, "offset": 1}  # of the arrays of one member
NPY = b"\x93NUMPY"  # what an .npy file begins with
ZIP = b"PK"  # and an .npz file


class _Reader:
    """Modules by their names below the network's, each of which must be asked for."""

    def __init__(self, modules: Modules):
        names = {name.split("/")[0] for name in modules}
        if len(names) != 1:
            raise ValueError(f"parameters of one network are read, these are of {', '.join(sorted(names)) or 'none'}")
        self._top = names.pop()
        self._left = {f"{name}.{leaf}": np.asarray(value) for name, of in modules.items() for leaf, value in of.items()}
        for name in self._left:
            for part, what in UNKNOWN.items():
                if part in name:
                    raise ValueError(f"{name}: {what} cannot be read; there is no such part here")

    def __contains__(self, module: str) -> bool:
        return any(name.startswith(f"{self._top}/{module}.") for name in self._left)

    def take(self, module: str, leaf: str, *shape: int | None) -> np.ndarray:
        """One array, of which None leaves a size open."""
        name = f"{self._top}/{module}.{leaf}"
        if name not in self._left:
            raise ValueError(f"{name} is missing; there are {', '.join(sorted(self._left))}")
        value = self._left.pop(name)
        if len(value.shape) != len(shape) or any(n not in (None, m) for n, m in zip(shape, value.shape, strict=True)):
            expected = f"{shape}, where None is any size, or the same axis of members before that of every array"
            raise ValueError(f"{name} has shape {value.shape}, expected {expected}")
        return value

    def finish(self) -> None:
        if self._left:
            why = (
                "biases of attention, or parts there are none of here"
                if any(".b" in n for n in self._left)
                else ("parts there are none of here, such as a linear map of the output")
            )
            raise ValueError(f"{', '.join(sorted(self._left))} cannot be read: {why}")


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
    """The network that published parameters are, as config and parameters of `icl_gd.models`.

    Recurrent or separate layers, LayerNorm, embedding, perceptron and the linear-softmax mix are seen in the names of
    modules; what leaves no trace there is said by arguments, with the published switch's name where it differs.

    Args:
      params: the mapping, or the path (`~` is the home directory) of an .npz file whose names are `module/leaf`; of one
        member, or of several, on a leading axis of every array.
      n_layers: of a recurrent network (`num_layers`; one when left out); separate layers are counted.
      n_heads: `num_heads`.
      attention: "softmax" for `use_softmax`, ("softmax", "linear", ...) for `first_layer_sm`; mixes are found.
      clip: of activations; None, or 0 as published, is no clip.
      sum_normalised: `sum_norm`.
      y_update, dampening: layers wrote the y slot only, and this share of their update; both are folded into P.

    Returns:
      The config, and parameters of one member, or of several on a leading axis of every leaf, as `Pretrained` has them.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the parameters are not those of such a network, are pickled, or have parts that there are none of
        here: biases of attention, dense layers, a linear map of the output, a vocabulary; or if an argument is none.
    """
    if clip is not None and clip < 0:
        raise ValueError(f"clip={clip} must be a number above 0; None (or 0, as published) switches it off")
    clip = clip or None
    modules = _modules(params)
    if members := _members(modules):
        switches: dict[str, Any] = {
            "n_layers": n_layers,
            "n_heads": n_heads,
            "attention": attention,
            "clip": clip,
            "sum_normalised": sum_normalised,
            "y_update": y_update,
            "dampening": dampening,
        }
        (config, *_), each = zip(*(from_von_oswald(member, **switches) for member in members), strict=True)
        return config, jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *each)
    reader = _Reader(modules)
    shared = f"{SHARED}/query" in reader
    layers = next(layer for layer in range(10**6) if f"{SEPARATE}{layer}/query" not in reader)
    if not shared and n_layers not in (None, layers or None):
        raise ValueError(f"n_layers={n_layers}, and there are {layers} separate layers")
    names = [SHARED] if shared else [f"{SEPARATE}{layer}" for layer in range(max(layers, 1))]
    layers = (n_layers or 1) if shared else max(layers, 1)
    embedding = _embedding(reader)
    kinds = list((attention,) * layers if isinstance(attention, str) else attention)
    blocks, norms = {}, set()
    for layer, module in enumerate(names):
        block: dict[str, Any] = {"attention": _attention(reader, module, n_heads, y_update, dampening)}
        if f"{module}/non_lin_mix" in reader:
            block["attention"]["mix"] = reader.take(f"{module}/non_lin_mix", "w", 1, 1).reshape(1, 1, 1)
            kinds[layer : layers if shared else layer + 1] = ["mixed"] * (layers if shared else 1)
        norm = "l_norm/layer_norm" if shared else f"~trans_block/norm_{layer}"
        if norm in reader:
            width = block["attention"]["W_K"].shape[-1]
            block["norm"] = {"scale": reader.take(norm, "scale", width), "bias": reader.take(norm, "offset", width)}
            norms.add(layer)
        blocks[f"block_{layer}"] = block
    reader.finish()
    if norms and norms != set(range(0 if shared else 1, len(names))):
        raise ValueError(f"LayerNorm of layers {sorted(norms)} only, of {len(names)}")
    width, d_head = blocks["block_0"]["attention"]["W_K"].shape[2:0:-1]
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
    if config.is_embedded and any(leaf.shape[0] != width for name, leaf in embedding.items() if name in ("W_E", "b_2")):
        raise ValueError(f"the embedding is not of the residual's width {width}; positions beside it cannot be read")
    return config, jax.tree.map(jnp.asarray, {**({"embedding": embedding} if embedding else {}), **blocks})


def to_von_oswald(
    config: TransformerConfig, params: Params, name: str = "transformer"
) -> dict[str, dict[str, np.ndarray]]:
    """Parameters as the published implementation has them, under a network's name; `from_von_oswald` reads them."""
    found: dict[str, dict[str, Any]] = {}
    if config.d_embed is not None:
        found["emb"] = {"w": params["embedding"]["W_E"].T}
    if config.input_mlp_width is not None:
        for i, module in enumerate(("linear", "linear_1"), 1):
            found[f"input_mlp/{module}"] = {"w": params["embedding"][f"W_{i}"].T, "b": params["embedding"][f"b_{i}"]}
    for layer, block in enumerate(dict.fromkeys(config.blocks)):
        module, attention = SHARED if config.shared else f"{SEPARATE}{layer}", params[block]["attention"]
        for there, here in (("query", "W_Q"), ("key", "W_K"), ("value", "W_V")):
            found[f"{module}/{there}"] = {"w": attention[here].reshape(-1, config.width).T}
        found[f"{module}/linear"] = {"w": jnp.swapaxes(attention["P"], 1, 2).reshape(-1, config.width)}
        if "mix" in attention:
            found[f"{module}/non_lin_mix"] = {"w": attention["mix"].reshape(1, 1)}
        if "norm" in params[block]:
            norm = params[block]["norm"]
            where = "l_norm/layer_norm" if config.shared else f"~trans_block/norm_{layer}"
            found[where] = {"scale": norm["scale"], "offset": norm["bias"]}
    return {f"{name}/{module}": {leaf: np.asarray(value) for leaf, value in of.items()} for module, of in found.items()}


def _attention(reader: _Reader, module: str, n_heads: int, y_update: bool, dampening: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for there, here in (("query", "W_Q"), ("key", "W_K"), ("value", "W_V")):
        w = reader.take(f"{module}/{there}", "w", None, None)
        if w.shape[1] % n_heads:
            raise ValueError(f"{module}/{there} has width {w.shape[1]}, which n_heads={n_heads} does not divide")
        found[here] = w.T.reshape(n_heads, -1, w.shape[0])
    _, d_head, width = found["W_K"].shape
    p = reader.take(f"{module}/linear", "w", n_heads * d_head, width)
    p = dampening * np.swapaxes(p.reshape(n_heads, d_head, width), 1, 2)
    found["P"] = np.where(np.arange(width)[:, None] == width - 1, p, 0.0) if y_update else p
    return found


def _embedding(reader: _Reader) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "emb" in reader:
        found["W_E"] = reader.take("emb", "w", None, None).T
    if "input_mlp/linear" in reader:
        for i, module in enumerate(("input_mlp/linear", "input_mlp/linear_1"), 1):
            found[f"W_{i}"] = reader.take(module, "w", None, None).T
            found[f"b_{i}"] = reader.take(module, "b", len(found[f"W_{i}"]))
    return found


def _modules(params: Any) -> Modules:
    """The arrays of every module, of a mapping or a file."""
    if isinstance(params, str | Path):
        return _from_npz(local(params, "params"))
    if not isinstance(params, Mapping) or not all(isinstance(of, Mapping) for of in params.values()):
        raise ValueError(
            f"params of type {type(params).__name__} must be a mapping of modules to mappings of arrays, or the path "
            "of an .npz file; stack a list of members first: "
            "jax.tree.map(lambda *leaves: numpy.stack(leaves), *params)"
        )
    return params


def _members(modules: Modules) -> list[Modules]:
    """The modules of each member, where every array has one axis more than those of one, and all of one size."""
    arrays = {module: {leaf: np.asarray(value) for leaf, value in of.items()} for module, of in modules.items()}
    before = {
        value.shape[: max(value.ndim - AXES.get(leaf, value.ndim), 0)]
        for of in arrays.values()
        for leaf, value in of.items()
    }
    if len(before) != 1 or len(axes := before.pop()) != 1:
        return []
    return [{m: {leaf: value[i] for leaf, value in of.items()} for m, of in arrays.items()} for i in range(axes[0])]


def _from_npz(path: Path) -> Modules:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; give the path of an .npz file whose names are module/leaf")
    with path.open("rb") as file:
        start = file.read(len(NPY))
    if not start.startswith(ZIP):
        raise ValueError(_pickled(path, ".item()" if start == NPY else ""))
    modules: dict[str, dict[str, Any]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            try:
                value = arrays[name]
            except ValueError as error:  # an array of objects: all parameters, or those of a module
                one = f"[{name!r}].item()" if len(arrays.files) == 1 and "/" not in name else ".items()"
                raise ValueError(_pickled(path, one)) from error
            module, _, leaf = name.rpartition("/")
            modules.setdefault(module, {})[leaf] = value
    return modules


def _pickled(path: Path, of: str) -> str:
    """What is said of a file that only unpickling reads; `of` finds the parameters in what is loaded."""
    load = f"np.load({str(path)!r}, allow_pickle=True){of}"
    found = f"{{module: leaves.item() for module, leaves in {load}}}" if of == ".items()" else load
    names = 'f"{module}/{leaf}": value for module, leaves in params.items() for leaf, value in leaves.items()'
    return (
        f"{path} is no .npz file of plain arrays, and nothing is unpickled here; where you trust the file, these three "
        "lines of Python write one, whose path is then given:\n"
        "import numpy as np\n"
        f"params = {found}\n"
        f"np.savez({str(path.with_name(f'{path.stem}_arrays.npz'))!r}, **{{{names}}})"
    )
