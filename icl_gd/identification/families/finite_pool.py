"""The Bayes predictor of a finite pool of weights (dMMSE).

With very large inputs and labels, its posterior selects one member of the pool. So its predictions for the queries
e_1, ..., e_d are the weights of members, which are collected. Then the label noise is the only number left.

>>> pool = np.array([[[1.0]], [[-1.0]]])  # two members, one output, one input
>>> posterior_mean(0.1, pool, np.ones((1, 5, 1)), np.ones((1, 5, 1)), np.full((1, 1), 2.0)).round(6).tolist()
[[2.0]]
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from icl_gd.identification.families.base import Direct, Name
from icl_gd.identification.samples import Samples

FACTOR = 1000.0  # of inputs and labels
CONTEXTS = 2048
SIZES = (1.0, 0.3, 2.0, 4.0)  # of the labels, in times of those of the prompts
MOST_MEMBERS = 64


def posterior_mean(std: float, pool: np.ndarray, x: np.ndarray, y: np.ndarray, x_query: np.ndarray) -> np.ndarray:
    """The posterior mean prediction for a pool of weights with equal prior probability.

    Args:
      std: standard deviation of the label noise.
      pool: weights `[pool m d]`.
      x, y, x_query: a batch of prompts.

    Returns:
      y_hat `[prompt m]`.
    """
    residual = y[:, None] - np.einsum("kmd,pnd->pknm", pool, x)
    logits = -np.sum(residual**2, axis=(-2, -1)) / (2 * std**2)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("pk,kmd,pd->pm", weights / weights.sum(-1, keepdims=True), pool, x_query)


def members(samples: Samples) -> np.ndarray | None:
    """The members of the pool that contexts with large inputs and labels select.

    Returns:
      Weights `[pool m d]`; None if the predictions do not repeat as those of a pool do.
    """
    x, y, _ = samples.prompts
    repeat = max(1, CONTEXTS // len(x))
    generator = np.random.default_rng(0)
    # Members far from the others are nearest to large labels only, and members near zero to small ones.
    sizes = np.resize(SIZES, repeat)[:, None, None, None]
    labels = sizes * (
        y + generator.normal(size=(repeat, *y.shape)) * y.std() * (np.arange(repeat) > 0)[:, None, None, None]
    )
    w = samples.linear_weights(FACTOR * np.concatenate([x] * repeat), FACTOR * labels.reshape(-1, *y.shape[1:]))
    if not np.isfinite(w).all():
        return None
    found: list[np.ndarray] = []
    counts: list[int] = []
    for row in w.reshape(len(w), -1):
        distances = [np.abs(row - member).max() for member in found]
        if distances and min(distances) <= 1e-4 * np.abs(w).max():
            counts[int(np.argmin(distances))] += 1
        elif len(found) < 4 * MOST_MEMBERS:
            found.append(row)
            counts.append(1)
        else:
            return None
    kept = [member for member, count in zip(found, counts, strict=True) if count > 1]  # others are between members
    return np.stack(kept).reshape(-1, *w.shape[1:]) if 0 < len(kept) <= MOST_MEMBERS else None


def fits(samples: Samples) -> Iterator[Direct]:
    """The pool that is found, with the label noise that fits best. One member alone is a fixed linear function.

    Returns:
      The algorithm, if the predictions are those of a pool.
    """
    pool = members(samples)
    if pool is not None and np.abs(pool).max() > 0:
        std = 1.0
        if len(pool) > 1:
            std = samples.best(lambda std, *inputs: posterior_mean(std, pool, *inputs), np.geomspace(1e-2, 1e2, 33))
        parameters = {"members": len(pool), "noise_std": std, "pool": pool.tolist()}
        yield Direct(Name("bayes_pool"), parameters, partial(posterior_mean, std, pool))
