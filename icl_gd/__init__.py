"""icl_gd: find out which learning algorithm a Transformer runs inside its forward pass."""

from icl_gd import analysis, constructions, dual, interop, learners, models, tokens
from icl_gd.models import Model, TransformerConfig
from icl_gd.tasks import LinearRegression, SineRegression
from icl_gd.training import Population, TrainSettings, load, train
from icl_gd.types import Predictor, Prompt

__version__ = "0.1.0"

__all__ = [
    "LinearRegression",
    "Model",
    "Population",
    "Predictor",
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
    "tokens",
    "train",
]
