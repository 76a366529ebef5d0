"""Circuits of one linear layer compared with the construction, and the paths by which the layer uses labels.

The metrics `share_...` are the four shares of `analysis.label_paths`: direct (gradient descent), exchanged, label-free
and label-squared.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, models, plots
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, needs, needs_linear_layers, needs_one_layer
from icl_gd.lab.evaluation.measured import GROUPS, Evaluation, Records
from icl_gd.types import Array, Circuits


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})
    needs_one_layer(experiment)
    needs_linear_layers(experiment)


def measure(evaluation: Evaluation, records: Records) -> None:
    """Measures distances to the construction modulo gauge, and records circuits of an untrapped and a trapped seed."""
    d, n, built = evaluation.task.d_input, evaluation.task.n_context, evaluation.reference.circuits

    def distance(c: Circuits) -> Array:
        return analysis.gauge_distance(c, built, d)

    def measures(c: Circuits) -> dict[str, Any]:
        rank = jnp.mean(jax.vmap(analysis.participation_ratio)(analysis.effective_preconditioner(c, d, n)))
        shares = {f"share_{name}": share for name, share in analysis.label_paths(c, d)._asdict().items()}
        matched = analysis.match_scale(c, built) if evaluation.trained.config.n_heads == 1 else None
        return {"distance": distance(c), "over_seeds": {"participation_ratio": rank, **shares}, "matched": matched}

    @jax.jit
    def measure_all(circuits: Circuits, untrained: Any) -> tuple[dict[str, Any], Array]:
        untrained_circuits = partial(models.circuits, evaluation.trained.config)
        return jax.vmap(measures)(circuits), jax.vmap(lambda params: distance(untrained_circuits(params)))(untrained)

    measured, at_start = jax.tree.map(np.asarray, measure_all(evaluation.circuits, evaluation.untrained))
    records.add("gauge_distance_gd", measured["distance"])
    records.add("gauge_distance_gd_untrained", at_start, over=GROUPS[:1])
    for name, values in measured["over_seeds"].items():
        records.add(name, values, over=GROUPS)
    records.arrays["d_input"] = d
    shown = {"construction": built}
    for name, members in (("trained", records.shown), ("trapped", records.trapped)):
        if len(members) and measured["matched"] is not None:
            shown[name] = jax.tree.map(lambda leaf, i=members[0]: leaf[i], measured["matched"])
    for name, circuits in shown.items():
        for circuit, value in circuits._asdict().items():
            records.arrays[f"{circuit}_{name}"] = np.asarray(value[0, 0], np.float64).tolist()


def _draw(done: Done) -> plots.Figure:
    shown = [name for name in ("construction", "trained") if f"W_KQ_{name}" in done["arrays"]]
    figure, axes = plots.subplots(2, len(shown), figsize=(plots.COLUMN * len(shown) / 1.3, 4.0), squeeze=False)
    for column, name in enumerate(shown):
        for row, circuit in enumerate(("W_KQ", "W_PV")):
            values = done["arrays"][f"{circuit}_{name}"]
            title = rf"$W_{{{circuit[2:]}}}$, {plots.ROLES[name][0]}"
            plots.matrix(axes[row, column], values, title, done["arrays"].get("d_input"))
    return figure


def _draw_trapped(done: Done) -> plots.Figure:
    figure, axes = plots.subplots(1, 2, figsize=(plots.PAGE * 0.75, 2.4))
    for ax, circuit in zip(axes, ("W_KQ", "W_PV"), strict=True):
        title = rf"$W_{{{circuit[2:]}}}$, a trapped seed"
        plots.matrix(ax, done["arrays"][f"{circuit}_trapped"], title, done["arrays"].get("d_input"))
    return figure


ANALYSIS = Analysis(
    "weights",
    measure,
    records=(
        "gauge_distance_gd",
        "gauge_distance_gd_untrained",
        "participation_ratio",
        *(f"share_{name}" for name in analysis.LabelPaths._fields),
    ),
    check=check,
    figures=(
        Picture(
            "weights",
            ("W_KQ_construction", "W_KQ_trained"),
            _draw,
            "QK circuit W_KQ (top) and OV circuit W_PV (bottom) of the construction (left) and of an untrapped seed "
            "(right), whose scale is matched to the construction. Lines separate the slots of x and y.",
            place=40,
        ),
        Picture(
            "trapped",
            ("W_KQ_trapped",),
            _draw_trapped,
            "QK circuit W_KQ and OV circuit W_PV of a trapped seed. For gradient descent the only entry of W_PV maps "
            "y to y, and W_KQ compares inputs x; the metrics share_..._trapped show which other path this seed uses. "
            "Lines separate the slots of x and y.",
            place=70,
        ),
    ),
    evidence=(Evidence("gauge_distance_gd", at_most=1e-4),),
)
