"""Averaging, least squares and ridge regression.

>>> ridge(np.array([1.0]), np.array([1.0, 3.0]))[0].tolist()  # p = 1 / (lambda + penalty)
[0.5, 0.25]
"""

import numpy as np

from icl_gd.identification.families.base import Candidate, Fitted, Name, Parameters, no_numbers, positive
from icl_gd.identification.fitting import Rows, Values


def averaging(numbers: np.ndarray, eigenvalues: np.ndarray) -> Values:
    """The weights `X^T y / n`: p = 1.

    Returns:
      p at the eigenvalues, and its derivatives with respect to the numbers `[number ...]`.
    """
    return np.ones_like(eigenvalues), np.zeros((0, *eigenvalues.shape))


def least_squares(numbers: np.ndarray, eigenvalues: np.ndarray) -> Values:
    """Least squares: `p = 1 / lambda`, and zero in directions that the context does not contain.

    Returns:
      p at the eigenvalues, and its derivatives with respect to the numbers `[number ...]`.
    """
    p = np.divide(1.0, eigenvalues, out=np.zeros_like(eigenvalues), where=eigenvalues > 0)
    return p, np.zeros((0, *eigenvalues.shape))


def ridge(numbers: np.ndarray, eigenvalues: np.ndarray) -> Values:
    """Ridge regression: `p = 1 / (lambda + penalty / n)`.

    Returns:
      p at the eigenvalues, and its derivatives with respect to the numbers `[number ...]`.
    """
    p = 1.0 / (eigenvalues + numbers[0])
    return p, -(p**2)[None]


def _ridge_starts(rows: Rows, found: Fitted) -> list[np.ndarray]:
    return [np.array([size * rows.top]) for size in (1e-4, 1e-2, 1e-1, 1.0, 10.0)]


def _nothing(numbers: np.ndarray, n: int) -> Parameters:
    return {}


def _penalty(numbers: np.ndarray, n: int) -> Parameters:
    return {"penalty": float(numbers[0]) * n}


CANDIDATES = (
    Candidate(Name("averaging"), 0, averaging, no_numbers, _nothing),
    Candidate(Name("ols"), 0, least_squares, no_numbers, _nothing),
    Candidate(Name("ridge"), 1, ridge, _ridge_starts, _penalty, frozenset({Name("ols")}), positive),
)
