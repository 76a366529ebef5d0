"""Constructions: hand-built weights with which a Transformer computes the predictions of a known learner."""

from icl_gd.constructions.built import copying_model, gd_plus_plus_model, gradient_descent_model
from icl_gd.constructions.copying import copying_config, copying_weights
from icl_gd.constructions.gd_plus_plus import gd_plus_plus_weights
from icl_gd.constructions.gradient_descent import gradient_descent_config, gradient_descent_weights

__all__ = [
    "copying_config",
    "copying_model",
    "copying_weights",
    "gd_plus_plus_model",
    "gd_plus_plus_weights",
    "gradient_descent_config",
    "gradient_descent_model",
    "gradient_descent_weights",
]
