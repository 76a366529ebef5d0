"""Models: plain functions over plain parameter dicts; Flax stays inside this room."""

from icl_gd.models.moments import apply_moments, circuit_predictor, layerwise_circuit_predictor, read_moments
from icl_gd.models.transformer import (
    TransformerConfig,
    apply,
    apply_to_query,
    circuits,
    has_moment_form,
    init,
    layerwise_predictor,
    predictor,
)

__all__ = [
    "TransformerConfig",
    "apply",
    "apply_moments",
    "apply_to_query",
    "circuit_predictor",
    "circuits",
    "has_moment_form",
    "init",
    "layerwise_circuit_predictor",
    "layerwise_predictor",
    "predictor",
    "read_moments",
]
