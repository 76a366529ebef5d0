"""Analyses: every comparison takes Predictors (or circuits) and is written once."""

from icl_gd.analysis.alignment import Alignment, alignment
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
    "MEMBERS_AT_ONCE",
    "Alignment",
    "Interval",
    "Risk",
    "Routes",
    "alignment",
    "anisotropy",
    "bootstrap_interval",
    "canonical_form",
    "effective_preconditioner",
    "first_order",
    "gauge_distance",
    "interpolate",
    "losses",
    "match_scale",
    "mean_share",
    "member_losses",
    "over_members",
    "participation_ratio",
    "risk",
    "roll_out",
    "routes",
    "streamed_risks",
    "without_common",
]
