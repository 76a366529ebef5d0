"""Models: plain functions over plain parameter dicts; Flax stays inside this room."""

from icl_gd.models.moments import (
    apply_moments,
    circuit_predictor,
    layerwise_circuit_predictor,
    read_moments,
    read_tokens,
)
from icl_gd.models.transformer import (
    TransformerConfig,
    acts_through_circuits,
    apply,
    circuits,
    embed,
    has_moment_form,
    init,
    layerwise_predictor,
    predictor,
)

__all__ = [
    "TransformerConfig",
    "acts_through_circuits",
    "apply",
    "apply_moments",
    "circuit_predictor",
    "circuits",
    "embed",
    "has_moment_form",
    "init",
    "layerwise_circuit_predictor",
    "layerwise_predictor",
    "predictor",
    "read_moments",
    "read_tokens",
]
