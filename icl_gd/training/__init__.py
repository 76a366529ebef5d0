"""Training: populations in one program, checkpoints, and the bridge to Predictors."""

from icl_gd.training.curriculum import Curriculum, Ramp
from icl_gd.training.in_context import Population, initialise, load, train
from icl_gd.training.population import Interrupted, TrainSettings

__all__ = [
    "Curriculum",
    "Interrupted",
    "Population",
    "Ramp",
    "TrainSettings",
    "initialise",
    "load",
    "train",
]
