"""Losses of gradient descent and GD++ over the number of steps, and the error of constructed GD++."""

from typing import Any

import jax
import numpy as np

from icl_gd import constructions, learners, models, plots
from icl_gd.lab.config.questions import Analysis, Done, Picture, needs
from icl_gd.lab.evaluation.measured import Evaluation, Records, construction_error, noise_to_weight
from icl_gd.lab.reporting.results import curve
from icl_gd.tasks import LinearRegression
from icl_gd.tokens import concatenated

STEPS = range(1, 11)  # numbers of steps of the learners


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})


def measure(evaluation: Evaluation, records: Records) -> None:
    """Measures losses of learners with the best rates for each number of steps, and the error of constructed GD++."""
    task = evaluation.task
    x = np.asarray(evaluation.prompts.x)
    moment = np.einsum("pni,pnj->ij", x, x, dtype=np.float64) / (x.shape[0] * x.shape[1])
    spectrum = learners.Spectrum.of(x, moment, noise_to_weight(task))
    risks: dict[str, list[float]] = {"gd": [], "gd_free_steps": [], "gd_plus_plus": []}
    scale = task.d_output * float(task.weight_scale) ** 2
    steps, risk = evaluation.subsample(STEPS), jax.jit(learners.spectral_risk)
    for k in steps:
        rates = {
            "gd": (learners.fit_step_sizes(spectrum, k),),
            "gd_free_steps": (learners.fit_step_sizes(spectrum, k, free=True),),
            "gd_plus_plus": learners.fit_gd_plus_plus(spectrum, k),
        }
        for name, arguments in rates.items():
            risks[name].append(scale * float(risk(spectrum, *arguments)))
    for name, values in risks.items():
        records.curves[f"loss_by_steps_{name}"] = curve(steps, values)
    errors = [_built_error(k, 1 + k % 3, task.n_context) for k in steps]
    records.add_one("construction_error_float64", max(errors), 0.0)


def _built_error(k: int, m: int, n: int, d: int = 4) -> float:
    """Largest difference between constructed weights and GD++ with k steps, divided by the largest prediction of GD++.

    Both have random rates, and are computed in float64 on prompts of n examples with d inputs and m outputs.
    """
    with jax.enable_x64(True):
        task = LinearRegression(d, m, n, input_scale=2.0)
        prompts = jax.jit(lambda key: jax.vmap(task.sample)(jax.random.split(key, 64)))(jax.random.key(k))
        rates = np.random.default_rng(k).uniform(0.2, 1.0, (2, k))
        config = constructions.gradient_descent_config(d, m, k)
        params = constructions.gd_plus_plus_weights(config, d, n, *rates)
        built = models.predictor(config, params, concatenated(d, m))
        return construction_error(built, learners.gd_plus_plus(*rates), prompts)


def _draw(done: Done) -> plots.Figure:
    figure, ax = plots.subplots(figsize=(plots.COLUMN, 3.1))
    for name in ("gd", "gd_free_steps", "gd_plus_plus"):
        plots.line(ax, done["curves"][f"loss_by_steps_{name}"], name, marker="o")
    layers, trained = done["arrays"]["n_layers"], done["metrics"]["loss_trained"]
    plots.points(
        ax, {"x": [layers], **plots.curve_of_metric(trained)}, "trained", marker="s", size=6.0, label="trained layers"
    )
    ax.set(xlabel="number of steps or layers", ylabel="loss", yscale="log")
    figure.legend(loc="outside lower center")
    return figure


ANALYSIS = Analysis(
    "by_steps",
    measure,
    records=(
        "loss_by_steps_gd",
        "loss_by_steps_gd_free_steps",
        "loss_by_steps_gd_plus_plus",
        "construction_error_float64",
    ),
    check=check,
    figures=(
        Picture(
            "by_steps",
            ("loss_by_steps_gd",),
            _draw,
            "Loss of gradient descent and of variants of GD++ over the number of steps, each with its best rates. The "
            "square is the loss of the trained layers: mean and range over seeds.",
            place=130,
        ),
    ),
    identities={"construction_error_float64": 1e-12},
)
