"""Fits all filters to a probe, and keeps those that are not excluded.

The thresholds were chosen on planted learners (benchmarks/planted_zoo.py) and then frozen.

>>> from icl_gd.identification.probe import probe
>>> def averaging(x, y, x_query):
...     return np.einsum("pna,pnm,pa->pm", x, y, x_query) / x.shape[1]
>>> generator = np.random.default_rng(0)
>>> prompts = tuple(generator.normal(size=shape) for shape in ((20, 4, 2), (20, 4, 1), (20, 2)))
>>> [accepted.candidate.name.verdict for accepted in search(probe(averaging, prompts, generator))]
['averaging']
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from icl_gd.identification.families import FILTERS, Candidate, Name
from icl_gd.identification.fitting import FEW, Rows, minimise, misfits
from icl_gd.identification.probe import Probe

FLOOR = 1e-11  # of the unexplained share: rounding in float32
RATIO = 1.26  # noise of the response, in times of the gauge
BROKEN = 4.0  # a violation above this many times the noise is structure, not noise
BEST = 3  # starts that are followed to the end without noise, where nothing else limits the precision
BETTER = 0.4  # an algorithm is preferred to its special case if it leaves less than this share of its misfit
RESOLVED = 4.0  # gamma times eigenvalue below this many square roots of the noise may be noise of the weights
HOPELESS = 100.0  # a candidate that leaves this many times the noise unexplained on few prompts is not fitted further


@dataclass(frozen=True)
class Accepted:
    """A candidate that is not excluded.

    Attributes:
      candidate: the algorithm.
      numbers: its fitted numbers.
      worst: the largest unexplained share of the symmetric response at any scale, in times of its limit.
      is_tight: whether the unexplained shares are as small as those of nine in ten true algorithms.
    """

    candidate: Candidate
    numbers: np.ndarray
    worst: float
    is_tight: bool


def largest_misfits(noise: np.ndarray, d: int, floor: float) -> np.ndarray:
    """The largest accepted misfits.

    Most noise of the weights breaks a symmetry. The rest, which may be a misfit, becomes smaller with the number of
    inputs that are rotated.

    Args:
      noise: the noise, as a share of the response, by scale.
      d: number of inputs that are rotated.
      floor: unexplained share that rounding alone may leave.

    Returns:
      Shares `[scale]`.
    """
    return floor + (0.6 + 1.6 / d) * RATIO * noise


def limits(probe: Probe, floor: float = FLOOR) -> tuple[np.ndarray, np.ndarray]:
    """The largest accepted misfits, and those of a tight fit.

    Returns:
      Two arrays `[scale]`.
    """
    d = probe.eigenvalues.shape[-1]
    noise = np.array([min(scale.gauge, 2 * scale.within) for scale in probe.scales])
    return largest_misfits(noise, d, floor), floor + (0.015 + 0.2 / d) * RATIO * noise


def is_symmetric(probe: Probe, ceiling: float, floor: float = FLOOR) -> bool:
    """Whether the response has the symmetries of a filter, up to what noise breaks.

    Args:
      probe: the response.
      ceiling: largest accepted violation.
      floor: violation that rounding alone may leave.

    Returns:
      True if it has them.
    """
    base = probe.base
    return base.violation <= min(ceiling, BROKEN * RATIO * base.gauge + floor)


def search(
    probe: Probe,
    candidates: Sequence[Candidate] = FILTERS,
    floor: float = FLOOR,
    progress: Callable[[], Any] = dict,
) -> list[Accepted]:
    """Fits candidates in their order.

    A candidate with a special case that fits tightly is not fitted: it cannot be distinguished. Without noise, once a
    candidate fits, none with more numbers is fitted.

    Args:
      probe: the response.
      candidates: the algorithms; simpler ones first.
      floor: unexplained share that rounding alone may leave.
      progress: called after every candidate.

    Returns:
      The candidates that are not excluded, best one first.
    """
    rows, few = Rows(probe), Rows(probe, FEW)
    loose, tight = limits(probe, floor)
    hopeless = HOPELESS * loose
    is_exact = bool(np.all(loose <= 2 * floor))
    found: dict[Name, np.ndarray] = {}
    accepted: dict[Name, Accepted] = {}
    for candidate in candidates:
        progress()
        if any(name in accepted and accepted[name].is_tight for name in candidate.special):
            continue
        if is_exact and any(one.candidate.n_numbers < candidate.n_numbers for one in accepted.values()):
            continue
        trials = [
            minimise(few, candidate.p, start, 30, 1e-4)
            for start in candidate.starts(few, found)
            if np.all(np.isfinite(start))
        ]
        trials = sorted((trial for trial in trials if np.isfinite(trial[1])), key=lambda trial: trial[1])
        if not trials:
            continue
        found[candidate.name] = trials[0][0]
        if not is_exact and np.any(misfits(probe, candidate.p, trials[0][0]) > hopeless):
            continue
        best = trials[:BEST] if is_exact else trials[:1]
        fits = [minimise(rows, candidate.p, start, gain=1e-9 if is_exact else 1e-6) for start, _ in best]
        numbers, _ = min(fits, key=lambda fit: fit[1])
        numbers = numbers if candidate.has_order else np.sort(numbers)[::-1]
        found[candidate.name] = numbers
        left = misfits(probe, candidate.p, numbers)
        if candidate.is_valid(numbers) and np.all(left <= loose):
            worst, is_tight = float(np.max(left / loose)), bool(np.all(left <= tight))
            accepted[candidate.name] = Accepted(candidate, numbers, worst, is_tight)
    return best_first(accepted, probe, is_exact)


def explains_more(
    general: float, special: float, gammas: Sequence[float] | np.ndarray, probe: Probe, noise: float
) -> bool:
    """Whether an algorithm explains much more than its special case.

    Args:
      general, special: the largest misfits of both, in times of their limits.
      gammas: if they are GD++ and gradient descent, the fitted gammas; otherwise none. Some gamma has to be too large
        to be noise of the weights of gradient descent.
      probe: the response, whose eigenvalues are the scale of gamma.
      noise: the gauge of the response.

    Returns:
      True if the special case is not enough.
    """
    top = np.median(probe.eigenvalues[:, -1])
    is_resolved = len(gammas) == 0 or np.max(np.abs(gammas)) * top > RESOLVED * np.sqrt(noise)
    return bool(is_resolved and general < BETTER * special)


def best_first(accepted: dict[Name, Accepted], probe: Probe, is_exact: bool) -> list[Accepted]:
    """Drops candidates that explain hardly more than an accepted special case; sorts the others.

    Special cases that explain much less come last. Before them, tight fits come before others, and fewer numbers before
    more. With noise, momentum comes after them: its filter is close to those of gradient descent.

    Args:
      accepted: the candidates that are not excluded.
      probe: the response.
      is_exact: whether the response has no noise.

    Returns:
      The candidates, best one first.
    """

    def is_needed(general: Accepted, special: Accepted) -> bool:
        has_gammas = (general.candidate.name.verdict, special.candidate.name.verdict) == ("gd_plus_plus", "gd")
        gammas = general.candidate.parameters(general.numbers, 1)["gammas"] if has_gammas else ()
        return explains_more(general.worst, special.worst, gammas, probe, probe.base.gauge)

    def special_cases(one: Accepted) -> list[Accepted]:
        return [accepted[name] for name in one.candidate.special if name in accepted]

    kept = [one for one in accepted.values() if all(is_needed(one, special) for special in special_cases(one))]
    surpassed = {special.candidate.name for one in kept for special in special_cases(one)}
    return sorted(
        kept,
        key=lambda one: (
            one.candidate.name in surpassed,
            not one.is_tight,
            not is_exact and one.candidate.name.verdict == "momentum",
            one.candidate.n_numbers,
            one.candidate.name.n_steps,
        ),
    )
