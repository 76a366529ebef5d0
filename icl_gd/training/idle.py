"""Training that changed nothing: which members it was, and the setting that explains it."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from icl_gd.training.population import MemberState, TrainSettings

ROUNDING = 4  # units in the last place, of a mean over a chunk


def why_nothing(
    before: MemberState, after: MemberState, taken: int, settings: TrainSettings, losses: Sequence[np.ndarray] = ()
) -> str | None:
    """What to say of members whose weights are, to the bit, what they were before `taken` steps, or whose loss is, to
    within rounding; None if all have learned.

    A member that is skipped at every step has losses or gradients that are not finite. One that takes its steps and
    does not move takes steps below what a weight's precision holds, by its learning rate, or by a clip so far below
    Adam's epsilon that updates vanish.

    Args:
      losses: the mean loss `[member]` of every chunk of steps.
    """
    if taken < 1:
        return None
    moved = np.asarray(jax.tree.reduce(np.logical_or, jax.tree.map(_differ, before.params, after.params)))
    skipped = np.asarray(after.skipped) - np.asarray(before.skipped) >= taken
    if moved.all():
        return _of_losses(losses, taken, settings)
    still = ~moved
    if skipped[still].all():
        why = "every loss or gradient was not finite; lower the scales of the task or of initial weights"
    else:
        why = f"{_rates(settings)} is too small for steps that weights of this precision hold"
    return f"{_whose(still)} moved in {taken} steps, weights are what they were: {why}"


def _of_losses(losses: Sequence[np.ndarray], taken: int, settings: TrainSettings) -> str | None:
    if len(losses) < 2:
        return None
    first, last = losses[0], losses[-1]
    same = np.abs(last - first) <= ROUNDING * np.finfo(first.dtype).eps * np.abs(first)
    if not same.any():
        return None
    why = f"{_rates(settings)} is too small for {taken} steps, or nothing is left to learn"
    return f"{_whose(same)} learned in {taken} steps, the last losses are the first to within rounding: {why}"


def _whose(members: np.ndarray) -> str:
    if members.all():
        return "no member has"
    return f"of {len(members)} members {members.sum()} have not"


def _rates(settings: TrainSettings) -> str:
    beside = f" (beside epsilon={settings.epsilon})" if settings.optimizer == "adamw" else ""
    clip = "" if settings.clip is None else f" or clip={settings.clip}{beside}"
    return f"learning_rate={settings.learning_rate}{clip}"


def _differ(before: Any, after: Any) -> np.ndarray:
    """Which members `[member]` have another value than before."""
    before, after = np.asarray(before), np.asarray(after)
    return np.any((before != after).reshape(len(before), -1), axis=1)
