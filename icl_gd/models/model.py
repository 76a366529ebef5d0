"""A Transformer with its parameters: all that is needed to predict with it."""

from dataclasses import dataclass

from icl_gd.models.config import TransformerConfig
from icl_gd.models.predictors import fastest_predictor, layerwise_predictor, prefix_predictor
from icl_gd.models.transformer import Params
from icl_gd.problems import on_prefixes, on_problem
from icl_gd.types import Array, Layout, Predictor, PrefixPredictor


@dataclass(frozen=True, eq=False)
class Model:
    """One Transformer, callable as the Predictor that it is: `model(x [n d], y [n m], x_query [d]) -> y_hat [m]`.

    Attributes:
      params: of one member; `population[i]` gives the model of member i.
      layout: how a problem becomes its tokens, and how its prediction is read from them.
    """

    config: TransformerConfig
    params: Params
    layout: Layout

    @on_problem
    def __call__(self, x: Array, y: Array, x_query: Array) -> Array:
        """The prediction of one problem, in the fastest form that is exact."""
        return self.predictor(x, y, x_query)

    @on_problem
    def layerwise(self, x: Array, y: Array, x_query: Array) -> Array:
        """What is predicted before the first and after every layer: y_hat `[depth m]`."""
        return layerwise_predictor(self.config, self.params, self.layout)(x, y, x_query)

    @on_prefixes
    def prefix(self, x: Array, y: Array) -> Array:
        """What a causal model predicts of every input from the examples before it: y_hat `[n m]`.

        Raises:
          ValueError: if tokens see what comes after them, or hold x and y together.
        """
        return self.prefix_predictor(x, y)

    @property
    def predictor(self) -> Predictor:
        """This model as a pytree whose leaves are the parameters, as compiled programs take it."""
        return fastest_predictor(self.config, self.params, self.layout)

    @property
    def prefix_predictor(self) -> PrefixPredictor:
        return prefix_predictor(self.config, self.params, self.layout)
