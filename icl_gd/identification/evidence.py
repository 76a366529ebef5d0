"""What supports a verdict and what speaks against it: behaviour, shifts, sensitivities and controls.

>>> def averaging(x, y, x_query):
...     return np.einsum("pna,pnm,pa->pm", x, y, x_query) / x.shape[1]
>>> sensitivity(averaging, (np.ones((1, 4, 2)), np.ones((1, 4, 1)), np.ones((1, 2)))).round(6).tolist()
[[[1.0], [1.0]]]
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from icl_gd.analysis.calls import Batch, Calls
from icl_gd.identification.families import FILTERS
from icl_gd.identification.probe import Call, Probe, weights
from icl_gd.identification.samples import difference, unexplained
from icl_gd.identification.search import BROKEN, RATIO
from icl_gd.identification.subject import EXACT, FRESH, Answer, Subject
from icl_gd.identification.verdict import NOTHING, Evidence
from icl_gd.models import Model, init

LAYERS = 100.0  # rounding of a deep network, in times of the floor
SYMMETRIC = {*(candidate.name.verdict for candidate in FILTERS), "preconditioned_gd"}  # these have all symmetries
STEP = 1e-2  # of central differences in the query, in units of its entries


def shifted(prompts: Batch, generator: np.random.Generator) -> dict[str, Batch]:
    """Prompts with inputs of another scale or covariance, with corrupted labels, and with fewer examples.

    Args:
      prompts: prompts as the task draws them.
      generator: draws covariances and corrupted labels.

    Returns:
      Prompts by the name of the shift.
    """
    x, y, x_query = prompts
    count, n, d = x.shape
    stretch = np.exp(generator.normal(0, 0.5, d))
    stretch /= np.sqrt(np.mean(stretch**2))
    corrupted = y.copy()
    corrupted[np.arange(count), generator.integers(n, size=count)] = y.std() * generator.normal(
        size=(count, y.shape[2])
    )
    result = {
        "half the input scale": (0.5 * x, y, 0.5 * x_query),
        "1.5 times the input scale": (1.5 * x, y, 1.5 * x_query),
        "anisotropic inputs": (stretch * x, y, stretch * x_query),
        "one corrupted label": (x, corrupted, x_query),
    }
    if n > 1:
        result["half the examples"] = (x[:, : n // 2], y[:, : n // 2], x_query)
    return result


def by_shift(subject: Subject, answer: Answer | None) -> dict[str, float]:
    """The share of the response to shifted prompts that an algorithm does not explain.

    A shift is left out if the Predictor refuses its prompts, as one of a fixed number of examples does.

    Returns:
      Shares by the name of the shift; none without an algorithm, and for zero.
    """
    if answer is None or answer.name.verdict == "zero":
        return {}
    result = {}
    for name, prompts in shifted(subject.prompts, np.random.default_rng(0)).items():
        try:
            response = subject.call(*prompts)
        except (TypeError, ValueError):
            continue
        result[name] = unexplained(prompts, response, answer.predict)
        if (n := prompts[0].shape[1]) < subject.n:  # sums may be divided by the usual number of examples instead
            more = ((0, 0), (0, subject.n - n), (0, 0))
            summed = answer.predict(np.pad(prompts[0], more), np.pad(prompts[1], more), prompts[2])
            result[name] = min(result[name], difference(response, summed))
    return result


def sensitivity(call: Call, prompts: Batch) -> np.ndarray:
    """Derivatives of the predictions with respect to the query, by central differences: `[prompt d m]`.

    Returns:
      The derivatives.
    """
    x, y, x_query = prompts
    count, d = x_query.shape
    step = STEP * max(float(np.abs(x_query).mean()), np.finfo(float).tiny)
    moves = step * np.concatenate([np.eye(d), -np.eye(d)])
    queries = (x_query[:, None] + moves).reshape(-1, d)
    y_hat = call(np.repeat(x, 2 * d, 0), np.repeat(y, 2 * d, 0), queries).reshape(count, 2, d, -1)
    return (y_hat[:, 0] - y_hat[:, 1]) / (2 * step)


def observed(
    subject: Subject,
    answers: Sequence[Answer],
    box: Sequence[Answer],
    read: Sequence[Answer],
    seen: Probe | None,
    ceiling: float,
) -> list[Evidence]:
    """The rungs of behaviour and sensitivity.

    Args:
      subject: the Predictor.
      answers: what is not excluded.
      box: what the predictions alone do not exclude.
      read: what the predictions after every layer do not exclude.
      seen: the probe; None for a Predictor that is zero.
      ceiling: largest accepted violation of symmetries.

    Returns:
      The observations.
    """
    if seen is None:
        size = float(np.mean(subject.response**2) / np.mean(subject.fresh[1] ** 2))
        return [
            Evidence(
                "behaviour", "size", "size of the predictions, in times of the labels, squared", size, NOTHING, True
            )
        ]
    says = "part of the predictions that breaks a symmetry of linear algorithms (rotation, order, signs)"
    if not answers:
        base = seen.base
        limit = min(ceiling, BROKEN * RATIO * base.gauge + subject.floor)
        return [
            Evidence("sensitivity", "violation", says, base.violation, limit, base.violation > limit)
        ]  # supports "none"
    answer, noise, rows = answers[0], answers[0].noise, []
    if answer.name.verdict == "preconditioned_gd":
        says = says.replace("rotation", "rotation of the preconditioned inputs")
    if answer.name.verdict in SYMMETRIC:
        rows.append(Evidence("sensitivity", "violation", says, noise, ceiling, noise <= ceiling))
    left = unexplained(subject.fresh, subject.response, answer.predict)
    limit = FRESH * noise + EXACT + LAYERS * subject.floor
    says = f"part of the predictions for fresh prompts that {answer.words} leaves unexplained"
    rows.insert(0, Evidence("behaviour", "unexplained", says, left, limit, left <= limit))
    x, y, x_query = subject.fresh
    few = x[:32], y[:32], x_query[:32]
    own, other = sensitivity(subject.call, few), sensitivity(answer.predict, few)
    left = float(np.sum((own - other) ** 2) / max(np.sum(own**2), np.finfo(float).tiny))
    limit = FRESH * noise + 1e-3
    says = f"part of the derivatives with respect to the query that {answer.words} leaves unexplained"
    rows.append(Evidence("sensitivity", "derivatives_unexplained", says, left, limit, left <= limit))
    if read:
        says = "algorithms that the predictions after every layer do not exclude"
        rows.append(Evidence("behaviour", "not_excluded", says, float(len(read)), 1.0, len(read) == 1))
    elif len(box) > 1:
        says = "algorithms that the predictions do not exclude"
        rows.append(Evidence("behaviour", "not_excluded", says, float(len(box)), 1.0, False))
    return rows


def controls(subject: Subject, answer: Answer, predictor: Any) -> dict[str, float]:
    """The share of the response that wrong predictors leave unexplained, on fresh prompts.

    Args:
      subject: the Predictor that is examined.
      answer: its algorithm.
      predictor: the Predictor itself; for a `Model`, the same model without training is a control, too.

    Returns:
      Shares by name: half the predictions (for one step, half the step size), the algorithm with the labels in another
      order, other algorithms, and the untrained model.
    """
    if answer.name.verdict == "zero":
        return {}
    x, y, x_query = subject.fresh
    order = np.random.default_rng(0).permutation(y.shape[1])
    own = answer.predict(x, y, x_query)

    def share(y_hat: np.ndarray) -> float:
        return difference(subject.response, y_hat)

    result = {"half the prediction": share(own / 2), "permuted labels": share(answer.predict(x, y[:, order], x_query))}
    result |= {name: share(y_hat) for name, y_hat in _others(subject, answer).items()}
    if isinstance(predictor, Model):
        untrained = Model(predictor.config, init(predictor.config, jax.random.key(0)), predictor.layout)
        result["the untrained model"] = share(Calls(untrained)(*subject.fresh))
    return result


def _others(subject: Subject, answer: Answer) -> Mapping[str, np.ndarray]:
    """The best single step of gradient descent and least squares, if the answer is another algorithm."""
    x, y, x_query = subject.fresh
    moment = np.einsum("pna,pnm,pa->pm", x, y, x_query) / x.shape[1]
    weight = weights(subject.response)
    step = np.sum(weight * moment * subject.response) / np.sum(weight * moment**2)
    result = {}
    if not (answer.name.verdict in ("gd", "averaging") and answer.name.n_steps <= 1):
        result["one step of gradient descent"] = step * moment
    if answer.name.verdict != "ols":
        w = np.linalg.pinv(x) @ y
        result["least squares"] = np.einsum("pam,pa->pm", w, x_query)
    return result
