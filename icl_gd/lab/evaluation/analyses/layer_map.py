"""Every layer of a deep network beside every step of learners."""

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


def measure(study: Evaluation, found: Records) -> None:
    """Alignment of every layer to every step of every learner, of all members, and where each layer's peaks."""
    prompts = take(study.prompts, PROMPTS)
    config, layout = study.trained.config, study.trained.layout

    def maps_of(params: Any, prompts: Prompt) -> dict[str, analysis.Alignment]:
        theirs = study.reference.over_learners(lambda learner: analysis.response(learner, prompts))

        def compare(member: Any) -> dict[str, analysis.Alignment]:
            ours = analysis.response(models.layerwise_predictor(config, member, layout), prompts)
            return {name: analysis.compare_layers(ours, of_learner) for name, of_learner in theirs.items()}

        return analysis.over_members(compare, params)

    measured = jax.jit(maps_of)(study.trained.params, prompts)
    for name, maps in jax.tree.map(np.asarray, measured).items():
        cosine = maps.sensitivity_cosine[:, 1:, 1:]  # [member layer step]
        own = np.arange(cosine.shape[1])
        found.add(f"map_peaks_{name}", np.mean(cosine.argmax(-1) == own, axis=-1))
        found.add(f"map_diagonal_{name}", cosine[:, own, own[: cosine.shape[2]]].min(-1))
        for measure, values in maps._asdict().items():
            found.arrays[f"map_{measure}_{name}"] = values[found.shown, 1:, 1:].mean(0).tolist()


def _draw(done: Done) -> plots.Figure:
    rates = done["arrays"]["rates"]["gd_plus_plus_published"]
    shared = all(len(set(of_layers)) == 1 for of_layers in rates)  # one pair for all layers, as their weights are
    names = ("gd", "gd_plus_plus_published", "gd_plus_plus" if shared else "gd_plus_plus_free_steps")
    figure, axes = plots.subplots(2, 3, figsize=(plots.PAGE, 4.2), sharex=True, sharey=True)
    for column, name in enumerate(names):
        for row, measure in enumerate(("sensitivity_cosine", "prediction_difference")):
            maps = [done["arrays"][f"map_{measure}_{other}"] for other in names]
            title = plots.ROLES[name][0] if row == 0 else ""
            distance = measure == "prediction_difference"
            limits = float(np.min(maps)), float(np.max(maps)) if distance else 1.0
            plots.heat(axes[row, column], maps[column], title, limits, distance)
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
            "What is predicted after each trained layer beside each step of a learner, mean over free seeds. An "
            "algorithm that is run one step a layer has the best of each row on the diagonal. Bright is alike, "
            "in both rows; colours of differences are those of their logarithms.",
            place=120,
        ),
    ),
    evidence=(Evidence("map_diagonal_gd_plus_plus", at_least=0.9999),),
)
