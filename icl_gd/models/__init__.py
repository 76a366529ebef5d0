"""Transformers as functions of a config, a dict of parameters, and tokens. No other package imports Flax."""

from icl_gd.models import edits, sites
from icl_gd.models.activations import Activations
from icl_gd.models.config import TransformerConfig
from icl_gd.models.gpt2 import gpt2_config
from icl_gd.models.gram import apply_gram, read_gram
from icl_gd.models.model import Model, load_model
from icl_gd.models.modifications import Modification
from icl_gd.models.predictors import (
    circuit_predictor,
    fastest_predictor,
    layerwise_circuit_predictor,
    layerwise_predictor,
    predictor,
    prefix_predictor,
    query_predictor,
)
from icl_gd.models.query import has_query_form, read_query
from icl_gd.models.transformer import (
    apply,
    apply_to_query,
    circuits,
    embed,
    features,
    has_gram_form,
    init,
    program_config,
    read_out,
    shapes,
    softmax_share,
)

__all__ = [
    "Activations",
    "Model",
    "Modification",
    "TransformerConfig",
    "apply",
    "apply_gram",
    "apply_to_query",
    "circuit_predictor",
    "circuits",
    "edits",
    "embed",
    "fastest_predictor",
    "features",
    "gpt2_config",
    "has_gram_form",
    "has_query_form",
    "init",
    "layerwise_circuit_predictor",
    "layerwise_predictor",
    "load_model",
    "predictor",
    "prefix_predictor",
    "program_config",
    "query_predictor",
    "read_gram",
    "read_out",
    "read_query",
    "shapes",
    "sites",
    "softmax_share",
]
