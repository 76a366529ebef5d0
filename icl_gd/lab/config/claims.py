"""Claims: rows of data that a config states and that a run judges by its measured numbers."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from icl_gd.schema import OneOf, check

RELATIONS = ("within", "at_least", "at_most")


@dataclass(frozen=True)
class Claim:
    """A statement about one metric of the results, or about one point of a curve. Make it with `claim`.

    Attributes:
      id: unique among the claims of a config.
      statement: the claim in one sentence.
      source: where the target comes from: a paper and its figure, or a closed form.
      metric: a metric of the results, `CURVE[x]`, or `METRIC[field=value,...]` for one combination of a sweep.
      relation: "within", "at_least" or "at_most".
      target: the number that the measured value is compared with.
      tolerance: the largest accepted deviation from the relation. Default: 0.
      reduce: how the values of the seeds become one number. Default: "mean".
      note: why the claim fails, if it does.
    """

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
        """The name of the metric or curve, without the point in brackets."""
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
    """Makes a claim about one number of the results. Exactly one of `within`, `at_least` and `at_most` is given.

    Args:
      id: unique among the claims of a config.
      statement: the claim in one sentence, which can be read without the other claims.
      metric: a metric of the results, `CURVE[x]` for a curve at x, or `METRIC[field=value,...]` for one combination of
        a sweep.
      source: where the target comes from: a paper and its figure, or a closed form.
      within: (target, tolerance); holds if the value differs from the target by at most the tolerance.
      at_least: holds if the value is at least this target minus `tolerance`.
      at_most: holds if the value is at most this target plus `tolerance`.
      tolerance: for `at_least` and `at_most`. Default: 0.
      reduce: how the values of the seeds become one number: "mean", "min", "max", or "lower" and "upper", the ends of
        the 95 % confidence interval of the mean. Default: "mean".
      note: why the claim fails, if it does.

    Returns:
      The claim.

    Raises:
      ValueError: if not exactly one relation is given, or an argument has a value that is not accepted.
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
