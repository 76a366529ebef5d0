"""What a family of algorithms is: a filter with its numbers, or a direct fit to the response.

>>> Name("gd", 2), Name("gd", 2, shared=False)  # two equal steps, two steps of their own
(Name(verdict='gd', n_steps=2, shared=True), Name(verdict='gd', n_steps=2, shared=False))
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from icl_gd.analysis.calls import Batch
from icl_gd.identification.fitting import Filter, Rows

Parameters = dict[str, Any]


class Name(NamedTuple):
    """The canonical name of an algorithm.

    Attributes:
      verdict: its key, such as "gd".
      n_steps: its number of steps; 0 for an algorithm without steps.
      shared: whether all steps have the same rates.
    """

    verdict: str
    n_steps: int = 0
    shared: bool = True


Fitted = Mapping[Name, np.ndarray]  # the numbers of candidates that have been fitted before


def anything(numbers: np.ndarray) -> bool:
    """Accepts all numbers.

    Returns:
      True.
    """
    return True


def positive(numbers: np.ndarray) -> bool:
    """Whether all numbers are positive.

    Returns:
      True if they are.
    """
    return bool(np.all(numbers > 0))


def no_numbers(rows: Rows, found: Fitted) -> list[np.ndarray]:
    """The only start of a filter without numbers.

    Returns:
      One empty array.
    """
    return [np.zeros(0)]


@dataclass(frozen=True)
class Candidate:
    """An algorithm that is a filter of the eigenvalues of the context.

    Attributes:
      name: its canonical name.
      n_numbers: how many numbers are fitted.
      p: the filter.
      starts: first numbers of the fit, from the response and from fits of simpler candidates.
      parameters: the numbers by name, for a context of n examples: `(numbers, n) -> parameters`.
      special: names of its special cases, all of them.
      is_valid: whether fitted numbers are an algorithm; a negative step size is not.
      has_order: whether the order of the numbers has an effect.
    """

    name: Name
    n_numbers: int
    p: Filter
    starts: Callable[[Rows, Fitted], list[np.ndarray]]
    parameters: Callable[[np.ndarray, int], Parameters]
    special: frozenset[Name] = frozenset()
    is_valid: Callable[[np.ndarray], bool] = anything
    has_order: bool = True


class Direct(NamedTuple):
    """An algorithm that is not a filter, fitted to the response.

    Attributes:
      name: its canonical name.
      parameters: its numbers by name.
      predict: the algorithm for a batch of prompts.
    """

    name: Name
    parameters: Parameters
    predict: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


DirectFamily = Callable[[Any], Iterator[Direct]]  # takes `direct.Samples`

__all__ = ["Batch", "Candidate", "Direct", "DirectFamily", "Fitted", "Name", "Parameters", "no_numbers", "positive"]
