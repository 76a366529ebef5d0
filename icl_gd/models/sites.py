"""The sites of a Transformer: the intermediate values of a forward pass that can be recorded and edited, by name.

Names are those of TransformerLens without "hook_". A site inside a layer has the prefix `blocks.{l}.`, where l counts
from zero. All forms of prediction give the same numbers up to rounding, but only the token form with unmerged weights
has every site, so recording and editing use this form.

    >>> from icl_gd.models import TransformerConfig
    >>> config = TransformerConfig(d_token=3, n_heads=2)
    >>> names(config)[:3], len(names(config))
    (('embed', 'blocks.0.resid_pre', 'blocks.0.attn.q'), 12)
    >>> shapes(config, n_tokens=5, d_output=1)["blocks.0.attn.pattern"]
    (2, 5, 5)
"""

import difflib
from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple

from icl_gd.models.config import TransformerConfig
from icl_gd.schema import Size, checked


class Site(NamedTuple):
    """One kind of intermediate value.

    Attributes:
      name: the name; sites of a layer are written without `blocks.{l}.`.
      axes: the axes of the value: "t" token, "head", "query" and "key" token, and widths "e" residual, "d_head" head,
        "mlp" block MLP, "m" prediction, "1" one.
      about: what the value is.
      exists: whether a layer of a config has the site.
      needs: what a config needs for the site to exist, for error messages.
    """

    name: str
    axes: tuple[str, ...]
    about: str
    exists: Callable[[TransformerConfig, int], bool]
    needs: str = ""

    @property
    def position_axis(self) -> int | None:
        """The axis of token positions: of the query token for scores and patterns; None for the prediction."""
        return next((i for i, axis in enumerate(self.axes) if axis in ("t", "query")), None)

    @property
    def head_axis(self) -> int | None:
        """The axis of heads, if there is one."""
        return self.axes.index("head") if "head" in self.axes else None


def _always(config: TransformerConfig, layer: int) -> bool:
    return True


def _has_positions(config: TransformerConfig, layer: int) -> bool:
    return config.n_positions is not None


def _has_norm(config: TransformerConfig, layer: int) -> bool:
    return config.has_norm(layer)


def _has_mlp(config: TransformerConfig, layer: int) -> bool:
    return config.block_mlp_width is not None


def _has_mlp_norm(config: TransformerConfig, layer: int) -> bool:
    return _has_mlp(config, layer) and config.has_norm(layer)


def _has_final_norm(config: TransformerConfig, layer: int) -> bool:
    return config.pre_norm and config.d_read_out is not None


_NORM = "needs a normalised layer input (layer_norm or pre_norm)"
_MLP = "needs an MLP in every block (block_mlp_width)"
_MLP_NORM = "needs an MLP in every block (block_mlp_width) with a normalised input (layer_norm or pre_norm)"
FIRST = (
    Site("embed", ("t", "e"), "tokens after the embedding and the input MLP, if there are any", _always),
    Site("pos_embed", ("t", "e"), "learned positions", _has_positions, "needs learned positions (n_positions)"),
)
BLOCK = (
    Site("resid_pre", ("t", "e"), "residual before the layer", _always),
    Site("ln1.scale", ("t", "1"), "standard deviation by which `resid_pre` is divided", _has_norm, _NORM),
    Site("ln1.normalized", ("t", "e"), "centred `resid_pre` divided by `ln1.scale`", _has_norm, _NORM),
    Site("attn.q", ("t", "head", "d_head"), "queries", _always),
    Site("attn.k", ("t", "head", "d_head"), "keys", _always),
    Site("attn.v", ("t", "head", "d_head"), "values", _always),
    Site("attn.scores", ("head", "query", "key"), "attention logits `q^T k`; zero where the key is masked", _always),
    Site("attn.pattern", ("head", "query", "key"), "attention weights, which multiply the values", _always),
    Site("attn.z", ("t", "head", "d_head"), "values weighted by the pattern", _always),
    Site("attn.result", ("t", "head", "e"), "update of the residual by each head, `P z`", _always),
    Site("attn_out", ("t", "e"), "update of the residual by attention: the sum over heads and the bias", _always),
    Site("resid_mid", ("t", "e"), "residual between attention and MLP", _has_mlp, _MLP),
    Site("ln2.scale", ("t", "1"), "standard deviation by which `resid_mid` is divided", _has_mlp_norm, _MLP_NORM),
    Site("ln2.normalized", ("t", "e"), "centred `resid_mid` divided by `ln2.scale`", _has_mlp_norm, _MLP_NORM),
    Site("mlp.pre", ("t", "mlp"), "hidden units of the MLP before the GELU", _has_mlp, _MLP),
    Site("mlp.post", ("t", "mlp"), "hidden units of the MLP after the GELU", _has_mlp, _MLP),
    Site("mlp_out", ("t", "e"), "update of the residual by the MLP", _has_mlp, _MLP),
    Site("resid_post", ("t", "e"), "residual after the layer, clipped if the model has a clip", _always),
)
_FINAL = "needs a normalised learned read-out (pre_norm and d_read_out)"
LAST = (
    Site(
        "ln_final.scale",
        ("t", "1"),
        "standard deviation by which the final residual is divided",
        _has_final_norm,
        _FINAL,
    ),
    Site(
        "ln_final.normalized", ("t", "e"), "centred final residual divided by `ln_final.scale`", _has_final_norm, _FINAL
    ),
    Site("prediction", ("m",), "the prediction y_hat, read from the query token", _always),
)
SITES = {site.name: site for site in (*FIRST, *BLOCK, *LAST)}


@cache
def split(name: str) -> tuple[str, int | None]:
    """Splits the name of a site into its kind and its layer.

    Returns:
      For example `("attn.q", 2)` for "blocks.2.attn.q"; the layer is None for a site outside the layers.
    """
    first, _, rest = name.partition(".")
    layer, _, kind = rest.partition(".")
    return (kind, int(layer)) if first == "blocks" and layer.isdecimal() else (name, None)


@cache
def names(config: TransformerConfig) -> tuple[str, ...]:
    """The names of all sites of a model, in the order in which they are computed.

    Returns:
      Names such as "embed" and "blocks.0.attn.q".
    """
    result = [site.name for site in FIRST if site.exists(config, 0)]
    for layer in range(config.n_layers):
        result += [f"blocks.{layer}.{site.name}" for site in BLOCK if site.exists(config, layer)]
    return (*result, *(site.name for site in LAST if site.exists(config, 0)))


@checked
def shapes(config: TransformerConfig, n_tokens: Size, d_output: Size) -> dict[str, tuple[int, ...]]:
    """The shape of every site for one prompt.

    Args:
      config: the architecture.
      n_tokens: number of tokens t of the prompt, with the query.
      d_output: width m of the prediction.

    Returns:
      Shapes by name of the site, in the order of `names`.
    """
    sizes = {"t": n_tokens, "query": n_tokens, "key": n_tokens, "e": config.width, "1": 1, "m": d_output}
    sizes |= {"head": config.n_heads, "d_head": config.head_width, "mlp": config.block_mlp_width or 0}
    return {name: tuple(sizes[axis] for axis in SITES[split(name)[0]].axes) for name in names(config)}


def expand(config: TransformerConfig, requested: str | Iterable[str]) -> tuple[str, ...]:
    """The full names of requested sites.

    A request is a full name ("blocks.0.attn.q"), a kind, which stands for this site of every layer ("attn.q"), or a
    name with "*" for the layer ("blocks.*.attn.q").

    Args:
      config: the architecture.
      requested: one request, or several.

    Returns:
      The names without duplicates, in the order in which the sites are computed.

    Raises:
      ValueError: if the model has no such site; the message names the nearest one, or what the site needs.
    """
    requested = (requested,) if isinstance(requested, str) else tuple(requested)
    known = names(config)
    chosen: set[str] = set()
    for request in requested:
        if not isinstance(request, str):
            raise ValueError(f"site {request!r} is not a string; give a name such as 'attn.q' or 'blocks.0.attn.q'")
        matches = [name for name in known if request in (name, *_wildcards(name))]
        if not matches:
            raise ValueError(unknown(config, request))
        chosen.update(matches)
    return tuple(name for name in known if name in chosen)


@cache
def _wildcards(name: str) -> tuple[str, ...]:
    """The requests that stand for this site in every layer."""
    kind, layer = split(name)
    return () if layer is None else (kind, f"blocks.*.{kind}")


def unknown(config: TransformerConfig, request: str) -> str:
    """The error message for a site that a model does not have.

    Returns:
      One sentence with the nearest name, or with what the site needs.
    """
    ours = _ours(request)
    kind, layer = split(ours)
    kind = kind.removeprefix("blocks.*.")
    site = SITES.get(kind)
    if site is not None:
        if kind != ours and site not in BLOCK:
            return f"site {request!r} is outside the layers; give {kind!r}"
        layers = [each for each in range(config.n_layers) if site.exists(config, each)]
        if not layers:
            return f"site {request!r} {site.needs}, which this model does not have"
        if layer is not None and layer not in layers:
            return f"site {request!r} does not exist in layer {layer}; give {_or(layers)}"
    prefixes = ("blocks.*.", *(f"blocks.{each}." for each in range(config.n_layers)))
    near = nearest(request, [*SITES, *(prefix + site.name for prefix in prefixes for site in BLOCK)])
    kind = split(near)[0].removeprefix("blocks.*.")
    if not any(near in (name, *_wildcards(name)) for name in names(config)):
        return f"site {request!r} does not exist; did you mean {near!r}, which {SITES[kind].needs}?"
    return f"site {request!r} does not exist; did you mean {near!r}? models.sites.names(config) lists all sites"


def _or(layers: list[int]) -> str:
    """Layers in words."""
    if len(layers) == 1:
        return f"layer {layers[0]}"
    consecutive = len(layers) > 2 and layers[-1] - layers[0] == len(layers) - 1
    return f"layers {layers[0]} to {layers[-1]}" if consecutive else f"layers {' or '.join(map(str, layers))}"


def _ours(name: str) -> str:
    """A name of TransformerLens in the spelling of this module. Other names stay as they are."""
    return name.replace("hook_", "").replace("attn_scores", "attn.scores").replace("attn.attn.", "attn.")


def nearest(request: str, candidates: Iterable[str]) -> str:
    """The candidate that is most like a misspelt name, which may be a name of TransformerLens.

    Returns:
      One of the candidates.
    """
    return difflib.get_close_matches(_ours(request), list(candidates), n=1, cutoff=0.0)[0]
