"""Circuits of one linear layer beside those of the construction."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, models, plots
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, needs, needs_linear_layers, needs_one_layer
from icl_gd.lab.evaluation.measured import EVERY, Evaluation, Records
from icl_gd.types import Circuits


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})
    needs_one_layer(experiment)
    needs_linear_layers(experiment)


def measure(study: Evaluation, found: Records) -> None:
    """Distance to the construction modulo gauge, and the circuits of a free and of a trapped member."""
    d, n, built = study.task.d_input, study.task.n_context, study.reference.circuits
    distance = lambda c: analysis.gauge_distance(c, built, d)

    def of_member(c: Circuits) -> dict[str, Any]:
        rank = jnp.mean(jax.vmap(analysis.participation_ratio)(analysis.effective_preconditioner(c, d, n)))
        shares = {f"share_{name}": share for name, share in analysis.label_paths(c, d)._asdict().items()}
        matched = analysis.match_scale(c, built) if study.trained.config.n_heads == 1 else None
        return {"distance": distance(c), "over_seeds": {"participation_ratio": rank, **shares}, "matched": matched}

    untrained = lambda params: distance(models.circuits(study.trained.config, params))
    both = lambda circuits, params: (jax.vmap(of_member)(circuits), jax.vmap(untrained)(params))
    ours, at_start = jax.tree.map(np.asarray, jax.jit(both)(study.circuits, study.untrained))
    found.add("gauge_distance_gd", ours["distance"])
    found.add("gauge_distance_gd_untrained", at_start, over=EVERY[:1])
    for name, values in ours["over_seeds"].items():
        found.add(name, values, over=EVERY)
    found.arrays["d_input"] = d
    shown = {"construction": built}
    for name, members in (("trained", found.shown), ("trapped", found.trapped)):
        if len(members) and ours["matched"] is not None:
            shown[name] = jax.tree.map(lambda leaf, i=members[0]: leaf[i], ours["matched"])
    for name, circuits in shown.items():
        for circuit, value in circuits._asdict().items():
            found.arrays[f"{circuit}_{name}"] = np.asarray(value[0, 0], np.float64).tolist()


def _draw(done: Done) -> plots.Figure:
    rows = [name for name in ("construction", "trained") if f"W_KQ_{name}" in done["arrays"]]
    figure, axes = plots.subplots(2, len(rows), figsize=(plots.COLUMN * len(rows) / 1.3, 4.0), squeeze=False)
    for column, name in enumerate(rows):
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
            "The circuits of the construction and of a free seed, the scale between them matched.",
            place=40,
        ),
        Picture(
            "trapped",
            ("W_KQ_trapped",),
            _draw_trapped,
            "The circuits of a trapped seed. Gradient descent has one entry in W_PV, from y to y, and reads x "
            "with W_KQ; the metrics share_..._trapped say which other way its weights went.",
            place=70,
        ),
    ),
    evidence=(Evidence("gauge_distance_gd", at_most=1e-4),),
)
