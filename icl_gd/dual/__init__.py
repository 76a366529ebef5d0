"""Dual models: linear models whose output after one gradient step is the output of an attention head."""

from icl_gd.dual import features
from icl_gd.dual.features import positive_features
from icl_gd.dual.kernel import Dual, Trajectory, attention_weights, mean_loss, prediction, self_influence, trajectory
from icl_gd.dual.layers import Block, block_of, dual_of

__all__ = [
    "Block",
    "Dual",
    "Trajectory",
    "attention_weights",
    "block_of",
    "dual_of",
    "features",
    "mean_loss",
    "positive_features",
    "prediction",
    "self_influence",
    "trajectory",
]
