"""The verdict on a Predictor: its algorithm, or "none", with all that is not excluded.

>>> one = Hypothesis("gd", {"n_steps": 1, "step_sizes": [6.0]}, 4e-4)
>>> verdict = Verdict(one.verdict, one.parameters, not_excluded=[one], unexplained={"in_distribution": 4e-4})
>>> verdict.sentence
'The predictor computes gradient descent, 1 step, to within 2 %.'
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from icl_gd.identification.naming import sentence

Parameters = Mapping[str, Any]
FAR = 0.5  # unexplained share of the nearest algorithm above which it is not named
NOTHING = 1e-8  # predictions whose squares are below this share of those of the labels are zero
WORSE = 4.0  # a share under shift above this many times that of the task is told
TOLD = 1e-3  # smallest share under shift that is told


@dataclass(frozen=True)
class Hypothesis:
    """An algorithm with its numbers, and how well it explains the Predictor.

    Attributes:
      verdict: the key of the algorithm, such as "gd".
      parameters: its numbers, by name.
      unexplained: share of the response to fresh prompts that it does not explain.
    """

    verdict: str
    parameters: Parameters
    unexplained: float

    def as_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON.

        Returns:
          The dict.
        """
        return {
            "verdict": self.verdict,
            "name": self.name,
            "parameters": dict(self.parameters),
            "unexplained": self.unexplained,
        }

    @property
    def name(self) -> str:
        """The algorithm in words."""
        return sentence(self.verdict, self.parameters)


@dataclass(frozen=True)
class Evidence:
    """One observation that supports a verdict or speaks against it.

    Attributes:
      rung: "behaviour", "sensitivity", "weights" or "cause".
      name: key of the observation, such as "kept_worst_layer".
      says: what was measured, in words.
      value, threshold: the measured number and the number that it is compared with.
      supports: whether it supports the verdict.
    """

    rung: str
    name: str
    says: str
    value: float
    threshold: float
    supports: bool

    def as_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON.

        Returns:
          The dict.
        """
        return dict(vars(self))


@dataclass(frozen=True)
class Verdict:
    """Which algorithm a Predictor computes, with what could not be excluded and the evidence.

    Attributes:
      verdict: the key of the algorithm, or "none".
      parameters: its numbers by name; empty for "none".
      intervals: 95 % intervals of the fitted numbers, over prompts.
      not_excluded: the algorithms that were tried and not excluded, best one first. The first one is the verdict. Those
        that contain a tight fit as a special case are not tried.
      black_box: the same from the predictions alone.
      nearest: if the verdict is "none", the filter with one or two parameters that explains most; it is excluded.
      unexplained: shares of the response that the verdict does not explain: "in_distribution", "shifted" (the largest
        of all shifts) and "noise_floor" (the part that breaks a symmetry of the verdict's algorithm). Shares are of
        squares. For "none", the first two are 1, and `nearest` has the share of the nearest algorithm.
      by_shift: the unexplained share under every shift.
      symmetries: the violation of every symmetry; 0 is exact.
      evidence: what supports the verdict, and what speaks against it.
      controls: the share of the response that wrong predictors leave unexplained.
      reading: "layer by layer" or "black box".
      seconds: duration.
    """

    verdict: str
    parameters: Parameters = field(default_factory=dict)
    intervals: Parameters = field(default_factory=dict)
    not_excluded: Sequence[Hypothesis] = ()
    black_box: Sequence[Hypothesis] = ()
    nearest: Hypothesis | None = None
    unexplained: Mapping[str, float] = field(default_factory=dict)
    by_shift: Mapping[str, float] = field(default_factory=dict)
    symmetries: Mapping[str, float] = field(default_factory=dict)
    evidence: Sequence[Evidence] = ()
    controls: Mapping[str, float] = field(default_factory=dict)
    reading: str = "black box"
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """The algorithm in words, such as "gradient descent, 1 step"."""
        return sentence(self.verdict, self.parameters)

    @property
    def sentence(self) -> str:
        """The answer in one sentence, with its precision and its evidence."""
        if self.verdict == "none":
            near = nearest_in_words(self.nearest.as_dict() if self.nearest else None)
            return f"None of the known algorithms explains the predictions{near and f'; nearest is {near}'}."
        if self.verdict == "zero":
            return f"The predictor predicts zero: its predictions are less than {percent(NOTHING)} of the labels."
        is_caused = any(row.rung == "cause" for row in self.evidence) and all(row.supports for row in self.evidence)
        left, shifted = self.unexplained["in_distribution"], self.unexplained.get("shifted", 0.0)
        shift = ""
        if shifted > 1.0:
            shift = ", but not under distribution shift"
        elif shifted > max(TOLD, WORSE * left):
            shift = f", and to within {percent(shifted)} under distribution shift"
        others = max(len(self.not_excluded) - 1, 0)
        also = f" {others} other algorithm{'s are' if others > 1 else ' is'} not excluded." if others else ""
        verb = "uses" if is_caused else "computes"
        return f"The predictor {verb} {self.name}, to within {percent(left)}{shift}.{also}"

    def as_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON.

        Returns:
          The dict.
        """
        fields = {**vars(self), "name": self.name, "sentence": self.sentence}
        fields["not_excluded"] = [one.as_dict() for one in self.not_excluded]
        fields["black_box"] = [one.as_dict() for one in self.black_box]
        fields["nearest"] = self.nearest and self.nearest.as_dict()
        fields["evidence"] = [row.as_dict() for row in self.evidence]
        return fields


def in_words(verdict: Mapping[str, Any]) -> str:
    """A verdict in few words, from its dict.

    Returns:
      The algorithm; or "none", with the nearest one.
    """
    if verdict["verdict"] != "none":
        return verdict["name"]
    near = nearest_in_words(verdict["nearest"])
    return f"none (nearest: {near})" if near else "none"


def nearest_in_words(hypothesis: Mapping[str, Any] | None) -> str:
    """The nearest algorithm with its precision; empty if it explains less than half of the response.

    Returns:
      For example "ridge regression, to within 23 %".
    """
    if hypothesis is None or hypothesis["unexplained"] is None or not hypothesis["unexplained"] < FAR:
        return ""
    return (
        f"{sentence(hypothesis['verdict'], hypothesis['parameters'])}, to within {percent(hypothesis['unexplained'])}"
    )


def size_of(share: float) -> float:
    """The size of a difference, relative to the predictions: the square root of a share of squares, in per cent.

    Returns:
      The percentage; 0 for a negative share, which is an estimate of zero.
    """
    return 100 * max(share, 0.0) ** 0.5


def percent(share: float) -> str:
    """`size_of` a difference in words.

    Returns:
      For example "3 %", or "rounding".
    """
    size = size_of(share)
    if size < 1e-3:
        return "rounding"
    return f"{size:.1g} %" if size < 1 else f"{size:.0f} %"
