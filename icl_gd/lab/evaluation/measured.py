"""A population before training (`Setting`), the population after training (`Evaluation`), and its `Records`.

A `Reference` is prepared from a `Setting`, before the population is trained. An analysis reads an `Evaluation`, after
training, and adds metrics, curves and arrays to `Records`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
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

# A member is trapped if its loss is above this multiple of a baseline: the loss of the best layer if it is known in
# closed form, otherwise that of the reference learner.
TRAPPED_ABOVE = 1.2
# A prompt diverges if its loss is above this multiple of the mean loss of predicting zero. The losses of bounded
# predictions are far below it.
DIVERGES = 100.0
# Suffixes of metric names: for all members, for the untrapped members, and for the trapped members.
GROUPS = ("", "_untrapped", "_trapped")

Losses = Callable[[Prompt], dict[str, Array]]  # batch of prompts -> name -> losses [prompt] or [member prompt]
History = Mapping[str, Mapping[int, Mapping[int, float]]]  # metric -> step -> seed -> value


@dataclass(frozen=True)
class Setting:
    """One population before training: its experiment, held-out prompts and training function.

    Attributes:
      experiment: the experiment of this population. It sweeps only over fields that may differ between members.
      prompts: the batch of held-out prompts that curves are measured on.
      points: the combinations of the sweep, each a mapping from fields to values; one empty mapping without a sweep.
      train: `train(task, network, settings, watch, name="", **more) -> Population` trains a population with progress,
        metrics and checkpoints. A population that a reference trains has a name, and separate checkpoints.
      read_history: `read_history(name)` returns the metrics measured while the population of this name was trained; an
        empty mapping if there are none.
    """

    experiment: Experiment
    prompts: Any
    points: Sequence[Mapping[str, Any]]
    train: Callable[..., Population]
    read_history: Callable[[str], History]

    @property
    def task(self) -> Any:
        """The task that the population is evaluated on."""
        return self.experiment.eval_task

    @property
    def training_source(self) -> Any:
        """The task that the population is trained on, or a finite pool of its prompts."""
        return self.experiment.training_source

    @property
    def network(self) -> TransformerConfig:
        return self.experiment.network

    @property
    def layout(self) -> Layout:
        return self.experiment.layout

    @property
    def key(self) -> Array:
        """The random key of the prompts that final metrics are measured on."""
        return held_out_key(self.experiment.seed, EVALUATION)

    @property
    def key_fit(self) -> Array:
        """The random key of the prompts that references are fitted to."""
        return held_out_key(self.experiment.seed, FIT)

    @property
    def n_prompts(self) -> int:
        """The number of prompts for final metrics."""
        return self.experiment.eval.prompts

    @property
    def suite_values(self) -> int | None:
        """The largest number of values of a shift that are measured; None for all."""
        return self.experiment.eval.suite_values

    def subsample(self, values: Sequence) -> tuple:
        """At most `eval.suite_values` of the values, evenly spaced."""
        return subsample(values, self.suite_values)

    def has_analysis(self, name: str) -> bool:
        """Whether the experiment requests an analysis."""
        return name in self.experiment.analysis_names


class PreparedReference:
    """The result of `Reference.prepare`, which measures and evaluates a population."""

    def watch(self, params: Any) -> dict[str, np.ndarray]:
        """Metrics `[member]` of a population, given its parameters. Called during training and after it."""
        raise NotImplementedError

    def evaluate(self, evaluation: "Evaluation") -> "Records":
        """Records with the final metrics of a trained population, and with its trapped members marked."""
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
      history: the metrics measured during training; empty if members differ in swept fields.
      checkpoints: the directory of the population's checkpoints. Default: None, there are none.
    """

    trained: Population
    untrained: Any
    reference: Any
    watch: Callable[[Any], Mapping[str, np.ndarray]]
    history: History
    checkpoints: Path | None = None

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
        with jax.ensure_compile_time_eval():  # caches an array, not a tracer, even if first called inside a jit
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
    """A metric of `Records`: values `[member]`, or a single number, with sampling errors."""

    values: np.ndarray
    errors: np.ndarray | None
    over: tuple[str, ...] | None  # suffixes in `GROUPS` for which the metric is reported; None for a single number


@dataclass
class Records:
    """Records of an evaluation: per-member values, curves and arrays for results.json.

    `metrics` reduces the per-member values to the metrics of all members, or of the members of one combination.

    Attributes:
      is_free: `[member]`, True for members that are not trapped.
      has_diverged: `[member]`, True for members that were frozen because their loss or update was not finite.
      measured: values by metric.
      curves: curves by name, in the format of `icl_gd.lab.curve`.
      arrays: other data for figures, by name.
      verdicts: the verdicts of `icl_gd.identify` as dicts, one per member; empty if members are not identified.
    """

    is_free: np.ndarray
    has_diverged: np.ndarray
    measured: dict[str, Measured] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)
    verdicts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def trapped(self) -> np.ndarray:
        """Indices of the trapped members."""
        return np.flatnonzero(~self.is_free)

    @property
    def shown(self) -> np.ndarray:
        """Indices of the members that curves show: the untrapped members, or all members if all are trapped."""
        return np.flatnonzero(self.is_free) if self.is_free.any() else self.trapped

    def median_member(self, name: str) -> int:
        """The index of a typical member: among the `shown` members, the one with the median value of a metric."""
        values = self.measured[name].values[self.shown]
        return int(self.shown[np.argsort(values)[len(values) // 2]])

    def add(self, name: str, values: Any, errors: Any = None, over: tuple[str, ...] = GROUPS[:2]) -> None:
        """Adds a metric with one value per member.

        Args:
          name: the name of the metric.
          values: `[member]`.
          errors: sampling errors of the values, `[member]` or one number. Default: unknown.
          over: suffixes in `GROUPS`: the groups of members for which the metric is reported. Default: all members, and
            the untrapped members.
        """
        values = np.asarray(values, np.float64)
        errors = None if errors is None else np.broadcast_to(errors, values.shape)
        self.measured[name] = Measured(values, errors, over)

    def add_one(self, name: str, value: Any, error: Any = None) -> None:
        """Adds a metric that is a single number, such as the loss of a learner.

        Args:
          name: of the metric.
          value: the number.
          error: its sampling error. Default: unknown.
        """
        self.measured[name] = Measured(value, error, None)

    def add_risks(self, risks: Mapping[str, Risk]) -> None:
        """Adds risks as metrics: risks `[member]` of a population, or the risk of one learner."""
        for name, risk in risks.items():
            if np.ndim(risk.mean):
                over = GROUPS[:1] if name == "loss_untrained" else GROUPS[:2]  # untrained members are not grouped
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
        masks: dict[str, np.ndarray] = dict(zip(GROUPS, (np.full(len(free), True), free, ~free), strict=True))
        result = {}
        for name, (values, errors, over) in self.measured.items():
            if over is None:
                result[name] = metric(values, errors)
            for suffix in over or ():
                mask = masks[suffix]
                error = None if errors is None else errors[members][mask]
                result[name + suffix] = metric(values[members][mask], error)
        result["seeds_trapped"] = metric(np.sum(~free), 0.0)
        result["seeds_diverged"] = metric(np.sum(self.has_diverged[members]), 0.0)
        return result


def merge_losses(losses_of: Mapping[str, Callable[[Prompt], Array]]) -> Losses:
    """Merges loss functions into one function of the prompts, which returns their losses by name.

    The result is a pytree whose leaves are parameters and step sizes. So one compiled program serves all their values.
    """
    return Partial(_merged_losses, {name: as_partial(losses) for name, losses in losses_of.items()})


def _merged_losses(losses_of: Mapping[str, Callable[[Prompt], Array]], prompts: Prompt) -> dict[str, Array]:
    return {name: losses(prompts) for name, losses in losses_of.items()}


def losses_of_learner(predictor: Predictor) -> Callable[[Prompt], Array]:
    """A function that maps a batch of prompts to the losses `[prompt]` of a Predictor."""
    return Partial(analysis.losses, as_partial(predictor))


def losses_of_members(predictors: Predictor) -> Callable[[Prompt], Array]:
    """Like `losses_of_learner`, for Predictors whose arrays have a leading member axis: losses `[member prompt]`."""
    return Partial(analysis.member_losses, predictors)


def free_members(losses: np.ndarray, standard: float | np.ndarray) -> np.ndarray:
    """Boolean mask `[member]` of the members that are not trapped, given their losses and the baseline `standard`."""
    return losses <= TRAPPED_ABOVE * standard  # `~(losses > ...)` would count a loss of nan as untrapped


def clip_losses(losses: Array, most: float | Array) -> Array:
    """Losses clipped at `most`; nan becomes `most`.

    A network without a clip diverges on rare prompts. Their losses dominate its mean loss, which then does not show
    which solution the seed has learned. A seed that diverges on one prompt in a hundred is still trapped.
    """
    return jnp.fmin(losses, most)


def construction_error(built: Predictor, learner: Predictor, prompts: Prompt) -> float:
    """Largest `|y_hat_built - y_hat_learner|` over prompts, divided by the largest `|y_hat_learner|`.

    Args:
      built: the construction.
      learner: the learner that it should equal.
      prompts: `[prompt ...]`.
    """

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
    """The random key of held-out prompts for a purpose. No member with this base seed is trained on these prompts."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2**31 - 1), purpose)


def subsample(values: Sequence, at_most: int | None) -> tuple:
    """At most `at_most` of the values, evenly spaced, with the first and the last; all values if `at_most` is None."""
    n = len(values) if at_most is None else min(at_most, len(values))
    return tuple(values[i] for i in np.linspace(0, len(values) - 1, n).round().astype(int))


def take(prompts: Any, n: int) -> Any:
    """The first n prompts of a batch of Prompts or PrefixPrompts, for expensive measurements."""
    return jax.tree.map(lambda leaf: leaf[:n], prompts)


def noise_to_weight(task: LinearRegression) -> float:
    """Variance of the label noise divided by the variance of the weights."""
    return float(task.noise_std / task.weight_scale) ** 2


def corruption(task: LinearRegression) -> dict[str, Any]:
    """Arguments of the closed forms: number of corrupted labels, and their variance / the variance of the weights."""
    return {"corrupted": task.corrupted_labels, "corrupted_to_weight": float(task.weight_scale) ** -2}
