"""The questions asked of a trained population: is it the gradient-descent layer?

`evaluate` measures what every experiment reports; each function in `ANALYSES` adds one question's records to `Found`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from experiments.results import curve, metric
from icl_gd import analysis, constructions, learners, models
from icl_gd.tasks import FAMILIES, SHIFTS, LinearRegression, Shift
from icl_gd.tokens import concatenated
from icl_gd.training import Population, fastest_predictor
from icl_gd.types import Array, Circuits, Predictor, Prompt

TRAPPED_ABOVE = 1.2  # times the loss of the best layer where it is known, otherwise that of gradient descent
WRONG_STEP = 0.5  # times the best step size: the control that the cosine cannot see
EVERY = ("", "_untrapped", "_trapped")  # members a metric is taken over, by the ending of its name
ROLL_OUT = (50, 0.75)  # iterations and damping, as published


Losses = Callable[[Prompt], dict[str, Array]]


class Reference(NamedTuple):
    """The learner a population is compared with, and the weights built to be that learner."""

    step_size: float
    gd: Predictor
    wrong_step: Predictor
    construction: Predictor
    circuits: Circuits


@dataclass(frozen=True)
class Study:
    """What analyses look at."""

    task: LinearRegression
    trained: Population
    reference: Reference
    prompts: Prompt  # the batch that curves are measured on
    watch: Callable[[Any], dict[str, np.ndarray]]  # see `watcher`
    key: Array
    n_prompts: int  # of final numbers
    untrained: Any  # the population's parameters at step 0
    analyses: tuple[str, ...]

    @property
    def circuits(self) -> Circuits:
        """Circuits of all members, with a leading member axis."""
        return jax.vmap(partial(models.circuits, self.trained.config))(self.trained.params)

    @property
    def interpolated(self) -> Circuits:
        """Halfway between every member and the construction."""
        return jax.vmap(lambda c: analysis.interpolate(c, self.reference.circuits))(self.circuits)

    def of_circuits(self, circuits: Circuits) -> Predictor:
        return models.circuit_predictor(circuits, self.trained.layout)


class Measured(NamedTuple):
    """Values `[member]` with their sampling errors, or one number that has no members; see `Found`."""

    values: np.ndarray
    errors: np.ndarray | None
    over: tuple[str, ...] | None  # of which members metrics are made, by the endings of their names


@dataclass
class Found:
    """Records of a study: what goes into results.json, made by `metrics` for all members or some of them."""

    is_free: np.ndarray  # [member]: not trapped
    has_diverged: np.ndarray  # [member]: frozen as it was before that step, trapped or not
    measured: dict[str, Measured] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)

    @property
    def trapped(self) -> np.ndarray:
        return np.flatnonzero(~self.is_free)

    @property
    def shown(self) -> np.ndarray:
        """The members curves are drawn from: the free ones, or all where none is free (an untrained population)."""
        return np.flatnonzero(self.is_free) if self.is_free.any() else self.trapped

    def add(self, name: str, values: Any, errors: Any = None, over: tuple[str, ...] = EVERY[:2]) -> None:
        """A metric of the members: over all of them, and over the free ones alone, unless `over` says otherwise."""
        values = np.asarray(values, np.float64)
        errors = None if errors is None else np.broadcast_to(errors, values.shape)
        self.measured[name] = Measured(values, errors, over)

    def add_one(self, name: str, value: Any, error: Any = None) -> None:
        """A metric that has no members."""
        self.measured[name] = Measured(value, error, None)

    def metrics(self, members: slice = slice(None)) -> dict[str, Any]:
        """All metrics, over the seeds of some members."""
        free = self.is_free[members]
        chosen = dict(zip(EVERY, (np.full(len(free), True), free, ~free), strict=True))
        found = {}
        for name, (values, errors, over) in self.measured.items():
            if over is None:
                found[name] = metric(values, errors)
            for ending in over or ():
                some = chosen[ending]
                error = None if errors is None else errors[members][some]
                found[name + ending] = metric(values[members][some], error)
        found["seeds_trapped"] = metric(np.sum(~free), 0.0)
        found["seeds_diverged"] = metric(np.sum(self.has_diverged[members]), 0.0)
        return found


def reference(task: LinearRegression, model: models.TransformerConfig, key: Array, n_fit: int) -> Reference:
    """Gradient descent with as many steps as layers and its best shared step size, found on a sample of prompts."""
    fit = jax.jit(jax.vmap(task.sample))(jax.random.split(key, n_fit))
    step_size = learners.best_step_size(fit, model.n_layers)
    steps = [step_size] * model.n_layers
    built = constructions.gradient_descent_config(task.d_input, task.d_output, model.n_layers)
    params = constructions.gradient_descent_weights(built, task.d_input, task.n_context, steps)
    layout = concatenated(task.d_input, task.d_output)
    return Reference(
        step_size,
        learners.gradient_descent(steps),
        learners.gradient_descent([WRONG_STEP * s for s in steps]),
        fastest_predictor(built, params, layout),
        models.circuits(built, params),
    )


def together(losses_of: Mapping[str, Callable[[Prompt], Array]]) -> Losses:
    """Several losses of the same prompts as one function."""
    return lambda prompts: {name: losses(prompts) for name, losses in losses_of.items()}


def watcher(
    predictor_of: Callable[[Any], Predictor], reference: Reference, prompts: Prompt
) -> Callable[[Any], dict[str, np.ndarray]]:
    """What is measured during training and after it: loss and alignment `[member]` of parameters on fixed prompts."""
    compiled = jax.jit(
        partial(analysis.over_members, lambda params: _aligned(predictor_of(params), reference, prompts))
    )
    return lambda params: jax.tree.map(np.asarray, compiled(params))


def _aligned(predictor: Predictor, reference: Reference, prompts: Prompt) -> dict[str, Array]:
    found = analysis.alignment(predictor, reference.gd, prompts)
    named = {f"{name}_gd": value for name, value in found._asdict().items()}
    return {"loss_trained": analysis.losses(predictor, prompts).mean(), **named}


def evaluate(study: Study) -> Found:
    """Final losses, all on the same prompts, and which members are trapped."""
    task, ref, trained = study.task, study.reference, study.trained
    members = lambda params: partial(analysis.member_losses, trained.predictor, params)
    losses_of = {
        "loss_trained": members(trained.params),
        "loss_untrained": members(study.untrained),
        "loss_gd": partial(analysis.losses, ref.gd),
        "loss_construction": partial(analysis.losses, ref.construction),
        "loss_zero": partial(analysis.losses, learners.zero),
    }
    if task.noise_std > 0:
        losses_of["loss_ridge"] = partial(analysis.losses, learners.ridge(_noise_to_weight(task)))
    if "interpolation" in study.analyses:
        losses_of["loss_interpolated"] = partial(analysis.member_losses, study.of_circuits, study.interpolated)
    risks = analysis.streamed_risks(together(losses_of), task.sample, study.key, study.n_prompts)
    # A singular-value decomposition per prompt: on the curves' prompts only, a hundred times fewer.
    ols = together({"loss_ols": partial(analysis.losses, learners.ols)})
    risks |= analysis.streamed_risks(ols, task.sample, study.key, len(study.prompts.x))

    optimal = _optimal_loss(study)
    standard = risks["loss_gd"].mean if optimal is None else optimal
    found = Found(free_members(risks["loss_trained"].mean, standard), np.asarray(trained.diverged_at) >= 0)
    for name, value in risks.items():
        if np.ndim(value.mean):
            found.add(name, value.mean, value.stderr, EVERY[:1] if name == "loss_untrained" else EVERY[:2])
        else:
            found.add_one(name, value.mean, value.stderr)
    found.add("loss_ratio_gd", risks["loss_trained"].mean / risks["loss_gd"].mean, over=EVERY)
    found.add_one("step_size_gd", ref.step_size / task.n_context)
    found.add_one("construction_error", _construction_error(study))
    if optimal is not None:
        found.add_one("loss_optimal", optimal, 0.0)
        found.add("loss_ratio_optimal", risks["loss_trained"].mean / optimal)
    return found


def free_members(losses: np.ndarray, standard: float | np.ndarray) -> np.ndarray:
    """Which members `[member]` are not trapped; a loss that is not finite is none of a free one."""
    return losses <= TRAPPED_ABOVE * standard  # not the negation of >, which would hold for nan


def _construction_error(study: Study) -> float:
    """Largest |y_hat_built - y_hat_learner| over prompts, divided by the largest |y_hat_learner|."""
    p = study.prompts
    built, learner = (jax.vmap(f)(p.x, p.y, p.x_query) for f in (study.reference.construction, study.reference.gd))
    norm = partial(jnp.linalg.norm, axis=-1)
    return float(norm(built - learner).max() / norm(learner).max())


def _noise_to_weight(task: LinearRegression) -> float:
    return (task.noise_std / task.weight_scale) ** 2


def _optimal_loss(study: Study) -> float | None:
    """The closed-form risk of the best layer, where there is one: Gaussian inputs, or independent coordinates."""
    task = study.task
    if study.trained.config.n_layers != 1:
        return None
    ratio, n = _noise_to_weight(task), task.n_context
    if task.inputs == "normal":
        optimum = learners.gaussian_optimum_risk(task.second_moment, n, ratio, task.weight_scale)
    elif FAMILIES[task.inputs].independent and task.covariance is None:
        moments = task.second_moment[0, 0], task.fourth_moment
        step_size = learners.optimal_step_size(task.d_input, n, *moments, ratio)
        optimum = learners.one_step_risk(step_size, task.d_input, n, *moments, ratio, task.weight_scale)
    else:
        return None
    return task.d_output * optimum


def alignment(study: Study, found: Found) -> None:
    """Alignment to gradient descent, next to an untrained control and a control with the wrong step size."""
    for name, values in study.watch(study.trained.params).items():
        if name != "loss_trained":
            found.add(name, values)
    for name, values in study.watch(study.untrained).items():
        if name != "loss_trained":
            found.add(f"{name}_untrained", values, over=EVERY[:1])
    control = _aligned(study.reference.wrong_step, study.reference, study.prompts)
    for name, value in control.items():
        if name != "loss_trained":
            found.add_one(f"{name}_wrong_step", float(value))


def weights(study: Study, found: Found) -> None:
    """Distance to the construction modulo gauge, and the circuits of a free and of a trapped member."""
    distance = lambda c: analysis.gauge_distance(c, study.reference.circuits, study.task.d_input)
    found.add("gauge_distance_gd", jax.vmap(distance)(study.circuits))
    untrained = jax.vmap(partial(models.circuits, study.trained.config))(study.untrained)
    found.add("gauge_distance_gd_untrained", jax.vmap(distance)(untrained), over=EVERY[:1])
    sizes = study.task.d_input, study.task.n_context
    rank = lambda c: jnp.mean(jax.vmap(analysis.participation_ratio)(analysis.effective_preconditioner(c, *sizes)))
    by_route = jax.vmap(partial(analysis.routes, d_input=sizes[0]))(study.circuits)._asdict()
    shares = {f"share_{name}": share for name, share in by_route.items()}
    for name, values in {"participation_ratio": jax.vmap(rank)(study.circuits), **shares}.items():
        found.add(name, values, over=EVERY)
    found.arrays["d_input"] = study.task.d_input
    shown = {"construction": study.reference.circuits}
    for name, members in (("trained", found.shown), ("trapped", found.trapped)):
        if len(members) and study.trained.config.n_heads == 1:
            member = jax.tree.map(lambda leaf, i=members[0]: leaf[i], study.circuits)
            shown[name] = analysis.match_scale(member, study.reference.circuits)
    for name, circuits in shown.items():
        for circuit, value in circuits._asdict().items():
            found.arrays[f"{circuit}_{name}"] = np.asarray(value[0, 0], np.float64).tolist()


def interpolation(study: Study, found: Found) -> None:
    """Losses along the line from trained to constructed weights; the middle of it is measured by `evaluate`."""
    ts = np.linspace(0.0, 1.0, 11)

    def along(prompts: Prompt) -> Array:  # [t member prompt]
        def at(t: Array) -> Array:
            mixed = jax.vmap(lambda c: analysis.interpolate(c, study.reference.circuits, t))(study.circuits)
            return analysis.member_losses(study.of_circuits, mixed, prompts)

        return jax.lax.map(at, jnp.asarray(ts, prompts.x.dtype))

    n_prompts = max(study.n_prompts // 8, 1)
    risks = analysis.streamed_risks(together({"along": along}), study.task.sample, study.key, n_prompts)["along"]
    found.curves["loss_by_interpolation"] = curve(ts.tolist(), risks.mean[:, found.shown])
    middle, ends, gd = (found.measured[f"loss_{name}"].values for name in ("interpolated", "trained", "gd"))
    found.add("interpolation_ratio", middle / np.minimum(ends, gd))


def shifts(study: Study, found: Found) -> None:
    """Losses under every suite of shifts: trained, constructed, interpolated, gradient descent, closed form."""
    losses_of: dict[str, Callable[[Prompt], Array]] = {
        "trained": partial(analysis.member_losses, study.trained.predictor, study.trained.params),
        "gd": partial(analysis.losses, study.reference.gd),
        "construction": partial(analysis.losses, study.reference.construction),
    }
    if "interpolation" in study.analyses:
        losses_of["interpolated"] = partial(analysis.member_losses, study.of_circuits, study.interpolated)
    losses = together(losses_of)
    for suite, shift in SHIFTS.items():
        risks = _risks_under(study, shift, losses)
        for name in losses_of:
            mean = np.stack([risk[name].mean for risk in risks])
            found.curves[f"loss_by_{suite}_{name}"] = curve(
                shift.values, mean if mean.ndim == 1 else mean[:, found.shown]
            )
        if suite == "input_scale":
            ours, theirs = (np.stack([risk[name].mean for risk in risks]) for name in ("trained", "gd"))
            found.add("input_scale_deviation", np.abs(ours / theirs[:, None] - 1).max(0))
    _closed_form_under_scale(study, found)


def _risks_under(study: Study, shift: Shift, losses: Losses) -> list[dict[str, analysis.Risk]]:
    """Risks at every value of a shift, the same keys under each."""
    if isinstance(shift.values[0], str):
        samples, n_prompts = [shift.apply(study.task, value).sample for value in shift.values], study.n_prompts // 32
    else:
        shifted = lambda value, key: shift.apply(study.task, value).sample(key)
        values = jnp.asarray(shift.values, study.prompts.x.dtype)
        samples, n_prompts = [Partial(shifted, value) for value in values], study.n_prompts // 4
    return [analysis.streamed_risks(losses, sample, study.key, max(n_prompts, 1)) for sample in samples]


def _closed_form_under_scale(study: Study, found: Found) -> None:
    task = study.task
    if task.covariance is not None or not FAMILIES[task.inputs].independent or study.trained.config.n_layers != 1:
        return
    sizes = task.d_input, task.n_context, task.second_moment[0, 0], task.fourth_moment, _noise_to_weight(task)
    risk = partial(learners.one_step_risk, study.reference.step_size, *sizes)
    alphas = SHIFTS["input_scale"].values
    exact = [task.d_output * risk(task.weight_scale, input_scale=float(a)) for a in alphas]
    found.curves["loss_by_input_scale_closed_form"] = curve(alphas, exact)


def rollout(study: Study, found: Found) -> None:
    """One trained layer applied many times, against gradient descent with the same damping, and both undamped."""
    n, damping = ROLL_OUT
    d, layout = study.task.d_input, study.trained.layout

    def rolled(factor: float, prompts: Prompt) -> Array:  # [member iteration prompt]
        def member(circuits: Circuits) -> Array:
            stack = analysis.roll_out(circuits, d, n, factor)
            return analysis.losses(models.layerwise_circuit_predictor(stack, layout), prompts).T

        return jax.lax.map(member, study.circuits)

    for suffix, factor in (("", damping), ("_undamped", 1.0)):
        descent = learners.layerwise_gradient_descent([factor * study.reference.step_size] * n)
        losses_of = {"trained": partial(rolled, factor), "gd": lambda p, f=descent: analysis.losses(f, p).T}
        risks = analysis.streamed_risks(
            together(losses_of), study.task.sample, study.key, len(study.prompts.x), chunk=2048
        )
        ours, theirs = risks["trained"].mean.T, risks["gd"].mean
        found.curves[f"loss_by_iteration_trained{suffix}"] = curve(range(n + 1), ours[:, found.shown])
        found.curves[f"loss_by_iteration_gd{suffix}"] = curve(range(n + 1), theirs)
        if not suffix:
            found.add("rollout_ratio", (ours / theirs[:, None]).max(0))
            found.add("rollout_loss_final", ours[-1], risks["trained"].stderr[:, -1])
            found.add_one("rollout_loss_final_gd", theirs[-1], risks["gd"].stderr[-1])
            found.arrays["damping"] = damping


def optimum(study: Study, found: Found) -> None:
    """The learned matrix against the optimum's, and the risk at test lengths it was not trained on."""
    task = study.task
    ratio = _noise_to_weight(task)
    exact = learners.gaussian_optimum_matrix(task.second_moment, task.n_context, ratio)
    matrices = jax.vmap(lambda c: analysis.effective_preconditioner(c, task.d_input, task.n_context))(study.circuits)
    matrices = np.asarray(matrices, np.float64)  # [member m d d]
    found.add("preconditioner_error", np.linalg.norm(matrices - exact, axis=(-2, -1)).max(-1) / np.linalg.norm(exact))
    found.arrays["preconditioner_exact"] = exact.tolist()
    if len(found.shown):
        found.arrays["preconditioner_trained"] = matrices[found.shown[0], 0].tolist()

    lengths = [max(1, round(task.n_context * factor)) for factor in (0.25, 0.5, 1, 2, 4, 8)]
    means, closed = [], []
    for m in lengths:
        risks = _risk_at_length(study, m)
        means.append(risks)
        closed.append(task.d_output * learners.gaussian_optimum_risk(task.second_moment, task.n_context, ratio,
                                                                     task.weight_scale, m))  # fmt: skip
    ours, theirs = np.stack(means), np.asarray(closed)
    found.curves["loss_by_test_length_trained"] = curve(lengths, ours[:, found.shown])
    found.curves["loss_by_test_length_closed_form"] = curve(lengths, theirs)
    found.add("test_length_deviation", np.abs(ours / theirs[:, None] - 1).max(0))


def _risk_at_length(study: Study, m: int) -> np.ndarray:
    """Risk `[member]` on contexts of m examples, the sum over the context rescaled to the n it was trained on.

    The formula at test length M is that of a mean over M examples; the layer sums, so its W_PV is multiplied by n / M.
    """
    task = replace(study.task, n_context=m)
    circuits = study.circuits._replace(W_PV=study.circuits.W_PV * (study.task.n_context / m))
    losses = together({"risk": partial(analysis.member_losses, study.of_circuits, circuits)})
    return analysis.streamed_risks(losses, task.sample, study.key, min(study.n_prompts, 2**18))["risk"].mean


ANALYSES: dict[str, Callable[[Study, Found], None]] = {
    "alignment": alignment,
    "weights": weights,
    "interpolation": interpolation,
    "shifts": shifts,
    "rollout": rollout,
    "optimum": optimum,
}
