"""Analyses: every comparison takes Predictors (or circuits) and is written once."""

from icl_gd.analysis.alignment import Alignment, alignment, alignment_map
from icl_gd.analysis.curvature import InputTransform, condition_numbers, context_spectrum, input_transform
from icl_gd.analysis.interpolation import interpolate
from icl_gd.analysis.risk import (
    MEMBERS_AT_ONCE,
    Interval,
    Risk,
    bootstrap_interval,
    losses,
    member_losses,
    over_members,
    risk,
    streamed_risks,
)
from icl_gd.analysis.rollout import roll_out
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
    "MEMBERS_AT_ONCE",
    "Alignment",
    "InputTransform",
    "Interval",
    "Risk",
    "Routes",
    "alignment",
    "alignment_map",
    "bootstrap_interval",
    "canonical_form",
    "condition_numbers",
    "context_spectrum",
    "effective_preconditioner",
    "gauge_distance",
    "input_transform",
    "interpolate",
    "losses",
    "match_scale",
    "member_losses",
    "over_members",
    "participation_ratio",
    "risk",
    "roll_out",
    "routes",
    "streamed_risks",
]
