"""Token copying: whether and when the first layer merges the separate tokens of x and y; and a constructed network."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, constructions, learners, models, plots, tokens
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, needs
from icl_gd.lab.evaluation.measured import GROUPS, Evaluation, Records, largest_error, take
from icl_gd.lab.reporting.results import curve
from icl_gd.types import Array

JACOBIAN_PROMPTS = 1024  # prompts that derivatives and patterns are averaged over; each needs a Jacobian
D_POSITIONS = 10  # width of the positional encodings in the construction, as published
NEAR = 1.04  # a seed is near gradient descent if its loss is at most this multiple of that of gradient descent
CLEAR = 2.0  # copying is clear if the norm for the next token is above this multiple of that for the others
# Scales of the copying layer's scores.
SCALES = (1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 40.0, 48.0, 56.0, 64.0, 80.0, 96.0)
MARKS = {  # metric -> label of its marks
    "loss_halfway_at": "halfway to the final loss",
    "copying_starts_at": "next > other",
    "copying_clear_at": "next > 2 × other",
}
TOKENS = {"own_token": "own", "next_token": "following", "other_tokens": "others"}  # role -> suffix of the metric


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})
    needs(experiment, **{"model.layout": "interleaved"})


def watch(setting: Any) -> Callable[[Any], dict[str, Array]]:
    """Makes the function that measures copying in one member, during training and after it.

    `derivative_TOKEN` is the norm of the derivative of the first layer's output with respect to TOKEN (own, following,
    others). As published, the derivative is first averaged over prompts. `derivative_TOKEN_per_prompt` averages norms
    over prompts instead. `..._token_score` is the attention between neighbours in the first layer. `induction_score` is
    the attention of the last layer to the example that the query repeats. Each score is the largest over heads.

    Returns:
      A function from the parameters of one member to metrics by name.
    """
    model, layout, prompts = setting.network, setting.layout, take(setting.prompts, JACOBIAN_PROMPTS)
    encoded = jax.vmap(layout.encode)(prompts.x, prompts.y, prompts.x_query)
    d_content = prompts.x.shape[-1]

    def metrics_of(params: Any) -> dict[str, Array]:
        def first_residual(tokens: Array) -> Array:
            return models.apply(model, params, tokens).residual[1]

        def patterns(tokens: Array) -> Array:
            return models.apply(model, params, tokens).pattern

        derivatives = jax.vmap(lambda tokens: analysis.derivatives(first_residual, tokens, d_content))(encoded)
        norms = {
            f"derivative_{token}{suffix}": norm
            for suffix, faithful in (("", True), ("_per_prompt", False))
            for token, norm in analysis.derivative_norms(derivatives, faithful)._asdict().items()
        }
        scores = jax.vmap(lambda tokens: analysis.neighbour_scores(patterns(tokens)[0]))(encoded)
        induction = jax.vmap(partial(analysis.induction_score, patterns, layout))(prompts)[:, -1]
        by_head = {f"{name}_token_score": score for name, score in scores._asdict().items()}
        by_head["induction_score"] = induction
        return norms | {name: jnp.max(jnp.mean(score, axis=0)) for name, score in by_head.items()}

    return metrics_of


def measure(evaluation: Evaluation, records: Records) -> None:
    """Measures when copying starts and when the loss falls, attention to neighbours, and the construction's error."""
    for watched, suffix, over in (
        (evaluation.watched, "", GROUPS[:2]),
        (evaluation.watched_untrained, "_untrained", GROUPS[:1]),
    ):
        for name, values in watched.items():
            if name.startswith("derivative_") or name.endswith("_score"):
                records.add(f"{name}{suffix}", values, over=over)
    ratios = records.measured["loss_ratio_gd"].values
    records.add_one("seeds_near_gd", np.sum(ratios <= NEAR), 0.0)
    if evaluation.history:
        _moments(evaluation, records)
    _coordinates(evaluation, records)
    _patterns(evaluation, records)
    _construction_error(evaluation, records)


def _moments(evaluation: Evaluation, records: Records) -> None:
    """Adds, for every member, the steps at which copying starts, copying is clear, and the loss has fallen halfway."""
    names = ("loss_trained", *(f"derivative_{token}" for token in analysis.DerivativeNorms._fields))
    tables = {name: history_table(evaluation.history[name]) for name in names}
    steps, losses = tables["loss_trained"]
    following, others = (tables[f"derivative_{token}"][1] for token in ("following", "others"))
    plateau = float(analysis.losses(learners.predict_zero, evaluation.prompts).mean())
    halfway = halfway_down(steps, losses, plateau)
    starts, clear = (lasting_from(steps, following > times * others) for times in (1.0, CLEAR))
    # While attention is uniform, the two norms are equal within a percent. So "starts" is sensitive to noise, and
    # "clear" is recorded too.
    records.add("copying_starts_at", starts)
    records.add("copying_clear_at", clear)
    at_start = losses[np.searchsorted(steps, np.nan_to_num(starts, nan=steps[-1])), np.arange(losses.shape[1])]
    records.add("loss_ratio_zero_at_start", np.where(np.isnan(starts), np.nan, at_start / plateau))
    records.add("loss_halfway_at", halfway)
    records.add("copying_leads_by", halfway - starts)
    records.add("copying_clear_leads_by", halfway - clear)
    by_seed = {name: values[:, records.shown].T.tolist() for name, (_, values) in tables.items()}
    records.arrays["copying_by_seed"] = {"step": steps.tolist(), **by_seed}


def history_table(by_step: Mapping[int, Mapping[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """The history of one metric as arrays.

    Returns:
      Steps `[step]` and values `[step member]`.
    """
    steps = sorted(by_step)
    return np.asarray(steps), np.asarray([[by_step[step][seed] for seed in sorted(by_step[step])] for step in steps])


def halfway_down(steps: np.ndarray, losses: np.ndarray, plateau: float) -> np.ndarray:
    """The first step from which on the loss stays below halfway from the plateau to its final value.

    Args:
      steps: `[step]`.
      losses: `[step member]`.
      plateau: the loss of predicting zero.

    Returns:
      Steps `[member]`.
    """
    return lasting_from(steps, losses < 0.5 * (plateau + losses[-1:]))


def lasting_from(steps: np.ndarray, holds: np.ndarray) -> np.ndarray:
    """The first step from which on a condition holds until the end.

    Args:
      steps: `[step]`.
      holds: `[step member]`.

    Returns:
      Steps `[member]`; nan if the condition does not hold at the last step.
    """
    lasts = np.flip(np.logical_and.accumulate(np.flip(holds, 0), axis=0), 0)
    return np.where(lasts.any(0), steps[np.argmax(lasts, axis=0)].astype(float), np.nan)


def _patterns(evaluation: Evaluation, records: Records) -> None:
    """Records first-head patterns `[layer t t]` of a typical member: averaged over prompts, and for one prompt."""
    layout, prompts = evaluation.trained.layout, take(evaluation.prompts, JACOBIAN_PROMPTS)
    params = evaluation.trained.member(records.median_member("following_token_score"))
    encoded = jax.vmap(layout.encode)(prompts.x, prompts.y, prompts.x_query)
    patterns = jax.vmap(lambda tokens: models.apply(evaluation.trained.config, params, tokens).pattern[:, 0])(encoded)
    for name, values in (("mean", patterns.mean(0)), ("one", patterns[0])):
        records.arrays[f"pattern_{name}"] = np.asarray(values, np.float64).tolist()


def _coordinates(evaluation: Evaluation, records: Records) -> None:
    """Fits the step size of each coordinate of x: the coefficients c of `y_hat ~ sum_i c_i x_query_i sum_j y_j x_ji`.

    The fit is by least squares over prompts and outputs. For a gradient step all coefficients are step_size / n. The
    last coordinates of x share their slots with y.
    """
    p, (d, m) = evaluation.prompts, (evaluation.task.d_input, evaluation.task.d_output)
    features = jnp.einsum("pi,pjr,pji->pri", p.x_query, p.y, p.x).reshape(-1, d)

    def steps(params: Any) -> Array:
        y_hat = jax.vmap(evaluation.trained.predictor(params))(p.x, p.y, p.x_query)
        return jnp.linalg.lstsq(features, y_hat.reshape(-1))[0]

    fitted = np.asarray(analysis.over_members(jax.jit(steps), evaluation.trained.params), np.float64)  # [member d]
    records.curves["step_by_coordinate"] = curve(range(1, d + 1), fitted[records.shown].T)
    if d > m:
        records.add("shared_coordinate_step", fitted[:, -m:].mean(1) / fitted[:, :-m].mean(1))


def _construction_error(evaluation: Evaluation, records: Records) -> None:
    """Measures the construction's largest error, divided by the largest prediction of gradient descent, in float64."""
    task = evaluation.task
    d, m = task.d_input, task.d_output
    layout = tokens.interleaved(d, m, D_POSITIONS, own_slots=True)
    config = constructions.copying_config(d, m, D_POSITIONS)
    step_size = evaluation.reference.step_size
    with jax.enable_x64(True):
        prompts = take(evaluation.prompts, JACOBIAN_PROMPTS)
        prompts = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), prompts)
        expected = jax.vmap(learners.gradient_descent([step_size]))(prompts.x, prompts.y, prompts.x_query)

        def error(scale: Array) -> Array:
            step = tokens.shift(D_POSITIONS, 1)
            params = constructions.copying_weights(config, d, task.n_context, [step_size], step, scale)
            built = jax.vmap(models.predictor(config, params, layout))(prompts.x, prompts.y, prompts.x_query)
            return largest_error(built, expected)

        errors = np.asarray(jax.lax.map(error, jnp.asarray(SCALES)))
    records.curves["copying_error_by_scale"] = curve(SCALES, errors)
    records.add_one("copying_construction_error", errors[-1])


def _draw(done: Done) -> plots.Figure:
    """Draws one line per seed. Losses fall at different steps, so the mean over seeds would resemble no seed."""
    figure, (top, bottom) = plots.subplots(2, 1, figsize=(plots.COLUMN, 4.4), sharex=True)
    by_seed, zero = done["arrays"]["copying_by_seed"], done["arrays"]["loss_zero_on_curve_prompts"]
    _seeds(top, by_seed["step"], by_seed["loss_trained"], "trained", "trained, one line per seed")
    plots.horizontal_line(top, done["arrays"]["loss_gd_on_curve_prompts"], "gd", "one gradient step")
    plots.horizontal_line(top, zero, "zero")
    top.set(ylabel=r"loss  $\frac{1}{2}(\hat y - y)^2$", ylim=(0, 1.2 * zero))
    for role, token in TOKENS.items():
        _seeds(bottom, by_seed["step"], by_seed[f"derivative_{token}"], role, plots.ROLES[role][0])
    bottom.set(xlabel="training step", ylabel="norm of derivative", yscale="log")
    for name, ax, curve_name, marker in (
        ("loss_halfway_at", top, "loss_trained", "o"),
        ("copying_starts_at", bottom, "derivative_following", "v"),
        ("copying_clear_at", bottom, "derivative_following", "o"),
    ):
        _mark(ax, by_seed, curve_name, done["metrics"][f"{name}_untrapped"]["per_seed"], MARKS[name], marker)
    for ax in (top, bottom):
        ax.legend()
    return figure


def _seeds(ax: plots.Axes, steps: list, values: list, role: str, label: str) -> None:
    _, colour, dashes = plots.ROLES[role]
    for i, line in enumerate(values):
        in_legend = label if i == 0 else None
        ax.plot(steps, np.asarray(line, float), dashes, color=colour, linewidth=0.8, label=in_legend)


def _mark(ax: plots.Axes, by_seed: dict, curve_name: str, steps: list, label: str, marker: str) -> None:
    """Marks the curve of each seed at the seed's step in `steps`. A seed without a step has no mark."""
    lines = zip(steps, by_seed[curve_name], strict=False)
    marks = [(step, line[by_seed["step"].index(step)]) for step, line in lines if step]
    if marks:
        x, y = zip(*marks, strict=True)
        ax.plot(x, y, marker, color="black", markersize=3, markerfacecolor="none", label=label)


def _draw_patterns(done: Done) -> plots.Figure:
    mean, one = (np.asarray(done["arrays"][f"pattern_{name}"], float) for name in ("mean", "one"))
    figure, axes = plots.subplots(len(mean), 2, figsize=(plots.PAGE * 0.8, 2.4 * len(mean)), squeeze=False)
    for layer, row in enumerate(axes):
        for ax, values, title in zip(row, (mean, one), ("mean over prompts", "one prompt"), strict=True):
            plots.matrix(ax, values[layer], f"layer {layer + 1}, {title}")
            ax.set(xlabel="key position", ylabel="query position")
            positions = range(0, len(values[layer]), 5)
            ax.set_xticks(positions, [position + 1 for position in positions])
            ax.set_yticks(positions, [position + 1 for position in positions])
    return figure


def _draw_coordinates(done: Done) -> plots.Figure:
    figure, ax = plots.subplots(figsize=(plots.COLUMN, 2.0))
    curve = done["curves"]["step_by_coordinate"]
    plots.horizontal_line(ax, done["metrics"]["step_size_gd"]["mean"], "gd", "one gradient step")
    plots.points(ax, curve, "trained", marker="o", size=4.0, label="trained, two layers")
    ax.set(xlabel="coordinate of x", ylabel=r"step size / $N$", ylim=(0, None), xticks=curve["x"])
    ax.legend()
    return figure


def _draw_error(done: Done) -> plots.Figure:
    figure, ax = plots.subplots(figsize=(plots.COLUMN, 2.2))
    plots.line(ax, done["curves"]["copying_error_by_scale"], "construction", marker="o")
    ax.set(xlabel="scale of the copying layer's scores", ylabel="largest relative error", yscale="log")
    ax.legend()
    return figure


ANALYSIS = Analysis(
    "copying",
    measure,
    records=(
        *(f"derivative_{token}*" for token in analysis.DerivativeNorms._fields),
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
            "Top: loss on held-out prompts during training, one line for each untrapped seed; circles mark the first "
            "step after which it stays below halfway from the loss of predicting zero to its final value. Bottom: "
            "norms of the derivative of the first layer's outputs by their own token, the next token, and one other "
            "token. Marks are the first step after which the norm for the next token stays above that for another "
            "token (triangle), and above twice that (circle).",
            place=160,
        ),
        Picture(
            "patterns",
            ("pattern_mean", "pattern_one"),
            _draw_patterns,
            "Attention patterns of the first head in every layer, for the untrapped seed with the median attention "
            "score of the following token. Rows are query positions, columns key positions. Odd positions are "
            "inputs, even positions labels; the last is the query, which no token attends to.",
            place=170,
        ),
        Picture(
            "coordinates",
            ("step_by_coordinate",),
            _draw_coordinates,
            "Step size of each coordinate of x, fitted to the predictions of the trained networks. Circles are means "
            "over untrapped seeds, bars their range. The last coordinate shares its slot in the tokens with y.",
            place=180,
        ),
        Picture(
            "copying_error",
            ("copying_error_by_scale",),
            _draw_error,
            "Error of the constructed network, a softmax layer that copies neighbours and a linear layer that takes "
            "a gradient step: its largest difference from the gradient step, divided by the largest prediction. The "
            "error falls exponentially with the scale of the copying layer's attention scores, down to rounding.",
            place=190,
        ),
    ),
    evidence=(Evidence("following_token_score", at_least=0.99),),
    identities={"copying_construction_error": 1e-9},
)
