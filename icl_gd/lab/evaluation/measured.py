"""A population before and after training, and the records of its evaluation.

A `Reference` is prepared from a `Setting`, before the population is trained. An analysis reads an `Evaluation`, after
training, and adds its metrics, curves and arrays to `Records`.
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

# A member is trapped if its loss is above this multiple of the best layer's loss (if that is known in closed form) or
# of the loss of gradient descent.
TRAPPED_ABOVE = 1.2
# A prompt diverges if its loss is above this multiple of the mean loss of predicting zero. A bounded prediction never
# comes near it.
DIVERGES = 100.0
# Suffixes of a metric's name: the metric over all members, over the untrapped ones, and over the trapped ones.
EVERY = ("", "_untrapped", "_trapped")

Losses = Callable[[Prompt], dict[str, Array]]


History = Mapping[str, Mapping[int, Mapping[int, float]]]  # metric -> step -> seed -> value


@dataclass(frozen=True)
class Setting:
    """One population before training: its experiment, held-out prompts and training function.

    Attributes:
      experiment: the experiment of this population. Sweeps over sizes are resolved; only sweeps over members remain.
      prompts: the batch of held-out prompts that curves are measured on.
      points: for every combination of the sweep, its fields and values; one empty mapping if nothing is swept over.
      train: `train(task, network, settings, watch, name="", **more) -> Population`: trains a population with progress,
        metrics and checkpoints. A population that a reference trains has a name, and checkpoints of its own.
      read_history: returns the metrics measured during training, given the name of the population; empty if there are
        none.
    """

    experiment: Experiment
    prompts: Any
    points: Sequence[Mapping[str, Any]]
    train: Callable[..., Population]
    read_history: Callable[[str], History]

    @property
    def task(self) -> Any:
        """The task that the population is evaluated on."""
        return self.experiment.law

    @property
    def trained_on(self) -> Any:
        """The task that the population is trained on, or a finite pool of its prompts."""
        return self.experiment.trained_on

    @property
    def network(self) -> TransformerConfig:
        return self.experiment.network

    @property
    def layout(self) -> Layout:
        return self.experiment.layout

    @property
    def key(self) -> Array:
        """The key of the prompts that final metrics are measured on."""
        return held_out_key(self.experiment.seed, EVALUATION)

    @property
    def key_fit(self) -> Array:
        """The key of the prompts that references are fitted to."""
        return held_out_key(self.experiment.seed, FIT)

    @property
    def n_prompts(self) -> int:
        """The number of prompts for final metrics."""
        return self.experiment.eval.prompts

    @property
    def suite_values(self) -> int | None:
        return self.experiment.eval.suite_values

    def subsample(self, values: Sequence) -> tuple:
        """At most `eval.suite_values` of the values, evenly spaced."""
        return subsample(values, self.suite_values)

    def has_analysis(self, name: str) -> bool:
        """Whether the experiment requests an analysis."""
        return name in self.experiment.asked


class PreparedReference:
    """A prepared reference: what `Reference.prepare` returns, ready to be compared with a population."""

    def watch(self, params: Any) -> dict[str, np.ndarray]:
        """Metrics `[member]` of a population's parameters, measured during training and after it."""
        raise NotImplementedError

    def evaluate(self, evaluation: "Evaluation") -> "Records":
        """Final metrics of a trained population, and which of its members are trapped."""
        raise NotImplementedError

    def over_training(self, evaluation: "Evaluation", records: "Records") -> None:
        """Adds the metrics measured during training, as curves over all members."""
        members = range(evaluation.experiment.seeds)
        records.curves |= curves_by_step(evaluation.history, evaluation.experiment.seed, members)


@dataclass(frozen=True)
class Evaluation(Setting):
    """A trained population and the reference it is compared with: the input of every analysis.

    Attributes:
      trained: the trained population.
      untrained: the population's parameters at step 0.
      reference: the prepared reference.
      watch: returns the metrics that are measured during training, given the parameters of all members.
      history: the metrics measured during training; empty if the experiment sweeps over members.
    """

    trained: Population
    untrained: Any
    reference: Any
    watch: Callable[[Any], Mapping[str, np.ndarray]]
    history: History

    @cached_property
    def watched(self) -> Mapping[str, np.ndarray]:
        """The metrics of `watch` for the trained members."""
        return self.watch(self.trained.params)

    @cached_property
    def watched_untrained(self) -> Mapping[str, np.ndarray]:
        """The metrics of `watch` for the untrained members."""
        return self.watch(self.untrained)

    @cached_property
    def circuits(self) -> Circuits:
        """Circuits of all members, with a leading member axis."""
        with jax.ensure_compile_time_eval():  # a cached tracer would outlive the jit that made it
            return jax.jit(jax.vmap(partial(models.circuits, self.trained.config)))(self.trained.params)

    @cached_property
    def interpolated(self) -> Circuits:
        """Circuits halfway between every member and the construction, with a leading member axis."""
        halfway = jax.vmap(analysis.interpolate, in_axes=(0, None))
        with jax.ensure_compile_time_eval():
            return jax.jit(halfway)(self.circuits, self.reference.circuits)

    def predictor_of_circuits(self, circuits: Circuits) -> Predictor:
        """The Predictor that has these circuits, in the population's layout."""
        return models.circuit_predictor(circuits, self.trained.layout)

    @property
    def kind(self) -> str:
        """The kind of attention in the first layer."""
        return self.trained.config.kinds[0]

    def encode(self, prompt: Prompt) -> Array:
        """Tokens `[t e]` of one prompt."""
        return self.trained.layout.encode(prompt.x, prompt.y, prompt.x_query)

    def over_members(self, f: Callable[..., Any], *more: Any) -> Any:
        """Applies `f(params, *more)` to every member in sequence.

        Returns:
          A tree of NumPy arrays with a leading member axis.
        """
        compiled = jax.jit(lambda params, *more: jax.lax.map(lambda member: f(member, *more), params))
        return jax.tree.map(np.asarray, compiled(self.trained.params, *more))


class Measured(NamedTuple):
    """Values `[member]` of a metric with their sampling errors, or a single number; see `Records`."""

    values: np.ndarray
    errors: np.ndarray | None
    over: tuple[str, ...] | None  # suffixes of EVERY: the sets of members that have a metric; None for a single number


@dataclass
class Records:
    """Records of an evaluation: per-member values, curves and arrays for results.json.

    `metrics` reduces the per-member values to the metrics of all members, or of the members of one combination.

    Attributes:
      is_free: `[member]`, True for members that are not trapped.
      has_diverged: `[member]`, True for members whose parameters were frozen after steps that were not finite.
      measured: values by metric.
      curves: curves by name, as `icl_gd.lab.curve` makes them.
      arrays: other content of results.json that figures are drawn from, by name.
    """

    is_free: np.ndarray
    has_diverged: np.ndarray
    measured: dict[str, Measured] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)

    @property
    def trapped(self) -> np.ndarray:
        """Indices of the trapped members."""
        return np.flatnonzero(~self.is_free)

    @property
    def shown(self) -> np.ndarray:
        """Indices of the members that curves are drawn from: the untrapped ones, or all if every member is trapped."""
        return np.flatnonzero(self.is_free) if self.is_free.any() else self.trapped

    def median_member(self, name: str) -> int:
        """The member with the median value of a metric among those that are shown: a typical member."""
        values = self.measured[name].values[self.shown]
        return int(self.shown[np.argsort(values)[len(values) // 2]])

    def add(self, name: str, values: Any, errors: Any = None, over: tuple[str, ...] = EVERY[:2]) -> None:
        """Adds a metric that every member has.

        Args:
          name: of the metric.
          values: `[member]`.
          errors: sampling errors of the values, `[member]` or one number. Default: unknown.
          over: suffixes of `EVERY`; the metric is repeated for each of these sets of members. Default: all members, and
            the untrapped ones.
        """
        values = np.asarray(values, np.float64)
        errors = None if errors is None else np.broadcast_to(errors, values.shape)
        self.measured[name] = Measured(values, errors, over)

    def add_one(self, name: str, value: Any, error: Any = None) -> None:
        """Adds a metric that is a single number, such as the loss of a learner."""
        self.measured[name] = Measured(value, error, None)

    def add_risks(self, risks: Mapping[str, Risk]) -> None:
        """Adds risks as metrics: risks `[member]` of a population, or the risk of one learner."""
        for name, risk in risks.items():
            if np.ndim(risk.mean):
                over = EVERY[:1] if name == "loss_untrained" else EVERY[:2]  # untrained members are never trapped
                self.add(name, risk.mean, risk.stderr, over)
            else:
                self.add_one(name, risk.mean, risk.stderr)

    def metrics(self, members: slice = slice(None)) -> dict[str, Any]:
        """Reduces the measured values over seeds.

        Args:
          members: the members of one combination of a sweep. Default: all members.

        Returns:
          Metrics by name, as in results.json.
        """
        free = self.is_free[members]
        chosen: dict[str, np.ndarray] = dict(zip(EVERY, (np.full(len(free), True), free, ~free), strict=True))
        result = {}
        for name, (values, errors, over) in self.measured.items():
            if over is None:
                result[name] = metric(values, errors)
            for suffix in over or ():
                mask = chosen[suffix]
                error = None if errors is None else errors[members][mask]
                result[name + suffix] = metric(values[members][mask], error)
        result["seeds_trapped"] = metric(np.sum(~free), 0.0)
        result["seeds_diverged"] = metric(np.sum(self.has_diverged[members]), 0.0)
        return result


def merge_losses(losses_of: Mapping[str, Callable[[Prompt], Array]]) -> Losses:
    """Merges several loss functions into one function of the prompts.

    The result is a pytree, so that one compiled program serves all parameters and step sizes inside it.
    """
    return Partial(_merged_losses, {name: as_partial(losses) for name, losses in losses_of.items()})


def _merged_losses(losses_of: Mapping[str, Callable[[Prompt], Array]], prompts: Prompt) -> dict[str, Array]:
    return {name: losses(prompts) for name, losses in losses_of.items()}


def losses_of_learner(predictor: Predictor) -> Callable[[Prompt], Array]:
    """The function from prompts to the losses `[prompt]` of a Predictor."""
    return Partial(analysis.losses, as_partial(predictor))


def losses_of_members(predictors: Predictor) -> Callable[[Prompt], Array]:
    """The function from prompts to losses `[member prompt]` of Predictors whose arrays have a leading member axis."""
    return Partial(analysis.member_losses, predictors)


def free_members(losses: np.ndarray, standard: float | np.ndarray) -> np.ndarray:
    """Which members `[member]` are not trapped, given their losses and the loss they are compared with."""
    return losses <= TRAPPED_ABOVE * standard  # not `~(losses > ...)`, by which a member with loss nan would be free


def clip_losses(losses: Array, most: float | Array) -> Array:
    """Losses clipped at `most`; nan becomes `most`.

    A network without a clip diverges on rare prompts. Their losses dominate its mean and do not tell which solution the
    seed has learned. A seed that diverges on one prompt in a hundred is trapped by its clipped losses too.
    """
    return jnp.fmin(losses, most)


def construction_error(built: Predictor, learner: Predictor, prompts: Prompt) -> float:
    """Largest `|y_hat_built - y_hat_learner|` over prompts, divided by the largest `|y_hat_learner|`."""

    def error(p: Prompt) -> Array:
        predictions = (jax.vmap(predictor)(p.x, p.y, p.x_query) for predictor in (built, learner))
        return largest_error(*predictions)

    return float(jax.jit(error)(prompts))


def largest_error(predicted: Array, expected: Array) -> Array:
    """Largest `|predicted - expected|` over prompts, divided by the largest `|expected|`; predictions `[prompt m]`."""
    norm = partial(jnp.linalg.norm, axis=-1)
    return norm(predicted - expected).max() / norm(expected).max()


EVALUATION, CURVES, FIT = 1, 2, 3  # the purposes of held-out prompts: final metrics, curves, fitting references


def held_out_key(seed: int, purpose: int) -> Array:
    """A key that no member of a population with this base seed is trained on."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2**31 - 1), purpose)


def subsample(values: Sequence, at_most: int | None) -> tuple:
    """At most `at_most` of the values, evenly spaced and with the first and last; all values if that is None."""
    n = len(values) if at_most is None else min(at_most, len(values))
    return tuple(values[i] for i in np.linspace(0, len(values) - 1, n).round().astype(int))


def take(prompts: Any, n: int) -> Any:
    """The first n prompts of a batch of Prompts or PrefixPrompts, for expensive measurements."""
    return jax.tree.map(lambda leaf: leaf[:n], prompts)


def noise_to_weight(task: LinearRegression) -> float:
    """Variance of the label noise over the variance of the weights."""
    return float(task.noise_std / task.weight_scale) ** 2


def corruption(task: LinearRegression) -> dict[str, Any]:
    """Number of corrupted labels and their variance over that of the weights, as arguments of the closed forms."""
    return {"corrupted": task.corrupted_labels, "corrupted_to_weight": float(task.weight_scale) ** -2}
