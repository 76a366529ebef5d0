"""Distribution shifts: functions from a task to the task it becomes, and the suites the paper tests on."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Gt

from icl_gd.schema import OneOf, checked
from icl_gd.tasks.linear import INPUT_DISTRIBUTIONS, Corrupted, LinearRegression
from icl_gd.types import Positive


@checked
def scale_inputs(task: LinearRegression, alpha: Positive) -> LinearRegression:
    """Every input, context and query, is multiplied by `alpha`."""
    return replace(task, input_scale=task.input_scale * alpha)


@checked
def scale_weights(task: LinearRegression, beta: Positive) -> LinearRegression:
    """The weights that make the labels are multiplied by `beta`."""
    return replace(task, weight_scale=task.weight_scale * beta)


@checked
def change_family(task: LinearRegression, family: Annotated[str, OneOf(INPUT_DISTRIBUTIONS)]) -> LinearRegression:
    """Inputs come from another family, scaled so that `E |x|^2` stays what it was."""
    if task.covariance is not None:
        return replace(task, inputs=family)  # a covariance fixes the second moment for every family
    old, _ = INPUT_DISTRIBUTIONS[task.inputs].moments(task.d_input)
    new, _ = INPUT_DISTRIBUTIONS[family].moments(task.d_input)
    return replace(task, inputs=family, input_scale=task.input_scale * float(np.sqrt(old / new)))


@checked
def change_context(task: LinearRegression, factor: Annotated[float, Gt(0)]) -> LinearRegression:
    """Contexts of `factor` times as many examples, rounded, at least one."""
    return replace(task, n_context=max(1, round(factor * task.n_context)))


@checked
def corrupt_labels(task: LinearRegression, k: Corrupted) -> LinearRegression:
    """k of the context's labels are noise, however many were before."""
    return replace(task, corrupted_labels=k)


class Shift(NamedTuple):
    """A suite: the values of the shifted quantity and the function that applies one of them to a task."""

    values: Sequence[float] | Sequence[str]
    apply: Callable[..., LinearRegression]


SHIFTS: dict[str, Shift] = {
    "input_scale": Shift((0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0), scale_inputs),
    "weight_scale": Shift((0.5, 1.0, 2.0, 3.0, 4.0, 5.0), scale_weights),
    "input_family": Shift(tuple(INPUT_DISTRIBUTIONS), change_family),
    "context_length": Shift((0.5, 1.0, 2.0, 4.0), change_context),
    "corrupted_labels": Shift((0, 2, 4, 6, 8), corrupt_labels),
}
