"""Questions asked of a trained population, each a function that adds its records to `Found`."""

from collections.abc import Callable

from experiments.analyses.alignment import alignment
from experiments.analyses.finite_data import pool
from experiments.analyses.one_layer import interpolation, optimum, rollout, weights
from experiments.analyses.real_table import table
from experiments.analyses.shifts import shifts
from experiments.analyses.softmax import softmax
from experiments.study import Found, Study

ANALYSES: dict[str, Callable[[Study, Found], None]] = {
    "alignment": alignment,
    "weights": weights,
    "interpolation": interpolation,
    "shifts": shifts,
    "rollout": rollout,
    "optimum": optimum,
    "softmax": softmax,
    "pool": pool,
    "table": table,
}
