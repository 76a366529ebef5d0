"""Learners from other libraries, such as decision trees. They run on the host (CPU), one problem at a time.

These learners take and return NumPy arrays, and cannot be used inside `vmap`, `grad` or `jit`. Their type is therefore
`HostPredictor`, not `Predictor`. `host_predictions` evaluates a HostPredictor on many prompts, in several processes.

Any estimator with scikit-learn's methods `fit` and `predict` can be used. This one predicts the mean label:

    >>> class Mean:
    ...     def fit(self, x, y):
    ...         self.mean = y.mean(axis=0)
    ...         return self
    ...     def predict(self, x):
    ...         return np.full(len(x), self.mean)
    >>> x, y = np.zeros((1, 3, 2)), np.array([[[1.0], [3.0], [5.0]]])
    >>> host_predictions(HostPredictor(Mean), x, y, x_query=x, processes=1).ravel().tolist()
    [0.0, 1.0, 2.0]
"""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jax.core import Tracer

from icl_gd.cores import usable_cores
from icl_gd.problems import check_shapes
from icl_gd.schema import Size, checked
from icl_gd.types import Array

PROMPTS_PER_CHUNK = 16  # prompts sent to a worker process at a time


@dataclass(frozen=True)
class HostPredictor:
    """A learner `(x [n d], y [n m], x_query [d]) -> y_hat [m]` that runs on the host. Without examples y_hat is zero.

    Attributes:
      make: function without arguments that returns a new estimator with scikit-learn's methods `fit` and `predict`. It
        must be picklable if `host_predictions` uses several processes.

    Raises:
      TypeError: if the HostPredictor is called inside jit, vmap or grad.
      ValueError: if the shapes of a problem do not agree.
    """

    make: Callable[[], Any]

    def __call__(self, x: np.ndarray | Array, y: np.ndarray | Array, x_query: np.ndarray | Array) -> np.ndarray:
        if isinstance(x, Tracer):
            raise TypeError("call a HostPredictor outside of jit, vmap and grad; use host_predictions for many prompts")
        check_shapes(np.shape(x), np.shape(y), np.shape(x_query))
        if not len(x):
            return np.zeros(y.shape[-1])
        fitted = self.make().fit(x, y if y.shape[-1] > 1 else y[:, 0])
        return np.asarray(fitted.predict(x_query[None]), float).reshape(y.shape[-1])


@checked
def greedy_tree(max_depth: Size | None = None) -> HostPredictor:
    """A greedily grown regression tree (`DecisionTreeRegressor` of scikit-learn).

    Args:
      max_depth: maximum depth of the tree. Default: grow until every leaf is pure.

    Returns:
      A HostPredictor.

    Raises:
      ValueError: if the depth is not positive.
      ModuleNotFoundError: if scikit-learn is not installed.
    """
    from sklearn.tree import DecisionTreeRegressor

    return HostPredictor(partial(DecisionTreeRegressor, max_depth=max_depth, random_state=0))


def boosted_trees() -> HostPredictor:
    """Gradient-boosted trees with the default settings of xgboost, the baseline of Garg et al. 2208.01066.

    Returns:
      A HostPredictor.

    Raises:
      ModuleNotFoundError: if xgboost is not installed.
    """
    from xgboost import XGBRegressor  # pyright: ignore[reportMissingImports]

    return HostPredictor(partial(XGBRegressor, n_jobs=1))


@checked
def host_predictions(
    predictor: HostPredictor,
    x: np.ndarray,
    y: np.ndarray,
    x_query: np.ndarray,
    processes: Size | None = None,
    progress: Callable[[Iterable[np.ndarray]], Iterable[np.ndarray]] = iter,
) -> np.ndarray:
    """Predictions of a HostPredictor for every prefix of many prompts, in parallel.

    Worker processes import the calling script. A script must therefore call this function under
    `if __name__ == "__main__":`.

    Args:
      predictor: a HostPredictor; it is fitted again for every prefix.
      x, y: examples, `[prompt n d]` and `[prompt n m]`.
      x_query: queries `[prompt n d]`. The k-th query, counted from zero, is predicted from the first k examples. If a
        query is not finite, its prediction is nan.
      processes: number of worker processes. Default: the number of usable cores. With 1, the calling process computes
        everything.
      progress: wraps the iterable over the predictions of each prompt; `partial(tqdm, total=len(x))` shows a progress
        bar. Default: no progress bar.

    Returns:
      y_hat `[prompt n m]`.

    Raises:
      ValueError: if `processes` is not positive or the shapes do not agree.
      RuntimeError: if a worker process ends before its work is done.
    """
    if processes is None:
        processes = usable_cores()
    x, y, x_query = (np.asarray(part, float) for part in (x, y, x_query))
    if x.ndim != 3 or y.ndim != 3 or x.shape != x_query.shape or x.shape[:2] != y.shape[:2]:
        raise ValueError(
            f"x {x.shape}, y {y.shape}, x_query {x_query.shape} must have the shapes [prompt n d], [prompt n m], "
            "[prompt n d], with equal prompt, n and d"
        )
    predict, prompts = partial(_predict_prompt, predictor), list(zip(x, y, x_query, strict=True))
    if processes == 1:
        return np.array(list(progress(map(predict, prompts)))).reshape(y.shape)
    # Workers are spawned: forked processes would inherit locks that threads of the XLA compiler hold.
    context = multiprocessing.get_context("spawn")
    try:
        with _one_thread_each(), ProcessPoolExecutor(processes, context) as pool:
            y_hats = list(progress(pool.map(predict, prompts, chunksize=PROMPTS_PER_CHUNK)))
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a worker process ended early; in a script, call host_predictions under `if __name__ == '__main__':`"
        ) from error
    return np.array(y_hats).reshape(y.shape)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Limits OpenMP to one thread in every process started in this context, unless `OMP_NUM_THREADS` is already set.

    OpenMP starts one thread per core even if xgboost requests one thread. With one process per core these threads wait
    for each other, and all processes together are slower than a single one. OpenMP reads the variable when the library
    is loaded, so the parent process must set it.
    """
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


def _predict_prompt(predictor: HostPredictor, prompt: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """The predictions `[n m]` of `host_predictions` for one prompt."""
    x, y, x_query = prompt
    y_hat = np.full(y.shape, np.nan)
    for k in np.flatnonzero(np.isfinite(x_query).all(axis=1)):
        y_hat[k] = predictor(x[:k], y[:k], x_query[k])
    return y_hat
