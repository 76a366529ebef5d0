"""What becomes of the inputs' covariance, layer by layer, beside GD++."""

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
from icl_gd.types import Array, Prompt

PROMPTS = 2048
BINS = 24  # of eigenvalues, equally full
DEGREE = 3  # of the polynomial that is fitted beside I - gamma S


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})
    if experiment["model.n_layers"] == 1:
        unfit(experiment, "model.n_layers", "needs several layers")
    needs_step_a_layer(experiment)
    needs(experiment, **{"model.layout": "concatenated"})
    if experiment.get("model.d_embed") is not None:  # inputs are where the layout put them
        unfit(experiment, "model.d_embed", "needs tokens as they are, without an embedding; None")


def measure(study: Evaluation, found: Records) -> None:
    """The context's condition number after every layer, and what a layer makes of inputs, beside the construction's."""
    prompts = take(study.prompts, PROMPTS)
    d, rank = study.task.d_input, min(study.task.d_input, study.task.n_context)
    of = lambda config, params: _of_inputs(study, config, params, prompts, rank)
    both = lambda ours, theirs: (
        jax.lax.map(partial(of, study.trained.config), ours),
        of(study.reference.config, theirs),
    )
    measured = jax.jit(both)(study.trained.params, study.reference.params)
    ours, theirs = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), measured)

    n_layers = study.trained.config.n_layers
    median, reference = ours["condition"], theirs["condition"]  # [member depth], [depth]
    read = slice(1, n_layers)  # what the last layer leaves of the inputs is not read
    found.add("condition_number_falls", np.all(np.diff(median[:, :n_layers], axis=1) < 0, axis=1))
    with np.errstate(invalid="ignore"):  # one eigenvalue has no condition
        ratio = np.abs(np.log(median[:, read]) / np.log(reference[read]) - 1)
    found.add("condition_number_deviation", ratio.max(1))
    found.add("input_transform_explained", ours["explained"][:, : n_layers - 1].min(1))
    found.add("input_polynomial_explained", ours["polynomial_explained"][:, : n_layers - 1].min(1))
    for layer in range(n_layers - 1):
        found.add(f"gamma_layer_{layer + 1}", ours["gamma"][:, layer])
    layers = list(range(n_layers + 1))
    for role, values in (("trained", median[found.shown].T), ("construction", reference)):
        found.curves[f"condition_number_by_layer_{role}"] = curve(layers, values)
    ranks = list(range(1, d + 1))
    for role, values in (("trained", ours["spectrum"][found.shown].mean(0)), ("construction", theirs["spectrum"])):
        for layer in range(n_layers):
            found.curves[f"spectrum_{role}_layer_{layer}"] = curve(ranks, values[layer, ::-1])
    _filters(study, found, prompts)
    found.arrays["input_coefficients"] = ours["coefficients"][found.shown].mean(0).tolist()


def _filters(study: Evaluation, found: Records, prompts: Prompt) -> None:
    """What is left of the error along eigenvectors of the context's covariance, by eigenvalue."""
    x = np.asarray(prompts.x, np.float64)
    eigenvalues = np.linalg.eigvalsh(x.swapaxes(1, 2) @ x / x.shape[1])
    eigenvalues[:, : max(x.shape[2] - x.shape[1], 0)] = 0.0  # but for rounding: fewer examples than dimensions
    edges = np.unique(np.quantile(eigenvalues, np.linspace(0, 1, BINS + 1)))
    bins = np.clip(np.searchsorted(edges, eigenvalues, side="right") - 1, 0, len(edges) - 2)
    middle = [float(np.median(eigenvalues[bins == i])) for i in range(len(edges) - 1)]
    of = lambda predictor: analysis.spectral_filter(predictor, prompts, jnp.asarray(edges, prompts.x.dtype))
    ours = lambda params: jax.lax.map(lambda params: of(study.trained.predictor(params)), params)
    theirs = lambda: study.reference.over_learners(lambda learner: of(learners.final_iterate(learner)))
    trained = np.asarray(jax.jit(ours)(study.trained.params))
    found.curves["residual_factor_trained"] = curve(middle, 1 - trained[found.shown].T)
    for name, values in jax.jit(theirs)().items():
        found.curves[f"residual_factor_{name}"] = curve(middle, 1 - np.asarray(values))


def _of_inputs(
    study: Evaluation, config: TransformerConfig, params: Any, prompts: Prompt, rank: int
) -> dict[str, Array]:
    """Of one network: medians over prompts of spectrum and condition number, and fits of the inputs' transform."""
    d, layout = study.task.d_input, study.trained.layout
    run = lambda x, y, x_query: models.apply(config, params, layout.encode(x, y, x_query)).residual
    residuals = jax.vmap(run)(prompts.x, prompts.y, prompts.x_query)
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
    """Which kind of GD++ is built; where results of earlier versions do not say, that of the construction's loss."""
    if (name := done["arrays"].get("constructed")) is not None:
        return plots.role_of(name)[0]
    metrics = done["metrics"]
    apart = {
        name: abs(metrics[f"loss_{name}"]["mean"] - metrics["loss_construction"]["mean"])
        for name in LEARNERS[2:]
        if (metrics.get(f"loss_{name}") or {}).get("mean") is not None
    }
    return plots.ROLES[min(apart, key=apart.__getitem__)][0]


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
    axes[0].set(xlabel="layers", ylabel="median condition number of $S$", yscale="log")
    axes[0].set_xticks(curves["condition_number_by_layer_trained"]["x"])
    axes[0].legend()
    layers = [key for key in curves if key.startswith("spectrum_trained_layer_")]
    for key, shade in zip(layers, plots.shades(len(layers)), strict=True):
        other = curves[key.replace("trained", "construction")]
        axes[1].plot(curves[key]["x"], curves[key]["mean"], color=shade, label=key.rsplit("_", 1)[1])
        axes[1].plot(other["x"], other["mean"], "o", color=shade, markersize=2.5, markerfacecolor="none")
    axes[1].xaxis.get_major_locator().set_params(integer=True)
    axes[1].set(xlabel="rank", ylabel="median eigenvalue of $S$", yscale="log")
    axes[1].legend(
        title="after so many layers (circles: GD++)",
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
    axes[2].set(xlabel="eigenvalue of $S$ at the start", ylabel="share of the error left", ylim=(-0.75, 1.02))
    axes[2].set_xscale("log")  # where it is zero nothing is known, and nothing is drawn
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
            "Left and middle: the covariance S of the context's inputs after each layer, trained and GD++. "
            "Right: what is left of the error along eigenvectors of S. GD++ flattens the spectrum, so that later "
            "steps may be long enough for small eigenvalues too, which gradient descent leaves.",
            place=150,
        ),
    ),
    evidence=(Evidence("condition_number_deviation", at_most=1e-3),),
)
