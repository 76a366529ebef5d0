"""Gradient descent with heavy-ball momentum, from three steps on: two steps of it are two steps of gradient descent.

>>> momentum(3, np.array([0.5, 0.0]), np.array([1.0]))[0].tolist()  # without momentum: three equal steps
[0.875]
"""

from functools import partial

import numpy as np

from icl_gd.identification.families.base import Candidate, Fitted, Name, Parameters
from icl_gd.identification.fitting import Rows, Values

MOST_STEPS = 8


def momentum(n_steps: int, numbers: np.ndarray, eigenvalues: np.ndarray) -> Values:
    """K steps `p <- p + v`, with the velocity `v <- beta v + eta (1 - lambda p)`.

    Args:
      n_steps: number K of steps.
      numbers: eta and beta.
      eigenvalues: where p is evaluated, of any shape.

    Returns:
      p at the eigenvalues, and its derivatives with respect to the numbers `[number ...]`.
    """
    step, beta = numbers
    p, v = np.zeros_like(eigenvalues), np.zeros_like(eigenvalues)
    dp, dv = np.zeros((2, 2, *eigenvalues.shape))
    for _ in range(n_steps):
        dv = beta * dv - step * eigenvalues * dp
        dv[0] += 1.0 - eigenvalues * p
        dv[1] += v
        v = beta * v + step * (1.0 - eigenvalues * p)
        p, dp = p + v, dp + dv
    return p, dp


def _starts(n_steps: int, rows: Rows, found: Fitted) -> list[np.ndarray]:
    starts = []
    for beta in (0.1, 0.3, 0.5, 0.7, 0.9):
        total = sum((1 - beta**k) / (1 - beta) for k in range(1, n_steps + 1))  # p(0) = eta total
        starts.append(np.array([max(rows.slope, 1e-6) / total, beta]))
    return starts


def _is_valid(numbers: np.ndarray) -> bool:
    return bool(numbers[0] > 0 and 0 < numbers[1] < 1)


def _parameters(n_steps: int, numbers: np.ndarray, n: int) -> Parameters:
    return {"n_steps": n_steps, "step_sizes": [float(numbers[0])] * n_steps, "momentum": float(numbers[1])}


CANDIDATES = tuple(
    Candidate(
        Name("momentum", k), 2, partial(momentum, k), partial(_starts, k), partial(_parameters, k),
        frozenset({Name("gd", k)}), _is_valid,
    )
    for k in range(3, MOST_STEPS + 1)
)  # fmt: skip
