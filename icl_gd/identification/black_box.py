"""Names an algorithm from predictions alone.

>>> prompts = np.ones((1, 2, 1)), np.ones((1, 2, 1)), np.full((1, 1), 3.0)  # S = 1, c = 1
>>> predict_by_filter(lambda eigenvalues: 1.0 / (1.0 + eigenvalues), Whitening.identity(1), *prompts).tolist()
[[1.5]]
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from icl_gd.identification import preconditioned, search
from icl_gd.identification.families import DIRECT, FILTERS, Candidate, Name
from icl_gd.identification.families.base import Parameters
from icl_gd.identification.fitting import Rows, deviations, minimise
from icl_gd.identification.probe import Probe, Scale, Whitening, probe, respond, spectrum
from icl_gd.identification.samples import Samples, unexplained
from icl_gd.identification.subject import EXACT, Answer, Subject

GRADIENT_DESCENT = tuple(one for one in FILTERS if one.name.verdict in ("averaging", "gd") and one.name.n_steps <= 8)
FEW_STEPS = 5  # of the algorithms that are named as the nearest one


def black_box(subject: Subject, ceiling: float, progress: Callable[[str], Any]) -> tuple[list[Answer], Probe]:
    """The algorithms that the predictions do not exclude, best one first.

    Args:
      subject: the Predictor.
      ceiling: largest accepted violation of symmetries.
      progress: called with a description before every stage.

    Returns:
      The algorithms, and the probe in the coordinates of the prompts.
    """
    plain = probe(subject.call, subject.prompts, subject.generator, ceiling=ceiling)
    answers: list[Answer] = []
    if search.is_symmetric(plain, ceiling, subject.floor):
        progress("filters")
        answers = filtered(subject, plain, FILTERS)
    if not answers:
        progress("preconditioned gradient descent")
        answers = list(preconditioned_steps(subject, plain, ceiling))
    if not answers:
        progress("other algorithms")
        samples = Samples(subject.call, subject.prompts)
        for family in DIRECT:
            found = [direct for direct in family(samples) if samples.misfit(direct.predict) <= EXACT]
            answers += [Answer(direct.name, direct.parameters, direct.predict, {}, 0.0) for direct in found]
    return answers, plain


def filtered(subject: Subject, seen: Probe, candidates: tuple[Candidate, ...]) -> list[Answer]:
    """The filters that explain a probe, and fresh prompts.

    Args:
      subject: the Predictor.
      seen: its response.
      candidates: the filters, simpler ones first.

    Returns:
      The algorithms, best one first.
    """
    answers = []
    for one in search.search(seen, candidates, subject.floor):
        p, numbers = one.candidate.p, one.numbers
        spread = 1.96 * deviations(Rows(seen), p, numbers)
        ends = (one.candidate.parameters(numbers + sign * spread, subject.n) for sign in (-1, 1))
        answers.append(
            Answer(
                one.candidate.name,
                one.candidate.parameters(numbers, subject.n),
                partial(predict_by_filter, partial(filter_values, p, numbers), seen.whitening),
                _intervals(*ends),
                seen.base.violation,
            )
        )
    return [answer for answer in answers if subject.explains(answer)]


def nearest(subject: Subject, seen: Probe) -> Answer:
    """The filter with few numbers that explains most of the response, although it is excluded.

    Returns:
      The algorithm.
    """
    rows = Rows(seen)
    best, least = None, np.inf
    for candidate in FILTERS:
        if candidate.n_numbers > 2 or candidate.name.n_steps > FEW_STEPS:
            continue
        trials = [minimise(rows, candidate.p, start, 25, 1e-3) for start in candidate.starts(rows, {})]
        numbers, _ = min(trials, key=lambda trial: trial[1])
        predict = partial(predict_by_filter, partial(filter_values, candidate.p, numbers), seen.whitening)
        left = unexplained(subject.fresh, subject.response, predict)
        if candidate.is_valid(numbers) and (best is None or left < least):
            parameters = candidate.parameters(numbers, subject.n)
            best, least = Answer(candidate.name, parameters, predict, {}, seen.base.violation), left
    assert best is not None  # averaging has no numbers, and is always valid
    return best


def filter_values(p: Callable, numbers: np.ndarray, eigenvalues: np.ndarray) -> np.ndarray:
    """The filter p with given numbers, at given eigenvalues.

    Args:
      p: the filter.
      numbers: its numbers.
      eigenvalues: where p is evaluated, of any shape.

    Returns:
      p at the eigenvalues.
    """
    return p(numbers, eigenvalues)[0]


def predict_by_filter(
    p: Callable[[np.ndarray], np.ndarray], whitening: Whitening, x: np.ndarray, y: np.ndarray, x_query: np.ndarray
) -> np.ndarray:
    """The predictions of a filter for a batch of prompts.

    Args:
      p: the filter, a function of eigenvalues.
      whitening: the coordinates of the inputs.
      x, y, x_query: the prompts.

    Returns:
      y_hat `[prompt m]`.
    """
    eigenvalues, loadings = spectrum((x, y, x_query), whitening)
    return np.einsum("pmr,pr->pm", loadings, p(eigenvalues))


def _intervals(low: Parameters, high: Parameters) -> Parameters:
    """95 % intervals `[low, high]` of all fitted numbers; lists of numbers have lists of intervals."""
    result = {}
    for name, first in low.items():
        if isinstance(first, list):
            result[name] = [sorted(pair) for pair in zip(first, high[name], strict=True)]
        elif isinstance(first, float):
            result[name] = sorted([first, high[name]])
    return result


def preconditioned_steps(subject: Subject, plain: Probe, ceiling: float) -> Iterator[Answer]:
    """Preconditioned gradient descent, if it explains the predictions: one step with any matrix, or several steps.

    Args:
      subject: the Predictor.
      plain: its response, probed in the coordinates of the prompts.
      ceiling: largest accepted violation of symmetries.

    Returns:
      The algorithms, simplest first.
    """
    many = subject.many()
    matrix = preconditioned.first_order(subject.call, many)
    a = preconditioned.symmetric_part(matrix)
    if a is not None:
        a = preconditioned.symmetric_part(preconditioned.polished(subject.call, subject.fewer(), a))
    if a is not None:
        seen = probe(subject.call, subject.prompts, subject.generator, Whitening.of(a), ceiling)
        if search.is_symmetric(seen, ceiling, subject.floor) and seen.base.within <= 0.1 * plain.base.within:
            size = np.trace(a) / subject.d
            for answer in filtered(subject, seen, GRADIENT_DESCENT):
                name = Name("preconditioned_gd", max(answer.name.n_steps, 1), answer.name.shared)
                intervals = {
                    key: [[size * end for end in pair] for pair in value] for key, value in answer.intervals.items()
                }
                yield replace(
                    answer, name=name, parameters=with_matrix(answer.parameters, a / size, size), intervals=intervals
                )
            return
    answer = one_step(subject, ceiling)
    if answer is not None:
        yield answer


def with_matrix(parameters: Parameters, a: np.ndarray, size: float) -> Parameters:
    """The parameters for a preconditioner with trace d; `size` is what it was divided by.

    Args:
      parameters: those of gradient descent on whitened inputs.
      a: the preconditioner `[d d]`, with trace d.
      size: what the preconditioner was divided by.

    Returns:
      The number of steps, the step sizes and the preconditioner.
    """
    steps = [step * size for step in parameters.get("step_sizes", [1.0])]
    return {"n_steps": len(steps), "step_sizes": steps, "preconditioner": a.tolist()}


def one_step(subject: Subject, ceiling: float) -> Answer | None:
    """One step with any matrix: `y_hat = c^T M x_query`, which has all symmetries but those of rotations.

    Returns:
      The algorithm; None if it does not explain the predictions.
    """
    still = Whitening(np.zeros((1, subject.d)), np.zeros((subject.d, 1)))  # nothing is rotated
    matrix, _ = preconditioned.leading_order(subject.call, subject.many(), 1.0)
    scales: list[Scale] = []
    for t in (1.0, 2.0):
        scale = respond(subject.call, subject.prompts, t, still, subject.generator)
        if np.isfinite(scale.mean).all() and scale.violation <= ceiling:
            scales.append(scale)
    if not scales or scales[0].t != 1.0:
        return None
    x, y, x_query = subject.prompts
    predict = partial(predict_bilinear, matrix)
    for scale in scales:
        left = scale.misfit(predict(scale.t * x, y, scale.t * x_query))
        if left > 1e-10 + search.RATIO * scale.gauge:
            return None
    size = float(np.linalg.norm(matrix) / np.sqrt(subject.d))
    parameters = {"n_steps": 1, "step_sizes": [size], "preconditioner": (matrix / size).tolist()}
    answer = Answer(Name("preconditioned_gd", 1), parameters, predict, {}, scales[0].violation)
    return answer if subject.explains(answer) else None


def predict_bilinear(matrix: np.ndarray, x: np.ndarray, y: np.ndarray, x_query: np.ndarray) -> np.ndarray:
    """One step of preconditioned gradient descent for a batch of prompts: `c^T M x_query` with `c = X^T y / n`.

    Args:
      matrix: M `[d d]`.
      x, y, x_query: a batch of prompts.

    Returns:
      y_hat `[prompt m]`.
    """
    return np.einsum("pna,pnm,pb,ab->pm", x, y, x_query, matrix, optimize=True) / x.shape[1]
