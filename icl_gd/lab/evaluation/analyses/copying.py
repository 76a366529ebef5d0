"""Separate tokens: does the first layer copy neighbours together, when, and how exactly a layer built for it does."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, constructions, learners, models, plots, tokens
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, needs
from icl_gd.lab.evaluation.measured import EVERY, Evaluation, Records, largest_error, take
from icl_gd.lab.reporting.results import curve
from icl_gd.types import Array

FEW = 1024  # prompts that derivatives and patterns are averaged over: a Jacobian each
D_POSITIONS = 10  # of the places' codes in the construction, as published
NEAR = 1.04  # times the loss of the reference
CLEAR = 2.0  # times the norm for the others
SCALES = (1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 40.0, 48.0, 56.0, 64.0, 80.0, 96.0)
MARKS = {
    "loss_halfway_at": "halfway down",
    "copying_starts_at": "next above others",
    "copying_clear_at": "twice the others",
}
TO = {"own_token": "own", "next_token": "following", "other_tokens": "others"}  # roles, and the ends of metrics' names


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})
    needs(experiment, **{"model.layout": "interleaved"})


def watch(setting: Any) -> Callable[[Any], dict[str, Array]]:
    """What is measured of one member's parameters during training and after it.

    `derivative_TO`: norms of the derivative of the first layer's outputs, as published and, `..._per_prompt`, prompt by
    prompt. `SCORE`: the first layer's reading of neighbours, and the last layer's of the example the query repeats, of
    the head that does it most.
    """
    model, layout, few = setting.network, setting.layout, take(setting.prompts, FEW)
    encoded = jax.vmap(layout.encode)(few.x, few.y, few.x_query)
    content = few.x.shape[-1]

    def of_member(params: Any) -> dict[str, Array]:
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

    return of_member


def measure(study: Evaluation, found: Records) -> None:
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


def _moments(study: Evaluation, found: Records) -> None:
    """The steps at which copying starts and is clear, and at which the loss is halfway down, of every member."""
    names = ("loss_trained", *(f"derivative_{to}" for to in analysis.DerivativeNorms._fields))
    tables = {name: _table(study.history[name]) for name in names}
    steps, losses = tables["loss_trained"]
    following, others = (tables[f"derivative_{to}"][1] for to in ("following", "others"))
    plateau = float(analysis.losses(learners.predict_zero, study.prompts).mean())
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


def _patterns(study: Evaluation, found: Records) -> None:
    """Patterns `[layer t t]` of a typical seed's first head: the mean over prompts, and those of one prompt."""
    layout, few = study.trained.layout, take(study.prompts, FEW)
    params = study.trained.member(found.middle("following_token_score"))
    encoded = jax.vmap(layout.encode)(few.x, few.y, few.x_query)
    patterns = jax.vmap(lambda one: models.apply(study.trained.config, params, one).pattern[:, 0])(encoded)
    for name, values in (("mean", patterns.mean(0)), ("one", patterns[0])):
        found.arrays[f"pattern_{name}"] = np.asarray(values, np.float64).tolist()


def _coordinates(study: Evaluation, found: Records) -> None:
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


def _construction_error(study: Evaluation, found: Records) -> None:
    """Largest error of copying and one step against the learner, over its largest prediction, in double precision."""
    task = study.task
    d, m = task.d_input, task.d_output
    layout = tokens.interleaved(d, m, D_POSITIONS, own_slots=True)
    config = constructions.copying_config(d, m, D_POSITIONS)
    step_size = study.reference.step_size
    with jax.enable_x64(True):
        few = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), take(study.prompts, FEW))
        learned = jax.vmap(learners.gradient_descent([step_size]))(few.x, few.y, few.x_query)

        def error(scale: Array) -> Array:
            step = tokens.shift(D_POSITIONS, 1)
            params = constructions.copying_weights(config, d, task.n_context, [step_size], step, scale)
            built = jax.vmap(models.predictor(config, params, layout))(few.x, few.y, few.x_query)
            return largest_error(built, learned)

        errors = np.asarray(jax.lax.map(error, jnp.asarray(SCALES)))
    found.curves["copying_error_by_scale"] = curve(SCALES, errors)
    found.add_one("copying_construction_error", errors[-1])


def _draw(done: Done) -> plots.Figure:
    """Every seed on its own: they fall at different steps, and a mean would show none of them."""
    figure, (top, bottom) = plots.subplots(2, 1, figsize=(plots.COLUMN, 4.4), sharex=True)
    by_seed, zero = done["arrays"]["copying_by_seed"], done["arrays"]["loss_zero_on_curve_prompts"]
    _seeds(top, by_seed["step"], by_seed["loss_trained"], "trained", "trained, a line a seed")
    plots.level(top, done["arrays"]["loss_gd_on_curve_prompts"], "gd", "one gradient step")
    plots.level(top, zero, "zero")
    top.set(ylabel=r"loss  $\frac{1}{2}(\hat y - y)^2$", ylim=(0, 1.2 * zero))
    for role, to in TO.items():
        _seeds(bottom, by_seed["step"], by_seed[f"derivative_{to}"], role, plots.ROLES[role][0])
    bottom.set(xlabel="training step", ylabel="norm of derivatives", yscale="log")
    for name, ax, to, marker in (
        ("loss_halfway_at", top, "loss_trained", "o"),
        ("copying_starts_at", bottom, "derivative_following", "v"),
        ("copying_clear_at", bottom, "derivative_following", "o"),
    ):
        _mark(ax, by_seed, to, done["metrics"][f"{name}_untrapped"]["per_seed"], MARKS[name], marker)
    for ax in (top, bottom):
        ax.legend()
    return figure


def _seeds(ax: plots.Axes, steps: list, values: list, role: str, label: str) -> None:
    _, colour, dashes = plots.ROLES[role]
    for i, line in enumerate(values):
        ax.plot(steps, np.asarray(line, float), dashes, color=colour, linewidth=0.8, label=f"{'_' * bool(i)}{label}")


def _mark(ax: plots.Axes, by_seed: dict, to: str, at: list, label: str, marker: str) -> None:
    """Each seed's curve at its own step; seeds without one have no mark."""
    found = [(step, line[by_seed["step"].index(step)]) for step, line in zip(at, by_seed[to], strict=False) if step]
    if found:
        ax.plot(*zip(*found, strict=True), marker, color="black", markersize=3, markerfacecolor="none", label=label)


def _draw_patterns(done: Done) -> plots.Figure:
    mean, one = (np.asarray(done["arrays"][f"pattern_{name}"], float) for name in ("mean", "one"))
    figure, axes = plots.subplots(len(mean), 2, figsize=(plots.PAGE * 0.8, 2.4 * len(mean)), squeeze=False)
    for layer, row in enumerate(axes):
        for ax, values, title in zip(row, (mean, one), ("mean over prompts", "one prompt"), strict=True):
            plots.matrix(ax, values[layer], f"layer {layer + 1}, {title}")
            ax.set(xlabel="token read", ylabel="reading token")
            places = range(0, len(values[layer]), 5)
            ax.set_xticks(places, [place + 1 for place in places])
            ax.set_yticks(places, [place + 1 for place in places])
    return figure


def _draw_coordinates(done: Done) -> plots.Figure:
    figure, ax = plots.subplots(figsize=(plots.COLUMN, 2.0))
    curve = done["curves"]["step_by_coordinate"]
    plots.level(ax, done["metrics"]["step_size_gd"]["mean"], "gd", "one gradient step")
    plots.points(ax, curve, "trained", marker="o", size=4.0, label="trained, two layers")
    ax.set(xlabel="coordinate of x", ylabel=r"step size over $N$", ylim=(0, None), xticks=curve["x"])
    ax.legend()
    return figure


def _draw_error(done: Done) -> plots.Figure:
    figure, ax = plots.subplots(figsize=(plots.COLUMN, 2.2))
    plots.line(ax, done["curves"]["copying_error_by_scale"], "construction", marker="o")
    ax.set(xlabel="scale of the copying layer's scores", ylabel="largest error, relative", yscale="log")
    ax.legend()
    return figure


ANALYSIS = Analysis(
    "copying",
    measure,
    records=(
        *(f"derivative_{to}*" for to in analysis.DerivativeNorms._fields),
        *(f"{name}_token_score*" for name in analysis.NeighbourScores._fields),
        *("induction_score*", "seeds_near_gd", "copying_starts_at", "copying_clear_at", "loss_ratio_zero_at_start"),
        *("loss_halfway_at", "copying_leads_by", "copying_clear_leads_by", "step_by_coordinate"),
        *("shared_coordinate_step", "copying_error_by_scale", "copying_construction_error"),
    ),
    check=check,
    watch=watch,
    figures=(
        Picture(
            "copying",
            ("copying_by_seed",),
            _draw,
            "Loss on held-out prompts over training, and norms of the derivative of the first layer's outputs by "
            "their own, the next, and one other token, free seeds one by one. Marked are the steps from which on "
            "the norm for the next token stays above that for the others, and above twice that, and from which on "
            "the loss is more than halfway down from that of predicting zero.",
            place=160,
        ),
        Picture(
            "patterns",
            ("pattern_mean", "pattern_one"),
            _draw_patterns,
            "What multiplies the values in each layer of a typical free seed, that of the median score of the "
            "following token in the first layer. Odd tokens are inputs, even ones "
            "labels, the last is the query, which nobody reads.",
            place=170,
        ),
        Picture(
            "coordinates",
            ("step_by_coordinate",),
            _draw_coordinates,
            "The step that each coordinate takes, fitted to predictions: mean and range over free seeds. The "
            "last is the one whose place y shares.",
            place=180,
        ),
        Picture(
            "copying_error",
            ("copying_error_by_scale",),
            _draw_error,
            "A softmax layer built to merge neighbours, and a gradient step behind it, against the learner: "
            "the error falls exponentially with the scale of scores, until rounding ends it.",
            place=190,
        ),
    ),
    evidence=(Evidence("following_token_score", at_least=0.99),),
    identities={"copying_construction_error": 1e-9},
)
