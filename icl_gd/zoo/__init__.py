"""The zoo: small trained models, and the constructions they are compared with, to look into without training."""

from icl_gd.zoo.cards import Card, Estimate, ReferenceLearner
from icl_gd.zoo.library import card, load, load_model, names, task

__all__ = ["Card", "Estimate", "ReferenceLearner", "card", "load", "load_model", "names", "task"]
