"""Rows of text about a verdict, for the terminal and for the page."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from icl_gd.analysis.symmetries import ROUNDING, STATEMENTS
from icl_gd.identification import Verdict
from icl_gd.identification.fingerprint import FittedFilter
from icl_gd.identification.naming import WORDS
from icl_gd.identification.search import BROKEN
from icl_gd.identification.verdict import Hypothesis
from icl_gd.lab.inspection.verdicts.subject import Examined

RUNGS = ("behaviour", "sensitivity", "weights", "cause")  # the ladder of evidence, from the bottom
DIGITS = 4
SQUARES = "All shares are shares of squared predictions: 0.0025 is a difference of 5 %."


def number(value: float | None, digits: int = 2) -> str:
    """A measured number with few significant digits; a dash if there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.{digits}g}"


def headline(examined: Examined, verdicts: Sequence[Verdict]) -> str:
    """The answer in one sentence: that of the verdict, or how many members have each verdict."""
    if len(verdicts) == 1:
        return verdicts[0].sentence
    names = [verdict.name for verdict in verdicts]
    counts = sorted({name: names.count(name) for name in names}.items(), key=lambda item: -item[1])
    parts = [f"{count} compute{'s' * (count == 1)} {name}" for name, count in counts]
    return f"Of {len(verdicts)} members, {', '.join(parts)}."


def parameter_rows(verdict: Verdict) -> list[tuple[str, str, str]]:
    """Name, value and 95 % interval of every parameter."""
    return [
        (name.replace("_", " "), _value(value), _interval(verdict.intervals.get(name)))
        for name, value in verdict.parameters.items()
    ]


def _value(value: Any) -> str:
    if not isinstance(value, list | tuple):
        return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)
    items: list[Any] = list(value)
    if items and isinstance(items[0], list | tuple):
        trace = sum(row[i] for i, row in enumerate(items))
        return f"matrix {len(items)} × {len(items[0])}, trace {trace:.{DIGITS}g}"
    equal = len(items) > 1 and max(items) == min(items)
    return f"{len(items)} × {_value(items[0])}" if equal else ", ".join(map(_value, items))


def _interval(interval: Any) -> str:
    """An interval `[low, high]`, or a list of these, as text."""
    if interval is None or not len(interval):
        return "–"
    if np.ndim(interval) == 1:
        low, high = interval
        return f"{low:.{DIGITS}g} to {high:.{DIGITS}g}"
    texts = [_interval(each) for each in interval]
    return texts[0] + f" (all {len(texts)})" if len(texts) > 1 and len(set(texts)) == 1 else ", ".join(texts)


def in_short(hypothesis: Hypothesis) -> str:
    """An algorithm with its numbers, in one line."""
    parts = [
        f"{name.replace('_', ' ')} {_value(value)}"
        for name, value in hypothesis.parameters.items()
        if name not in ("n_steps", "neighbours", "kernel")
    ]
    return f"{hypothesis.name}{': ' if parts else ''}{'; '.join(parts)}"


def shift_rows(verdict: Verdict) -> list[tuple[str, float]]:
    """The unexplained share on prompts of the task, under every shift, and the noise floor."""
    shares = verdict.unexplained
    rows = [("prompts of the task", shares.get("in_distribution", math.nan)), *verdict.by_shift.items()]
    return [*rows, ("noise floor: breaks a symmetry of all filters", shares.get("noise_floor", math.nan))]


def symmetry_rows(verdict: Verdict, floor: float | None) -> list[tuple[str, str, float, str]]:
    """Name, statement and violation of every symmetry, and whether it holds up to rounding or up to the noise.

    Args:
      verdict: the verdict.
      floor: the violation that rounding alone gives; None if it is unknown.
    """
    noise = verdict.unexplained.get("noise_floor", 0.0) if verdict.verdict != "none" else 0.0
    rows = []
    for name, violation in verdict.symmetries.items():
        is_exact = floor is not None and violation <= ROUNDING * floor
        status = "exact" if is_exact else "up to noise" if violation <= BROKEN * noise else "no"
        rows.append((name.replace("_", " "), STATEMENTS.get(name, ""), violation, status))
    return rows


def evidence_rows(verdict: Verdict) -> list[tuple[str, str, float, float, bool]]:
    """Rung, observation, value, threshold, and whether it supports the verdict, from the bottom of the ladder."""
    order = {rung: i for i, rung in enumerate(RUNGS)}
    rows = sorted(verdict.evidence, key=lambda row: order.get(row.rung, len(order)))
    return [(row.rung, row.says, row.value, row.threshold, row.supports) for row in rows]


def open_rungs(verdict: Verdict) -> list[str]:
    """The rungs without an observation."""
    return [rung for rung in RUNGS if rung not in {row.rung for row in verdict.evidence}]


def exclusion(hypothesis: FittedFilter, verdict: Verdict, symmetric: bool) -> str:
    """The observation that excludes an algorithm, or what would exclude it.

    Args:
      hypothesis: the best fit of its family.
      verdict: the verdict.
      symmetric: whether the response has the symmetries of filters.

    Returns:
      One sentence.
    """
    worst = hypothesis.worst
    left, limit = float(hypothesis.misfits[worst]), number(float(hypothesis.limits[worst]))
    prompts = _scale(float(hypothesis.factors[worst]))
    if hypothesis.is_excluded:
        share = f"is {number(left)} times the response" if left > 1 else f"leaves {number(left)} unexplained"
        subject = "its error" if left > 1 else "it"
        return f"Excluded: {prompts}, {subject} {share}; at most {limit} is accepted."
    if not symmetric:
        broken = number(verdict.unexplained.get("noise_floor"))
        return f"Excluded by symmetries that it has, and which {broken} of the response breaks."
    if hypothesis.verdict == verdict.verdict:
        return f"The verdict: {prompts}, it leaves {number(left)} unexplained; more than {limit} would exclude it."
    if _contains(hypothesis, verdict):
        return f"Not excluded: the fit is {WORDS[verdict.verdict]}, which is its special case gamma = 0."
    if verdict.verdict == "none":
        return "Excluded on fresh prompts; its fit to the prompts of the measurement is within the noise."
    return "Not excluded at any scale of the inputs; predictions after every layer, or larger inputs, may exclude it."


def _contains(hypothesis: FittedFilter, verdict: Verdict) -> bool:
    """Whether the fit of a more general family is the algorithm of the verdict: GD++ with gamma = 0."""
    if hypothesis.verdict != "gd_plus_plus" or verdict.verdict != "gd":
        return False
    gammas, steps = (np.abs(hypothesis.parameters[name]) for name in ("gammas", "step_sizes"))
    return bool(gammas.max() < 1e-2 * steps.max())


def _scale(factor: float) -> str:
    return "on prompts of the task" if factor == 1 else f"with inputs multiplied by {factor:.3g}"


def bound(value: float, threshold: float, supports: bool) -> str:
    """How a value is compared with its threshold.

    Args:
      value: the observation.
      threshold: its limit.
      supports: whether the observation supports the verdict.

    Returns:
      "at least" or "at most".
    """
    return "at least" if supports == (value > threshold) else "at most"
