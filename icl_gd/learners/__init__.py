"""Learners: the algorithms a Transformer is compared with, every one of them a Predictor."""

from icl_gd.learners.closed_form import (
    gaussian_optimum_matrix,
    gaussian_optimum_risk,
    one_step_risk,
    optimal_step_size,
)
from icl_gd.learners.deep_features import deep_gradient_descent, layerwise_deep_gradient_descent
from icl_gd.learners.exact import ols, ridge
from icl_gd.learners.iterative import (
    best_step_size,
    best_step_sizes,
    gradient_descent,
    gradient_descent_iterates,
    layerwise_gradient_descent,
    zero,
)

__all__ = [
    "best_step_size",
    "best_step_sizes",
    "deep_gradient_descent",
    "gaussian_optimum_matrix",
    "gaussian_optimum_risk",
    "gradient_descent",
    "gradient_descent_iterates",
    "layerwise_deep_gradient_descent",
    "layerwise_gradient_descent",
    "ols",
    "one_step_risk",
    "optimal_step_size",
    "ridge",
    "zero",
]
