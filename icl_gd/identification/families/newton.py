"""Newton-Schulz iterations from a multiple of the Gram matrix, `M_0 = scale S`.

From a multiple of the identity, K iterations are 2^K equal steps of gradient descent, and have that name.

>>> newton(1, np.array([0.5]), np.array([1.0]))[0].tolist()  # p = (1 - (1 - scale lambda^2)^(2^K)) / lambda
[0.75]
"""

from functools import partial

import numpy as np

from icl_gd.identification.families.base import Candidate, Fitted, Name, Parameters, no_numbers, positive
from icl_gd.identification.families.gradient_descent import equal_steps
from icl_gd.identification.fitting import Rows, Values

MOST_STEPS = 6


def newton(n_steps: int, numbers: np.ndarray, eigenvalues: np.ndarray) -> Values:
    """K iterations from `scale S`: `p = (1 - (1 - scale lambda^2)^(2^K)) / lambda`.

    Args:
      n_steps: number K of iterations.
      numbers: the scale.
      eigenvalues: where p is evaluated, of any shape.

    Returns:
      p at the eigenvalues, and its derivatives with respect to the numbers `[number ...]`.
    """
    p, dp = equal_steps(2**n_steps, numbers, eigenvalues**2)
    return eigenvalues * p, eigenvalues * dp


def scaled_newton(n_steps: int, numbers: np.ndarray, eigenvalues: np.ndarray) -> Values:
    """K iterations whose scale depends on the context: `1 / trace(S^2)`, with which they always converge.

    Args:
      n_steps: number K of iterations.
      numbers: none.
      eigenvalues: those of a context on the last axis.

    Returns:
      p at the eigenvalues, and its derivatives with respect to the numbers `[number ...]`.
    """
    square = np.maximum(np.sum(eigenvalues**2, axis=-1, keepdims=True), np.finfo(float).tiny)
    p, _ = equal_steps(2**n_steps, np.ones(1), eigenvalues**2 / square)
    return eigenvalues / square * p, np.zeros((0, *eigenvalues.shape))


def _starts(n_steps: int, rows: Rows, found: Fitted) -> list[np.ndarray]:
    return [np.array([size / rows.top**2]) for size in (0.1, 0.4, 1.0, 1.8)]


def _scale(n_steps: int, numbers: np.ndarray, n: int) -> Parameters:
    return {"n_steps": n_steps, "scale": float(numbers[0]) if len(numbers) else "1 / trace(S^2)"}


CANDIDATES = tuple(
    candidate
    for k in range(1, MOST_STEPS + 1)
    for candidate in (
        Candidate(Name("newton", k, False), 0, partial(scaled_newton, k), no_numbers, partial(_scale, k)),
        Candidate(Name("newton", k), 1, partial(newton, k), partial(_starts, k), partial(_scale, k), is_valid=positive),
    )
)
