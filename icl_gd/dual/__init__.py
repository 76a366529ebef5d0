"""Dual models: learners whose one step of gradient descent is what an attention head computes."""

from icl_gd.dual import features
from icl_gd.dual.features import positive_features
from icl_gd.dual.kernel import Dual, Process, mean_loss, own_pull, prediction, process, pull
from icl_gd.dual.layers import Block, block_of, dual_of

__all__ = [
    "Block",
    "Dual",
    "Process",
    "block_of",
    "dual_of",
    "features",
    "mean_loss",
    "own_pull",
    "positive_features",
    "prediction",
    "process",
    "pull",
]
