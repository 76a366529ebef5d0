"""Claims: statements about metrics. A config lists them, and a run tests them."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from icl_gd.schema import OneOf, check

RELATIONS = ("within", "at_least", "at_most")


@dataclass(frozen=True)
class Claim:
    """A statement about one number of the results: a metric, or one point of a curve. `claim` makes a Claim.

    Attributes:
      id: unique among the claims of a config.
      statement: the claim in one sentence.
      source: where the target comes from: a paper and its figure, or a closed form.
      metric: a metric of the results, `CURVE[x]`, or `METRIC[field=value,...]` for one combination of a sweep.
      relation: how the measured value must relate to the target: "within", "at_least" or "at_most".
      target: the number that the measured value is compared with.
      tolerance: by how much the value may miss the relation. Default: 0.
      reduce: how the values of all seeds are reduced to one number, as in `claim`. Default: "mean".
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
        """The name of the metric or curve: `metric` without the brackets."""
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
    """Makes a claim about one number of the results. Give exactly one of `within`, `at_least` and `at_most`.

    Args:
      id: unique among the claims of a config.
      statement: the claim in one sentence that can be read without the other claims.
      metric: a metric of the results, `CURVE[x]` for a curve at x, or `METRIC[field=value,...]` for one combination of
        a sweep.
      source: where the target comes from: a paper and its figure, or a closed form.
      within: (target, tolerance). The claim holds if the value differs from the target by at most the tolerance.
      at_least: the target. The claim holds if the value is at least the target minus `tolerance`.
      at_most: the target. The claim holds if the value is at most the target plus `tolerance`.
      tolerance: used with `at_least` and `at_most`. Default: 0.
      reduce: how the values of all seeds are reduced to one number: "mean", "min" or "max"; "lower" or "upper" for an
        end of the 95 % confidence interval of the mean. Default: "mean".
      note: why the claim fails, if it does.

    Returns:
      The claim.

    Raises:
      ValueError: if no relation or several relations are given, or an argument has a value that is not accepted.
    """
    targets = {"within": within, "at_least": at_least, "at_most": at_most}
    stated = [name for name, value in targets.items() if value is not None]
    if len(stated) != 1:
        raise ValueError(
            f"claim {id!r} states {' and '.join(stated) or 'no relation'}; give one of {', '.join(targets)}"
        )
    (relation,) = stated
    target = targets[relation]
    if relation == "within":
        if not isinstance(target, tuple) or len(target) != 2:
            raise ValueError(f"claim {id!r}: within={target!r} must be (target, tolerance)")
        target, tolerance = target
    try:
        return Claim(id, statement, source, metric, relation, target, tolerance, reduce, note)  # pyright: ignore
    except ValueError as error:
        raise ValueError(f"claim {id!r}: {error}") from error
