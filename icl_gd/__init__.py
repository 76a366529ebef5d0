"""icl_gd finds out which learning algorithm a Transformer runs in context, inside its forward pass.

`import icl_gd` does not import the experiment runner, `icl_gd.lab`.
"""

from icl_gd import (
    analysis,
    constructions,
    dual,
    identification,
    interop,
    learners,
    models,
    plots,
    schema,
    tasks,
    tokens,
    training,
    types,
    zoo,
)
from icl_gd.identification import Verdict, identify
from icl_gd.models import Activations, Model, TransformerConfig
from icl_gd.tasks import LinearRegression, SineRegression
from icl_gd.training import Population, TrainSettings, load, train
from icl_gd.types import Predictor, PrefixPredictor, PrefixPrompt, Prompt
from icl_gd.zoo import load_model

__version__ = "0.1.0"

__all__ = [
    "Activations",
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
    "Verdict",
    "analysis",
    "constructions",
    "dual",
    "identification",
    "identify",
    "interop",
    "learners",
    "load",
    "load_model",
    "models",
    "plots",
    "schema",
    "tasks",
    "tokens",
    "train",
    "training",
    "types",
    "zoo",
]
