"""Alignment of every layer of a deep network to every step of the learners."""

from typing import Any

import jax
import numpy as np

from icl_gd import analysis, models, plots
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, needs, needs_step_a_layer, unfit
from icl_gd.lab.evaluation.measured import Evaluation, Records, take
from icl_gd.types import Prompt

PROMPTS = 2048


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})
    if experiment["model.n_layers"] == 1:
        unfit(experiment, "model.n_layers", "needs several layers")
    needs_step_a_layer(experiment)
    needs(experiment, **{"model.layout": "concatenated"})


def measure(evaluation: Evaluation, records: Records) -> None:
    """Measures every layer's alignment to every step of every learner, and the step at which it is largest."""
    prompts = take(evaluation.prompts, PROMPTS)
    config, layout = evaluation.trained.config, evaluation.trained.layout

    def maps_of(params: Any, prompts: Prompt) -> dict[str, analysis.Alignment]:
        responses = evaluation.reference.over_learners(lambda learner: analysis.response(learner, prompts))

        def compare(member: Any) -> dict[str, analysis.Alignment]:
            by_layer = analysis.response(models.layerwise_predictor(config, member, layout), prompts)
            return {name: analysis.compare_layers(by_layer, by_step) for name, by_step in responses.items()}

        return analysis.over_members(compare, params)

    measured = jax.jit(maps_of)(evaluation.trained.params, prompts)
    for name, maps in jax.tree.map(np.asarray, measured).items():
        cosine = maps.sensitivity_cosine[:, 1:, 1:]  # [member layer step]
        layers = np.arange(cosine.shape[1])
        records.add(f"map_peaks_{name}", np.mean(cosine.argmax(-1) == layers, axis=-1))
        records.add(f"map_diagonal_{name}", cosine[:, layers, layers[: cosine.shape[2]]].min(-1))
        for measure, values in maps._asdict().items():
            records.arrays[f"map_{measure}_{name}"] = values[records.shown, 1:, 1:].mean(0).tolist()


def _draw(done: Done) -> plots.Figure:
    rates = done["arrays"]["rates"]["gd_plus_plus_published"]
    shared = all(len(set(by_layer)) == 1 for by_layer in rates)  # if so, the layers share weights
    names = ("gd", "gd_plus_plus_published", "gd_plus_plus" if shared else "gd_plus_plus_free_steps")
    figure, axes = plots.subplots(2, 3, figsize=(plots.PAGE, 4.2), sharex=True, sharey=True)
    for column, name in enumerate(names):
        for row, measure in enumerate(("sensitivity_cosine", "prediction_difference")):
            maps = [done["arrays"][f"map_{measure}_{other}"] for other in names]
            title = plots.ROLES[name][0] if row == 0 else ""
            distance = measure == "prediction_difference"
            limits = float(np.min(maps)), float(np.max(maps)) if distance else 1.0
            plots.layer_step_map(axes[row, column], maps[column], title, limits, distance)
        axes[1, column].set_xlabel("step of the learner")
    axes[0, 0].set_ylabel("trained layer\n(sensitivity cosine)")
    axes[1, 0].set_ylabel("trained layer\n(prediction difference)")
    return figure


ANALYSIS = Analysis(
    "layer_map",
    measure,
    records=("map_peaks_*", "map_diagonal_*"),
    check=check,
    figures=(
        Picture(
            "layer_map",
            ("map_sensitivity_cosine_gd_plus_plus",),
            _draw,
            "Similarity of the prediction after each trained layer (rows) to each step of a learner (columns): means "
            "over untrapped seeds. Top: cosine between the input sensitivities (derivatives with respect to the "
            "query). Bottom: difference between predictions, on a log colour scale. Brighter is more similar; if layer "
            "l implements step l, each row peaks on the diagonal.",
            place=120,
        ),
    ),
    evidence=(Evidence("map_diagonal_gd_plus_plus", at_least=0.9999),),
)
