"""Training: a population of Transformers in one compiled program, with checkpoints, resume and loading.

`train` returns a `Population`, whose members are Predictors; `load` reads one from the checkpoints of a run.
"""

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
