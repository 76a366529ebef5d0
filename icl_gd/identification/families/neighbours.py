"""Nearest neighbours; with all n of them, the mean of the labels.

>>> x, y = np.array([[[0.0], [1.0], [5.0]]]), np.array([[[1.0], [2.0], [9.0]]])
>>> nearest_neighbours(2, x, y, np.array([[0.9]])).tolist()
[[1.5]]
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from icl_gd.identification.families.base import Direct, Name
from icl_gd.identification.samples import Samples


def nearest_neighbours(k: int, x: np.ndarray, y: np.ndarray, x_query: np.ndarray) -> np.ndarray:
    """The mean label of the k inputs that are nearest to the query.

    Args:
      k: number of neighbours.
      x, y, x_query: a batch of prompts.

    Returns:
      y_hat `[prompt m]`.
    """
    order = np.argsort(np.sum((x - x_query[:, None]) ** 2, axis=-1), axis=-1, kind="stable")[:, :k]
    return np.take_along_axis(y, order[..., None], 1).mean(1)


def fits(samples: Samples) -> Iterator[Direct]:
    """All numbers of neighbours.

    Returns:
      The algorithms.
    """
    for k in range(1, samples.prompts[0].shape[1] + 1):
        yield Direct(Name("nearest_neighbours", k), {"neighbours": k}, partial(nearest_neighbours, k))
