"""Analyses: every comparison takes Predictors (or circuits) and is written once."""

from icl_gd.analysis.alignment import Alignment, alignment, alignment_map
from icl_gd.analysis.copying import (
    DerivativeNorms,
    NeighbourScores,
    derivative_norms,
    derivatives,
    induction_score,
    neighbour_scores,
)
from icl_gd.analysis.curvature import (
    InputTransform,
    condition_numbers,
    context_spectrum,
    input_transform,
    spectral_filter,
)
from icl_gd.analysis.interpolation import interpolate
from icl_gd.analysis.risk import (
    CHUNK,
    MEMBERS_AT_ONCE,
    Interval,
    Risk,
    Tail,
    bootstrap_interval,
    losses,
    member_losses,
    over_members,
    risk,
    sampled_losses,
    streamed_risks,
    tail,
)
from icl_gd.analysis.rollout import roll_out
from icl_gd.analysis.softmax import anisotropy, first_order, mean_share, without_common
from icl_gd.analysis.weights import (
    Routes,
    canonical_form,
    effective_preconditioner,
    gauge_distance,
    match_scale,
    participation_ratio,
    routes,
)

__all__ = [
    "CHUNK",
    "MEMBERS_AT_ONCE",
    "Alignment",
    "DerivativeNorms",
    "InputTransform",
    "Interval",
    "NeighbourScores",
    "Risk",
    "Routes",
    "Tail",
    "alignment",
    "alignment_map",
    "anisotropy",
    "bootstrap_interval",
    "canonical_form",
    "condition_numbers",
    "context_spectrum",
    "derivative_norms",
    "derivatives",
    "effective_preconditioner",
    "first_order",
    "gauge_distance",
    "induction_score",
    "input_transform",
    "interpolate",
    "losses",
    "match_scale",
    "mean_share",
    "member_losses",
    "neighbour_scores",
    "over_members",
    "participation_ratio",
    "risk",
    "roll_out",
    "routes",
    "sampled_losses",
    "spectral_filter",
    "streamed_risks",
    "tail",
    "without_common",
]
