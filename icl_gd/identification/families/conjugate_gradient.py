"""Conjugate gradients. They are no filter: their steps depend on the labels.

>>> x, y, x_query = np.ones((1, 1, 1)), np.ones((1, 1, 1)), np.ones((1, 1))
>>> conjugate_gradient(1, x, y, x_query).tolist()
[[1.0]]
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from icl_gd.identification.families.base import Direct, Name
from icl_gd.identification.samples import Samples


def conjugate_gradient(n_steps: int, x: np.ndarray, y: np.ndarray, x_query: np.ndarray) -> np.ndarray:
    """K steps of conjugate gradients from zero on `S w = X^T y / n`, for every output.

    Args:
      n_steps: number K of steps.
      x, y, x_query: a batch of prompts.

    Returns:
      y_hat `[prompt m]`.
    """
    s = np.einsum("pna,pnb->pab", x, x) / x.shape[1]
    r = np.einsum("pna,pnm->pam", x, y) / x.shape[1]
    w, direction = np.zeros_like(r), r
    square = start = np.sum(r**2, axis=1, keepdims=True)
    for _ in range(n_steps):
        image = s @ direction
        curvature = np.sum(direction * image, axis=1, keepdims=True)
        is_going = square > 1e-24 * start  # the solution is reached up to rounding
        size = np.divide(square, curvature, out=np.zeros_like(square), where=is_going & (curvature > 0))
        w, r = w + size * direction, r - size * image
        new = np.sum(r**2, axis=1, keepdims=True)
        direction = r + np.divide(new, square, out=np.zeros_like(new), where=is_going) * direction
        square = new
    return np.einsum("pam,pa->pm", w, x_query)


def fits(samples: Samples) -> Iterator[Direct]:
    """All numbers of steps below the rank of the context; with more steps it is least squares.

    Returns:
      The algorithms.
    """
    x, _, _ = samples.prompts
    for k in range(1, min(x.shape[1:])):
        yield Direct(Name("conjugate_gradient", k), {"n_steps": k}, partial(conjugate_gradient, k))
