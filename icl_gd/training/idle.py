"""Detects training without effect: warns about members whose weights or losses did not change.

>>> member = MemberState({"w": np.ones((2, 3), np.float32)}, (), *np.zeros((2, 2), int), -np.ones(2, int))
>>> print(idle_warning(member, member, 5, TrainSettings(learning_rate=1e-20, clip=None)))
no member's weights changed in 5 steps: learning_rate=1e-20 is too small: the updates are lost in rounding
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from icl_gd.training.population import MemberState, TrainSettings

ROUNDING = 4  # mean losses of two chunks are equal if they differ by at most this many units in the last place


def idle_warning(
    before: MemberState, after: MemberState, n_steps: int, settings: TrainSettings, losses: Sequence[np.ndarray] = ()
) -> str | None:
    """A warning about members that did not learn, with the likely cause.

    A member did not learn if its weights are bitwise unchanged, or if its losses in the first and in the last chunk are
    equal up to rounding. Unchanged weights have two causes. If every step of the member was skipped, its losses or
    gradients were not finite. Otherwise the updates are below the precision of the weights: either the learning rate is
    too small, or the clip is so far below Adam's epsilon that the updates vanish.

    Args:
      before, after: the members before and after training; every leaf is `[member ...]`.
      n_steps: the number of training steps from `before` to `after`.
      settings: the settings of training; the warning quotes the learning rate and the clip.
      losses: the mean loss `[member]` of each chunk, in order; the first and the last are compared. Default: (), losses
        are not compared.

    Returns:
      The warning, or None if every member learned or `n_steps` is 0.
    """
    if n_steps < 1:
        return None
    moved = np.asarray(jax.tree.reduce(np.logical_or, jax.tree.map(_differ, before.params, after.params)))
    skipped = np.asarray(after.skipped) - np.asarray(before.skipped) >= n_steps
    if moved.all():
        return _why_constant_loss(losses, n_steps, settings)
    unchanged = ~moved
    if skipped[unchanged].all():
        cause = "every loss or gradient was infinite or nan; reduce the scales of the task or of the initial weights"
    else:
        cause = f"{_step_fields(settings)} is too small: the updates are lost in rounding"
    return f"{_unchanged('weights', unchanged, n_steps)}: {cause}"


def _why_constant_loss(losses: Sequence[np.ndarray], n_steps: int, settings: TrainSettings) -> str | None:
    """The warning about members whose first and last losses are equal up to rounding, or None."""
    if len(losses) < 2:
        return None
    first, last = losses[0], losses[-1]
    constant = np.abs(last - first) <= ROUNDING * np.finfo(first.dtype).eps * np.abs(first)
    if not constant.any():
        return None
    cause = f"{_step_fields(settings)} is too small for {n_steps} steps, or the loss is already minimal"
    return f"{_unchanged('loss', constant, n_steps)}, up to rounding: {cause}"


def _unchanged(quantity: str, members: np.ndarray, n_steps: int) -> str:
    """The first half of a warning; `members [member]` is True for a member whose quantity did not change."""
    if members.all():
        return f"no member's {quantity} changed in {n_steps} steps"
    return f"the {quantity} of {members.sum()} of {len(members)} members did not change in {n_steps} steps"


def _step_fields(settings: TrainSettings) -> str:
    """The settings that limit the size of an update: `learning_rate=0.001 or clip=0.001 (epsilon=1e-09)`."""
    learning_rate = f"learning_rate={settings.learning_rate}"
    if settings.clip is None:
        return learning_rate
    epsilon = f" (epsilon={settings.epsilon})" if settings.optimizer == "adamw" else ""
    return f"{learning_rate} or clip={settings.clip}{epsilon}"


def _differ(before: Any, after: Any) -> np.ndarray:
    """For each member `[member]`, whether a leaf `[member ...]` changed."""
    before, after = np.asarray(before), np.asarray(after)
    return np.any((before != after).reshape(len(before), -1), axis=1)
