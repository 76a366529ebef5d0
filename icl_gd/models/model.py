"""A Transformer with its parameters and layout, in one callable object.

>>> import jax, jax.numpy as jnp
>>> from icl_gd import models, tokens
>>> config = TransformerConfig(d_token=4)
>>> model = Model(config, models.init(config, jax.random.key(0)), tokens.concatenated(3, 1))
>>> model(jnp.ones((5, 3)), jnp.ones((5, 1)), jnp.ones(3)).shape
(1,)
"""

from dataclasses import dataclass

from icl_gd.models.config import TransformerConfig
from icl_gd.models.predictors import fastest_predictor, layerwise_predictor, prefix_predictor
from icl_gd.models.transformer import Params
from icl_gd.problems import on_prefixes, on_problem
from icl_gd.types import Array, Layout, Predictor, PrefixPredictor


@dataclass(frozen=True, eq=False)
class Model:
    """One Transformer, callable as a Predictor: `model(x [n d], y [n m], x_query [d]) -> y_hat [m]`.

    Attributes:
      config: the architecture.
      params: the parameters of one member; `population[i]` gives the model of member i.
      layout: how a prompt is encoded as tokens and where the prediction is read.
    """

    config: TransformerConfig
    params: Params
    layout: Layout

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

    @on_problem
    def layerwise(self, x: Array, y: Array, x_query: Array) -> Array:
        """Predicts the label of the query from the residual before the first layer and after every layer.

        Args:
          x: inputs `[n d]`.
          y: labels `[n m]`.
          x_query: query `[d]`.

        Returns:
          y_hat `[depth m]`.
        """
        return layerwise_predictor(self.config, self.params, self.layout)(x, y, x_query)

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
        """The Predictor of this model, a pytree whose leaves are the parameters."""
        return fastest_predictor(self.config, self.params, self.layout)

    @property
    def prefix_predictor(self) -> PrefixPredictor:
        """The PrefixPredictor of this causal model, a pytree whose leaves are the parameters."""
        return prefix_predictor(self.config, self.params, self.layout)
