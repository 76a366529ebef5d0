"""Models: plain functions over plain parameter dicts; Flax stays inside this room."""

from icl_gd.models.moments import apply_moments, circuit_predictor, layerwise_circuit_predictor, moments_of
from icl_gd.models.transformer import (
    TransformerConfig,
    apply,
    circuits,
    init,
    layerwise_predictor,
    predictor,
)

__all__ = [
    "TransformerConfig",
    "apply",
    "apply_moments",
    "circuit_predictor",
    "circuits",
    "init",
    "layerwise_circuit_predictor",
    "layerwise_predictor",
    "moments_of",
    "predictor",
]
