"""Functions that draw arrays on Matplotlib Axes, in the colours and line styles of `ROLES`."""

from icl_gd.plots.curves import (
    ARROWS,
    curve_of_metric,
    frame_losses,
    grouped_points,
    horizontal_line,
    inverse_square_root,
    line,
    log_where_it_spikes,
    points,
    seed_values,
    shade_untrained_lengths,
)
from icl_gd.plots.filters import misfits_by_scale, spectral_filters
from icl_gd.plots.inside import curve_of_members, lens, probes, shares
from icl_gd.plots.maps import attention_patterns, layer_step_map, matrix, site_map, symmetry_map, token_names
from icl_gd.plots.roles import COLUMN, PAGE, ROLES, STYLE, Axes, Figure, role_of, shades, style, subplots

__all__ = [
    "ARROWS",
    "COLUMN",
    "PAGE",
    "ROLES",
    "STYLE",
    "Axes",
    "Figure",
    "attention_patterns",
    "curve_of_members",
    "curve_of_metric",
    "frame_losses",
    "grouped_points",
    "horizontal_line",
    "inverse_square_root",
    "layer_step_map",
    "lens",
    "line",
    "log_where_it_spikes",
    "matrix",
    "misfits_by_scale",
    "points",
    "probes",
    "role_of",
    "seed_values",
    "shade_untrained_lengths",
    "shades",
    "shares",
    "site_map",
    "spectral_filters",
    "style",
    "subplots",
    "symmetry_map",
    "token_names",
]
