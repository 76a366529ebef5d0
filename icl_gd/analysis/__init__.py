"""Analyses: every comparison takes Predictors (or circuits) and is written once."""

from icl_gd.analysis.alignment import Alignment, alignment
from icl_gd.analysis.interpolation import interpolate
from icl_gd.analysis.risk import Interval, Risk, bootstrap_interval, losses, member_losses, risk, streamed_risks
from icl_gd.analysis.rollout import roll_out
from icl_gd.analysis.weights import (
    Routes,
    canonical_form,
    effective_preconditioner,
    effective_rank,
    gauge_distance,
    match_scale,
    routes,
)

__all__ = [
    "Alignment",
    "Interval",
    "Risk",
    "Routes",
    "alignment",
    "bootstrap_interval",
    "canonical_form",
    "effective_preconditioner",
    "effective_rank",
    "gauge_distance",
    "interpolate",
    "losses",
    "match_scale",
    "member_losses",
    "risk",
    "roll_out",
    "routes",
    "streamed_risks",
]
