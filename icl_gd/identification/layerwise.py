"""Reads an algorithm layer by layer: given the steps before, every layer has one or two free numbers.

The prediction after layer k of gradient descent or GD++ is that after layer k - 1 plus `eta_k c_k q_k`, where c_k and
q_k depend on the rates of earlier layers and on the gamma of layer k - 1. So eta_k is a linear fit, and gamma a search
in one dimension: no local minimum hides the answer.

>>> def two_steps(x, y, x_query):  # predictions after each of two steps with eta = 0.5, for one input
...     s, c = np.einsum("pna,pna->p", x, x) / x.shape[1], np.einsum("pna,pnm->p", x, y) / x.shape[1]
...     return np.stack([0.5 * c, 0.5 * c + 0.5 * (1 - 0.5 * s) * c], axis=1) * x_query
>>> generator = np.random.default_rng(0)
>>> prompts = tuple(generator.normal(size=shape) for shape in ((50, 4, 1), (50, 4, 1), (50, 1)))
>>> read(by_layer(probe(two_steps, prompts, generator), m=1), with_gammas=False).steps.round(6).tolist()
[0.5, 0.5]
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from icl_gd.analysis.calls import Calls, Refusal, check_finite
from icl_gd.identification import preconditioned, search
from icl_gd.identification.black_box import filter_values, predict_by_filter, with_matrix
from icl_gd.identification.families import Name
from icl_gd.identification.families.base import Parameters
from icl_gd.identification.families.gd_plus_plus import gd_plus_plus
from icl_gd.identification.families.gradient_descent import own_steps
from icl_gd.identification.fitting import Rows
from icl_gd.identification.probe import Call, Probe, Whitening, probe
from icl_gd.identification.samples import difference
from icl_gd.identification.subject import Answer, Subject
from icl_gd.identification.verdict import NOTHING

FLOOR = 1e-9  # of the unexplained share; with one or two numbers per layer, no wrong algorithm gets below
IDLE = 1e-3  # a last layer whose step is below this share of the largest one does nothing
EARLY = 3.0  # largest part that breaks symmetries after an early layer, in times of that after the last one
SAME = 1e-3  # largest share by which the prediction after the last layer may differ from that of the Predictor
GROUPS = 8  # of prompts; each is left out once for the intervals


@dataclass(frozen=True)
class Reading:
    """The rates of an algorithm, fitted layer by layer.

    Attributes:
      steps: eta of every layer.
      gammas: gamma of every layer; the last one has no effect and is 0.
      misfits: the share of the symmetric response that is unexplained, `[layer scale]`.
      limits: the largest accepted misfits, of the same shape.
    """

    steps: np.ndarray
    gammas: np.ndarray
    misfits: np.ndarray
    limits: np.ndarray

    @property
    def worst(self) -> float:
        """The largest misfit, in times of its limit."""
        return float(np.max(self.misfits / self.limits))

    @property
    def is_accepted(self) -> bool:
        """Whether the reading explains every layer at every scale, with positive steps."""
        return self.worst <= 1 and bool(np.all(self.steps > 0))


def by_layer(probe: Probe, m: int) -> list[Probe]:
    """One probe per layer, from that of a layerwise Predictor, whose layers and outputs are one axis.

    Returns:
      The probes, in the order of the layers.
    """
    return [probe.outputs(slice(k, k + m)) for k in range(0, probe.base.mean.shape[1], m)]


def active(probes: Sequence[Probe]) -> list[Probe]:
    """The layers up to the last one that changes the prediction.

    Returns:
      Their probes; at least one.
    """
    means = [probe.base.mean for probe in probes]
    changes = [np.mean((b - a) ** 2) for a, b in zip([np.zeros_like(means[0]), *means], means, strict=False)]
    last = max((k for k, change in enumerate(changes) if change > IDLE**2 * max(changes)), default=0)
    return list(probes[: last + 1])


def noise(probes: Sequence[Probe]) -> np.ndarray:
    """The noise of a network, by scale: the largest gauge of all layers.

    The gauge of a first layer alone says little: a trained layer may break rotations although it is odd in the labels.

    Returns:
      Shares `[scale]`.
    """
    return np.array([[scale.gauge for scale in probe.scales] for probe in probes]).max(axis=0)


def are_symmetric(probes: Sequence[Probe], ceiling: float, floor: float) -> bool:
    """Whether the response after every layer has the symmetries of a filter, up to what the noise breaks.

    Noise is a larger share of the response after the first layers, because the response is smaller there.

    Args:
      probes: one per layer.
      ceiling: largest accepted violation after the last layer.
      floor: violation that rounding alone may leave.

    Returns:
      True if it has them.
    """
    limit = min(ceiling, search.BROKEN * search.RATIO * float(noise(probes)[0]) + floor)
    return probes[-1].base.violation <= limit and all(one.base.violation <= EARLY * limit for one in probes)


def read(probes: Sequence[Probe], with_gammas: bool, floor: float = FLOOR) -> Reading:
    """Fits gradient descent or GD++ to the predictions after every layer, from the first to the last.

    Args:
      probes: one per layer.
      with_gammas: True for GD++, False for gradient descent.
      floor: unexplained share that rounding may leave.

    Returns:
      The rates and misfits.
    """
    d = probes[0].eigenvalues.shape[-1]
    steps, gammas, left = [], [], []
    level = Rows(probes[0]).eigenvalues  # the eigenvalue before the step [row r], and the product c q
    product, p = np.ones_like(level), np.zeros_like(level)
    for seen in probes:
        rows = Rows(seen)
        if steps:
            gamma = _best_gamma(rows, p, level, product, steps[-1]) if with_gammas else 0.0
            gammas.append(gamma)
            level, product = _advanced(level, product, steps[-1], gamma)
        step, _ = _step(rows, p, product)
        steps.append(step)
        p = p + step * product
        fitted = np.split(np.einsum("bmr,br->bm", rows.loadings, p), len(seen.scales))
        left.append([scale.misfit(part) for scale, part in zip(seen.scales, fitted, strict=True)])
    misfits = np.nan_to_num(np.array(left), nan=np.inf)
    limits = np.broadcast_to(search.largest_misfits(noise(probes), d, floor), misfits.shape)
    return Reading(np.array(steps), np.array([*gammas, 0.0]), misfits, limits)


def _best_gamma(rows: Rows, p: np.ndarray, level: np.ndarray, product: np.ndarray, step: float) -> float:
    """The gamma of the layer before, which fits best together with the best eta of a layer.

    Later gammas are larger than earlier ones, because the eigenvalues become smaller.
    """
    from scipy.optimize import minimize_scalar

    def cost(gamma: float) -> float:
        return _step(rows, p, _advanced(level, product, step, gamma)[1])[1]

    prompts = len(rows.probe.eigenvalues)  # the first rows are those of factor 1
    top = max(float(np.quantile(level[:prompts].max(axis=-1), 0.9)), np.finfo(float).tiny)
    trials = np.linspace(-0.5, 4.0, 46) / top
    best = int(np.argmin([cost(gamma) for gamma in trials]))
    bounds = trials[max(best - 1, 0)], trials[min(best + 1, len(trials) - 1)]
    found: Any = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-9 / top})
    return float(found.x)


def _advanced(level: np.ndarray, product: np.ndarray, step: float, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """The eigenvalue and the product c q after one step of GD++ (see `families.gd_plus_plus`)."""
    shrink = 1.0 - gamma * level
    return level * shrink**2, product * shrink**2 * (1.0 - step * level)


def _step(rows: Rows, p: np.ndarray, product: np.ndarray) -> tuple[float, float]:
    """The best eta for a layer that adds `eta product` to p, and the weighted sum of squares."""
    before = np.einsum("bmr,br->bm", rows.weighted, p).ravel() - rows.goal
    along = np.einsum("bmr,br->bm", rows.weighted, product).ravel()
    step = -float(along @ before) / max(float(along @ along), np.finfo(float).tiny)
    return step, float(np.sum((before + step * along) ** 2))


def check_layers(subject: Subject, call: Calls) -> None:
    """Checks that predictions after every layer are those of a Predictor.

    Args:
      subject: the Predictor.
      call: the predictions before the first and after every layer, for batches: `[prompt depth m]`.

    Raises:
      Refusal: if they have another shape, are not finite, or do not end with the predictions of the Predictor.
    """
    y_hat, last = call(*subject.prompts), subject.call(*subject.prompts)
    if y_hat.ndim != 3 or y_hat.shape[1] < 2:
        raise Refusal(
            f"{call.name} returns an array of shape {y_hat.shape[1:]}; return [depth m] with m={subject.m}: the "
            "predictions before the first and after every layer, which are at least two"
        )
    check_finite(call.name, y_hat)
    if (share := difference(last, y_hat[:, -1])) > SAME:
        raise Refusal(
            f"the prediction of {call.name} after the last layer differs from that of the predictor by "
            f"{share**0.5:.2g} times its size; give the layers of this predictor"
        )


def layered(subject: Subject, call: Call, ceiling: float, groups: int = GROUPS) -> list[Answer]:
    """The algorithm that the predictions after every layer do not exclude.

    It is gradient descent, unless GD++ explains the layers much better. If the layers are not symmetric under
    rotations, it is preconditioned gradient descent.

    Args:
      subject: the Predictor.
      call: the predictions before the first and after every layer, for batches: `[prompt depth m]`.
      ceiling: largest part of the response that may break the symmetries.
      groups: groups of prompts from which the intervals follow; 0 for no intervals.

    Returns:
      The algorithm; nothing if the layers compute none.
    """

    def after_layers(*prompts: np.ndarray) -> np.ndarray:
        y_hat = call(*prompts)
        return y_hat[:, 1:].reshape(len(y_hat), -1)

    start = call(*subject.prompts)[:, 0]
    if np.mean(start**2) > NOTHING * np.mean(subject.response**2):
        return []
    seen = probe(after_layers, subject.prompts, subject.generator, ceiling=ceiling)
    probes = active(by_layer(seen, subject.m))
    floor = max(FLOOR, subject.floor)
    if are_symmetric(probes, ceiling, subject.floor):
        plain, plus = read(probes, False, floor), read(probes, True, floor)
        if plain.is_accepted and not (plus.is_accepted and _explains_more(plus, plain, probes)):
            return [_answer("gd", plain, probes, groups)]
        return [_answer("gd_plus_plus", plus, probes, groups)] if plus.is_accepted and len(probes) > 1 else []

    def after_first(*prompts: np.ndarray) -> np.ndarray:
        return call(*prompts)[:, 1]

    matrix, _ = preconditioned.leading_order(after_first, subject.many(), 1.0)
    a = preconditioned.symmetric_part(matrix)
    if a is None:
        return []
    size = float(np.trace(a)) / subject.d
    whitening = Whitening.of(a)
    seen = probe(after_layers, subject.prompts, subject.generator, whitening, ceiling)
    probes = active(by_layer(seen, subject.m))
    if not are_symmetric(probes, ceiling, subject.floor):
        return []
    plain = read(probes, False, floor)
    if not plain.is_accepted:
        return []
    answer = _answer("preconditioned_gd", plain, probes, groups)
    steps = [[size * end for end in ends] for ends in answer.intervals.get("step_sizes", [])]
    parameters = with_matrix(answer.parameters, a / size, size)
    return [replace(answer, parameters=parameters, intervals={"step_sizes": steps} if steps else {})]


def _explains_more(plus: Reading, plain: Reading, probes: Sequence[Probe]) -> bool:
    """Whether GD++ explains the layers much better than gradient descent does, by gammas that are beyond noise."""
    return search.explains_more(plus.worst, plain.worst, plus.gammas, probes[0], float(noise(probes)[0]))


def _answer(verdict: str, reading: Reading, probes: Sequence[Probe], groups: int) -> Answer:
    """The algorithm of a reading, as the whole network computes it."""
    k, has_gammas = len(reading.steps), verdict == "gd_plus_plus"
    p, numbers = own_steps, reading.steps
    parameters: Parameters = {"n_steps": k, "step_sizes": reading.steps.tolist()}
    if has_gammas:
        p, numbers = partial(gd_plus_plus, k), np.concatenate([reading.steps, reading.gammas[:-1]])
        parameters["gammas"] = reading.gammas.tolist()
    predict = partial(predict_by_filter, partial(filter_values, p, numbers), probes[-1].whitening)
    intervals = _intervals(reading, probes, has_gammas, groups) if groups else {}
    return Answer(Name(verdict, k, k == 1), parameters, predict, intervals, probes[-1].base.violation)


def _intervals(reading: Reading, probes: Sequence[Probe], has_gammas: bool, groups: int) -> Parameters:
    """95 % intervals of the rates over prompts, from readings without one group of prompts (the jackknife)."""
    parts = [read([one.without(group, groups) for one in probes], has_gammas) for group in range(groups)]
    result = {}
    for name, values, others in (
        ("step_sizes", reading.steps, np.stack([part.steps for part in parts])),
        ("gammas", reading.gammas, np.stack([part.gammas for part in parts])),
    ):
        if name == "step_sizes" or has_gammas:
            spread = 1.96 * np.sqrt((groups - 1) * others.var(axis=0))
            result[name] = np.stack([values - spread, values + spread], axis=1).tolist()
    return result
