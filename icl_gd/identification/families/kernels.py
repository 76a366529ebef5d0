"""Kernel regression (Nadaraya-Watson; softmax attention is one) and kernel ridge regression.

>>> x, y = np.array([[[0.0], [1.0]]]), np.array([[[1.0], [3.0]]])
>>> gaussian(1e3, x, y, np.array([[0.5]])).round(3).tolist()  # a wide kernel: the mean of the labels
[[2.0]]
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from icl_gd.identification.families.base import Direct, Name
from icl_gd.identification.samples import LARGEST, Samples


def gaussian(bandwidth: float, x: np.ndarray, y: np.ndarray, x_query: np.ndarray) -> np.ndarray:
    """Labels averaged with the weights `exp(-|x_j - x_query|^2 / (2 bandwidth^2))`.

    Args:
      bandwidth: width of the kernel.
      x, y, x_query: a batch of prompts.

    Returns:
      y_hat `[prompt m]`.
    """
    return _averaged(-_square(x, x_query) / (2 * bandwidth**2), y)


def softmax(bandwidth: float, x: np.ndarray, y: np.ndarray, x_query: np.ndarray) -> np.ndarray:
    """Labels averaged with the weights `exp(x_j . x_query / bandwidth^2)`.

    Args:
      bandwidth: inverse square root of the factor of the products.
      x, y, x_query: a batch of prompts.

    Returns:
      y_hat `[prompt m]`.
    """
    return _averaged(np.einsum("pna,pa->pn", x, x_query) / bandwidth**2, y)


def ridge(bandwidth: float, penalty: float, x: np.ndarray, y: np.ndarray, x_query: np.ndarray) -> np.ndarray:
    """Kernel ridge regression with the kernel `exp(-|x - x'|^2 / (2 bandwidth^2))`.

    Args:
      bandwidth: width of the kernel.
      penalty: added to the diagonal of the kernel matrix.
      x, y, x_query: a batch of prompts.

    Returns:
      y_hat `[prompt m]`.
    """
    size = np.sum(x**2, -1)
    distance = np.maximum(size[:, :, None] + size[:, None] - 2 * x @ x.swapaxes(1, 2), 0.0)
    gram = np.exp(-distance / (2 * bandwidth**2)) + penalty * np.eye(x.shape[1])
    return np.einsum("pn,pnm->pm", np.exp(-_square(x, x_query) / (2 * bandwidth**2)), np.linalg.solve(gram, y))


def _square(x: np.ndarray, x_query: np.ndarray) -> np.ndarray:
    return np.sum((x - x_query[:, None]) ** 2, axis=-1)


def _averaged(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("pn,pnm->pm", weights / weights.sum(-1, keepdims=True), y)


def _distance(samples: Samples) -> float:
    x, _, x_query = samples.prompts
    return float(np.sqrt(np.median(_square(x, x_query))))


def fits_regression(samples: Samples) -> Iterator[Direct]:
    """Both kernels, with the bandwidth that fits best.

    Returns:
      The algorithms.
    """
    widths = _distance(samples) * np.geomspace(0.05, 20, 25)
    for kernel, predict in (("gaussian", gaussian), ("softmax", softmax)):
        width = samples.best(predict, widths)
        parameters = {"kernel": kernel, "bandwidth": width}
        yield Direct(Name("kernel_regression"), parameters, partial(predict, width))


def fits_ridge(samples: Samples) -> Iterator[Direct]:
    """Kernel ridge regression, with the bandwidth and the penalty that fit best.

    Returns:
      The algorithm, if it is close to the response.
    """
    from scipy.optimize import minimize

    def numbers(logs: np.ndarray) -> list[float]:
        return np.exp(np.clip(logs, -30, 30)).tolist()

    def error(logs: np.ndarray, few: bool = False) -> float:
        try:
            left = samples.fitted(partial(ridge, *numbers(logs)), few)
            return float(np.log(np.clip(left, np.finfo(float).tiny, LARGEST)))
        except np.linalg.LinAlgError:
            return float(np.log(LARGEST))

    widths = np.log(_distance(samples)) + np.linspace(-1.5, 2.5, 7)
    start = min(
        ((width, penalty) for width in widths for penalty in np.linspace(-9, 3, 6)),
        key=lambda logs: error(np.array(logs), few=True),
    )
    if error(np.array(start), few=True) > np.log(0.5):
        return  # not even close: the search would be long
    found = minimize(error, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-6, "maxiter": 200})
    bandwidth, penalty = numbers(found.x)
    parameters = {"kernel": "gaussian", "bandwidth": bandwidth, "penalty": penalty}
    yield Direct(Name("kernel_ridge"), parameters, partial(ridge, bandwidth, penalty))
