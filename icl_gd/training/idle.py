"""Training that changed nothing: which members it was, and the setting that explains it."""

from typing import Any

import jax
import numpy as np

from icl_gd.training.population import Member, TrainSettings


def why_nothing(before: Member, after: Member, taken: int, settings: TrainSettings) -> str | None:
    """What to say of members whose weights are, to the bit, what they were before `taken` steps; None if all moved.

    A member that is skipped at every step has losses or gradients that are not finite. One that takes its steps and
    does not move takes steps below what a weight's precision holds, by its learning rate, or by a clip so far below
    Adam's epsilon that updates vanish.
    """
    if taken < 1:
        return None
    moved = np.asarray(jax.tree.reduce(np.logical_or, jax.tree.map(_differ, before.params, after.params)))
    if moved.all():
        return None
    skipped = np.asarray(after.skipped) - np.asarray(before.skipped) >= taken
    still = np.flatnonzero(~moved)
    whose = "no member" if len(still) == len(moved) else f"of {len(moved)} members {len(still)} have not"
    if skipped[still].all():
        why = "every loss or gradient was not finite; lower the scales of the task or of initial weights"
    else:
        clip = "" if settings.clip is None else f" or clip={settings.clip} (beside epsilon={settings.epsilon})"
        why = f"learning_rate={settings.learning_rate}{clip} is too small for steps that weights of this precision hold"
    said = f"{whose} moved" if whose.startswith("of") else f"{whose} has moved"
    return f"{said} in {taken} steps, weights are what they were: {why}"


def _differ(before: Any, after: Any) -> np.ndarray:
    """Which members `[member]` have another value than before."""
    before, after = np.asarray(before), np.asarray(after)
    return np.any((before != after).reshape(len(before), -1), axis=1)
