"""A trained population beside what it is compared with: `evaluate` measures what every experiment reports.

Each question of `analyses` asks one question more of a `Study` and adds its records to `Found`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from icl_gd import analysis, learners, models
from icl_gd.lab.evaluation.references import References
from icl_gd.lab.reporting.results import metric
from icl_gd.programs import as_partial, brief
from icl_gd.tasks import FAMILIES, LinearRegression
from icl_gd.training import Population
from icl_gd.types import Array, Circuits, Predictor, Prompt

TRAPPED_ABOVE = 1.2  # times the loss of the best layer where it is known, otherwise that of gradient descent
DIVERGES = 100.0  # times the mean loss of predicting zero, which a bounded prediction never comes near
EVERY = ("", "_untrapped", "_trapped")  # members a metric is taken over, by the ending of its name

Losses = Callable[[Prompt], dict[str, Array]]


@dataclass(frozen=True)
class Study:
    """What analyses look at."""

    task: LinearRegression
    trained: Population
    reference: References
    prompts: Prompt  # the batch that curves are measured on
    watch: Callable[[Any], dict[str, np.ndarray]]  # see `watcher`
    key: Array
    n_prompts: int  # of final numbers
    untrained: Any  # the population's parameters at step 0
    analyses: tuple[str, ...]
    # metric -> step -> seed -> value, of what was watched; empty where the population is swept
    history: Mapping[str, Mapping[int, Mapping[int, float]]] = field(default_factory=dict)
    trained_on: Any = None  # the task, or a pool of its prompts
    suite_values: int | None = None  # see `few`

    def few(self, values: Sequence) -> tuple:
        """At most `suite_values` of them."""
        return few(values, self.suite_values)

    @cached_property
    def watched(self) -> dict[str, np.ndarray]:
        """What is watched during training, of the trained members."""
        return self.watch(self.trained.params)

    @cached_property
    def watched_untrained(self) -> dict[str, np.ndarray]:
        return self.watch(self.untrained)

    @cached_property
    def circuits(self) -> Circuits:
        """Circuits of all members, with a leading member axis."""
        with jax.ensure_compile_time_eval():  # what is kept must not be a tracer of whoever asks first
            return jax.jit(jax.vmap(partial(models.circuits, self.trained.config)))(self.trained.params)

    @cached_property
    def interpolated(self) -> Circuits:
        """Halfway between every member and the construction."""
        halfway = jax.vmap(analysis.interpolate, in_axes=(0, None))
        with jax.ensure_compile_time_eval():
            return jax.jit(halfway)(self.circuits, self.reference.circuits)

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

    def middle(self, name: str) -> int:
        """The member whose value of a metric is the middle one of those that are shown: a typical one."""
        values = self.measured[name].values[self.shown]
        return int(self.shown[np.argsort(values)[len(values) // 2]])

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
        chosen: dict[str, np.ndarray] = dict(zip(EVERY, (np.full(len(free), True), free, ~free), strict=True))
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


def together(losses_of: Mapping[str, Callable[[Prompt], Array]]) -> Losses:
    """Several losses of the same prompts as one function, a pytree: its program serves whatever arrays they hold."""
    return Partial(_together, {name: as_partial(losses) for name, losses in losses_of.items()})


def _together(losses_of: Mapping[str, Callable[[Prompt], Array]], prompts: Prompt) -> dict[str, Array]:
    return {name: losses(prompts) for name, losses in losses_of.items()}


def of_learner(predictor: Predictor) -> Callable[[Prompt], Array]:
    """Losses `[prompt]` of a Predictor, as a function of prompts."""
    return Partial(analysis.losses, as_partial(predictor))


def of_members(predictors: Predictor) -> Callable[[Prompt], Array]:
    """Losses `[member prompt]` of Predictors whose arrays have a leading member axis, as a function of prompts."""
    return Partial(analysis.member_losses, predictors)


def watcher(
    predictor_of: Callable[[Any], Predictor],
    reference: References,
    prompts: Prompt,
    more: Callable[[Any], dict[str, Array]] = lambda params: {},
) -> Callable[[Any], dict[str, np.ndarray]]:
    """What is measured during training and after it: loss and alignment `[member]` of parameters on fixed prompts.

    What learners say of the prompts is computed once. `more` measures what analyses ask for beside it, of one member's
    parameters.
    """
    learned = reference.responses(prompts)

    def one(params: Any, prompts: Prompt, learned: Mapping[str, analysis.Response]) -> dict[str, Array]:
        shares = models.softmax_share(params)  # of layers that learn how much of them is softmax
        shares = {f"softmax_share{f'_{name}' * (len(shares) > 1)}": share for name, share in shares.items()}
        return _aligned(predictor_of(params), prompts, learned) | shares | more(params)

    # Arguments, not constants: the compiler would fold those, for seconds, by computing with them itself.
    compiled = brief(lambda params, *fixed: analysis.over_members(lambda member: one(member, *fixed), params))
    return lambda params: jax.tree.map(np.asarray, compiled(params, prompts, learned))


def _aligned(predictor: Predictor, prompts: Prompt, learned: Mapping[str, analysis.Response]) -> dict[str, Array]:
    """Loss, and alignment to every learner."""
    found, ours = {"loss_trained": analysis.losses(predictor, prompts).mean()}, analysis.response(predictor, prompts)
    for name, theirs in learned.items():
        found |= {f"{measure}_{name}": value for measure, value in analysis.compare(ours, theirs)._asdict().items()}
    return found


def _every(losses_of: Losses, of_learners: Losses, beyond: Array, prompts: Prompt) -> dict[str, Array]:
    losses = losses_of(prompts) | of_learners(prompts)
    return losses | {"capped": capped(losses["loss_trained"], beyond)}


def evaluate(study: Study) -> Found:
    """Final losses, all but those of least squares on the same prompts, and which members are trapped."""
    task, ref, trained = study.task, study.reference, study.trained
    losses_of = {
        "loss_trained": of_members(trained.predictor(trained.params)),
        "loss_untrained": of_members(trained.predictor(study.untrained)),
        "loss_construction": of_learner(ref.construction),
        "loss_zero": of_learner(learners.zero),
    }
    if task.noise_std > 0:
        losses_of["loss_ridge"] = of_learner(learners.ridge(noise_to_weight(task)))
    if "interpolation" in study.analyses:
        losses_of["loss_interpolated"] = of_members(study.of_circuits(study.interpolated))
    beyond = DIVERGES * float(of_learner(learners.zero)(study.prompts).mean())
    every = Partial(_every, together(losses_of), ref.losses, beyond)
    risks = analysis.streamed_risks(every, task.sample, study.key, study.n_prompts)
    # A singular-value decomposition per prompt: on the curves' prompts only, a hundred times fewer.
    risks["loss_ols"] = analysis.Risk.of(of_learner(learners.ols)(study.prompts))

    optimal = _optimal_loss(study)
    # Deep networks are held to what the paper holds them to, the best GD++ being out of their reach; where rare prompts
    # on which that diverges are all of its mean, to gradient descent.
    standard = min(risks[name].mean for name in ("loss_gd", "loss_gd_plus_plus_published") if name in risks)
    standard = standard if optimal is None else optimal
    found = Found(free_members(risks.pop("capped").mean, standard), np.asarray(trained.diverged_at) >= 0)
    for name, value in risks.items():
        if np.ndim(value.mean):
            found.add(name, value.mean, value.stderr, EVERY[:1] if name == "loss_untrained" else EVERY[:2])
        else:
            found.add_one(name, value.mean, value.stderr)
    for name in ref.rates:
        over = EVERY if name == "gd" else EVERY[:2]
        found.add(f"loss_ratio_{name}", risks["loss_trained"].mean / risks[f"loss_{name}"].mean, over=over)
    found.add("steps_skipped", trained.skipped, 0.0, over=EVERY[:1])
    found.arrays["n_layers"], found.arrays["constructed"] = trained.config.n_layers, ref.main
    found.arrays["rates"] = {name: [rates.tolist() for rates in pairs] for name, pairs in ref.rates.items()}
    found.add_one("step_size_gd", ref.step_size / task.n_context)
    found.add_one("construction_error", construction_error(ref.construction, ref.learner(ref.main), study.prompts))
    if optimal is not None:
        found.add_one("loss_optimal", optimal, 0.0)
        found.add("loss_ratio_optimal", risks["loss_trained"].mean / optimal)
    return found


def free_members(losses: np.ndarray, standard: float | np.ndarray) -> np.ndarray:
    """Which members `[member]` are not trapped; a loss that is not finite is none of a free one."""
    return losses <= TRAPPED_ABOVE * standard  # not the negation of >, which would hold for nan


def capped(losses: Array, most: float | Array) -> Array:
    """Losses of which none is larger than `most`, nor nan.

    Rare prompts on which a network without a clip diverges are all of its mean, and say nothing of the solution that
    its seed has found; a seed that diverges on one in a hundred is trapped by their capped losses too.
    """
    return jnp.fmin(losses, most)


def construction_error(built: Predictor, learner: Predictor, prompts: Prompt) -> float:
    """Largest |y_hat_built - y_hat_learner| over prompts, divided by the largest |y_hat_learner|."""
    of = lambda p: largest_error(*(jax.vmap(form)(p.x, p.y, p.x_query) for form in (built, learner)))
    return float(jax.jit(of)(prompts))


def largest_error(found: Array, expected: Array) -> Array:
    """Largest |found - expected| over prompts, over the largest |expected|, of predictions `[prompt m]`."""
    norm = partial(jnp.linalg.norm, axis=-1)
    return norm(found - expected).max() / norm(expected).max()


def held_out_keys(seed: int, n: int) -> list[Array]:
    """n keys that no member of seeds from `seed` on trains on."""
    held_out = jax.random.fold_in(jax.random.key(seed), 2**31 - 1)
    return [jax.random.fold_in(held_out, i) for i in range(1, n + 1)]


def few(values: Sequence, at_most: int | None) -> tuple:
    """At most so many of them, all where that is None: evenly many, with the first and last."""
    asked = len(values) if at_most is None else min(at_most, len(values))
    return tuple(values[i] for i in np.linspace(0, len(values) - 1, asked).round().astype(int))


def first(prompts: Any, n: int) -> Any:
    """The first n of a batch of Prompts or PrefixPrompts, for what is dear to measure."""
    return jax.tree.map(lambda leaf: leaf[:n], prompts)


def noise_to_weight(task: LinearRegression) -> float:
    return float(task.noise_std / task.weight_scale) ** 2


def corruption(task: LinearRegression) -> dict[str, Any]:
    """How many labels are noise, and of which variance, as the closed forms ask for it."""
    return {"corrupted": task.corrupted_labels, "corrupted_to_weight": float(task.weight_scale) ** -2}


def _optimal_loss(study: Study) -> float | None:
    """The closed-form risk of the best linear layer, where there is one: Gaussian inputs, or independent coordinates.

    Corrupted labels leave it a gradient step: flipping all signs of w and of what replaces labels shows that terms
    without labels, or of even order in them, only add to the variance.
    """
    task, model = study.task, study.trained.config
    if model.n_layers != 1 or not models.has_moment_form(model):
        return None
    ratio, n = noise_to_weight(task), task.n_context
    if task.inputs == "normal" and not task.corrupted_labels:
        optimum = learners.gaussian_optimum_risk(task.second_moment, n, ratio, float(task.weight_scale))
    elif FAMILIES[task.inputs].independent and task.covariance is None:
        moments = task.second_moment[0, 0], task.fourth_moment
        step_size = learners.optimal_step_size(task.d_input, n, *moments, ratio, **corruption(task))
        sizes = step_size, task.d_input, n, *moments, ratio, float(task.weight_scale)
        optimum = learners.one_step_risk(*sizes, **corruption(task))
    else:
        return None
    return task.d_output * optimum
