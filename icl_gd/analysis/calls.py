"""Calls any in-context learner on batches of prompts: JAX functions, models, NumPy functions and fitted objects.

Predictions are NumPy arrays in float64, whatever the precision of the learner is.

>>> from icl_gd import learners
>>> x, y, x_query = np.ones((3, 4, 2)), np.ones((3, 4, 1)), np.ones((3, 2))
>>> Calls(learners.gradient_descent([0.5]))(x, y, x_query).tolist()
[[1.0], [1.0], [1.0]]
>>> Calls(lambda x, y, x_query: float(np.median(y)))(x, y, x_query).tolist()  # a NumPy function
[[1.0], [1.0], [1.0]]
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd.analysis.risk import predictions
from icl_gd.programs import as_partial, cached_by_value
from icl_gd.types import Predictor, Prompt

BATCH = 4096  # prompts in one call of a compiled program

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]  # x [prompt n d], y [prompt n m], x_query [prompt d]


class Calls:
    """A Predictor for batches of prompts.

    A Predictor that JAX can trace is compiled once, for batches of one size. Any other function is called for one
    prompt at a time, with NumPy arrays.
    """

    def __init__(self, predictor: Predictor, progress: Callable[[int], Any] = int):
        """Takes a Predictor, and a function that is called with the number of prompts after every batch."""
        self.predictor = predictor
        self.progress = progress
        self.is_traced: bool | None = None  # known after the first call

    def __call__(self, x: np.ndarray, y: np.ndarray, x_query: np.ndarray) -> np.ndarray:
        """Predicts the queries of a batch of prompts.

        Args:
          x: inputs `[prompt n d]`.
          y: labels `[prompt n m]`.
          x_query: queries `[prompt d]`.

        Returns:
          y_hat `[prompt *depth m]` in float64.

        Raises:
          ValueError: if the Predictor does not return m numbers for a prompt.
        """
        if self.is_traced is None:
            self.is_traced = _is_traceable(self.predictor, x[0], y[0], x_query[0])
        results = []
        for start in range(0, len(x), BATCH):
            batch = [np.asarray(part[start : start + BATCH]) for part in (x, y, x_query)]
            results.append(self._traced(batch) if self.is_traced else self._one_by_one(batch))
            self.progress(len(results[-1]))
        y_hat = np.concatenate(results)
        if y_hat.shape[-1] != y.shape[-1] or y_hat.ndim < 2:
            raise ValueError(
                f"the predictor returns an array of shape {y_hat.shape[1:]} for labels y {y.shape[1:]}; return y_hat "
                f"[m] with m={y.shape[-1]}"
            )
        return y_hat

    def _traced(self, batch: list[np.ndarray]) -> np.ndarray:
        count = len(batch[0])
        full = [np.resize(part, (BATCH, *part.shape[1:])) if count < BATCH else part for part in batch]
        return np.asarray(_batch_program()(as_partial(self.predictor), *map(jnp.asarray, full)), np.float64)[:count]

    def _one_by_one(self, batch: list[np.ndarray]) -> np.ndarray:
        m = batch[1].shape[-1]
        y_hats = [np.asarray(self.predictor(*prompt), np.float64) for prompt in zip(*batch, strict=True)]
        return np.stack([y_hat.reshape(1) if y_hat.ndim == 0 and m == 1 else y_hat for y_hat in y_hats])


def single_predictions(call: Calls, prompts: Batch) -> np.ndarray:
    """The predictions of a Predictor, which must be one finite number per prompt and output.

    Returns:
      y_hat `[prompt m]`.

    Raises:
      ValueError: if they are not, such as those after every layer, `[prompt depth m]`.
    """
    y_hat = call(*prompts)
    if y_hat.ndim != 2:
        raise ValueError(
            f"the predictor returns an array of shape {y_hat.shape[1:]}; return y_hat [m] with m={y_hat.shape[-1]}"
        )
    if not np.isfinite(y_hat).all():
        raise ValueError(f"the predictor returns {y_hat[~np.isfinite(y_hat)][0]} for a prompt; it must return numbers")
    return y_hat


@cached_by_value
def _batch_program() -> Callable[..., Any]:
    return jax.jit(_predictions)


def _predictions(predictor: Predictor, x: jax.Array, y: jax.Array, x_query: jax.Array) -> jax.Array:
    return predictions(predictor, Prompt(x, y, x_query, x_query, None))


def _is_traceable(predictor: Predictor, x: np.ndarray, y: np.ndarray, x_query: np.ndarray) -> bool:
    """Whether JAX can trace and lower a Predictor. A refusal by the Predictor, such as a ValueError, is passed on.

    Lowering matters: `np.argsort` of a traced array can be traced, but not lowered.
    """
    shapes = [jax.ShapeDtypeStruct(part.shape, jnp.result_type(float)) for part in (x, y, x_query)]
    try:
        result = jax.jit(lambda *prompt: as_partial(predictor)(*prompt)).lower(*shapes).out_info
    except (jax.errors.JAXTypeError, TypeError, AttributeError):
        return False
    return getattr(result, "ndim", 0) > 0
