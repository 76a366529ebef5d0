"""What several analyses share: members beside one learner more, prompts of shifted tasks, names of learners."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from icl_gd import analysis
from icl_gd.lab.evaluation.measured import Evaluation, Records, merge_losses, of_learner
from icl_gd.tasks import SHIFTS, LinearRegression, change_context
from icl_gd.types import Array, Predictor, Prompt

# Of deep networks, in the order in which figures have them; and those that alignment to is drawn.
LEARNERS = ("gd", "gd_free_steps", "gd_plus_plus_published", "gd_plus_plus", "gd_plus_plus_free_steps")
ALIGNED = ("gd", "gd_plus_plus_published", "gd_plus_plus", "gd_plus_plus_free_steps")


def compare_with(study: Evaluation, found: Records, name: str, learner: Predictor) -> None:
    """Loss of one learner more, and the members' loss and alignment beside it: records as of gradient descent."""
    losses = merge_losses({"loss": of_learner(learner)})
    risk = analysis.streamed_risks(losses, study.task.sample, study.key, study.n_prompts)["loss"]
    found.add_one(f"loss_{name}", risk.mean, risk.stderr)
    found.arrays[f"loss_{name}_on_curve_prompts"] = float(jax.jit(losses)(study.prompts)["loss"].mean())
    found.add(f"loss_ratio_{name}", found.measured["loss_trained"].values / risk.mean)
    align(study, found, name, learner, study.trained.predictor, study.trained.params)


def align(
    study: Evaluation,
    found: Records,
    name: str,
    learner: Predictor,
    predictor_of: Callable[[Any], Predictor],
    members: Any,
) -> None:
    """Alignment of members' Predictors to a learner, as metrics whose names end with `name`."""

    def aligned(members: Any, prompts: Prompt) -> analysis.Alignment:
        theirs = analysis.response(learner, prompts)
        compare = lambda member: analysis.compare(analysis.response(predictor_of(member), prompts), theirs)
        return analysis.over_members(compare, members)

    for measure, values in jax.jit(aligned)(members, study.prompts)._asdict().items():
        found.add(f"{measure}_{name}", np.asarray(values))


def looked_at(study: Evaluation, suite: str) -> tuple:
    """The values of a suite that are looked at."""
    values = tuple(SHIFTS[suite].values)
    if suite == "corrupted_labels":  # there are no more than all
        values = tuple(k for k in values if int(k) <= study.task.n_context)
    return study.subsample(values)


@dataclass(frozen=True)
class _Shifted:
    """A key to a prompt of a task under each of several values of a shift, made of the same random numbers."""

    task: LinearRegression
    apply: Callable[..., LinearRegression]

    def __call__(self, values: Array, key: Array) -> tuple[Prompt, ...]:
        every = jax.vmap(lambda value: self.apply(self.task, value).sample(key))(values)
        return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], every) for i in range(len(values)))


@dataclass(frozen=True)
class _Each:
    """A key to a prompt of each of several tasks."""

    tasks: tuple[LinearRegression, ...]

    def __call__(self, key: Array) -> tuple[Prompt, ...]:
        return tuple(task.sample(key) for task in self.tasks)


@dataclass(frozen=True)
class _FirstExamples:
    """As `_Each`, of tasks that differ in length: a prompt's first examples are those of the longest."""

    longest: LinearRegression
    lengths: tuple[int, ...]

    def __call__(self, key: Array) -> tuple[Prompt, ...]:
        whole = self.longest.sample(key)
        return tuple(whole._replace(x=whole.x[:n], y=whole.y[:n]) for n in self.lengths)


def is_in_numbers(apply: Callable[..., LinearRegression], values: Sequence) -> bool:
    """Whether a shift changes numbers of a program alone; families and lengths are another program each."""
    return not isinstance(values[0], str) and apply is not change_context


def shifted(task: LinearRegression, apply: Callable[..., LinearRegression], values: Sequence) -> Callable:
    """A key to a prompt of the task under each of the values: one program for all of them."""
    if is_in_numbers(apply, values):
        return Partial(_Shifted(task, apply), jnp.asarray(values, float))
    tasks = tuple(apply(task, value) for value in values)
    if apply is change_context and not task.corrupted_labels:  # which labels are replaced depends on the length
        lengths = tuple(one.n_context for one in tasks)
        return Partial(_FirstExamples(replace(task, n_context=max(lengths)), lengths))
    return Partial(_Each(tasks))
