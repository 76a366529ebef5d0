"""Claims: rows of data that a config states, judged by what a run measures."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from icl_gd.schema import OneOf, check

RELATIONS = ("within", "at_least", "at_most")


@dataclass(frozen=True)
class Claim:
    """What is claimed of a metric of the results, or of a curve at one of its points; see `claim`."""

    id: str
    statement: str
    source: str
    metric: str
    relation: Annotated[str, OneOf(RELATIONS)]
    target: float
    tolerance: Annotated[float, Ge(0)] = 0.0
    reduce: Annotated[str, OneOf(("mean", "min", "max", "lower", "upper"))] = "mean"
    note: str = ""

    def __post_init__(self):
        check(self)

    @property
    def measured(self) -> str:
        """The metric or curve, without the point of it that is meant."""
        return self.metric.partition("[")[0]


def claim(
    id: str,
    statement: str,
    *,
    metric: str,
    source: str,
    within: tuple[float, float] | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    tolerance: float = 0.0,
    reduce: str = "mean",
    note: str = "",
) -> Claim:
    """A claim.

    Args:
      id: names it; no two claims of a config have the same.
      statement: what is claimed, in a sentence.
      metric: of the results; of a curve at x `CURVE[x]`, of a point of a sweep `METRIC[field=value,...]`.
      source: where the target comes from: a paper and its figure, a closed form.
      within: (target, tolerance): the value differs from the target by the tolerance at most.
      at_least, at_most: the other relations, of which exactly one is given; `tolerance` is what they forgive.
      reduce: over seeds: "mean", "min", "max", or "lower" and "upper", the ends of the 95 % interval of the mean.
      note: why it does not hold, where it does not.

    Raises:
      ValueError: if not exactly one relation is given, or a part will not do.
    """
    given = {"within": within, "at_least": at_least, "at_most": at_most}
    stated = [name for name, value in given.items() if value is not None]
    if len(stated) != 1:
        raise ValueError(f"claim {id!r} states {' and '.join(stated) or 'no relation'}; give one of {', '.join(given)}")
    (relation,) = stated
    target = given[relation]
    if relation == "within":
        if not isinstance(target, tuple) or len(target) != 2:
            raise ValueError(f"claim {id!r}: within={target!r} must be (target, tolerance)")
        target, tolerance = target
    try:
        return Claim(id, statement, source, metric, relation, target, tolerance, reduce, note)  # pyright: ignore
    except ValueError as error:
        raise ValueError(f"claim {id!r}: {error}") from error
