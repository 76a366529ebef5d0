"""Distribution shifts for linear regression (von Oswald et al.): functions that map a task to the shifted task.

Example:
  >>> task = LinearRegression(d_input=3, n_context=4)
  >>> scale_inputs(task, 2.0).input_scale
  2.0
  >>> shift = SHIFTS["context_length"]
  >>> [shift.apply(task, factor).n_context for factor in shift.values]
  [2, 4, 8, 16]
"""

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
    """Multiplies every input, in the context and in the query, by `alpha`.

    Returns:
      The shifted task.
    """
    return replace(task, input_scale=task.input_scale * alpha)


@checked
def scale_weights(task: LinearRegression, beta: Positive) -> LinearRegression:
    """Multiplies the weights `W`, and so all noise-free labels, by `beta`.

    Returns:
      The shifted task.
    """
    return replace(task, weight_scale=task.weight_scale * beta)


@checked
def change_family(task: LinearRegression, family: Annotated[str, OneOf(INPUT_DISTRIBUTIONS)]) -> LinearRegression:
    """Changes the input distribution without changing `E |x|^2`.

    Returns:
      The shifted task.
    """
    if task.covariance is not None:
        return replace(task, inputs=family)  # a task with a covariance rescales inputs to the same second moment
    old, _ = INPUT_DISTRIBUTIONS[task.inputs].moments(task.d_input)
    new, _ = INPUT_DISTRIBUTIONS[family].moments(task.d_input)
    return replace(task, inputs=family, input_scale=task.input_scale * float(np.sqrt(old / new)))


@checked
def change_context(task: LinearRegression, factor: Annotated[float, Gt(0)]) -> LinearRegression:
    """Multiplies the number of context examples by `factor`. The result is rounded, and at least 1.

    Returns:
      The shifted task.
    """
    return replace(task, n_context=max(1, round(factor * task.n_context)))


@checked
def corrupt_labels(task: LinearRegression, k: Corrupted) -> LinearRegression:
    """Sets the number of context labels that are replaced by noise to k.

    Returns:
      The shifted task.
    """
    return replace(task, corrupted_labels=k)


class Shift(NamedTuple):
    """A distribution shift and the values at which it is evaluated.

    Attributes:
      values: values of the shifted quantity.
      apply: `apply(task, value)` returns the shifted task.
    """

    values: Sequence[float] | Sequence[str]
    apply: Callable[..., LinearRegression]


SHIFTS: dict[str, Shift] = {
    "input_scale": Shift((0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0), scale_inputs),
    "weight_scale": Shift((0.5, 1.0, 2.0, 3.0, 4.0, 5.0), scale_weights),
    "input_family": Shift(tuple(INPUT_DISTRIBUTIONS), change_family),
    "context_length": Shift((0.5, 1.0, 2.0, 4.0), change_context),
    "corrupted_labels": Shift((0, 2, 4, 6, 8), corrupt_labels),
}
