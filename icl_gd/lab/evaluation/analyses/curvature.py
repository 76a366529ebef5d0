"""The covariance S of the context inputs after every layer, compared with that of GD++."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, learners, models, plots
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, needs, needs_step_a_layer, unfit
from icl_gd.lab.evaluation.comparing import ALIGNED, LEARNERS
from icl_gd.lab.evaluation.measured import Evaluation, Records, take
from icl_gd.lab.reporting.results import curve
from icl_gd.models import TransformerConfig
from icl_gd.types import Array, Predictor, Prompt

PROMPTS = 2048
BINS = 24  # bins of eigenvalues, with equally many eigenvalues in each
DEGREE = 3  # a polynomial in S of this degree is fitted too, as an alternative to I - gamma S


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})
    if experiment["model.n_layers"] == 1:
        unfit(experiment, "model.n_layers", "needs several layers")
    needs_step_a_layer(experiment)
    needs(experiment, **{"model.layout": "concatenated"})
    if experiment.get("model.d_embed") is not None:
        unfit(experiment, "model.d_embed", "needs None, because an embedding mixes the slots of x and y")


def measure(evaluation: Evaluation, records: Records) -> None:
    """Measures the condition number of S after every layer, and fits each layer's transform of the inputs."""
    prompts = take(evaluation.prompts, PROMPTS)
    d, rank = evaluation.task.d_input, min(evaluation.task.d_input, evaluation.task.n_context)

    def input_spectra(config: TransformerConfig, params: Any) -> dict[str, Array]:
        return _input_spectra(evaluation, config, params, prompts, rank)

    @jax.jit
    def both(params: Any, constructed_params: Any) -> tuple[dict[str, Array], dict[str, Array]]:
        trained = jax.lax.map(partial(input_spectra, evaluation.trained.config), params)
        return trained, input_spectra(evaluation.reference.config, constructed_params)

    measured = both(evaluation.trained.params, evaluation.reference.params)
    members, constructed = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), measured)

    n_layers = evaluation.trained.config.n_layers
    median, reference = members["condition"], constructed["condition"]  # [member depth], [depth]
    read = slice(1, n_layers)  # after the last layer, the inputs are not used
    records.add("condition_number_falls", np.all(np.diff(median[:, :n_layers], axis=1) < 0, axis=1))
    with np.errstate(invalid="ignore"):  # 0 / 0 if there is one eigenvalue, because log(1) = 0
        ratio = np.abs(np.log(median[:, read]) / np.log(reference[read]) - 1)
    records.add("condition_number_deviation", ratio.max(1))
    records.add("input_transform_explained", members["explained"][:, : n_layers - 1].min(1))
    records.add("input_polynomial_explained", members["polynomial_explained"][:, : n_layers - 1].min(1))
    for layer in range(n_layers - 1):
        records.add(f"gamma_layer_{layer + 1}", members["gamma"][:, layer])
    layers = list(range(n_layers + 1))
    for role, values in (("trained", median[records.shown].T), ("construction", reference)):
        records.curves[f"condition_number_by_layer_{role}"] = curve(layers, values)
    ranks = list(range(1, d + 1))
    for role, values in (
        ("trained", members["spectrum"][records.shown].mean(0)),
        ("construction", constructed["spectrum"]),
    ):
        for layer in range(n_layers):
            records.curves[f"spectrum_{role}_layer_{layer}"] = curve(ranks, values[layer, ::-1])
    _filters(evaluation, records, prompts)
    records.arrays["input_coefficients"] = members["coefficients"][records.shown].mean(0).tolist()


def _filters(evaluation: Evaluation, records: Records, prompts: Prompt) -> None:
    """Adds the share of the error that remains along eigenvectors of the context covariance, by eigenvalue."""
    x = np.asarray(prompts.x, np.float64)
    eigenvalues = np.linalg.eigvalsh(x.swapaxes(1, 2) @ x / x.shape[1])
    # With fewer examples than dimensions, these eigenvalues are zero; computed values are rounding errors.
    eigenvalues[:, : max(x.shape[2] - x.shape[1], 0)] = 0.0
    edges = np.unique(np.quantile(eigenvalues, np.linspace(0, 1, BINS + 1)))
    bins = np.clip(np.searchsorted(edges, eigenvalues, side="right") - 1, 0, len(edges) - 2)
    middle = [float(np.median(eigenvalues[bins == i])) for i in range(len(edges) - 1)]

    def filter_of(predictor: Predictor) -> Array:
        return analysis.spectral_filter(predictor, prompts, jnp.asarray(edges, prompts.x.dtype))

    @jax.jit
    def member_filters(params: Any) -> Array:
        return jax.lax.map(lambda member: filter_of(evaluation.trained.predictor(member)), params)

    @jax.jit
    def learner_filters() -> dict[str, Array]:
        return evaluation.reference.over_learners(lambda learner: filter_of(learners.final_iterate(learner)))

    trained = np.asarray(member_filters(evaluation.trained.params))
    records.curves["residual_factor_trained"] = curve(middle, 1 - trained[records.shown].T)
    for name, values in learner_filters().items():
        records.curves[f"residual_factor_{name}"] = curve(middle, 1 - np.asarray(values))


def _input_spectra(
    evaluation: Evaluation, config: TransformerConfig, params: Any, prompts: Prompt, rank: int
) -> dict[str, Array]:
    """Medians over prompts of the spectra and condition numbers of one network, and fits of its input transform."""
    d, layout = evaluation.task.d_input, evaluation.trained.layout

    def residual(x: Array, y: Array, x_query: Array) -> Array:
        return models.apply(config, params, layout.encode(x, y, x_query)).residual

    residuals = jax.vmap(residual)(prompts.x, prompts.y, prompts.x_query)
    spectra = jax.vmap(partial(analysis.context_spectrum, d_input=d))(residuals)
    fit = analysis.input_transform(residuals, d)
    polynomial = analysis.input_transform(residuals, d, DEGREE, identity=False)
    return {
        "spectrum": jnp.median(spectra, axis=0),
        "condition": jnp.median(analysis.condition_numbers(spectra, rank), axis=0),
        "gamma": fit.gamma,
        "explained": fit.explained,
        "coefficients": polynomial.coefficients,
        "polynomial_explained": polynomial.explained,
    }


def _constructed(done: Done) -> str:
    """The label of the constructed learner.

    Results of earlier versions do not name this learner. For these, it is the learner whose loss is closest to that of
    the construction.
    """
    if (name := done["arrays"].get("constructed")) is not None:
        return plots.role_of(name)[0]
    metrics = done["metrics"]
    differences = {
        name: abs(metrics[f"loss_{name}"]["mean"] - metrics["loss_construction"]["mean"])
        for name in LEARNERS[2:]
        if (metrics.get(f"loss_{name}") or {}).get("mean") is not None
    }
    return plots.ROLES[min(differences, key=differences.__getitem__)][0]


def _draw(done: Done) -> plots.Figure:
    figure, axes = plots.subplots(1, 3, figsize=(plots.PAGE, 2.9), width_ratios=(1, 1.1, 1.1))
    curves, built = done["curves"], _constructed(done)
    for role in ("construction", "trained"):
        plots.line(
            axes[0],
            curves[f"condition_number_by_layer_{role}"],
            role,
            marker="o",
            label=built if role == "construction" else None,
        )
    axes[0].set(xlabel="after layer", ylabel="median condition number of $S$", yscale="log")
    axes[0].set_xticks(curves["condition_number_by_layer_trained"]["x"])
    axes[0].legend()
    layers = [key for key in curves if key.startswith("spectrum_trained_layer_")]
    for key, shade in zip(layers, plots.shades(len(layers)), strict=True):
        other = curves[key.replace("trained", "construction")]
        axes[1].plot(curves[key]["x"], curves[key]["mean"], color=shade, label=key.rsplit("_", 1)[1])
        axes[1].plot(other["x"], other["mean"], "o", color=shade, markersize=2.5, markerfacecolor="none")
    axes[1].xaxis.get_major_locator().set_params(integer=True)
    axes[1].set(xlabel="rank of the eigenvalue", ylabel="median eigenvalue of $S$", yscale="log")
    axes[1].legend(
        title="after layer (circles: GD++)",
        title_fontsize=7,
        loc="lower center",
        ncols=5,
        bbox_to_anchor=(0.5, 1.0),
        handlelength=0.9,
        columnspacing=0.8,
        handletextpad=0.4,
    )
    for role in ("trained", *ALIGNED):
        if (curve := curves.get(f"residual_factor_{role}")) is not None:
            plots.line(axes[2], curve, role)
    axes[2].axhline(0, color="black", linewidth=0.4)
    axes[2].set(xlabel="eigenvalue of $S$ before layer 1", ylabel="remaining share of the error", ylim=(-0.75, 1.02))
    axes[2].set_xscale("log")  # this omits zero eigenvalues, directions that the context does not determine
    handles, labels = axes[2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


ANALYSIS = Analysis(
    "curvature",
    measure,
    records=(
        "condition_number_falls",
        "condition_number_deviation",
        "input_transform_explained",
        "input_polynomial_explained",
        "gamma_layer_*",
        "condition_number_by_layer_trained",
        "condition_number_by_layer_construction",
        "spectrum_trained_layer_*",
        "spectrum_construction_layer_*",
        "residual_factor_*",
    ),
    check=check,
    figures=(
        Picture(
            "curvature",
            ("condition_number_by_layer_trained",),
            _draw,
            "Left and middle: condition number and eigenvalues of the covariance S of the context's inputs after "
            "each layer, for trained networks (lines) and constructed GD++. Right: share of the error that remains "
            "along eigenvectors of S, by eigenvalue. GD++ flattens the spectrum of S. Later steps can then "
            "reduce the error along small eigenvalues, where plain gradient descent leaves it.",
            place=150,
        ),
    ),
    evidence=(Evidence("condition_number_deviation", at_most=1e-3),),
)
