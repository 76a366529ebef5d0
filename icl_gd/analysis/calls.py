"""Calls any in-context learner on batches of prompts: JAX functions, models, NumPy functions and fitted objects.

Predictions are NumPy arrays in float64, whatever the precision of the learner is.

>>> from icl_gd import learners
>>> x, y, x_query = np.ones((3, 4, 2)), np.ones((3, 4, 1)), np.ones((3, 2))
>>> Calls(learners.gradient_descent([0.5]))(x, y, x_query).tolist()
[[1.0], [1.0], [1.0]]
>>> Calls(lambda x, y, x_query: float(np.median(y)))(x, y, x_query).tolist()  # a NumPy function
[[1.0], [1.0], [1.0]]
"""

import inspect
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd.analysis.risk import predictions
from icl_gd.programs import as_partial, cached_by_value
from icl_gd.schema import check_function
from icl_gd.types import Predictor, Prompt

BATCH = 4096  # prompts in one call of a compiled program
ARGUMENTS = ("x", "y", "x_query")  # of a Predictor

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]  # x [prompt n d], y [prompt n m], x_query [prompt d]


class Refusal(ValueError):
    """A Predictor or a task that cannot be examined.

    Attributes:
      shape: the shape of an array of a wrong shape that the Predictor returns; otherwise None.
    """

    def __init__(self, message: str, shape: tuple[int, ...] | None = None):
        """Takes the message, which is one sentence, and the shape."""
        super().__init__(message)
        self.shape = shape


class Calls:
    """A Predictor for batches of prompts.

    A Predictor that JAX can trace is compiled once, for batches of one size. Any other function is called for one
    prompt at a time, with NumPy arrays of its own, which it may change. So is a function that draws random numbers or
    remembers earlier calls: tracing would freeze what it draws.
    """

    def __init__(self, predictor: Predictor, progress: Callable[[int], Any] = int, name: str = "the predictor"):
        """Takes a Predictor, a function that is called with the number of prompts after every batch, and a name."""
        self.predictor = predictor
        self.progress = progress
        self.name = name  # in error messages
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
          Refusal: if the Predictor does not return m real numbers for a prompt.
        """
        if self.is_traced is None:
            first = x[0], y[0], x_query[0]
            self.is_traced = _is_traceable(self.predictor, *first) and _is_repeatable(self.predictor, *first)
        results = []
        for start in range(0, len(x), BATCH):
            batch = [np.asarray(part[start : start + BATCH]) for part in (x, y, x_query)]
            results.append(self._traced(batch) if self.is_traced else self._one_by_one(batch))
            self.progress(len(results[-1]))
        y_hat = np.concatenate(results)
        if y_hat.shape[-1] != y.shape[-1] or y_hat.ndim < 2:
            raise Refusal(
                f"{self.name} returns an array of shape {y_hat.shape[1:]} for labels y {y.shape[1:]}; return y_hat "
                f"[m] with m={y.shape[-1]}",
                y_hat.shape[1:],
            )
        return y_hat

    def _traced(self, batch: list[np.ndarray]) -> np.ndarray:
        count = len(batch[0])
        full = [np.resize(part, (BATCH, *part.shape[1:])) if count < BATCH else part for part in batch]
        return np.asarray(_batch_program()(as_partial(self.predictor), *map(jnp.asarray, full)), np.float64)[:count]

    def _one_by_one(self, batch: list[np.ndarray]) -> np.ndarray:
        m = batch[1].shape[-1]
        predict: Callable[..., Any] = self.predictor  # arrays of NumPy are accepted, too
        y_hats = [self._numbers(predict(*map(np.copy, prompt)), m) for prompt in zip(*batch, strict=True)]
        if len(shapes := sorted({y_hat.shape for y_hat in y_hats})) > 1:
            raise Refusal(
                f"{self.name} returns arrays of shapes {shapes[0]} and {shapes[1]} for different prompts; return y_hat "
                f"[m] with m={m}"
            )
        return np.stack(y_hats)

    def _numbers(self, returned: Any, m: int) -> np.ndarray:
        """What a function returns for a prompt, as an array; a single number may stand for one output."""
        try:
            y_hat = np.asarray(returned)
        except ValueError:  # a list of lists of different lengths
            y_hat = np.asarray(None)
        if not is_real(y_hat):
            kind = f"an array of {returned.dtype}" if hasattr(returned, "dtype") else type(returned).__name__
            raise Refusal(f"{self.name} returns {kind}; return y_hat [m], an array of m={m} real numbers")
        return y_hat.astype(np.float64).reshape(1 if m == y_hat.size == 1 and y_hat.ndim == 0 else y_hat.shape)


def check_predictor(predictor: Any) -> None:
    """Checks that an argument is a Predictor, without calling it.

    Raises:
      ValueError: if it is no function of a prompt. The message says how to get one from a name or a population.
    """
    taken = f"must be a function of ({', '.join(ARGUMENTS)})"
    if isinstance(predictor, str | Path):
        name = str(predictor)
        raise ValueError(f"predictor={name!r} {taken}; for a saved model, give icl_gd.load_model({name!r})")
    if not callable(predictor) and isinstance(predictor, Sized) and hasattr(predictor, "params"):
        raise ValueError(f"predictor={type(predictor).__name__} of {len(predictor)} {taken}; give population[0]")
    check_function("predictor", predictor, ARGUMENTS)


def is_real(array: Any) -> bool:
    """Whether an array holds real numbers or truth values, which count as 0 and 1.

    Returns:
      False for complex numbers, text and objects.
    """
    return any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))


def single_predictions(call: Calls, prompts: Batch) -> np.ndarray:
    """The predictions of a Predictor, which must be one finite number per prompt and output.

    Returns:
      y_hat `[prompt m]`.

    Raises:
      Refusal: if they are not, such as those after every layer, `[prompt depth m]`.
    """
    y_hat = call(*prompts)
    if y_hat.ndim != 2:
        raise Refusal(
            f"{call.name} returns an array of shape {y_hat.shape[1:]}; return y_hat [m] with m={y_hat.shape[-1]}",
            y_hat.shape[1:],
        )
    check_finite(call.name, y_hat)
    return y_hat


def check_finite(name: str, array: np.ndarray, where: str = "") -> None:
    """Checks that all numbers are finite.

    Args:
      name: what returned them, for the error message.
      array: the numbers.
      where: the part of a prompt that they are, such as " in x"; empty for a prediction.

    Raises:
      Refusal: if one is not.
    """
    if not np.isfinite(array).all():
        raise Refusal(f"{name} returns {array[~np.isfinite(array)][0]}{where} for a prompt; return finite numbers")


@cached_by_value
def _batch_program() -> Callable[..., Any]:
    return jax.jit(_predictions)


def _predictions(predictor: Predictor, x: jax.Array, y: jax.Array, x_query: jax.Array) -> jax.Array:
    return predictions(predictor, Prompt(x, y, x_query, x_query, None))


@cached_by_value
def _single_program() -> Callable[..., Any]:
    return jax.jit(_prediction)


def _prediction(predictor: Predictor, x: jax.Array, y: jax.Array, x_query: jax.Array) -> Any:
    returned = predictor(x, y, x_query)
    return returned if hasattr(returned, "dtype") else None  # JAX would look for arrays in other objects


def _is_traceable(predictor: Predictor, x: np.ndarray, y: np.ndarray, x_query: np.ndarray) -> bool:
    """Whether JAX can trace and lower a Predictor. A refusal by the Predictor, such as a ValueError, is passed on.

    Lowering matters: `np.argsort` of a traced array can be traced, but not lowered. JAX remembers what it lowered, so
    models of one structure are lowered once.
    """
    shapes = [jax.ShapeDtypeStruct(part.shape, jnp.result_type(float)) for part in (x, y, x_query)]
    try:
        result = _single_program().lower(as_partial(predictor), *shapes).out_info
    except (jax.errors.JAXTypeError, TypeError, AttributeError):
        return False
    return getattr(result, "ndim", 0) > 0 and is_real(result)


def _is_repeatable(predictor: Predictor, x: np.ndarray, y: np.ndarray, x_query: np.ndarray) -> bool:
    """Whether a function returns the same for the same prompt. Models and other pytrees of JAX do."""
    if not inspect.isroutine(predictor):
        return True
    prompt = jnp.asarray(x), jnp.asarray(y), jnp.asarray(x_query)
    first, second = (np.asarray(predictor(*prompt)) for _ in range(2))
    return np.array_equal(first, second, equal_nan=True)
