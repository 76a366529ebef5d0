"""Fits the filter of an algorithm to the response of a Predictor, by weighted least squares over all scales.

With `S = X^T X / n = V diag(lambda) V^T` and `c = X^T y / n`, gradient descent, GD++, Newton's method, ridge regression
and least squares all predict `sum_k (c . v_k) (v_k . x_query) p(lambda_k)`. They differ in the filter p alone. A filter
is a function `(numbers, eigenvalues) -> (p, derivatives of p with respect to the numbers)`.

>>> from icl_gd.identification.families.exact import ridge
>>> from icl_gd.identification.probe import probe
>>> def halved(x, y, x_query):  # ridge regression with one input and the penalty n / 2
...     return np.einsum("pna,pnm,pa->pm", x, y, x_query) / (np.einsum("pna,pna->p", x, x) + x.shape[1] / 2)[:, None]
>>> generator = np.random.default_rng(0)
>>> prompts = tuple(generator.normal(size=shape) for shape in ((50, 4, 1), (50, 4, 1), (50, 1)))
>>> numbers, _ = minimise(Rows(probe(halved, prompts, generator)), ridge, np.array([0.1]))
>>> numbers.round(6).tolist()
[0.5]
"""

from collections.abc import Callable

import numpy as np

from icl_gd.identification.probe import ELEMENTS, Probe

Values = tuple[np.ndarray, np.ndarray]  # p, of the shape of the eigenvalues, and its derivatives [number *shape]
Filter = Callable[[np.ndarray, np.ndarray], Values]

FEW = 24  # prompts with which starts are compared
SMALLEST = 1e-13  # noise of a row, as a share of the response; rounding in float32 is of this order
SYMMETRIC_PART = 0.1  # share of the noise that is expected to have all symmetries


class Rows:
    """The rows of a least-squares problem: the mean responses at all scales, weighted by their measured noise.

    Unweighted rows are fitted worse than by the true numbers: at scales with noise, they are mostly noise.
    """

    def __init__(self, probe: Probe, prompts: int | None = None):
        """Takes the first prompts of a probe; by default all of them."""
        self.probe = probe
        square = probe.ratios[:, None, None] ** 2
        self.eigenvalues = np.concatenate(square * probe.eigenvalues[:prompts])  # [row r]
        self.loadings = np.concatenate(square[..., None] * probe.loadings[:prompts])  # [row m r]
        roots = []
        for scale in probe.scales:
            noise = SMALLEST + scale.within / ELEMENTS + SYMMETRIC_PART * scale.gauge
            size = max(float(np.sum(scale.weight * scale.mean**2)), SMALLEST)  # 0 for a response that is even in y
            roots.append(np.sqrt(scale.weight / (size * noise))[:prompts])
        self.roots = np.concatenate(roots)
        self.weighted = self.roots[..., None] * self.loadings
        self.goal = (self.roots * np.concatenate([scale.mean[:prompts] for scale in probe.scales])).ravel()

    @property
    def slope(self) -> float:
        """p at small eigenvalues: the best constant filter at the smallest scale."""
        smallest = min(self.probe.scales, key=lambda scale: scale.t)
        first = smallest.t**2 * self.probe.loadings.sum(-1)
        return float(np.sum(smallest.weight * first * smallest.mean) / np.sum(smallest.weight * first**2))

    @property
    def top(self) -> float:
        """The median over prompts of the largest eigenvalue, at scale 1."""
        return float(np.median(self.probe.eigenvalues[:, -1]))

    def residuals(self, p: Filter, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weighted residuals of a filter.

        Returns:
          The residuals `[row]` and their derivatives `[row number]`.
        """
        values, slopes = p(numbers, self.eigenvalues)
        residual = np.einsum("bmr,br->bm", self.weighted, values).ravel() - self.goal
        jacobian = np.einsum("bmr,kbr->kbm", self.weighted, slopes).reshape(len(slopes), residual.size).T
        return residual, jacobian


def minimise(rows: Rows, p: Filter, start: np.ndarray, steps: int = 40, gain: float = 1e-6) -> tuple[np.ndarray, float]:
    """Fits the numbers of a filter by the method of Levenberg and Marquardt.

    Args:
      rows: the least-squares problem.
      p: the filter.
      start: the first numbers.
      steps: largest number of steps.
      gain: the fit ends when a step lowers the sum of squares by less than this share.

    Returns:
      The numbers, and the sum of squares; infinity if it is not finite at the start.
    """
    numbers, damping = np.asarray(start, float), 1e-3
    with np.errstate(all="ignore"):
        residual, jacobian = rows.residuals(p, numbers)
        cost = float(residual @ residual)
        if not np.isfinite(cost):
            return numbers, np.inf
        for _ in range(steps if len(numbers) else 0):
            gram, slope = jacobian.T @ jacobian, jacobian.T @ residual
            size = np.sqrt(np.maximum(np.diag(gram), np.finfo(float).tiny))
            before = cost
            while damping < 1e8:
                damped = gram / np.outer(size, size) + damping * np.eye(len(size))
                try:
                    trial = numbers - np.linalg.solve(damped, slope / size) / size
                except np.linalg.LinAlgError:  # not a number
                    return numbers, cost
                new_residual, new_jacobian = rows.residuals(p, trial)
                if (new_cost := float(new_residual @ new_residual)) < cost:
                    numbers, residual, jacobian, cost = trial, new_residual, new_jacobian, new_cost
                    damping = max(damping / 10, 1e-14)
                    break
                damping *= 8
            if before - cost <= gain * before:
                break
    return numbers, cost


def misfits(probe: Probe, p: Filter, numbers: np.ndarray) -> np.ndarray:
    """The share of the symmetric response that a filter leaves unexplained, by scale.

    Args:
      probe: the response.
      p: the filter.
      numbers: its numbers.

    Returns:
      Shares `[scale]`; infinity where the filter overflows.
    """
    result = []
    with np.errstate(all="ignore"):
        for scale in probe.scales:
            square = scale.t**2
            fitted = np.einsum("pmr,pr->pm", square * probe.loadings, p(numbers, square * probe.eigenvalues)[0])
            result.append(scale.misfit(fitted))
    return np.nan_to_num(np.array(result), nan=np.inf)


def deviations(rows: Rows, p: Filter, numbers: np.ndarray) -> np.ndarray:
    """Standard deviations of fitted numbers over prompts (the sandwich estimator, with one cluster per prompt).

    Args:
      rows: the least-squares problem.
      p: the filter.
      numbers: its fitted numbers.

    Returns:
      Standard deviations `[number]`.
    """
    if not len(numbers):
        return np.zeros(0)
    residual, jacobian = rows.residuals(p, numbers)
    scales = len(rows.probe.scales)
    scores = (residual[:, None] * jacobian).reshape(scales, -1, rows.probe.loadings.shape[1], len(numbers)).sum((0, 2))
    bread = np.linalg.pinv(jacobian.T @ jacobian)
    return np.sqrt(np.maximum(np.diag(bread @ (scores.T @ scores) @ bread), 0.0))
