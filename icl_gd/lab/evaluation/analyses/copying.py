"""Separate tokens: does the first layer copy neighbours together, when, and how exactly a layer built for it does."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, constructions, learners, models, tokens
from icl_gd.lab.evaluation.study import EVERY, Found, Study, first, largest_error
from icl_gd.lab.reporting.results import curve
from icl_gd.models import TransformerConfig
from icl_gd.types import Array, Layout, Prompt

FEW = 1024  # prompts that derivatives and patterns are averaged over: a Jacobian each
D_POSITIONS = 10  # of the places' codes in the construction, as published
NEAR = 1.04  # times the loss of the reference
CLEAR = 2.0  # times the norm for the others
SCALES = (1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 40.0, 48.0, 56.0, 64.0, 80.0, 96.0)


def watch_copying(model: TransformerConfig, layout: Layout, prompts: Prompt) -> Callable[[Any], dict[str, Array]]:
    """What is measured of one member's parameters during training and after it.

    `derivative_TO`: norms of the derivative of the first layer's outputs, as published and, `..._per_prompt`, prompt by
    prompt. `SCORE`: the first layer's reading of neighbours, and the last layer's of the example the query repeats, of
    the head that does it most.
    """
    few = first(prompts, FEW)
    encoded = jax.vmap(layout.encode)(few.x, few.y, few.x_query)
    content = few.x.shape[-1]

    def watch(params: Any) -> dict[str, Array]:
        layer_1 = lambda one: models.apply(model, params, one).residual[1]
        patterns = lambda one: models.apply(model, params, one).pattern
        found = jax.vmap(lambda one: analysis.derivatives(layer_1, one, content))(encoded)
        norms = {
            f"derivative_{to}{ending}": norm
            for ending, faithful in (("", True), ("_per_prompt", False))
            for to, norm in analysis.derivative_norms(found, faithful)._asdict().items()
        }
        scores = jax.vmap(lambda one: analysis.neighbour_scores(patterns(one)[0]))(encoded)
        induction = jax.vmap(partial(analysis.induction_score, patterns, layout))(few)[:, -1]
        by_head = {f"{name}_token_score": score for name, score in scores._asdict().items()}
        by_head["induction_score"] = induction
        return norms | {name: jnp.max(jnp.mean(score, axis=0)) for name, score in by_head.items()}

    return watch


def copying(study: Study, found: Found) -> None:
    """When copying begins and when the loss falls, what the first layers read, and the construction's error."""
    for watched, ending, over in ((study.watched, "", EVERY[:2]), (study.watched_untrained, "_untrained", EVERY[:1])):
        for name, values in watched.items():
            if name.startswith("derivative_") or name.endswith("_score"):
                found.add(f"{name}{ending}", values, over=over)
    ratios = found.measured["loss_ratio_gd"].values
    found.add_one("seeds_near_gd", np.sum(ratios <= NEAR), 0.0)
    if study.history:
        _moments(study, found)
    _coordinates(study, found)
    _patterns(study, found)
    _construction_error(study, found)


def _moments(study: Study, found: Found) -> None:
    """The steps at which copying starts and is clear, and at which the loss is halfway down, of every member."""
    names = ("loss_trained", *(f"derivative_{to}" for to in analysis.DerivativeNorms._fields))
    tables = {name: _table(study.history[name]) for name in names}
    steps, losses = tables["loss_trained"]
    following, others = (tables[f"derivative_{to}"][1] for to in ("following", "others"))
    plateau = float(analysis.losses(learners.zero, study.prompts).mean())
    halfway = lasting_from(steps, losses < 0.5 * (plateau + losses[-1:]))
    starts, clear = (lasting_from(steps, following > times * others) for times in (1.0, CLEAR))
    # The norms of which the first is made are equal, within a percent, for as long as all tokens are read alike.
    found.add("copying_starts_at", starts)
    found.add("copying_clear_at", clear)
    at_start = losses[np.searchsorted(steps, np.nan_to_num(starts, nan=steps[-1])), np.arange(losses.shape[1])]
    found.add("loss_ratio_zero_at_start", np.where(np.isnan(starts), np.nan, at_start / plateau))
    found.add("loss_halfway_at", halfway)
    found.add("copying_leads_by", halfway - starts)
    found.add("copying_clear_leads_by", halfway - clear)
    by_seed = {name: values[:, found.shown].T.tolist() for name, (_, values) in tables.items()}
    found.arrays["copying_by_seed"] = {"step": steps.tolist(), **by_seed}


def _table(by_step: Mapping[int, Mapping[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Steps `[step]` and values `[step member]`."""
    steps = sorted(by_step)
    return np.asarray(steps), np.asarray([[by_step[step][seed] for seed in sorted(by_step[step])] for step in steps])


def lasting_from(steps: np.ndarray, holds: np.ndarray) -> np.ndarray:
    """The first of the steps `[step]` from which on something holds `[step member]`; nan if it does not at the end."""
    lasts = np.flip(np.logical_and.accumulate(np.flip(holds, 0), axis=0), 0)
    return np.where(lasts.any(0), steps[np.argmax(lasts, axis=0)].astype(float), np.nan)


def _patterns(study: Study, found: Found) -> None:
    """Patterns `[layer t t]` of a typical seed's first head: the mean over prompts, and those of one prompt."""
    layout, few = study.trained.layout, first(study.prompts, FEW)
    params = study.trained.member(found.middle("following_token_score"))
    encoded = jax.vmap(layout.encode)(few.x, few.y, few.x_query)
    patterns = jax.vmap(lambda one: models.apply(study.trained.config, params, one).pattern[:, 0])(encoded)
    for name, values in (("mean", patterns.mean(0)), ("one", patterns[0])):
        found.arrays[f"pattern_{name}"] = np.asarray(values, np.float64).tolist()


def _coordinates(study: Study, found: Found) -> None:
    """The step that each coordinate of x takes: the coefficients c of `y_hat ~ sum_i c_i x_query_i sum_j y_j x_ji`.

    Fitted by least squares over prompts and outputs; those of a gradient step are step_size / n. The last coordinates
    are those whose place y shares.
    """
    p, (d, m) = study.prompts, (study.task.d_input, study.task.d_output)
    features = jnp.einsum("pi,pjr,pji->pri", p.x_query, p.y, p.x).reshape(-1, d)

    def steps(params: Any) -> Array:
        y_hat = jax.vmap(study.trained.predictor(params))(p.x, p.y, p.x_query)
        return jnp.linalg.lstsq(features, y_hat.reshape(-1))[0]

    found_steps = np.asarray(analysis.over_members(jax.jit(steps), study.trained.params), np.float64)  # [member d]
    found.curves["step_by_coordinate"] = curve(range(1, d + 1), found_steps[found.shown].T)
    if d > m:
        found.add("shared_coordinate_step", found_steps[:, -m:].mean(1) / found_steps[:, :-m].mean(1))


def _construction_error(study: Study, found: Found) -> None:
    """Largest error of copying and one step against the learner, over its largest prediction, in double precision."""
    task = study.task
    d, m = task.d_input, task.d_output
    layout = tokens.interleaved(d, m, D_POSITIONS, own_slots=True)
    config = constructions.copying_config(d, m, D_POSITIONS)
    step_size = study.reference.step_size
    with jax.enable_x64(True):
        few = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), first(study.prompts, FEW))
        learned = jax.vmap(learners.gradient_descent([step_size]))(few.x, few.y, few.x_query)

        def error(scale: Array) -> Array:
            step = tokens.shift(D_POSITIONS, 1)
            params = constructions.copying_weights(config, d, task.n_context, [step_size], step, scale)
            built = jax.vmap(models.predictor(config, params, layout))(few.x, few.y, few.x_query)
            return largest_error(built, learned)

        errors = np.asarray(jax.lax.map(error, jnp.asarray(SCALES)))
    found.curves["copying_error_by_scale"] = curve(SCALES, errors)
    found.add_one("copying_construction_error", errors[-1])
