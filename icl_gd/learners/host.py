"""Learners of other libraries: greedy trees and boosted ones. They run on the host, one problem at a time.

Neither `vmap` nor `grad` nor `jit` reach them, which is why they are no Predictors but `HostPredictor`s, on plain numpy
arrays; `host_predictions` asks one of many problems, over several processes.
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

PROBLEMS_AT_ONCE = 16  # that a process is handed


@dataclass(frozen=True)
class HostPredictor:
    """`(x [n d], y [n m], x_query [d]) -> y_hat [m]` on the host; zero without examples.

    Attributes:
      make: a fresh estimator with scikit-learn's `fit` and `predict`.

    Raises:
      TypeError: inside of jit, vmap and grad.
    """

    make: Callable[[], Any]

    def __call__(self, x: np.ndarray | Array, y: np.ndarray | Array, x_query: np.ndarray | Array) -> np.ndarray:
        if isinstance(x, Tracer):
            raise TypeError("a HostPredictor runs outside of jit, vmap and grad; host_predictions maps it over prompts")
        check_shapes(np.shape(x), np.shape(y), np.shape(x_query))
        if not len(x):
            return np.zeros(y.shape[-1])
        fitted = self.make().fit(x, y if y.shape[-1] > 1 else y[:, 0])
        return np.asarray(fitted.predict(x_query[None]), float).reshape(y.shape[-1])


@checked
def greedy_tree(max_depth: Size | None = None) -> HostPredictor:
    """A regression tree grown greedily (scikit-learn), to a depth, or until its leaves are pure.

    Raises:
      ValueError: if the depth is not positive.
      ModuleNotFoundError: without scikit-learn.
    """
    from sklearn.tree import DecisionTreeRegressor

    return HostPredictor(partial(DecisionTreeRegressor, max_depth=max_depth, random_state=0))


def boosted_trees() -> HostPredictor:
    """Gradient-boosted trees with the settings of the xgboost library, as published.

    Raises:
      ModuleNotFoundError: without xgboost.
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
    """Predictions `[prompt n m]` for the k-th query of every prompt after its first k examples.

    Args:
      x, y, x_query: `[prompt n d]`, `[prompt n m]`, `[prompt n d]`; a query that is not finite has nan.
      processes: over which prompts are spread, as many as there are cores when left out; with one, this one. Others
        import the script that asks: there, ask under `if __name__ == "__main__":`.
      progress: what each prompt's predictions pass through as they come: `partial(tqdm, total=len(x))` shows how many.

    Raises:
      ValueError: if there is no process, or shapes are not as above.
      RuntimeError: if a process ends before its work is done.
    """
    if processes is None:
        processes = usable_cores()
    x, y, x_query = (np.asarray(part, float) for part in (x, y, x_query))
    if x.ndim != 3 or y.ndim != 3 or x.shape != x_query.shape or x.shape[:2] != y.shape[:2]:
        raise ValueError(
            f"x {x.shape}, y {y.shape}, x_query {x_query.shape}: not [prompt n d], [prompt n m], [prompt n d]"
        )
    one, prompts = partial(_of_prompt, predictor), list(zip(x, y, x_query, strict=True))
    if processes == 1:
        return np.array(list(progress(map(one, prompts)))).reshape(y.shape)
    # Forked processes would inherit locks that threads of the compiler hold.
    context = multiprocessing.get_context("spawn")
    try:
        with _one_thread_each(), ProcessPoolExecutor(processes, context) as pool:
            found = list(progress(pool.map(one, prompts, chunksize=PROBLEMS_AT_ONCE)))
    except BrokenProcessPool as error:
        raise RuntimeError("a process ended early: a script asks under `if __name__ == '__main__':`") from error
    return np.array(found).reshape(y.shape)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """For processes that start inside: their OpenMP has one thread, unless it was said how many.

    It starts as many as there are cores although xgboost asks for one; with as many processes they keep each other
    waiting, and all take longer than one process does. Read when a library is loaded, so it cannot be set inside.
    """
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


def _of_prompt(predictor: HostPredictor, prompt: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    x, y, x_query = prompt
    found = np.full(y.shape, np.nan)
    for k in np.flatnonzero(np.isfinite(x_query).all(axis=1)):
        found[k] = predictor(x[:k], y[:k], x_query[k])
    return found
