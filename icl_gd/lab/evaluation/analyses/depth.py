"""Deep networks, layer by layer: beside the steps of learners, and what becomes of the inputs' covariance."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, constructions, learners, models
from icl_gd.lab.evaluation.study import Found, Study, construction_error, first, noise_to_weight
from icl_gd.lab.reporting.results import curve
from icl_gd.models import TransformerConfig
from icl_gd.tasks import LinearRegression
from icl_gd.tokens import concatenated
from icl_gd.types import Array, Prompt

MAP_PROMPTS = 2048
STEPS = range(1, 11)  # of learners
BINS = 24  # of eigenvalues, equally full
DEGREE = 3  # of the polynomial that is fitted beside I - gamma S


def layer_map(study: Study, found: Found) -> None:
    """Alignment of every layer to every step of every learner, of all members, and where each layer's peaks."""
    prompts = first(study.prompts, MAP_PROMPTS)
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


def curvature(study: Study, found: Found) -> None:
    """The context's condition number after every layer, and what a layer makes of inputs, beside the construction's."""
    prompts = first(study.prompts, MAP_PROMPTS)
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


def _filters(study: Study, found: Found, prompts: Prompt) -> None:
    """What is left of the error along eigenvectors of the context's covariance, by eigenvalue."""
    x = np.asarray(prompts.x, np.float64)
    eigenvalues = np.linalg.eigvalsh(x.swapaxes(1, 2) @ x / x.shape[1])
    eigenvalues[:, : max(x.shape[2] - x.shape[1], 0)] = 0.0  # but for rounding: fewer examples than dimensions
    edges = np.unique(np.quantile(eigenvalues, np.linspace(0, 1, BINS + 1)))
    bins = np.clip(np.searchsorted(edges, eigenvalues, side="right") - 1, 0, len(edges) - 2)
    middle = [float(np.median(eigenvalues[bins == i])) for i in range(len(edges) - 1)]
    of = lambda predictor: analysis.spectral_filter(predictor, prompts, jnp.asarray(edges, prompts.x.dtype))
    ours = lambda params: jax.lax.map(lambda params: of(study.trained.predictor(params)), params)
    theirs = lambda: study.reference.over_learners(lambda learner: of(learners.last(learner)))
    trained = np.asarray(jax.jit(ours)(study.trained.params))
    found.curves["residual_factor_trained"] = curve(middle, 1 - trained[found.shown].T)
    for name, values in jax.jit(theirs)().items():
        found.curves[f"residual_factor_{name}"] = curve(middle, 1 - np.asarray(values))


def _of_inputs(study: Study, config: TransformerConfig, params: Any, prompts: Prompt, rank: int) -> dict[str, Array]:
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


def by_steps(study: Study, found: Found) -> None:
    """What more steps give gradient descent and GD++, at their best rates; and that GD++ is built for any number."""
    task = study.task
    x = np.asarray(study.prompts.x)
    moment = np.einsum("pni,pnj->ij", x, x, dtype=np.float64) / (x.shape[0] * x.shape[1])
    spectrum = learners.Spectrum.of(x, moment, noise_to_weight(task))
    risks: dict[str, list[float]] = {"gd": [], "gd_free_steps": [], "gd_plus_plus": []}
    scale = task.d_output * float(task.weight_scale) ** 2
    steps, risk = study.few(STEPS), jax.jit(learners.spectral_risk)
    for k in steps:
        rates = {
            "gd": (learners.best_step_sizes(spectrum, k),),
            "gd_free_steps": (learners.best_step_sizes(spectrum, k, free=True),),
            "gd_plus_plus": learners.best_gd_plus_plus(spectrum, k),
        }
        for name, its in rates.items():
            risks[name].append(scale * float(risk(spectrum, *its)))
    for name, values in risks.items():
        found.curves[f"loss_by_steps_{name}"] = curve(steps, values)
    errors = [_built_error(k, 1 + k % 3, task.n_context) for k in steps]
    found.add_one("construction_error_float64", max(errors), 0.0)


def _built_error(k: int, m: int, n: int, d: int = 4) -> float:
    """Largest difference of GD++ built and computed, in float64, over its largest prediction."""
    with jax.enable_x64(True):
        task = LinearRegression(d, m, n, input_scale=2.0)
        prompts = jax.jit(lambda key: jax.vmap(task.sample)(jax.random.split(key, 64)))(jax.random.key(k))
        rates = np.random.default_rng(k).uniform(0.2, 1.0, (2, k))
        config = constructions.gradient_descent_config(d, m, k)
        params = constructions.gd_plus_plus_weights(config, d, n, *rates)
        built = models.predictor(config, params, concatenated(d, m))
        return construction_error(built, learners.gd_plus_plus(*rates), prompts)
