"""Activation patching: which activations carry the difference between two runs?

Patching runs a model on one problem, the base, and replaces some activations by those of another run, the source. With
a corrupted base and a clean source this is called denoising; with a clean base and a corrupted source, noising.
`analysis.corruptions` makes pairs of problems.

    >>> from icl_gd import models, tokens
    >>> config = models.TransformerConfig(d_token=3, n_layers=2, n_heads=2, init_scale=1.0)
    >>> model = models.Model(config, models.init(config, jax.random.key(0)), tokens.concatenated(2, 1))
    >>> x, y, x_query = jnp.eye(2), jnp.ones((2, 1)), jnp.ones(2)
    >>> clean, corrupted = (x, y, x_query), (x, -y, x_query)
    >>> patch(model, corrupted, clean, "resid_pre").shape  # [layer position m]
    (2, 3, 1)
    >>> patch(model, corrupted, clean, "attn.z").shape  # [layer position head m]
    (2, 3, 2, 1)
    >>> attribute_patch(model, corrupted, clean, "attn.z", positions="all").shape  # [layer head m]
    (2, 2, 1)
    >>> path_patch(model, corrupted, clean, "attn.z", "prediction", positions=(-1,)).shape
    (2, 1, 2, 1)
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from icl_gd.models import sites
from icl_gd.models.activations import Activations
from icl_gd.models.edits import Edit, add
from icl_gd.models.model import Edits, Model, edited, pass_through
from icl_gd.models.sites import SITES, Site, split
from icl_gd.models.transformer import program_config
from icl_gd.problems import problem
from icl_gd.schema import Size, checked
from icl_gd.types import Array

Problem = Sequence[Any]  # `(x [n d], y [n m], x_query [d])`, or a Prompt, which begins with these
Selection = Literal["each", "all"] | tuple[int, ...]  # "each" and indices give the result an axis, "all" does not
Receiver = str | tuple[str, int]  # a site, or a site and a head
BATCH = 16  # patched runs computed at once
STATIC = ("kind", "layers", "positions", "heads", "batch")

# Sites inside attention and inside the MLP, between their input and the output that path patching freezes.
IN_ATTENTION = ("ln1.scale", "ln1.normalized", "attn.q", "attn.k", "attn.v", "attn.scores", "attn.pattern")
IN_MLP = ("ln2.scale", "ln2.normalized", "mlp.pre", "mlp.post")
AFTER_FROZEN = ("attn.result", "attn_out")  # functions of the frozen `attn.z` of their layer


class _Place(NamedTuple):
    """Where a value is replaced: traced indices; None for all."""

    layer: Array | None = None
    position: Array | None = None
    head: Array | None = None


class _Grid(NamedTuple):
    """The places of one kind of site.

    Attributes:
      names: the full name of the site by patched layer; a site outside the layers counts as layer 0.
      indices: the layers, positions and heads that are mapped over; None for an axis that is not.
      value: the shape of a value of the site.
    """

    names: dict[int, str]
    indices: tuple[list[int] | None, ...]
    value: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The axes of the result before m."""
        return tuple(len(indices) for indices in self.indices if indices is not None)

    def map(self, f: Callable[[_Place], Array], batch: int) -> Array:
        """Applies f to all places, in batches of equal size, at most `batch`."""
        if not self.shape:
            return f(_Place())
        places = np.meshgrid(*(indices for indices in self.indices if indices is not None), indexing="ij")
        count = places[0].size
        steps = -(-count // batch)
        size = -(-count // steps)
        padded = [jnp.asarray(np.pad(place.ravel(), (0, steps * size - count), mode="edge")) for place in places]
        mapped = iter(padded)
        grid = _Place(*(None if indices is None else next(mapped) for indices in self.indices))
        results = jax.lax.map(f, grid, batch_size=size if size > 1 else None)[:count]
        return results.reshape(*self.shape, *results.shape[1:])


@checked
def patch(
    model: Model,
    base: Problem,
    source: Problem | Activations,
    kind: str,
    *,
    layers: Selection = "each",
    positions: Selection = "each",
    heads: Selection = "each",
    batch: Size = BATCH,
) -> Float[Array, "..."]:
    """Predictions of the base run with one activation at a time replaced by that of the source run.

    All places of one kind of site share one compiled program, because layer, position and head are its arguments. The
    model's own edits apply in both runs, before the replacement. Use `jax.vmap` for several prompts and members.

    A patch without effect gives the prediction of the base run up to rounding: the replacement copies bits, but a
    compiled batch of runs is rounded differently from a single run.

    Memory: the values of the site in all layers, and the activations of `batch` forward passes; this for every prompt
    and member that the caller maps over.

    Args:
      model: the model.
      base: the problem that is run, `(x [n d], y [n m], x_query [d])` or a Prompt.
      source: the problem whose values replace those of the base run, of the same shapes; or the values themselves, as
        `model.run` records them.
      kind: the kind of site, a key of `models.sites.SITES` such as "attn.z".
      layers: "each" patches one layer at a time. "all" patches all layers at once, and the result has no layer axis. A
        tuple patches each of these layers.
      positions: the same for token positions, which are those of query tokens for scores and patterns. `(-1,)` patches
        the query only. A site that has no positions has no such axis.
      heads: the same for heads.
      batch: number of patched runs that are computed at once. If many prompts are mapped over, 1 is the fastest.
        Default: 16.

    Returns:
      y_hat `[layer position head m]`, without the axes that the site does not have or that are "all". The layers are
      those that have the site.

    Raises:
      ValueError: if the model has no such site, the site has no such index, or the problems have different shapes.

    Source: Vig et al. 2004.12265; Meng et al. 2202.05262 ("causal tracing").
    """
    arguments = _static(kind, layers, positions, heads, batch)
    return _patch(program_model(model), *_checked(base, source), **arguments)


@partial(jax.jit, static_argnames=STATIC)
def _patch(model: Model, base: Any, source: Any, kind: str, batch: int, **selections: Selection) -> Array:
    grid = _grid(model, base, kind, **selections)
    values = _values(model, source, grid)

    def predict(place: _Place) -> Array:
        changes = {name: _replacement(layer, place, values[name]) for layer, name in grid.names.items()}
        return _prediction(model.edit(changes), base)

    return grid.map(predict, batch)


@checked
def path_patch(
    model: Model,
    base: Problem,
    source: Problem | Activations,
    sender: str,
    receivers: Receiver | Sequence[Receiver],
    *,
    layers: Selection = "each",
    positions: Selection = "each",
    heads: Selection = "each",
    batch: Size = BATCH,
) -> Float[Array, "..."]:
    """Path patching: predictions of the base run when one sender at a time affects the receivers by direct paths only.

    Every sender takes two runs. In the first, the sender has its value of the source run, the outputs of all attention
    heads (`attn.z`) and of all MLPs (`mlp_out`) are frozen to their values of the base run, and the values of the
    receivers are recorded. LayerNorms and clips are not frozen. In the second, the receivers have these values, and the
    prediction is recorded.

    If the sender is inside a head or an MLP, as "attn.q" is, the output of this head or MLP is not frozen. A receiver
    that is the sender itself has the value of the source run. A receiver before the sender is not affected.

    Memory: twice that of `patch`.

    Args:
      model: the model.
      base: the problem that is run, `(x [n d], y [n m], x_query [d])` or a Prompt.
      source: the problem from which the sender's value is taken, of the same shapes; or values, as `model.run` records
        them.
      sender: the kind of site of the senders, a key of `models.sites.SITES` such as "attn.z".
      receivers: sites, as `models.sites.expand` accepts them, at all positions. A pair `("blocks.1.attn.q", 0)` is one
        head of a site. "prediction" gives the direct effect on the prediction. The sites "attn.result" and "attn_out"
        are not accepted, because they follow from the frozen "attn.z"; "attn.z" is.
      layers, positions, heads: the senders, selected as in `patch`.
      batch: number of senders that are computed at once. Default: 16.

    Returns:
      y_hat `[layer position head m]`, without the axes that the sender does not have or that are "all".

    Raises:
      ValueError: if the model has no such site, a site has no such index, a receiver is not accepted, or the problems
        have different shapes.

    Source: Wang et al. 2211.00593, section 3.1; Goldowsky-Dill et al. 2304.05969.
    """
    arguments = _static(sender, layers, positions, heads, batch)
    return _path_patch(program_model(model), *_checked(base, source), receivers=_pairs(receivers), **arguments)


def _pairs(receivers: Any) -> tuple[tuple[str, int | None], ...]:
    """Every receiver as a site and a head, which is None for all heads."""
    each = [receivers] if isinstance(receivers, str) or _is_pair(receivers) else list(receivers)
    if wrong := [one for one in each if not (isinstance(one, str) or _is_pair(one))]:
        raise ValueError(
            f'receiver {wrong[0]!r}; give a site or a pair such as ("blocks.1.attn.q", 0) of site and head'
        )
    if not each:
        raise ValueError('there are no receivers; give at least one site, such as "prediction"')
    return tuple((one, None) if isinstance(one, str) else (one[0], operator.index(one[1])) for one in each)


def _is_pair(receiver: Any) -> bool:
    """Whether a receiver is a site and a head."""
    is_tuple = isinstance(receiver, tuple) and len(receiver) == 2
    return is_tuple and isinstance(receiver[0], str) and isinstance(receiver[1], int | np.integer)


@partial(jax.jit, static_argnames=("receivers", *STATIC))
def _path_patch(
    model: Model, base: Any, source: Any, receivers: Any, kind: str, batch: int, **selections: Selection
) -> Array:
    grid = _grid(model, base, kind, **selections)
    values, heads_of = _values(model, source, grid), _receiving_heads(model, receivers)
    frozen = model.run(*base, names=["attn.z", *["mlp_out"] * (model.config.block_mlp_width is not None)])

    def predict(place: _Place) -> Array:
        sent = {name: _replacement(layer, place, values[name]) for layer, name in grid.names.items()}
        path = _Path(model.edits, kind, place, sent, frozen, heads_of)
        pass_through(path, model, *base)
        changes = {name: Edit(_new_value, (path.received[name],), head) for name, head in heads_of.items()}
        return _prediction(model.edit(changes), base)

    return grid.map(predict, batch)


def _receiving_heads(model: Model, receivers: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The heads of every receiving site; None for all."""
    result: dict[str, Any] = {}
    for request, head in receivers:
        for name in sites.expand(model.config, request):
            kind, layer = split(name)
            if kind in AFTER_FROZEN:
                raise ValueError(
                    f"receiver {name!r} follows from the outputs of heads, which path patching freezes; give "
                    f"'blocks.{layer}.attn.z'"
                )
            before = result.get(name, ())
            result[name] = None if head is None or before is None else (*before, head)
    return result


class _Path:
    """The run in which a sender affects the receivers by direct paths only: a function `(name, value) -> value`."""

    def __init__(
        self,
        edits: Edits,
        kind: str,
        place: _Place,
        sent: dict[str, Edit],
        frozen: Activations,
        receivers: Iterable[str],
    ):
        self.edits, self.kind, self.place = edits, kind, place
        self.sent, self.frozen, self.receivers = sent, frozen, receivers
        self.received: dict[str, Array] = {}

    def __call__(self, name: str, value: Array) -> Array:
        kind, layer = split(name)
        site, sent = SITES[kind], self.sent.get(name, _identity)
        value = edited(self.edits, name, value)
        if name in self.receivers:
            self.received[name] = sent(site, value)
        if name in self.frozen:
            frozen = self.frozen[name]
            if self.kind in (IN_ATTENTION if kind == "attn.z" else IN_MLP):
                own = _replacement(layer or 0, self.place._replace(position=None), value)  # the sender's component
                frozen = own(site, frozen)
            value = frozen
        return sent(site, value)


@checked
def attribute_patch(
    model: Model,
    base: Problem,
    source: Problem | Activations,
    kind: str,
    *,
    layers: Selection = "each",
    positions: Selection = "each",
    heads: Selection = "each",
) -> Float[Array, "..."]:
    """Attribution patching: the first-order approximation of `patch`, all places from one backward pass per output.

    It is the prediction of the base run plus the sum of `d y_hat / d value * (source value - base value)` over the
    entries that `patch` replaces, with derivatives at the base run. It equals `patch` if the prediction is an affine
    function of the site's value. A derivative through LayerNorm includes that of its scale.

    Memory: m backward passes, each of which keeps the activations of all layers.

    Args:
      model: the model.
      base: the problem that is run, `(x [n d], y [n m], x_query [d])` or a Prompt.
      source: the problem whose values replace those of the base run, of the same shapes; or the values themselves.
      kind: the kind of site, a key of `models.sites.SITES`.
      layers, positions, heads: as in `patch`.

    Returns:
      y_hat `[layer position head m]`, with the axes of `patch`.

    Raises:
      ValueError: if the model has no such site, the site has no such index, or the problems have different shapes.

    Source: Nanda, "Attribution patching: activation patching at industrial scale" (2023); Syed et al. 2310.10348.
    """
    arguments = _static(kind, layers, positions, heads, 1)
    return _attribute_patch(program_model(model), *_checked(base, source), **arguments)


@partial(jax.jit, static_argnames=STATIC)
def _attribute_patch(model: Model, base: Any, source: Any, kind: str, batch: int, **selections: Selection) -> Array:
    grid = _grid(model, base, kind, **selections)
    values, recorded = _values(model, source, grid), model.run(*base, names=(*grid.names.values(), "prediction"))

    def predict(changes: dict[str, Array]) -> Array:
        return _prediction(model.edit({name: add(change) for name, change in changes.items()}), base)

    jacobian = jax.jacrev(predict)({name: jnp.zeros_like(recorded[name]) for name in grid.names.values()})

    def effects(name: str) -> Array:
        """Effects `[position head m]` of one layer; the size of an axis that the site does not have is one."""
        change = jnp.broadcast_to(values[name], recorded[name].shape) - recorded[name]
        axes = (SITES[kind].position_axis, SITES[kind].head_axis)
        products = jnp.moveaxis(jacobian[name] * change[None], 0, -1)  # [*site m]
        total = jnp.sum(products, [axis for axis in range(change.ndim) if axis not in axes])
        if axes == (1, 0):  # scores and patterns are [head query key]
            total = total.swapaxes(0, 1)
        sizes = (1 if axis is None else change.shape[axis] for axis in axes)
        return total.reshape(*sizes, -1)

    result, numbers = jnp.stack(list(map(effects, grid.names.values()))), list(grid.names)
    for axis, indices in enumerate(grid.indices):
        if indices is None:
            result = jnp.sum(result, axis, keepdims=True)
        else:
            result = jnp.take(result, np.array([numbers.index(i) if axis == 0 else i for i in indices]), axis)
    prediction = recorded["prediction"]
    return result.reshape(*grid.shape, -1) + prediction.reshape((1,) * len(grid.shape) + prediction.shape)


@checked
def ablate_heads(
    model: Model, x: Array, y: Array, x_query: Array, values: Array | None = None, batch: Size = BATCH
) -> Float[Array, "layer head m"]:
    """Head ablation: predictions with the output `attn.z` of one head at a time replaced, at all positions.

    Args:
      model: the model.
      x: inputs `[n d]`.
      y: labels `[n m]`.
      x_query: query `[d]`.
      values: `[layer t head d_head]`, or an array that broadcasts to it after the layer axis. The mean over prompts of
        `model.run(...).stack("attn.z")` gives mean ablation, and its value on another prompt gives resample ablation.
        Default: zero.
      batch: number of ablated runs that are computed at once. Default: 16.

    Returns:
      y_hat `[layer head m]`.

    Raises:
      ValueError: if the shape of `values` is not accepted.
    """
    names = sites.expand(model.config, "attn.z")
    by_layer = jnp.zeros(len(names)) if values is None else jnp.asarray(values)
    if by_layer.shape[:1] != (len(names),):
        raise ValueError(f"values have shape {by_layer.shape}; give [layer t head d_head] with {len(names)} layers")
    replaced = Activations(dict(zip(names, by_layer, strict=True)))
    return patch(model, (x, y, x_query), replaced, "attn.z", positions="all", batch=batch)


def normalised_effect(
    metric: Callable[[Array], Array], patched: Float[Array, "*grid m"], base: Array, source: Array
) -> Float[Array, "*grid"]:
    """The share of the difference between two runs that patching restores.

    Args:
      metric: a scalar function of one prediction `[m]`, such as a squared error.
      patched: predictions `[*grid m]` of `patch`, `path_patch` or `attribute_patch`.
      base: the prediction `[m]` of the base run.
      source: the prediction `[m]` of the source run.

    Returns:
      `(metric(patched) - metric(base)) / (metric(source) - metric(base))` for every entry of the grid: 0 if patching
      has no effect, 1 if it gives the metric of the source run. It is not finite if both runs have the same metric.
    """
    values = jax.vmap(metric)(patched.reshape(-1, patched.shape[-1])).reshape(patched.shape[:-1])
    return (values - metric(base)) / (metric(source) - metric(base))


def correlation(approximate: Float[Array, "*grid"], exact: Float[Array, "*grid"]) -> Float[Array, ""]:
    """Pearson correlation between approximate and exact effects, over all entries.

    Returns:
      A scalar, for example of `attribute_patch(...) - y_hat` and `patch(...) - y_hat`. It is not finite if one of the
      arrays is constant.
    """
    a, b = (effects.ravel() - jnp.mean(effects) for effects in (approximate, exact))
    return a @ b / jnp.sqrt((a @ a) * (b @ b))


def _checked(base: Problem, source: Problem | Activations) -> tuple[Any, Any]:
    """Both problems as arrays `(x, y, x_query)`, without the other fields of a Prompt."""
    base = problem(*base[:3])
    if isinstance(source, Activations):
        return base, source
    source = problem(*source[:3])
    shapes, expected = [tuple(part.shape for part in parts) for parts in (source, base)]
    if shapes != expected:
        raise ValueError(
            f"the source problem has shapes x, y, x_query = {shapes}, the base problem {expected}; give problems of "
            "equal shapes"
        )
    return base, source


def _static(kind: str, layers: Any, positions: Any, heads: Any, batch: int) -> dict[str, Any]:
    """The arguments on which the compiled program depends."""
    selections = {"layers": layers, "positions": positions, "heads": heads}
    for what, selection in selections.items():
        if not (isinstance(selection, str) and selection in ("each", "all")):
            selections[what] = _indices(what, selection)
    return {"kind": kind, "batch": batch, **selections}


def _indices(what: str, selection: Any) -> tuple[int, ...]:
    """A selection as a tuple of integers.

    Raises:
      ValueError: if it is something else.
    """
    try:
        return tuple(map(operator.index, selection))
    except TypeError as error:
        raise ValueError(f'{what}={selection!r}; give "each", "all" or a tuple of indices') from error


def program_model(model: Model) -> Model:
    """A model with the config of its compiled program, which members share that differ in `config.per_member` only.

    Returns:
      The model.
    """
    return replace(model, config=program_config(model.config))


def _grid(model: Model, base: Any, kind: str, layers: Selection, positions: Selection, heads: Selection) -> _Grid:
    """The places of a kind of site.

    Raises:
      ValueError: if the model has no such site, or the site has no such index.
    """
    names = sites.expand(model.config, kind)
    if kind not in SITES:
        kind_of_site, layer = split(names[0])
        limit = f" and layers=({layer},)" if kind in names else ""
        raise ValueError(f"{kind!r} is not a kind of site; give {kind_of_site!r}{limit}")
    site, names = SITES[kind], {split(name)[1] or 0: name for name in names}
    n_tokens = jax.eval_shape(model.layout.encode, *base).shape[0]
    shape = sites.shapes(model.config, n_tokens, base[1].shape[1])[names[max(names)]]
    known = {
        "layer": list(names) if split(names[max(names)])[1] is not None else None,
        "position": None if site.position_axis is None else list(range(shape[site.position_axis])),
        "head": None if site.head_axis is None else list(range(shape[site.head_axis])),
    }
    sizes = {"layer": model.config.n_layers, "position": n_tokens, "head": model.config.n_heads}
    indices: list[list[int] | None] = []
    for (what, existing), selection in zip(known.items(), (layers, positions, heads), strict=True):
        if isinstance(selection, tuple) and existing is None:
            raise ValueError(f'site {kind!r} has no {what}s; give {what}s="each", not {selection}')
        if selection == "all" or existing is None:
            indices.append(None)
            continue
        chosen = existing if selection == "each" else [i + sizes[what] if i < 0 else i for i in selection]
        if not chosen or not set(chosen) <= set(existing):
            raise ValueError(f"{what}s={selection} for site {kind!r}; give some of {existing[0]} to {existing[-1]}")
        if what == "layer":
            names = {layer: names[layer] for layer in chosen}
        indices.append(chosen)
    return _Grid(names, tuple(indices), shape)


def _values(model: Model, source: Any, grid: _Grid) -> dict[str, Array]:
    """The values of the source run by site.

    Raises:
      ValueError: if they do not broadcast to the values of the base run.
    """
    names = tuple(grid.names.values())
    recorded = source if isinstance(source, Activations) else model.run(*source, names=names)
    values = {name: recorded[name] for name in names}
    for name, value in values.items():
        given, expected = jnp.shape(value), grid.value
        fits = (size in (1, of) for size, of in zip(given[::-1], expected[::-1], strict=False))
        if len(given) > len(expected) or not all(fits):
            raise ValueError(
                f"the source's value of {name!r} has shape {given}, that of the base run {expected}; give values of "
                "one prompt and member with as many tokens, and use jax.vmap for several"
            )
    return values


def _prediction(model: Model, base: Any) -> Array:
    return model.run(*base, names="prediction")["prediction"]


def _replacement(layer: int, place: _Place, new: Array) -> Edit:
    """The edit that replaces the value of a site, in one layer, at a place."""
    if place.layer is None:
        return Edit(_new_value, (new,), place.head, place.position)
    return Edit(_new_value_if, (new, place.layer == layer), place.head, place.position)


def _new_value(value: Array, new: Array) -> Array:
    return jnp.broadcast_to(new, value.shape)


def _new_value_if(value: Array, new: Array, is_replaced: Array) -> Array:
    return jnp.where(is_replaced, jnp.broadcast_to(new, value.shape), value)


def _identity(site: Site, value: Array) -> Array:
    return value
