"""Deep networks, layer by layer: beside the steps of learners, and what becomes of the inputs' covariance."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.results import curve
from experiments.study import Found, Study
from icl_gd import analysis, models
from icl_gd.analysis import Alignment
from icl_gd.models import TransformerConfig
from icl_gd.types import Array, Predictor, Prompt

MAP_PROMPTS = 2048
DEGREE = 3  # of the polynomial that is fitted beside I - gamma S


def layer_map(study: Study, found: Found) -> None:
    """Alignment of every layer to every step of every learner, of all members, and where each layer's peaks."""
    prompts = jax.tree.map(lambda leaf: leaf[:MAP_PROMPTS], study.prompts)
    config, layout = study.trained.config, study.trained.layout
    predictor_of = lambda params: models.layerwise_predictor(config, params, layout)
    for name in study.reference.rates:
        learner = study.reference.layerwise(name)
        of = partial(_map_of, predictor_of, learner, prompts)
        maps = jax.tree.map(np.asarray, jax.jit(partial(analysis.over_members, of))(study.trained.params))
        cosine = maps.sensitivity_cosine[:, 1:, 1:]  # [member layer step]
        own = np.arange(cosine.shape[1])
        found.add(f"map_peaks_{name}", np.mean(cosine.argmax(-1) == own, axis=-1))
        found.add(f"map_diagonal_{name}", cosine[:, own, own[: cosine.shape[2]]].min(-1))
        for measure, values in maps._asdict().items():
            found.arrays[f"map_{measure}_{name}"] = values[found.shown, 1:, 1:].mean(0).tolist()


def _map_of(predictor_of: Callable[[Any], Predictor], learner: Predictor, prompts: Prompt, params: Any) -> Alignment:
    return analysis.alignment_map(predictor_of(params), learner, prompts)


def curvature(study: Study, found: Found) -> None:
    """The context's condition number after every layer, and what a layer makes of inputs, beside the construction's."""
    prompts = jax.tree.map(lambda leaf: leaf[:MAP_PROMPTS], study.prompts)
    d, rank = study.task.d_input, min(study.task.d_input, study.task.n_context)
    of = lambda config, params: _of_inputs(study, config, params, prompts, rank)
    ours = jax.lax.map(partial(of, study.trained.config), study.trained.params)
    theirs = of(study.reference.config, study.reference.params)
    ours, theirs = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (ours, theirs))

    n_layers = study.trained.config.n_layers
    median, reference = ours["condition"], theirs["condition"]  # [member depth], [depth]
    read = slice(1, n_layers)  # what the last layer leaves of the inputs is not read
    found.add("condition_number_falls", np.all(np.diff(median[:, :n_layers], axis=1) < 0, axis=1))
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
    found.arrays["input_coefficients"] = ours["coefficients"][found.shown].mean(0).tolist()


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
