"""The Lasso, found without a search.

Its weights w satisfy `X_A^T (y - X w) / n = alpha sign(w_A)` on their support A, and `|X^T (y - X w)| / n <= alpha`
elsewhere. So the weights of the Predictor give alpha and A, these give the weights of the Lasso in closed form, and the
conditions show whether they are those of the Lasso.

>>> x, y = np.sqrt(2) * np.eye(2), np.sqrt(2) * np.array([3.0, 0.5])  # S = I: the least-squares weights are 3 and 0.5
>>> lasso_weights(1.0, x, y, np.array([2.0, 0.0])).round(6).tolist()
[2.0, 0.0]
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from icl_gd.identification.families.base import Direct, Name
from icl_gd.identification.samples import Samples

CLOSE = 1e-2  # relative error of measured correlations, in which the Predictor may be imprecise
TINY = 1e-6  # weights below this share of the largest one are zero, in float32
SLACK = 3e-3  # relative violation of the optimality conditions; a path that is followed in float32 overshoots its ends


def lasso_weights(alpha: float, x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray | None:
    """The Lasso's weights on the support of given weights.

    Args:
      alpha: the penalty, as in `learners.lasso`.
      x: inputs `[n d]`.
      y: labels of one output `[n]`.
      w: weights `[d]`, nearly those of the Lasso.

    Returns:
      Weights `[d]`; None if they violate an optimality condition.
    """
    n, d = x.shape
    correlation = x.T @ (y - x @ w) / n
    chosen = (np.abs(np.abs(correlation) / alpha - 1) < CLOSE) & (np.abs(w) > TINY * np.abs(w).max())
    part, sign = x[:, chosen], np.sign(correlation[chosen])
    solution = np.zeros(d)
    solution[chosen] = np.linalg.lstsq(part.T @ part / n, part.T @ y / n - alpha * sign, rcond=None)[0]
    slack = np.abs(x.T @ (y - x @ solution)).max() / n
    has_signs = np.all(solution[chosen] * sign >= -SLACK * np.abs(w).max())
    return solution if has_signs and slack <= alpha * (1 + SLACK) else None


def lasso(alpha: float, samples: Samples, x: np.ndarray, y: np.ndarray, x_query: np.ndarray) -> np.ndarray:
    """The Lasso's predictions for a batch of prompts; nan where the Predictor's weights are not nearly the Lasso's.

    Args:
      alpha: the penalty.
      samples: the Predictor, whose weights show the support.
      x, y, x_query: a batch of prompts.

    Returns:
      y_hat `[prompt m]`.
    """
    weights = samples.linear_weights(x, y)
    y_hat = np.full((len(x), y.shape[-1]), np.nan)
    for p, o in np.ndindex(*y_hat.shape):
        solution = lasso_weights(alpha, x[p], y[p, :, o], weights[p, o])
        if solution is not None:
            y_hat[p, o] = solution @ x_query[p]
    return y_hat


def fits(samples: Samples) -> Iterator[Direct]:
    """The penalty at which the correlations of most prompts agree.

    Returns:
      The algorithm, if the correlations of most prompts agree.
    """
    x, y, _ = (part[: samples.half] for part in samples.prompts)
    w = samples.linear_weights(x, y)
    correlation = np.einsum("pnd,pnm->pmd", x, y - np.einsum("pmd,pnd->pnm", w, x)) / x.shape[1]
    penalties = np.abs(correlation).max(-1)[np.abs(w).max(-1) > 0]
    alpha = float(np.median(penalties)) if len(penalties) else 0.0
    if alpha > 0 and np.median(np.abs(penalties / alpha - 1)) < CLOSE:
        yield Direct(Name("lasso"), {"alpha": alpha}, partial(lasso, alpha, samples))
