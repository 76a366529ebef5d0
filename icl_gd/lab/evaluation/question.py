"""A question asked of a trained population, with what its answer must be where it is known."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Evidence(NamedTuple):
    """A metric that tells a population that *is* what it is compared with from one that is untrained.

    It is within the bound for every member of the first, and beyond it for every member of the second.
    """

    metric: str
    at_most: float | None = None
    at_least: float | None = None

    def holds(self, value: float) -> bool:
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)


@dataclass(frozen=True)
class Question:
    """What a config names in `analyses`.

    Attributes:
      measure: adds its records of a study to what was found.
      watch: of model, layout and prompts, what it measures of one member's parameters during training.
      evidence: what it says of a population that is what it is compared with, and not of an untrained one.
      identities: metrics that are zero whatever the weights, by the most that rounding makes of them.
    """

    measure: Callable[[Any, Any], None]
    watch: Callable[..., Callable[[Any], dict[str, Any]]] | None = None
    evidence: tuple[Evidence, ...] = ()
    identities: Mapping[str, float] = field(default_factory=dict)
