"""Gradient descent with equal steps, and with steps of its own.

>>> equal_steps(2, np.array([0.5]), np.array([0.0, 1.0]))[0].tolist()  # p = (1 - (1 - eta lambda)^K) / lambda
[1.0, 0.75]
"""

from functools import partial

import numpy as np

from icl_gd.identification.families.base import Candidate, Fitted, Name, Parameters, positive
from icl_gd.identification.fitting import Rows, Values

MOST_STEPS = 8  # with steps of their own
MOST_EQUAL_STEPS = 16


def equal_steps(n_steps: int, numbers: np.ndarray, eigenvalues: np.ndarray) -> Values:
    """K equal steps: `p = (1 - (1 - eta lambda)^K) / lambda`, computed without the division.

    Args:
      n_steps: number K of steps.
      numbers: the step size.
      eigenvalues: where p is evaluated, of any shape.

    Returns:
      p at the eigenvalues, and its derivatives with respect to the numbers `[number ...]`.
    """
    (step,) = numbers
    p, dp = np.zeros_like(eigenvalues), np.zeros_like(eigenvalues)
    factor = 1.0 - step * eigenvalues
    for _ in range(n_steps):  # p <- step + factor p
        dp = 1.0 + factor * dp - eigenvalues * p
        p = step + factor * p
    return p, dp[None]


def own_steps(steps: np.ndarray, eigenvalues: np.ndarray) -> Values:
    """Steps of their own: `p = (1 - prod_k (1 - eta_k lambda)) / lambda`, computed without the division.

    Returns:
      p at the eigenvalues, and its derivatives with respect to the numbers `[number ...]`.
    """
    p, left = np.zeros_like(eigenvalues), np.ones_like(eigenvalues)
    dp, d_left = np.zeros((2, len(steps), *eigenvalues.shape))
    for k, step in enumerate(steps):
        dp[k] += left
        dp += step * d_left
        p += step * left
        factor = 1.0 - step * eigenvalues
        d_left *= factor
        d_left[k] -= eigenvalues * left
        left *= factor
    return p, dp


def polynomial_steps(rows: Rows, n_steps: int) -> np.ndarray:
    """Step sizes from the polynomial p of degree K - 1 that fits best, which is a linear problem.

    `1 - lambda p(lambda)` has the roots `1 / eta_k`. A pair of complex steps `a +- b i` is replaced by `a +- b`: a fit
    could never separate two equal steps.

    Returns:
      Step sizes `[step]`.
    """
    top = float(rows.eigenvalues.max())
    powers = np.stack([(rows.eigenvalues / top) ** k for k in range(n_steps)])
    design = np.einsum("bmr,kbr->kbm", rows.weighted, powers).reshape(n_steps, -1)
    size = np.maximum(np.linalg.norm(design, axis=1), np.finfo(float).tiny)
    coefficients = np.linalg.lstsq((design / size[:, None]).T, rows.goal, rcond=None)[0] / size
    roots = np.roots(np.append(-top * coefficients[::-1], 1.0))  # of 1 - z q(z) with z = lambda / top, q = top p
    steps = 1.0 / np.where(np.abs(roots) > 1e-8, roots, 1e-8)
    return (np.real(steps) + np.imag(steps)) / top


def _equal_starts(n_steps: int, rows: Rows, found: Fitted) -> list[np.ndarray]:
    sizes = [rows.slope / n_steps, *(size / rows.top for size in (0.3, 1.0, 1.8))]
    return [np.array([size]) for size in sizes if size > 0]


def _own_starts(n_steps: int, rows: Rows, found: Fitted) -> list[np.ndarray]:
    starts = [polynomial_steps(rows, n_steps)]
    if (fewer := found.get(Name("gd", n_steps - 1, False))) is not None:
        starts.append(np.append(fewer, 0.1 * fewer.mean()))
    if (equal := found.get(Name("gd", n_steps))) is not None:
        starts.append(equal[0] * np.linspace(0.6, 1.4, n_steps))
    return starts


def _equal(n_steps: int, numbers: np.ndarray, n: int) -> Parameters:
    return {"n_steps": n_steps, "step_sizes": [float(numbers[0])] * n_steps}


def _own(numbers: np.ndarray, n: int) -> Parameters:
    return {"n_steps": len(numbers), "step_sizes": numbers.tolist()}


def fewer_steps(n_steps: int) -> frozenset[Name]:
    """All gradient descents that are special cases of K steps of their own.

    Returns:
      Their names.
    """
    own = {Name("gd", k, False) for k in range(2, n_steps)}
    return frozenset({Name("averaging"), *own, *(Name("gd", k) for k in range(1, n_steps + 1))})


CANDIDATES = (
    *(
        Candidate(
            Name("gd", k), 1, partial(equal_steps, k), partial(_equal_starts, k), partial(_equal, k),
            frozenset({Name("averaging")} if k == 1 else ()), positive,
        )
        for k in range(1, MOST_EQUAL_STEPS + 1)
    ),
    *(
        Candidate(Name("gd", k, False), k, own_steps, partial(_own_starts, k), _own, fewer_steps(k), positive, False)
        for k in range(2, MOST_STEPS + 1)
    ),
)  # fmt: skip
