"""Questions asked of a trained population, each a function that adds its records to `Found`."""

from collections.abc import Callable, Sequence
from typing import Any

from experiments.analyses.alignment import alignment, standardised_tokens
from experiments.analyses.copying import copying, watch_copying
from experiments.analyses.depth import by_steps, curvature, layer_map
from experiments.analyses.finite_data import pool
from experiments.analyses.one_layer import interpolation, optimum, rollout, weights
from experiments.analyses.real_table import table
from experiments.analyses.shifts import shifts
from experiments.analyses.softmax import softmax
from experiments.analyses.tails import tails
from experiments.study import Found, Study
from icl_gd.models import TransformerConfig
from icl_gd.types import Array, Layout, Prompt

ANALYSES: dict[str, Callable[[Study, Found], None]] = {
    "alignment": alignment,
    "standardised_tokens": standardised_tokens,
    "weights": weights,
    "interpolation": interpolation,
    "shifts": shifts,
    "layer_map": layer_map,
    "curvature": curvature,
    "by_steps": by_steps,
    "rollout": rollout,
    "optimum": optimum,
    "copying": copying,
    "softmax": softmax,
    "pool": pool,
    "table": table,
    "tails": tails,
}

Watch = Callable[[Any], dict[str, Array]]  # one member's parameters to metrics
# What an analysis measures during training: a function of the model, its layout and the curves' prompts.
WATCHED: dict[str, Callable[[TransformerConfig, Layout, Prompt], Watch]] = {"copying": watch_copying}


def watched(analyses: Sequence[str], model: TransformerConfig, layout: Layout, prompts: Prompt) -> Watch:
    """What all of the analyses measure during training, as one function."""
    watches = [WATCHED[name](model, layout, prompts) for name in analyses if name in WATCHED]
    return lambda params: {name: value for watch in watches for name, value in watch(params).items()}
