"""Questions asked of a trained population, each a function that adds its records to `Found`."""

from collections.abc import Callable

from experiments.analyses.alignment import alignment
from experiments.analyses.depth import curvature, layer_map
from experiments.analyses.one_layer import interpolation, optimum, rollout, weights
from experiments.analyses.shifts import shifts
from experiments.study import Found, Study

ANALYSES: dict[str, Callable[[Study, Found], None]] = {
    "alignment": alignment,
    "weights": weights,
    "interpolation": interpolation,
    "shifts": shifts,
    "layer_map": layer_map,
    "curvature": curvature,
    "rollout": rollout,
    "optimum": optimum,
}
