"""icl_gd finds out which learning algorithm a Transformer runs in context, inside its forward pass.

`import icl_gd` does not import the experiment runner, `icl_gd.lab`.
"""

from icl_gd import (
    analysis,
    constructions,
    dual,
    interop,
    learners,
    models,
    plots,
    schema,
    tasks,
    tokens,
    training,
    types,
)
from icl_gd.models import Model, TransformerConfig
from icl_gd.tasks import LinearRegression, SineRegression
from icl_gd.training import Population, TrainSettings, load, train
from icl_gd.types import Predictor, PrefixPredictor, PrefixPrompt, Prompt

__version__ = "0.1.0"

__all__ = [
    "LinearRegression",
    "Model",
    "Population",
    "Predictor",
    "PrefixPredictor",
    "PrefixPrompt",
    "Prompt",
    "SineRegression",
    "TrainSettings",
    "TransformerConfig",
    "analysis",
    "constructions",
    "dual",
    "interop",
    "learners",
    "load",
    "models",
    "plots",
    "schema",
    "tasks",
    "tokens",
    "train",
    "training",
    "types",
]
