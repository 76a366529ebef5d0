"""The response of a Predictor to untransformed prompts: algorithms that are not filters are fitted to it.

>>> prompts = np.ones((3, 4, 2)), np.ones((3, 4, 1)), np.ones((3, 2))
>>> unexplained(prompts, np.ones((3, 1)), lambda x, y, x_query: 0.5 * y[:, 0])  # half the response: a quarter is left
0.25
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from icl_gd.analysis.calls import Batch
from icl_gd.identification.probe import Call, weights

FACTORS = (1.0, 0.5, 2.0)  # of the inputs
FEW = 16  # prompts of a coarse scan
LARGEST = 1e30  # share that counts as infinite in a search


class Samples:
    """The response to prompts at several scales: half of the prompts is for fitting, the other half for judging."""

    def __init__(self, call: Call, prompts: Batch):
        """Takes a Predictor for batches, and prompts."""
        self.call, self.prompts = call, prompts
        self.half = len(prompts[0]) // 2
        self._parts = [self._part(slice(0, self.half)), self._part(slice(self.half, None))]

    def _part(self, part: slice) -> tuple[Batch, np.ndarray]:
        x, y, x_query = (leaf[part] for leaf in self.prompts)
        inputs = (
            np.concatenate([t * x for t in FACTORS]),
            np.concatenate([y for _ in FACTORS]),
            np.concatenate([t * x_query for t in FACTORS]),
        )
        return inputs, self.call(*inputs)

    def misfit(self, predict: Call) -> float:
        """The unexplained share on the prompts for judging.

        Returns:
          The share; infinity if the algorithm overflows.
        """
        return unexplained(*self._parts[1], predict)

    def fitted(self, predict: Call, few: bool = False) -> float:
        """The unexplained share on the prompts for fitting, or on few of them.

        Returns:
          The share; infinity if the algorithm overflows.
        """
        inputs, target = self._parts[0]
        if few:
            chosen = np.arange(len(target)) % self.half < FEW
            inputs, target = (inputs[0][chosen], inputs[1][chosen], inputs[2][chosen]), target[chosen]
        return unexplained(inputs, target, predict)

    def best(self, predict: Callable[..., np.ndarray], values: np.ndarray) -> float:
        """The positive number `v` for which `predict(v, x, y, x_query)` fits best.

        Args:
          predict: the algorithm with one number.
          values: values in ascending order; the best one is refined by Brent's method.

        Returns:
          The number.
        """
        from scipy.optimize import minimize_scalar

        errors = [self.fitted(partial(predict, value)) for value in values]
        best = int(np.argmin(errors))
        bounds = np.log([values[max(best - 1, 0)], values[min(best + 1, len(values) - 1)]])

        def error(log: float) -> float:
            return np.log(np.clip(self.fitted(partial(predict, np.exp(log))), np.finfo(float).tiny, LARGEST))

        found: Any = minimize_scalar(error, bounds=bounds, method="bounded", options={"xatol": 1e-10})
        return float(np.exp(found.x))

    def linear_weights(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The predictions for the queries e_1, ..., e_d: the weights of a learner that is linear in the query.

        Returns:
          Weights `[prompt m d]`.
        """
        count, _, d = x.shape
        y_hat = self.call(np.repeat(x, d, 0), np.repeat(y, d, 0), np.tile(np.eye(d), (count, 1)))
        return y_hat.reshape(count, d, -1).swapaxes(1, 2)


def unexplained(inputs: Batch, target: np.ndarray, predict: Call) -> float:
    """The share of a response that an algorithm does not explain. Prompts with a large response weigh less.

    Args:
      inputs: a batch of prompts.
      target: the response `[prompt m]`.
      predict: the algorithm for batches.

    Returns:
      The share; infinity if the algorithm overflows.
    """
    with np.errstate(all="ignore"):
        return difference(target, predict(*inputs))


def difference(target: np.ndarray, y_hat: np.ndarray) -> float:
    """How much predictions differ from a response, as a share of it. Prompts with a large response weigh less.

    Args:
      target: the response `[prompt m]`.
      y_hat: the predictions `[prompt m]`.

    Returns:
      The share, a ratio of sums of squares; infinity if a prediction is not finite.
    """
    with np.errstate(all="ignore"):
        weight = weights(target)
        share = np.sum(weight * (y_hat - target) ** 2) / max(np.sum(weight * target**2), np.finfo(float).tiny)
    return float(share) if np.isfinite(share) else np.inf
