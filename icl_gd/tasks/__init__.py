"""Tasks: each turns a key into one Prompt. Key first, one key one draw; the caller vmaps."""

from icl_gd.tasks.linear import FAMILIES, LinearRegression
from icl_gd.tasks.nonlinear import SineRegression
from icl_gd.tasks.shifts import SHIFTS, Shift, change_family, scale_inputs, scale_weights

__all__ = [
    "FAMILIES",
    "SHIFTS",
    "LinearRegression",
    "Shift",
    "SineRegression",
    "change_family",
    "scale_inputs",
    "scale_weights",
]
