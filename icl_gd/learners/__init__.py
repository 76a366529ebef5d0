"""Learners: the algorithms that a Transformer is compared with.

A learner has one of three types. A `Predictor` predicts one query from one context. A `PrefixPredictor` predicts every
input of a prompt from the examples before it. A `HostPredictor` wraps a model of another library.
"""

from icl_gd.learners.closed_form import (
    gaussian_optimum_matrix,
    gaussian_optimum_risk,
    one_step_risk,
    optimal_step_size,
)
from icl_gd.learners.conjugate import conjugate_gradient, layerwise_conjugate_gradient
from icl_gd.learners.deep_features import deep_gradient_descent, layerwise_deep_gradient_descent
from icl_gd.learners.exact import least_squares, ols, ridge
from icl_gd.learners.fit_on_prompts import fit_gd_plus_plus_on
from icl_gd.learners.host import HostPredictor, boosted_trees, greedy_tree, host_predictions
from icl_gd.learners.iterative import (
    averaging,
    final_iterate,
    fit_step_size,
    gd_plus_plus,
    gradient_descent,
    gradient_descent_iterates,
    layerwise_gd_plus_plus,
    layerwise_gradient_descent,
    predict_zero,
)
from icl_gd.learners.kernels import kernel_regression, kernel_ridge
from icl_gd.learners.lasso import lasso, prefix_lasso, prefix_lasso_path
from icl_gd.learners.momentum import layerwise_momentum, momentum
from icl_gd.learners.nearest import nearest_neighbours
from icl_gd.learners.network import prefix_two_layer_network, two_layer_network
from icl_gd.learners.newton import layerwise_newton_schulz, newton_schulz
from icl_gd.learners.pool import bayes_pool, prefix_bayes_pool
from icl_gd.learners.precondition import (
    fit_preconditioner,
    layerwise_preconditioned_gradient_descent,
    preconditioned_gradient_descent,
)
from icl_gd.learners.prefix import (
    prefix_averaging,
    prefix_least_squares,
    prefix_nearest_neighbours,
    prefix_ridge,
)
from icl_gd.learners.spectral import (
    GDPlusPlusRates,
    Spectrum,
    fit_gd_plus_plus,
    fit_step_sizes,
    input_factors,
    residual_factors,
    spectral_risk,
    tied_step_size,
)
from icl_gd.learners.transformed import centre, centred, standardise, standardised

__all__ = [
    "GDPlusPlusRates",
    "HostPredictor",
    "Spectrum",
    "averaging",
    "bayes_pool",
    "boosted_trees",
    "centre",
    "centred",
    "conjugate_gradient",
    "deep_gradient_descent",
    "final_iterate",
    "fit_gd_plus_plus",
    "fit_gd_plus_plus_on",
    "fit_preconditioner",
    "fit_step_size",
    "fit_step_sizes",
    "gaussian_optimum_matrix",
    "gaussian_optimum_risk",
    "gd_plus_plus",
    "gradient_descent",
    "gradient_descent_iterates",
    "greedy_tree",
    "host_predictions",
    "input_factors",
    "kernel_regression",
    "kernel_ridge",
    "lasso",
    "layerwise_conjugate_gradient",
    "layerwise_deep_gradient_descent",
    "layerwise_gd_plus_plus",
    "layerwise_gradient_descent",
    "layerwise_momentum",
    "layerwise_newton_schulz",
    "layerwise_preconditioned_gradient_descent",
    "least_squares",
    "momentum",
    "nearest_neighbours",
    "newton_schulz",
    "ols",
    "one_step_risk",
    "optimal_step_size",
    "preconditioned_gradient_descent",
    "predict_zero",
    "prefix_averaging",
    "prefix_bayes_pool",
    "prefix_lasso",
    "prefix_lasso_path",
    "prefix_least_squares",
    "prefix_nearest_neighbours",
    "prefix_ridge",
    "prefix_two_layer_network",
    "residual_factors",
    "ridge",
    "spectral_risk",
    "standardise",
    "standardised",
    "tied_step_size",
    "two_layer_network",
]
