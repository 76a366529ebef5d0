"""Questions asked of a trained population."""

from collections.abc import Callable, Sequence
from typing import Any

from icl_gd.lab.evaluation.analyses.alignment import alignment, standardised_tokens
from icl_gd.lab.evaluation.analyses.copying import copying, watch_copying
from icl_gd.lab.evaluation.analyses.depth import by_steps, curvature, layer_map
from icl_gd.lab.evaluation.analyses.finite_data import pool
from icl_gd.lab.evaluation.analyses.one_layer import interpolation, optimum, rollout, weights
from icl_gd.lab.evaluation.analyses.real_table import table
from icl_gd.lab.evaluation.analyses.shifts import shifts
from icl_gd.lab.evaluation.analyses.softmax import softmax
from icl_gd.lab.evaluation.analyses.tails import tails
from icl_gd.lab.evaluation.question import Evidence, Question
from icl_gd.models import TransformerConfig
from icl_gd.types import Array, Layout, Prompt

ANALYSES: dict[str, Question] = {
    "alignment": Question(
        alignment,
        evidence=(
            Evidence("sensitivity_cosine_gd", at_least=0.9999),
            Evidence("sensitivity_difference_gd", at_most=1e-4),
            Evidence("prediction_difference_gd", at_most=1e-4),
        ),
    ),
    "standardised_tokens": Question(standardised_tokens),
    "weights": Question(weights, evidence=(Evidence("gauge_distance_gd", at_most=1e-4),)),
    "interpolation": Question(interpolation, evidence=(Evidence("interpolation_ratio", at_most=1.0001),)),
    "shifts": Question(
        shifts,
        evidence=(
            Evidence("input_scale_deviation", at_most=1e-3),
            Evidence("corrupted_labels_deviation", at_most=1e-3),
        ),
    ),
    "layer_map": Question(layer_map, evidence=(Evidence("map_diagonal_gd_plus_plus", at_least=0.9999),)),
    "curvature": Question(curvature, evidence=(Evidence("condition_number_deviation", at_most=1e-3),)),
    "by_steps": Question(by_steps, identities={"construction_error_float64": 1e-12}),
    "rollout": Question(rollout, evidence=(Evidence("rollout_ratio", at_most=1.0001),)),
    "optimum": Question(optimum, evidence=(Evidence("preconditioner_error", at_most=1e-4),)),
    "copying": Question(
        copying,
        watch_copying,
        evidence=(Evidence("following_token_score", at_least=0.99),),
        identities={"copying_construction_error": 1e-9},
    ),
    "softmax": Question(softmax),
    "pool": Question(pool),
    "table": Question(
        table,
        evidence=(
            Evidence("sensitivity_cosine_gd_table", at_least=0.9999),
            Evidence("prediction_difference_gd_table", at_most=1e-4),
        ),
    ),
    "tails": Question(tails, evidence=(Evidence("loss_bounded_ratio_gd_plus_plus", at_most=1.0001),)),
}

Watch = Callable[[Any], dict[str, Array]]  # one member's parameters to metrics


def watched(analyses: Sequence[str], model: TransformerConfig, layout: Layout, prompts: Prompt) -> Watch:
    """What all of the analyses measure during training, as one function."""
    asked = [watch for name in analyses if (watch := ANALYSES[name].watch) is not None]
    watches = [watch(model, layout, prompts) for watch in asked]
    return lambda params: {name: value for watch in watches for name, value in watch(params).items()}
