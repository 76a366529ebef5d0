"""Functions that several analyses share: comparison with one more learner, and prompts under distribution shifts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from icl_gd import analysis
from icl_gd.lab.evaluation.measured import Evaluation, Records, losses_of_learner, merge_losses
from icl_gd.tasks import SHIFTS, LinearRegression, change_context
from icl_gd.types import Array, Predictor, Prompt

# The learners that deep networks are compared with, in the order in which figures show them.
LEARNERS = ("gd", "gd_free_steps", "gd_plus_plus_published", "gd_plus_plus", "gd_plus_plus_free_steps")
# The learners that figures of alignment show.
ALIGNED = ("gd", "gd_plus_plus_published", "gd_plus_plus", "gd_plus_plus_free_steps")


def compare_with(evaluation: Evaluation, records: Records, name: str, learner: Predictor) -> None:
    """Compares the population with one more learner, by the same metrics as with gradient descent.

    Adds the loss of the learner, the loss of every member divided by it, and the members' alignment to the learner.

    Args:
      evaluation: the trained population.
      records: receives the metrics.
      name: the suffix of the metric names.
      learner: a Predictor.
    """
    losses = merge_losses({"loss": losses_of_learner(learner)})
    risk = analysis.streamed_risks(losses, evaluation.task.sample, evaluation.key, evaluation.n_prompts)["loss"]
    records.add_one(f"loss_{name}", risk.mean, risk.stderr)
    records.arrays[f"loss_{name}_on_curve_prompts"] = float(jax.jit(losses)(evaluation.prompts)["loss"].mean())
    records.add(f"loss_ratio_{name}", records.measured["loss_trained"].values / risk.mean)
    align(evaluation, records, name, learner, evaluation.trained.predictor, evaluation.trained.params)


def align(
    evaluation: Evaluation,
    records: Records,
    name: str,
    learner: Predictor,
    predictor_of: Callable[[Any], Predictor],
    members: Any,
) -> None:
    """Adds the alignment of members' Predictors to a learner.

    Args:
      evaluation: the trained population; alignment is measured on its prompts.
      records: receives the metrics.
      name: the suffix of the metric names.
      learner: a Predictor.
      predictor_of: returns the Predictor of one member, given its arrays.
      members: the arrays of all members, a tree with a leading member axis.
    """

    def aligned(members: Any, prompts: Prompt) -> analysis.Alignment:
        reference = analysis.response(learner, prompts)

        def compare(member: Any) -> analysis.Alignment:
            return analysis.compare(analysis.response(predictor_of(member), prompts), reference)

        return analysis.over_members(compare, members)

    for measure, values in jax.jit(aligned)(members, evaluation.prompts)._asdict().items():
        records.add(f"{measure}_{name}", np.asarray(values))


def evaluated_values(evaluation: Evaluation, suite: str) -> tuple:
    """The values of the shift `SHIFTS[suite]` that this run measures: at most `eval.suite_values`."""
    values = tuple(SHIFTS[suite].values)
    if suite == "corrupted_labels":  # a context has only n_context labels to corrupt
        values = tuple(k for k in values if int(k) <= evaluation.task.n_context)
    return evaluation.subsample(values)


@dataclass(frozen=True)
class _Shifted:
    """Maps a key to one prompt for each value of a shift, all from the same random numbers."""

    task: LinearRegression
    apply: Callable[..., LinearRegression]

    def __call__(self, values: Array, key: Array) -> tuple[Prompt, ...]:
        stacked = jax.vmap(lambda value: self.apply(self.task, value).sample(key))(values)
        return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(len(values)))


@dataclass(frozen=True)
class _Each:
    """Maps a key to one prompt of each of several tasks."""

    tasks: tuple[LinearRegression, ...]

    def __call__(self, key: Array) -> tuple[Prompt, ...]:
        return tuple(task.sample(key) for task in self.tasks)


@dataclass(frozen=True)
class _FirstExamples:
    """Maps a key to one prompt per length. A shorter prompt consists of the first examples of the longest prompt."""

    longest: LinearRegression
    lengths: tuple[int, ...]

    def __call__(self, key: Array) -> tuple[Prompt, ...]:
        prompt = self.longest.sample(key)
        return tuple(prompt._replace(x=prompt.x[:n], y=prompt.y[:n]) for n in self.lengths)


def changes_only_numbers(apply: Callable[..., LinearRegression], values: Sequence) -> bool:
    """Whether a shift changes only numbers, so that one compiled program serves all its values.

    Every input distribution and every context length needs a separate program.
    """
    return not isinstance(values[0], str) and apply is not change_context


def shifted(task: LinearRegression, apply: Callable[..., LinearRegression], values: Sequence) -> Callable:
    """Makes a function that draws one prompt for each value of a shift, in one program for all values.

    Args:
      task: the task that is shifted.
      apply: returns the shifted task, given the task and a value.
      values: the values of the shift.

    Returns:
      A function from a key to a tuple of Prompts, in the order of `values`.
    """
    if changes_only_numbers(apply, values):
        return Partial(_Shifted(task, apply), jnp.asarray(values, float))
    tasks = tuple(apply(task, value) for value in values)
    # Corrupted labels are chosen among all labels of a prompt. So the beginning of a longer prompt has too few of them.
    if apply is change_context and not task.corrupted_labels:
        lengths = tuple(shifted_task.n_context for shifted_task in tasks)
        return Partial(_FirstExamples(replace(task, n_context=max(lengths)), lengths))
    return Partial(_Each(tasks))
