"""A Transformer with its parameters and layout: a Predictor that can be opened, recorded and edited.

>>> import jax, jax.numpy as jnp
>>> from icl_gd import models, tokens
>>> from icl_gd.models import edits
>>> config = TransformerConfig(d_token=4, n_layers=2, n_heads=2, attention="softmax", init_scale=1.0)
>>> model = Model(config, models.init(config, jax.random.key(0)), tokens.concatenated(3, 1))
>>> prompt = jnp.ones((5, 3)), jnp.ones((5, 1)), jnp.ones(3)
>>> model(*prompt).shape
(1,)
>>> model.run(*prompt)["attn.pattern", 1].shape  # [head query key]
(2, 6, 6)
>>> ablated = model.edit({"blocks.1.attn.z": edits.zero(head=0)})
>>> bool(ablated(*prompt) == model(*prompt))
False
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from icl_gd.models import saved, sites
from icl_gd.models.activations import Activations
from icl_gd.models.attention import At
from icl_gd.models.config import TransformerConfig
from icl_gd.models.edits import Edit, as_edit
from icl_gd.models.predictors import fastest_predictor, layerwise_predictor, prefix_predictor
from icl_gd.models.transformer import Params, circuits, predict_at_sites, program_config, read_out
from icl_gd.problems import on_prefixes, on_problem
from icl_gd.trees import by_name
from icl_gd.types import Array, Circuits, Layout, Predictor, PrefixPredictor

Edits = tuple[Mapping[str, Edit], ...]  # applied in order; each maps names of sites to edits


@partial(jax.tree_util.register_dataclass, data_fields=["params", "edits"], meta_fields=["config", "layout"])
@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """One Transformer, callable as a Predictor: `model(x [n d], y [n m], x_query [d]) -> y_hat [m]`.

    A model is a pytree whose leaves are its parameters and the arrays of its edits. `population.stacked` has a leading
    member axis in every leaf, for `jax.vmap`.

    Attributes:
      config: the architecture.
      params: the parameters of one member; `population[i]` gives the model of member i.
      layout: how a prompt is encoded as tokens and where the prediction is read.
      edits: edits of activations, applied in every run. Default: none. `edit` adds some.
    """

    config: TransformerConfig
    params: Params
    layout: Layout
    edits: Edits = ()

    def __repr__(self) -> str:
        config, named = self.config, by_name(self.params)
        # A matrix of one member is [head d_head e]; that of a population has a leading member axis.
        members = jnp.shape(self.params["block_0"]["attention"]["W_K"])[:-3]
        size = sum(math.prod(jnp.shape(leaf)[len(members) :]) for leaf in named.values())
        kinds = " ".join(dict.fromkeys(config.kinds))
        heads = f"{config.n_heads} head{'s' * (config.n_heads > 1)} of width {config.head_width}"
        lines = [
            f"Model{''.join(f' of {count} members' for count in members)}: {config.n_layers} "
            f"{'shared ' * config.shared}layer{'s' * (config.n_layers > 1)} of {kinds} attention, {heads}, "
            f"residual width {config.width}, {size:,} parameters{' per member' * len(members)}"
        ]
        lines += [f"  {name} {list(jnp.shape(leaf))}" for name, leaf in named.items()]
        lines += [f"  edited: {', '.join(sites.expand(config, edits))}" for edits in self.edits]
        return "\n".join(lines)

    @on_problem
    def __call__(self, x: Array, y: Array, x_query: Array) -> Array:
        """Predicts the label of the query, in the fastest exact form (see `models.predictors`).

        Args:
          x: inputs `[n d]`.
          y: labels `[n m]`.
          x_query: query `[d]`.

        Returns:
          y_hat `[m]`.
        """
        return self.predictor(x, y, x_query)

    def run(self, x: Array, y: Array, x_query: Array, names: str | Iterable[str] | None = None) -> Activations:
        """Runs the model and records activations.

        The run uses the token form with unmerged weights, in which every site exists. Its prediction equals that of
        `model(x, y, x_query)` up to rounding.

        Args:
          x: inputs `[n d]`.
          y: labels `[n m]`.
          x_query: query `[d]`.
          names: sites to record, as `models.sites.expand` accepts them: full names, or kinds such as "attn.pattern" for
            every layer. Default: all sites.

        Returns:
          The recorded activations, after edits. Without `vmap` they have the shapes of `models.sites.shapes`.

        Raises:
          ValueError: if the model has no such site.
        """
        chosen = sites.names(self.config) if names is None else sites.expand(self.config, names)
        return _record(self, chosen, x, y, x_query)

    def edit(self, changes: Mapping[str, Edit | Callable[[Array], Array]]) -> "Model":
        """A copy of the model in which activations are edited in every run.

        The copy is a Model: it predicts, can be differentiated, `vmap`ped, recorded and edited again. Edits apply in
        the order in which they are added.

        Args:
          changes: by site, as `models.sites.expand` accepts it: an edit of `models.edits`, or a function
            `value -> new value`.

        Returns:
          The edited model.

        Raises:
          ValueError: if the model has no such site, two requests name the same site, or an edit selects a head or
            position that the site does not have.
        """
        added: dict[str, Edit] = {}
        requests: dict[str, str] = {}
        for request, change in changes.items():
            for name in sites.expand(self.config, request):
                if name in added:
                    raise ValueError(f"{requests[name]!r} and {request!r} both edit site {name!r}; edit it once")
                kind, layer = sites.split(name)
                added[name], requests[name] = as_edit(change).in_layer(layer), request
                added[name].check(sites.SITES[kind], self.config.n_heads)
        return replace(self, edits=(*self.edits, added)) if added else self

    @on_problem
    def layerwise(self, x: Array, y: Array, x_query: Array) -> Array:
        """Predicts the label of the query from the residual before the first layer and after every layer.

        Args:
          x: inputs `[n d]`.
          y: labels `[n m]`.
          x_query: query `[d]`.

        Returns:
          y_hat `[depth m]`.

        Raises:
          ValueError: if a site after the last layer is edited.
        """
        if not self.edits:
            return layerwise_predictor(self.config, self.params, self.layout)(x, y, x_query)
        last = [site.name for site in sites.LAST]
        if edited := [name for name in last if any(name in edits for edits in self.edits)]:
            raise ValueError(f"layerwise predictions do not pass the edited {', '.join(edited)}; remove this edit")
        names = ("blocks.0.resid_pre", *(f"blocks.{layer}.resid_post" for layer in range(self.config.n_layers)))
        residuals = jnp.stack([value[-1] for value in _record(self, names, x, y, x_query).values()])
        return jax.vmap(read_out(self.config, self.params, self.layout))(residuals)

    @on_prefixes
    def prefix(self, x: Array, y: Array) -> Array:
        """Predicts the label of every input from the examples before it, with one pass of a causal model.

        Returns:
          y_hat `[n m]`: the k-th output is the prediction for `x[k]` given the first k examples.

        Raises:
          ValueError: if the model is not causal, or x and y share a token.
        """
        return self.prefix_predictor(x, y)

    @property
    def predictor(self) -> Predictor:
        """The Predictor of this model, a pytree whose leaves are the parameters and the arrays of edits."""
        if self.edits:
            return Partial(_EditedForm(program_config(self.config), self.layout), self.params, self.edits)
        return fastest_predictor(self.config, self.params, self.layout)

    @property
    def prefix_predictor(self) -> PrefixPredictor:
        """The PrefixPredictor of this causal model, a pytree whose leaves are the parameters and arrays of edits."""
        plain = prefix_predictor(self.config, self.params, self.layout)
        if self.edits:
            return Partial(_EditedPrefixForm(program_config(self.config), self.layout), self.params, self.edits)
        return plain

    def save(self, directory: str | Path) -> None:
        """Writes the model as model.safetensors and config.json, which `icl_gd.load_model` reads.

        A population's `stacked` model is written with its member axis.

        Args:
          directory: created if missing; `~` is the home directory.

        Raises:
          ValueError: if the model has edits, if its layout is not one of `tokens.LAYOUTS`, or if `directory` is an
            address of an object store, such as gs://bucket.
        """
        if self.edits:
            raise ValueError("edits are not saved; save the unedited model, and apply the edits after loading")
        saved.write(directory, self.config, self.params, self.layout)

    @property
    def circuits(self) -> Circuits:
        """The QK circuits `W_KQ` and OV circuits `W_PV` of every layer and head, `[layer head e e]`."""
        return circuits(self.config, self.params)


def load_model(directory: str | Path) -> Model:
    """Loads a model that `Model.save` wrote.

    Args:
      directory: the directory with model.safetensors and config.json; `~` is the home directory.

    Returns:
      The model; its leaves have a leading member axis if it was saved with one.

    Raises:
      FileNotFoundError: if a file does not exist.
      ValueError: if a file is damaged, if weights and config belong to different models, or if `directory` is an
        address of an object store.
    """
    return Model(*saved.read(directory))


@dataclass(frozen=True)
class _EditedForm:
    """The token form with unmerged weights and edits."""

    config: TransformerConfig
    layout: Layout

    @on_problem
    def __call__(self, params: Params, edits: Edits, x: Array, y: Array, x_query: Array) -> Array:
        model = Model(self.config, params, self.layout, edits)
        return _record(model, ("prediction",), x, y, x_query)["prediction"]


@dataclass(frozen=True)
class _EditedPrefixForm(_EditedForm):
    """The token form of a causal model with edits, read out at every x."""

    @on_prefixes
    def __call__(self, params: Params, edits: Edits, x: Array, y: Array) -> Array:  # pyright: ignore
        model, tokens = Model(self.config, params, self.layout, edits), self.layout.encode(x[:-1], y[:-1], x[-1])
        at = _Sites(edits, ())
        outputs = predict_at_sites(self.config, params, self.layout, tokens, at)[model.layout.inputs]
        return jax.vmap(partial(at, "prediction"))(outputs)


class _Sites:
    """Edits and records the values of sites: `(name, value) -> value`."""

    def __init__(self, edits: Edits, names: Iterable[str]):
        self.edits = edits
        self.names = frozenset(names)
        self.recorded: dict[str, Array] = {}

    def __call__(self, name: str, value: Array) -> Array:
        value = edited(self.edits, name, value)
        if name in self.names:
            self.recorded[name] = value
        return value


def edited(edits: Edits, name: str, value: Array) -> Array:
    """Applies the edits of a model to the value of one site.

    Args:
      edits: the edits, applied in order.
      name: the name of the site.
      value: its value.

    Returns:
      The new value, of the same shape and type.
    """
    for changes in edits:
        if name in changes:
            value = changes[name](sites.SITES[sites.split(name)[0]], value)
    return value


def pass_through(at: At, model: Model, x: Array, y: Array, x_query: Array) -> Array:
    """Runs a model, with the value of every site passed through a function. The model's own edits do not apply.

    Args:
      at: `(site, value) -> value`, called for every site of `models.sites.names`, in their order.
      model: the model.
      x: inputs `[n d]`.
      y: labels `[n m]`.
      x_query: query `[d]`.

    Returns:
      The prediction `[m]`, as `at` returns it.
    """
    tokens = model.layout.encode(x, y, x_query)
    return at("prediction", predict_at_sites(model.config, model.params, model.layout, tokens, at)[-1])


@on_problem
def _record(model: Model, names: tuple[str, ...], x: Array, y: Array, x_query: Array) -> Activations:
    """Runs a model with its edits and records the named sites."""
    at = _Sites(model.edits, names)
    pass_through(at, model, x, y, x_query)
    return Activations(at.recorded)
