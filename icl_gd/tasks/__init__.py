"""Tasks: each turns a key into one Prompt. Key first, one key one draw; the caller vmaps."""

from icl_gd.tasks.linear import FAMILIES, LinearRegression
from icl_gd.tasks.nonlinear import SineRegression
from icl_gd.tasks.pools import FinitePool
from icl_gd.tasks.shifts import (
    SHIFTS,
    Shift,
    change_context,
    change_family,
    corrupt_labels,
    scale_inputs,
    scale_weights,
)
from icl_gd.tasks.tables import Table, standardised

__all__ = [
    "FAMILIES",
    "SHIFTS",
    "FinitePool",
    "LinearRegression",
    "Shift",
    "SineRegression",
    "Table",
    "change_context",
    "change_family",
    "corrupt_labels",
    "scale_inputs",
    "scale_weights",
    "standardised",
]
