"""Transformers as Predictors: pytrees whose leaves are the parameters.

Each Predictor of this module is a `jax.tree_util.Partial` of a hashable function and parameters. So a program that is
compiled for one member serves all members, and all populations with the same config and layout. To `vmap` over members,
stack their leaves along a leading axis.

A prediction can be computed in three forms:

    token form   computes every token in every layer; exact for all models
    query form   computes one layer for the query only; exact for most one-layer models (`models.query`)
    Gram form    computes layers from the second moment of the context; exact for linear layers (`models.gram`)

    >>> from icl_gd import models, tokens
    >>> config, layout = TransformerConfig(d_token=4, init_scale=1.0), tokens.concatenated(3, 1)
    >>> params = models.init(config, jax.random.key(0))
    >>> prompt = jnp.ones((5, 3)), jnp.ones((5, 1)), jnp.ones(3)
    >>> slow, fast = predictor(config, params, layout), fastest_predictor(config, params, layout)
    >>> bool(jnp.allclose(slow(*prompt), fast(*prompt), rtol=1e-4))
    True
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
    program_config,
    read_out,
)
from icl_gd.problems import on_prefixes, on_problem
from icl_gd.types import Array, Circuits, Gram, Layout, Predictor, PrefixPredictor


@dataclass(frozen=True)
class _TokenForm:
    """A Predictor in the token form."""

    config: TransformerConfig
    layout: Layout

    @on_problem
    def __call__(self, params: Params, x: Array, y: Array, x_query: Array) -> Array:
        read = read_out(self.config, params, self.layout)
        return read(apply_to_query(self.config, params, self.layout.encode(x, y, x_query)))


@dataclass(frozen=True)
class _LayerwiseTokenForm(_TokenForm):
    """The token form, with a prediction before the first layer and after every layer."""

    @on_problem
    def __call__(self, params: Params, x: Array, y: Array, x_query: Array) -> Array:
        residual = apply(self.config, params, self.layout.encode(x, y, x_query)).residual
        return jax.vmap(read_out(self.config, params, self.layout))(residual[:, -1])


@dataclass(frozen=True)
class _PrefixTokenForm(_TokenForm):
    """The token form of a causal model, with a prediction at every x."""

    @on_prefixes
    def __call__(self, params: Params, x: Array, y: Array) -> Array:  # pyright: ignore[reportIncompatibleMethodOverride]
        residual = prefix_residuals(self.config, params, self.layout.encode(x[:-1], y[:-1], x[-1]))
        return jax.vmap(read_out(self.config, params, self.layout))(residual[self.layout.inputs])


class _BatchedForm:
    """A form with a method for batches in trailing axes, `apply_batch`, which is cheaper than `vmap`."""

    layout: Layout

    @on_problem
    def __call__(self, params: Any, x: Array, y: Array, x_query: Array) -> Array:
        return self.apply_batch(params, x, y, x_query)

    def apply_batch(self, params: Any, x: Array, y: Array, x_query: Array) -> Array:
        """Predictions `[m *batch]` for a batch in trailing axes.

        Args:
          params: the parameters of the form.
          x: `[n d *batch]`.
          y: `[n m *batch]`.
          x_query: `[d *batch]`.
        """
        # The context tokens do not depend on the query. Without stop_gradient, the gradient with respect to the query
        # would still be computed through all of them.
        context = self.layout.encode(x, y, jax.lax.stop_gradient(x_query))[:-1]
        return self.read(params, context, self.layout.encode(x, y, x_query)[-1], y.shape[1])

    def read(self, params: Any, context: Array, query: Array, d_output: int) -> Array:
        """Predictions `[m *batch]` from tokens.

        Args:
          params: the parameters of the form.
          context: `[n e *batch]`, the tokens of the context.
          query: `[e *batch]`, the token of the query.
          d_output: width m of the prediction.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class _CircuitForm(_BatchedForm):
    """The Gram form, with circuits as parameters."""

    layout: Layout

    def read(self, params: Circuits, context: Array, query: Array, d_output: int) -> Array:
        return read_gram(params, Gram.of_first(len(context), context, query), d_output)


@dataclass(frozen=True)
class _GramForm(_BatchedForm):
    """The Gram form, with the parameters of a Transformer."""

    config: TransformerConfig
    layout: Layout

    def read(self, params: Params, context: Array, query: Array, d_output: int) -> Array:
        return read_gram(circuits(self.config, params), Gram.of_first(len(context), context, query), d_output)


@dataclass(frozen=True)
class _QueryForm(_BatchedForm):
    """A Predictor in the query form."""

    config: TransformerConfig
    layout: Layout

    def read(self, params: Params, context: Array, query: Array, d_output: int) -> Array:
        return read_query(self.config, params, jnp.concatenate([context, query[None]]), d_output)


@dataclass(frozen=True)
class _LayerwiseCircuitForm:
    """The Gram form of circuits, with a prediction before the first layer and after every layer."""

    layout: Layout

    @on_problem
    def __call__(self, circuits: Circuits, x: Array, y: Array, x_query: Array) -> Array:
        queries, _ = apply_gram(circuits, Gram.of(self.layout.encode(x, y, x_query)))
        return jax.vmap(self.layout.read_out)(queries)


def predictor(config: TransformerConfig, params: Params, layout: Layout) -> Predictor:
    """A Transformer as a Predictor, in the token form.

    Args:
      config: the architecture.
      params: parameters of one member.
      layout: how prompts are encoded as tokens and where the prediction is read.

    Returns:
      `(x [n d], y [n m], x_query [d]) -> y_hat [m]`.
    """
    return Partial(_TokenForm(program_config(config), layout), params)


def layerwise_predictor(config: TransformerConfig, params: Params, layout: Layout) -> Predictor:
    """A Transformer as a Predictor with one output before the first layer and one after every layer, in the token form.

    Args:
      config: the architecture.
      params: parameters of one member.
      layout: how prompts are encoded as tokens and where the prediction is read.

    Returns:
      `(x [n d], y [n m], x_query [d]) -> y_hat [depth m]`.
    """
    return Partial(_LayerwiseTokenForm(program_config(config), layout), params)


def prefix_predictor(config: TransformerConfig, params: Params, layout: Layout) -> PrefixPredictor:
    """A causal Transformer as a PrefixPredictor: one pass gives the predictions at every x.

    Args:
      config: the architecture, with `causal=True`.
      params: parameters of one member.
      layout: a layout with separate tokens for x and y.

    Returns:
      `(x [n d], y [n m]) -> y_hat [n m]`.

    Raises:
      ValueError: if the model is not causal, or x and y share a token in the layout.
    """
    if not config.causal or layout.inputs is None:
        tokens_of_layout = "share a token" if layout.inputs is None else "have separate tokens"
        raise ValueError(
            f"causal={config.causal}, and x and y {tokens_of_layout}: predictions at every x need causal=True and "
            "separate tokens for x and y; use a layout such as tokens.alternating"
        )
    return Partial(_PrefixTokenForm(program_config(config), layout), params)


def query_predictor(config: TransformerConfig, params: Params, layout: Layout) -> Predictor:
    """A one-layer Transformer as a Predictor, in the query form, which is exact if `has_query_form(config)`.

    Args:
      config: the architecture, with one layer.
      params: parameters of one member.
      layout: how prompts are encoded as tokens and where the prediction is read.

    Returns:
      `(x [n d], y [n m], x_query [d]) -> y_hat [m]`.
    """
    return Partial(_QueryForm(program_config(config), layout), params)


def circuit_predictor(circuits: Circuits, layout: Layout) -> Predictor:
    """A linear Transformer as a Predictor, computed from its QK and OV circuits only.

    Returns:
      `(x [n d], y [n m], x_query [d]) -> y_hat [m]`.
    """
    return Partial(_CircuitForm(layout), circuits)


def layerwise_circuit_predictor(circuits: Circuits, layout: Layout) -> Predictor:
    """Like `layerwise_predictor`, for a linear Transformer that is computed from its QK and OV circuits only.

    Returns:
      `(x [n d], y [n m], x_query [d]) -> y_hat [depth m]`.
    """
    return Partial(_LayerwiseCircuitForm(layout), circuits)


def fastest_predictor(config: TransformerConfig, params: Params, layout: Layout) -> Predictor:
    """A Transformer as a Predictor, in the fastest exact form.

    This is the Gram form if `has_gram_form(config)`, else the query form if `has_query_form(config)`, else the token
    form.

    Args:
      config: the architecture.
      params: parameters of one member.
      layout: how prompts are encoded as tokens and where the prediction is read.

    Returns:
      `(x [n d], y [n m], x_query [d]) -> y_hat [m]`.
    """
    if has_gram_form(config):
        return Partial(_GramForm(program_config(config), layout), params)
    if has_query_form(config):
        return query_predictor(config, params, layout)
    return predictor(config, params, layout)
