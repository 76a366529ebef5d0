"""The spectral fingerprint of a Predictor: the share of the least-squares solution that it takes, by eigenvalue.

Gradient descent, GD++, Newton's method and ridge regression predict `sum_k loadings_k p(lambda_k)`, where lambda_k are
the eigenvalues of `S = X^T X / n` (see `probe`). Their filters `h(lambda) = lambda p(lambda)` differ: h is
`1 - (1 - eta lambda)^K` for K steps of gradient descent, `lambda / (lambda + penalty / n)` for ridge regression, and 1
for least squares. The filter of any Predictor is measured by a weighted least-squares fit of its response, with one
number h in every bin of eigenvalues, and without the assumption of an algorithm.

>>> from icl_gd import learners
>>> from icl_gd.tasks import LinearRegression
>>> found = fingerprint(learners.ridge(2.0), LinearRegression(d_input=3, n_context=8, inputs="normal"))
>>> scale = found.scales[0]
>>> bool(np.allclose(scale.values, scale.eigenvalues / (scale.eigenvalues + 2.0 / 8), atol=0.05))
True
>>> hypothesis = found.hypotheses["ridge"]
>>> hypothesis.name, round(hypothesis.parameters["penalty"], 3), hypothesis.is_excluded
('ridge regression', 2.0, False)
>>> found.hypotheses["gd"].is_excluded
True
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from icl_gd.analysis.symmetries import rounding_floor
from icl_gd.identification.families import FILTERS, Candidate
from icl_gd.identification.families.base import Name, Parameters
from icl_gd.identification.families.exact import averaging, least_squares, ridge
from icl_gd.identification.families.gd_plus_plus import gd_plus_plus
from icl_gd.identification.families.gradient_descent import own_steps
from icl_gd.identification.families.momentum import momentum
from icl_gd.identification.families.newton import newton
from icl_gd.identification.fitting import FEW, Filter, Rows, minimise, misfits
from icl_gd.identification.naming import sentence
from icl_gd.identification.probe import CEILING, Probe, Scale, Whitening, probe
from icl_gd.identification.search import is_symmetric, limits
from icl_gd.identification.subject import Subject
from icl_gd.identification.verdict import Verdict
from icl_gd.schema import Seed, checked
from icl_gd.tasks.pools import Sampled
from icl_gd.types import Predictor

SHOWN = ("gd", "gd_plus_plus", "newton", "ridge", "ols")  # families that are fitted, in the order of the legend
SHOWN_SCALES = (0.25, 0.5, 1.0, 2.0)  # factors of the inputs at which the filter is measured
SIMPLER = 1.1  # fewer steps are preferred if they fit worse by less than this factor
DEVIATIONS = 1.96  # of a 95 % interval
POINTS = 200  # of a curve of a fitted filter
LARGEST = 1e6  # value of a filter that is drawn; fitted filters may overflow


@dataclass(frozen=True)
class MeasuredFilter:
    """The filter of a Predictor, measured at one scale of the inputs.

    Attributes:
      t: the factor of all inputs.
      eigenvalues: of the context, including the factor: weighted means over every bin `[bin]`.
      values: `h(lambda) = lambda p(lambda)` `[bin]`.
      deviations: standard deviations of `values` over prompts `[bin]`.
    """

    t: float
    eigenvalues: np.ndarray
    values: np.ndarray
    deviations: np.ndarray

    @property
    def label(self) -> str:
        """The name of the curve, such as "measured, inputs × 2"."""
        return "measured" if self.t == 1 else f"measured, inputs × {self.t:g}"

    @property
    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the 95 % intervals of `values`: two arrays `[bin]`."""
        return self.values - DEVIATIONS * self.deviations, self.values + DEVIATIONS * self.deviations


@dataclass(frozen=True)
class FittedFilter:
    """An algorithm of a family, fitted to the response at all scales.

    Attributes:
      verdict: the key of the family, such as "gd".
      parameters: its numbers by name.
      p: its filter, a function of eigenvalues.
      factors: the factors of the inputs `[scale]`.
      misfits: the share of the symmetric response that it leaves unexplained `[scale]`.
      limits: the largest accepted misfits `[scale]`.
    """

    verdict: str
    parameters: Parameters
    p: Callable[[np.ndarray], np.ndarray]
    factors: np.ndarray
    misfits: np.ndarray
    limits: np.ndarray

    @property
    def name(self) -> str:
        """The algorithm in words."""
        return sentence(self.verdict, self.parameters)

    @property
    def worst(self) -> int:
        """The index of the scale at which the misfit most exceeds its limit."""
        return int(np.argmax(self.misfits / self.limits))

    @property
    def is_excluded(self) -> bool:
        """Whether the misfit exceeds its limit at some scale."""
        return bool(np.any(self.misfits > self.limits))

    def values(self, eigenvalues: np.ndarray) -> np.ndarray:
        """The filter at given eigenvalues.

        Returns:
          `h(lambda) = lambda p(lambda)`, of the same shape.
        """
        return eigenvalues * self.p(eigenvalues)


@dataclass(frozen=True)
class Fingerprint:
    """The measured filter of a Predictor, beside those of algorithms that were fitted to its response.

    Attributes:
      scales: the measured filter at several scales, the first one with factor 1.
      hypotheses: the fitted algorithms by family. That of the verdict has the numbers of the verdict.
      symmetric: False if the response breaks the symmetries of filters, so that its filter describes only a part of it.
      is_whitened: whether eigenvalues are those of `A^{1/2} S A^{1/2}`, with the preconditioner A of the verdict.
      rounding: the violation of a symmetry that rounding alone gives.
    """

    scales: tuple[MeasuredFilter, ...]
    hypotheses: Mapping[str, FittedFilter]
    symmetric: bool
    is_whitened: bool
    rounding: float

    @property
    def measured(self) -> dict[str, dict[str, np.ndarray]]:
        """The measured filter as curves by label, in the order of the factors, for `plots.spectral_filters`."""
        curves = {}
        for scale in sorted(self.scales, key=lambda scale: scale.t):
            low, high = scale.interval
            curves[scale.label] = {"x": scale.eigenvalues, "mean": scale.values, "low": low, "high": high}
        return curves

    @property
    def usual(self) -> list[str]:
        """The labels of the measured curves at factors of at most 1: they determine the frame of a figure."""
        return [scale.label for scale in self.scales if scale.t <= 1]

    @property
    def fitted(self) -> dict[str, dict[str, Any]]:
        """The fitted filters as curves by family, over all measured eigenvalues, for `plots.spectral_filters`."""
        eigenvalues = np.concatenate([scale.eigenvalues for scale in self.scales])
        grid = np.geomspace(eigenvalues.min() / 1.3, eigenvalues.max() * 1.3, POINTS)
        curves = {}
        for family, hypothesis in self.hypotheses.items():
            with np.errstate(all="ignore"):
                values = np.clip(np.nan_to_num(hypothesis.values(grid), nan=0.0), -LARGEST, LARGEST)
            curves[family] = {"x": grid, "mean": values, "label": hypothesis.name}
        return curves

    @property
    def exclusions(self) -> dict[str, dict[str, Any]]:
        """The misfits, in times of their limits, as curves by family over the factors, for `plots.misfits_by_scale`."""
        curves = {}
        for family, hypothesis in self.hypotheses.items():
            order = np.argsort(hypothesis.factors)
            ratios = (hypothesis.misfits / hypothesis.limits)[order]
            curves[family] = {"x": hypothesis.factors[order], "mean": ratios, "label": hypothesis.name}
        return curves


@checked
def fingerprint(
    predictor: Predictor,
    task: Sampled,
    verdict: Verdict | None = None,
    *,
    seed: Seed = 0,
    bins: Annotated[int, Ge(2)] = 12,
) -> Fingerprint:
    """Measures the filter of a Predictor at several scales of the inputs, and fits algorithms to its response.

    Args:
      predictor: a Predictor or a `Model`; a NumPy function of one prompt is accepted, too.
      task: where prompts are drawn from, as for `identify`.
      verdict: the verdict on the Predictor. Its algorithm is one of the hypotheses, if it is a filter. Default: none.
      seed: random seed of prompts and transformations.
      bins: number of bins of eigenvalues at every scale. Default: 12.

    Returns:
      The measured filter and the hypotheses.

    Raises:
      ValueError: if the Predictor does not return m finite numbers for a prompt.
    """
    subject = Subject(predictor, task, seed)
    whitening = _whitening(verdict, subject.d)
    seen = probe(subject.call, subject.prompts, subject.generator, whitening)
    accepted = limits(seen, subject.floor)[0]
    families: dict[str, FittedFilter] = {}
    if verdict is not None and (own := filter_of(verdict.verdict, verdict.parameters, subject.n)) is not None:
        families[verdict.verdict] = _fitted(verdict.verdict, dict(verdict.parameters), own, np.zeros(0), seen, accepted)
    like_verdict = "gd" if "preconditioned_gd" in families else ""
    for family in SHOWN:
        if family not in (*families, like_verdict) and (best := _best(family, seen)) is not None:
            candidate, numbers = best
            parameters = candidate.parameters(numbers, subject.n)
            families[family] = _fitted(family, parameters, candidate.p, numbers, seen, accepted)
    shown = [scale for scale in seen.scales if scale.t in SHOWN_SCALES]
    return Fingerprint(
        scales=tuple(_measured(seen, scale, bins) for scale in shown),
        hypotheses=families,
        symmetric=is_symmetric(seen, CEILING, subject.floor),
        is_whitened=whitening is not None,
        rounding=rounding_floor(subject.call, subject.prompts, subject.generator),
    )


def filter_of(verdict: str, parameters: Mapping, n: int) -> Filter | None:
    """The filter of an algorithm with given numbers, as a function of no free numbers.

    Args:
      verdict: the key of the algorithm.
      parameters: its numbers by name.
      n: number of examples of a prompt.

    Returns:
      The filter; None if the algorithm is not a filter of single eigenvalues.
    """
    steps = np.asarray(parameters.get("step_sizes", ()), float)
    k = len(steps)
    if verdict == "averaging":
        return averaging
    if verdict == "ols":
        return least_squares
    if verdict == "ridge":
        return _fixed(ridge, [parameters["penalty"] / n])
    if verdict in ("gd", "preconditioned_gd") and k:
        return _fixed(own_steps, steps)
    if verdict == "gd_plus_plus" and k:
        return _fixed(partial(gd_plus_plus, k), [*steps, *parameters["gammas"][: k - 1]])
    if verdict == "momentum":
        return _fixed(partial(momentum, k), [steps[0], parameters["momentum"]])
    if verdict == "newton" and not isinstance(parameters["scale"], str):
        return _fixed(partial(newton, parameters["n_steps"]), [parameters["scale"]])
    return None


def _fixed(p: Filter, numbers: Iterable[float]) -> Filter:
    """A filter without free numbers."""
    fixed = np.array([*numbers], float)

    def without_numbers(_: np.ndarray, eigenvalues: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return p(fixed, eigenvalues)[0], np.zeros((0, *eigenvalues.shape))

    return without_numbers


def _whitening(verdict: Verdict | None, d: int) -> Whitening | None:
    """The coordinates in which the preconditioner of a verdict is the identity; None without a preconditioner.

    None also if the preconditioner is not symmetric and positive: then no such coordinates exist.
    """
    a = np.asarray(verdict.parameters.get("preconditioner", ()) if verdict is not None else (), float)
    if a.shape != (d, d) or not np.allclose(a, a.T, atol=1e-6 * np.abs(a).max(initial=0)):
        return None
    return Whitening.of(a) if np.linalg.eigvalsh(a)[0] > 0 else None


def _fitted(
    verdict: str, parameters: Parameters, p: Filter, numbers: np.ndarray, seen: Probe, accepted: np.ndarray
) -> FittedFilter:
    left = misfits(seen, p, numbers)
    return FittedFilter(verdict, parameters, partial(_values, p, numbers), seen.ratios, left, accepted)


def _values(p: Filter, numbers: np.ndarray, eigenvalues: np.ndarray) -> np.ndarray:
    return p(numbers, eigenvalues)[0]


def _best(family: str, seen: Probe) -> tuple[Candidate, np.ndarray] | None:
    """The best candidate of a family with the same rates in all steps, and its fitted numbers.

    Returns:
      The candidate with the fewest steps of those that fit about equally well; None if no fit is an algorithm.
    """
    rows, few = Rows(seen), Rows(seen, FEW)
    found: dict[Name, np.ndarray] = {}
    fits: list[tuple[float, Candidate, np.ndarray]] = []
    for candidate in FILTERS:
        if candidate.name.verdict != family or not candidate.name.shared:
            continue
        starts = [start for start in candidate.starts(few, found) if np.all(np.isfinite(start))]
        trials = [minimise(few, candidate.p, start, 25, 1e-3) for start in starts]
        if not trials:
            continue
        numbers, cost = min(trials, key=lambda trial: trial[1])
        if np.isfinite(cost) and candidate.is_valid(numbers):
            found[candidate.name] = numbers
            fits.append((cost, candidate, numbers))
    if not fits:
        return None
    least = min(cost for cost, _, _ in fits)
    candidate, numbers = next(fit[1:] for fit in fits if fit[0] <= SIMPLER * least)
    refined, cost = minimise(rows, candidate.p, numbers)
    return candidate, refined if np.isfinite(cost) and candidate.is_valid(refined) else numbers


def _measured(seen: Probe, scale: Scale, bins: int) -> MeasuredFilter:
    """The filter at one scale: a weighted least-squares fit, in which h is constant in every bin.

    Constant h, not constant p, because least squares then have h = 1 exactly, although p varies most for small lambda.
    All bins have equal parts of the response of least squares. So the bins of small eigenvalues, where h varies most on
    a logarithmic axis, are narrow.
    """
    weight = np.sqrt(scale.weight)
    where = np.broadcast_to(scale.t**2 * seen.eigenvalues[:, None], seen.loadings.shape)  # [prompt m r]
    loadings = scale.t**2 * weight[..., None] * seen.loadings
    full = np.divide(loadings, where, out=np.zeros_like(loadings), where=where > 0)  # of least squares
    number = _equal_parts(where, full**2, bins)
    columns = np.stack([np.sum(np.where(number == b, full, 0.0), -1) for b in range(bins)], -1)  # [prompt m bin]
    goal = weight * scale.mean
    design = columns.reshape(-1, bins)
    bread = np.linalg.pinv(design.T @ design)
    values = bread @ (design.T @ goal.ravel())
    scores = np.einsum("pmb,pm->pb", columns, goal - columns @ values)
    deviations = np.sqrt(np.maximum(np.diag(bread @ (scores.T @ scores) @ bread), 0.0))
    squares = np.array([np.sum(full[number == b] ** 2) for b in range(bins)])
    moments = np.array([np.sum(full[number == b] * loadings[number == b]) for b in range(bins)])
    kept = squares > 0
    return MeasuredFilter(scale.t, moments[kept] / squares[kept], values[kept], deviations[kept])


def _equal_parts(values: np.ndarray, weights: np.ndarray, parts: int) -> np.ndarray:
    """The number of the part, of equal weight, in which every value lies."""
    order = np.argsort(values, axis=None, kind="stable")
    below = np.cumsum(weights.ravel()[order])
    number = np.empty(values.size, int)
    number[order] = np.minimum(parts * below / max(below[-1], np.finfo(float).tiny), parts - 1).astype(int)
    return number.reshape(values.shape)
