"""A population before and after it is trained, and what is found of it.

A `Reference` prepares what it is compared with from a `Setting`; an analysis reads an
`Evaluation` and adds to `Records`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from icl_gd import analysis, models
from icl_gd.analysis import Risk
from icl_gd.lab.config.experiment import Experiment
from icl_gd.lab.reporting.results import curves_by_step, metric
from icl_gd.models import TransformerConfig
from icl_gd.programs import as_partial
from icl_gd.tasks import LinearRegression
from icl_gd.training import Population
from icl_gd.types import Array, Circuits, Layout, Predictor, Prompt

TRAPPED_ABOVE = 1.2  # times the loss of the best layer where it is known, otherwise that of gradient descent
DIVERGES = 100.0  # times the mean loss of predicting zero, which a bounded prediction never comes near
EVERY = ("", "_untrapped", "_trapped")  # members a metric is taken over, by the ending of its name

Losses = Callable[[Prompt], dict[str, Array]]


History = Mapping[str, Mapping[int, Mapping[int, float]]]  # metric -> step -> seed -> value


@dataclass(frozen=True)
class Setting:
    """What there is of one population before it is trained.

    Attributes:
      experiment: of which nothing is swept over but by members.
      prompts: the batch that curves are measured on.
      points: the fields in which combinations of members differ; one without fields where none do.
      train: `train(task, network, settings, watch, name="", **more) -> Population`: trains a population with everything
        that a run shows and keeps; what a reference trains has a name, and its own checkpoints.
      read_history: what was watched during training, by the name of what was trained; empty where nothing was.
    """

    experiment: Experiment
    prompts: Any
    points: Sequence[Mapping[str, Any]]
    train: Callable[..., Population]
    read_history: Callable[[str], History]

    @property
    def task(self) -> Any:
        """What the population is evaluated on."""
        return self.experiment.law

    @property
    def trained_on(self) -> Any:
        """The task that it is trained on, or a pool of its prompts."""
        return self.experiment.trained_on

    @property
    def network(self) -> TransformerConfig:
        return self.experiment.network

    @property
    def layout(self) -> Layout:
        return self.experiment.layout

    @property
    def key(self) -> Array:
        """For final numbers."""
        return held_out_key(self.experiment.seed, EVALUATION)

    @property
    def key_fit(self) -> Array:
        """For what references are fitted on."""
        return held_out_key(self.experiment.seed, FIT)

    @property
    def n_prompts(self) -> int:
        """Of final numbers."""
        return self.experiment.eval.prompts

    @property
    def suite_values(self) -> int | None:
        return self.experiment.eval.suite_values

    def subsample(self, values: Sequence) -> tuple:
        """At most `eval.suite_values` of them."""
        return subsample(values, self.suite_values)

    def asks(self, name: str) -> bool:
        """Whether an analysis is asked for."""
        return name in self.experiment.asked


class Compared:
    """What a population is compared with, once that is computed: what a `Reference` prepares."""

    def watch(self, params: Any) -> dict[str, np.ndarray]:
        """Metrics `[member]` of a population's parameters, measured during training and after it."""
        raise NotImplementedError

    def evaluate(self, study: "Evaluation") -> "Records":
        """Final numbers of a trained population, and which of its members are trapped."""
        raise NotImplementedError

    def over_training(self, study: "Evaluation", found: "Records") -> None:
        """Adds what was watched during training, as curves over all members."""
        members = range(study.experiment.seeds)
        found.curves |= curves_by_step(study.history, study.experiment.seed, members)


@dataclass(frozen=True)
class Evaluation(Setting):
    """What analyses look at: a trained population beside what it is compared with.

    Attributes:
      untrained: the population's parameters at step 0.
      reference: what it is compared with.
      watch: what is measured during training, of the parameters of all members.
      history: what was; empty where members are swept over.
    """

    trained: Population
    untrained: Any
    reference: Any
    watch: Callable[[Any], Mapping[str, np.ndarray]]
    history: History

    @cached_property
    def watched(self) -> Mapping[str, np.ndarray]:
        """What is watched during training, of the trained members."""
        return self.watch(self.trained.params)

    @cached_property
    def watched_untrained(self) -> Mapping[str, np.ndarray]:
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

    @property
    def kind(self) -> str:
        """The attention of the first layer."""
        return self.trained.config.kinds[0]

    def encode(self, prompt: Prompt) -> Array:
        """Tokens of one prompt."""
        return self.trained.layout.encode(prompt.x, prompt.y, prompt.x_query)

    def over_members(self, f: Callable[..., Any], *more: Any) -> Any:
        """`f(params, ...)` of every member, one after another, as NumPy arrays."""
        of_all = jax.jit(lambda params, *more: jax.lax.map(lambda one: f(one, *more), params))
        return jax.tree.map(np.asarray, of_all(self.trained.params, *more))


class Measured(NamedTuple):
    """Values `[member]` with their sampling errors, or one number that has no members; see `Records`."""

    values: np.ndarray
    errors: np.ndarray | None
    over: tuple[str, ...] | None  # of which members metrics are made, by the endings of their names


@dataclass
class Records:
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

    def add_risks(self, risks: Mapping[str, Risk]) -> None:
        """Metrics of risks, of the members or of one learner; untrained members are neither free nor trapped."""
        for name, risk in risks.items():
            if np.ndim(risk.mean):
                self.add(name, risk.mean, risk.stderr, EVERY[:1] if name == "loss_untrained" else EVERY[:2])
            else:
                self.add_one(name, risk.mean, risk.stderr)

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


def merge_losses(losses_of: Mapping[str, Callable[[Prompt], Array]]) -> Losses:
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


def free_members(losses: np.ndarray, standard: float | np.ndarray) -> np.ndarray:
    """Which members `[member]` are not trapped; a loss that is not finite is none of a free one."""
    return losses <= TRAPPED_ABOVE * standard  # not the negation of >, which would hold for nan


def clip_losses(losses: Array, most: float | Array) -> Array:
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


EVALUATION, CURVES, FIT = 1, 2, 3  # what prompts are drawn for that no member trains on


def held_out_key(seed: int, purpose: int) -> Array:
    """A key that no member of seeds from `seed` on trains on."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2**31 - 1), purpose)


def subsample(values: Sequence, at_most: int | None) -> tuple:
    """At most so many of them, all where that is None: evenly many, with the first and last."""
    asked = len(values) if at_most is None else min(at_most, len(values))
    return tuple(values[i] for i in np.linspace(0, len(values) - 1, asked).round().astype(int))


def take(prompts: Any, n: int) -> Any:
    """The first n of a batch of Prompts or PrefixPrompts, for what is dear to measure."""
    return jax.tree.map(lambda leaf: leaf[:n], prompts)


def noise_to_weight(task: LinearRegression) -> float:
    return float(task.noise_std / task.weight_scale) ** 2


def corruption(task: LinearRegression) -> dict[str, Any]:
    """How many labels are noise, and of which variance, as the closed forms ask for it."""
    return {"corrupted": task.corrupted_labels, "corrupted_to_weight": float(task.weight_scale) ** -2}
