"""Transformers as Predictors: one function of what is fixed, and parameters that are a program's arguments.

Every one of them is a `jax.tree_util.Partial`, a pytree whose leaves are the parameters. So programs compiled for one
member serve all members and every population of equal config and layout, and Predictors of many members are one
Predictor whose leaves have a leading member axis, to be vmapped over.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from icl_gd.models.config import TransformerConfig
from icl_gd.models.gram import apply_gram, read_gram
from icl_gd.models.query import has_query_form, read_query
from icl_gd.models.transformer import (
    Params,
    apply,
    apply_to_query,
    circuits,
    has_gram_form,
    prefix_residuals,
    read_out,
    weighted,
)
from icl_gd.problems import on_prefixes, on_problem
from icl_gd.types import Array, Circuits, Gram, Layout, Predictor, PrefixPredictor


@dataclass(frozen=True)
class _OfTokens:
    """The token form."""

    config: TransformerConfig
    layout: Layout

    @on_problem
    def __call__(self, params: Params, x: Array, y: Array, x_query: Array) -> Array:
        read = read_out(self.config, params, self.layout)
        return read(apply_to_query(self.config, params, self.layout.encode(x, y, x_query)))


@dataclass(frozen=True)
class _OfLayers(_OfTokens):
    """The token form, read out after every layer."""

    @on_problem
    def __call__(self, params: Params, x: Array, y: Array, x_query: Array) -> Array:
        residual = apply(self.config, params, self.layout.encode(x, y, x_query)).residual
        return jax.vmap(read_out(self.config, params, self.layout))(residual[:, -1])


@dataclass(frozen=True)
class _OfPrefixes(_OfTokens):
    """One pass of a causal model, read out at every x."""

    @on_prefixes
    def __call__(self, params: Params, x: Array, y: Array) -> Array:  # pyright: ignore[reportIncompatibleMethodOverride]
        residual = prefix_residuals(self.config, params, self.layout.encode(x[:-1], y[:-1], x[-1]))
        return jax.vmap(read_out(self.config, params, self.layout))(residual[self.layout.inputs])


class _Batched:
    """A form that takes a batch in trailing axes, at less cost than by `vmap`; without one it is of one problem."""

    layout: Layout

    @on_problem
    def __call__(self, params: Any, x: Array, y: Array, x_query: Array) -> Array:
        return self.many(params, x, y, x_query)

    def many(self, params: Any, x: Array, y: Array, x_query: Array) -> Array:
        """Of `x [n d *batch]`, `y [n m *batch]` and `x_query [d *batch]`, y_hat `[m *batch]`."""
        # Tokens of the context do not depend on the query: said here, or its gradient would pass through all of them.
        context = self.layout.encode(x, y, jax.lax.stop_gradient(x_query))[:-1]
        return self.read(params, context, self.layout.encode(x, y, x_query)[-1], y.shape[1])

    def read(self, params: Any, context: Array, query: Array, d_output: int) -> Array:
        raise NotImplementedError


@dataclass(frozen=True)
class _OfCircuits(_Batched):
    """The moment form, of circuits."""

    layout: Layout

    def read(self, params: Circuits, context: Array, query: Array, d_output: int) -> Array:
        return read_gram(params, Gram.of_first(len(context), context, query), d_output)


@dataclass(frozen=True)
class _OfGram(_Batched):
    """The moment form, of parameters."""

    config: TransformerConfig
    layout: Layout

    def read(self, params: Params, context: Array, query: Array, d_output: int) -> Array:
        return read_gram(circuits(self.config, params), Gram.of_first(len(context), context, query), d_output)


@dataclass(frozen=True)
class _OfQuery(_Batched):
    """The query form."""

    config: TransformerConfig
    layout: Layout

    def read(self, params: Params, context: Array, query: Array, d_output: int) -> Array:
        return read_query(self.config, params, jnp.concatenate([context, query[None]]), d_output)


@dataclass(frozen=True)
class _OfCircuitLayers:
    """The moment form, read out after every layer."""

    layout: Layout

    @on_problem
    def __call__(self, circuits: Circuits, x: Array, y: Array, x_query: Array) -> Array:
        queries, _ = apply_gram(circuits, Gram.of(self.layout.encode(x, y, x_query)))
        return jax.vmap(self.layout.read_out)(queries)


def predictor(config: TransformerConfig, params: Params, layout: Layout) -> Predictor:
    """The Transformer as a Predictor, token by token."""
    return Partial(_OfTokens(weighted(config), layout), params)


def layerwise_predictor(config: TransformerConfig, params: Params, layout: Layout) -> Predictor:
    """As `predictor`, read out after every layer: y_hat `[depth m]`, the first before any layer."""
    return Partial(_OfLayers(weighted(config), layout), params)


def prefix_predictor(config: TransformerConfig, params: Params, layout: Layout) -> PrefixPredictor:
    """A causal Transformer as a PrefixPredictor: one pass, read out at every x.

    Raises:
      ValueError: if tokens see what comes after them, or hold x and y together.
    """
    if not config.causal or layout.inputs is None:
        raise ValueError(
            "predictions at every x take a causal model, and a layout that holds x and y apart; "
            f"causal={config.causal}, tokens hold them {'together' if layout.inputs is None else 'apart'}"
        )
    return Partial(_OfPrefixes(weighted(config), layout), params)


def query_predictor(config: TransformerConfig, params: Params, layout: Layout) -> Predictor:
    """A one-layer Transformer as a Predictor, in the query form."""
    return Partial(_OfQuery(weighted(config), layout), params)


def circuit_predictor(circuits: Circuits, layout: Layout) -> Predictor:
    """A linear Transformer known by its circuits only, as a Predictor."""
    return Partial(_OfCircuits(layout), circuits)


def layerwise_circuit_predictor(circuits: Circuits, layout: Layout) -> Predictor:
    """As `circuit_predictor`, read out after every layer: y_hat `[depth m]`."""
    return Partial(_OfCircuitLayers(layout), circuits)


def fastest_predictor(config: TransformerConfig, params: Params, layout: Layout) -> Predictor:
    """The moment form where it is exact, the query form of other networks of one layer, otherwise the token form."""
    if has_gram_form(config):
        return Partial(_OfGram(weighted(config), layout), params)
    if has_query_form(config):
        return query_predictor(config, params, layout)
    return predictor(config, params, layout)
