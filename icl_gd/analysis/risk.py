"""Losses of Predictors, `1/2 |y_hat - y_query|^2` summed over outputs, and risks, the mean losses over prompts.

Example:
  >>> from icl_gd import learners
  >>> from icl_gd.tasks import LinearRegression
  >>> prompts = draw_prompts(LinearRegression(d_input=2, n_context=5).sample, jax.random.key(0), 8)
  >>> values = losses(learners.predict_zero, prompts)
  >>> values.shape, bool(jnp.allclose(values, 0.5 * prompts.y_query[:, 0] ** 2))
  ((8,), True)
  >>> Risk.of(values).mean.shape
  ()
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Gt, Lt
from jax.tree_util import Partial
from jaxtyping import Float

from icl_gd.programs import as_partial, cached_by_value, quick_jit, unwrapped
from icl_gd.schema import Size, checked
from icl_gd.tasks import draw_prompts
from icl_gd.types import Array, Predictor, Prompt, batched

MEMBERS_AT_ONCE = 16  # members of a population processed together
CHUNK = 8192  # prompts drawn and processed together

Level = Annotated[float, Gt(0), Lt(1)]


class Risk(NamedTuple):
    """A mean loss over prompts with its standard error. Other axes of the losses, such as members, remain.

    Attributes:
      mean: mean over prompts.
      stderr: standard error of the mean.
    """

    mean: np.ndarray
    stderr: np.ndarray

    @classmethod
    def of(cls, losses: Array) -> "Risk":
        """The risk estimated from losses `[... prompt]`, in float64.

        Returns:
          Risk with `[...]` fields.
        """
        values = np.asarray(losses, np.float64)
        return cls(values.mean(-1), values.std(-1) / values.shape[-1] ** 0.5)


class Tail(NamedTuple):
    """Tail statistics of losses over prompts. Other axes of the losses, such as members, remain.

    Attributes:
      diverging: share of prompts on which the predictor diverges.
      bounded_mean: mean loss over the other prompts.
      median: median loss over all prompts. A loss of nan counts as infinite.
    """

    diverging: np.ndarray
    bounded_mean: np.ndarray
    median: np.ndarray


class Interval(NamedTuple):
    """A mean over prompts with a percentile-bootstrap interval. Other axes of the values remain.

    Attributes:
      mean: mean over prompts.
      low, high: ends of the interval.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def losses(predictor: Predictor, prompts: Prompt) -> Array:
    """The loss `1/2 |y_hat - y_query|^2` of a Predictor on every prompt, summed over outputs.

    Returns:
      Losses `[prompt]`, or `[prompt depth]` for a layerwise Predictor.
    """
    return with_program(_losses, predictor, prompts)


def _losses(predictor: Predictor, prompts: Prompt) -> Array:
    return prediction_losses(predictions(predictor, prompts), prompts)


def prediction_losses(y_hat: Float[Array | np.ndarray, "prompt *depth m"], prompts: Prompt) -> Array:
    """The loss `1/2 |y_hat - y_query|^2` of predictions, summed over outputs.

    Returns:
      Losses `[prompt *depth]`.
    """
    extra = y_hat.ndim - prompts.y_query.ndim
    target = prompts.y_query.reshape(len(y_hat), *(1,) * extra, -1)
    return 0.5 * jnp.sum((y_hat - target) ** 2, axis=-1)


def predictions(predictor: Predictor, prompts: Prompt) -> Float[Array, "prompt *depth m"]:
    """Predictions for a batch of prompts, by the batched form of the Predictor (`types.batched`) or else by `vmap`.

    Returns:
      Predictions `[prompt *depth m]`.
    """
    if (on_batch := batched(predictor)) is None:
        return jax.vmap(predictor)(prompts.x, prompts.y, prompts.x_query)
    return jnp.moveaxis(on_batch(*batch_last(prompts)), -1, 0)


def batch_last(prompts: Prompt) -> tuple[Array, Array, Array]:
    """Contexts and queries of a batch of prompts, with the batch moved to the last axis.

    Returns:
      `x` `[n d prompt]`, `y` `[n m prompt]` and `x_query` `[d prompt]`.
    """
    x, y, x_query = (jnp.moveaxis(leaf, 0, -1) for leaf in prompts[:3])
    return x, y, x_query


def with_program(measure: Callable[..., Any], *args: Any) -> Any:
    """Evaluates `measure(*args)` as one compiled program. Predictors that differ only in their arrays share it.

    If a Predictor is an ordinary function (not a `Partial`, see `programs.as_partial`), `jax.jit` is not used, because
    compiled programs would stay in memory after the function has been deleted.

    Args:
      measure: a function of Predictors and prompts.
      *args: the arguments of `measure`.

    Returns:
      The result of `measure`.
    """
    args = tuple(map(unwrapped, args))
    if any(callable(arg) and not isinstance(arg, Partial) for arg in args):
        return measure(*args)
    return _program(measure)(*args)


@cached_by_value
def _program(measure: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(measure)


@checked
def bootstrap_interval(values: Array, key: Array, level: Level = 0.9, resamples: Size = 1000) -> Interval:
    """Mean over prompts with a percentile-bootstrap interval (Efron 1979).

    Prompts are resampled. One resample is processed at a time, so only one copy of the values is in memory.

    Args:
      values: values `[prompt *more]`.
      key: a JAX random key for the resamples.
      level: coverage of the interval, between 0 and 1. Default: 0.9.
      resamples: number of bootstrap resamples. Default: 1000.

    Returns:
      Interval with `[*more]` fields.

    Raises:
      ValueError: if the level is not between 0 and 1.
    """
    means = np.asarray(_resampled_means(values, key, resamples), np.float64)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Interval(np.asarray(values, np.float64).mean(0), low, high)


@partial(jax.jit, static_argnames="resamples")
def _resampled_means(values: Array, key: Array, resamples: int) -> Array:
    n = len(values)

    def resampled_mean(key: Array) -> Array:
        return jnp.mean(values[jax.random.randint(key, (n,), 0, n)], axis=0)

    return jax.lax.map(resampled_mean, jax.random.split(key, resamples))


@checked
def risk(predictor: Predictor, prompts: Prompt, key: Array, level: Level = 0.9) -> Interval:
    """Risk of a Predictor on a batch of prompts, with a percentile-bootstrap interval.

    Args:
      predictor: a Predictor.
      prompts: a batch of Prompts (leading axis).
      key: a JAX random key for the bootstrap.
      level: coverage of the interval, between 0 and 1. Default: 0.9.

    Returns:
      Interval for the mean of `losses`.

    Raises:
      ValueError: if the level is not between 0 and 1.
    """
    return bootstrap_interval(losses(predictor, prompts), key, level)


def over_members(f: Callable[[Any], Any], params: Any) -> Any:
    """Like `jax.vmap` over members, but with 16 members at a time, so that memory does not grow with the population.

    Args:
      f: a function of one member's parameters.
      params: parameters with a leading member axis.

    Returns:
      The results of `f`, with a leading member axis.
    """
    return jax.lax.map(f, params, batch_size=MEMBERS_AT_ONCE)


def member_losses(predictors: Predictor, prompts: Prompt) -> Array:
    """Loss of every member of a population on every prompt.

    Args:
      predictors: one Predictor whose arrays have a leading member axis, such as
        `population.predictor(population.params)`. If `f` maps the parameters of one member to a Predictor,
        `jax.vmap(f)` returns such a Predictor.
      prompts: a batch of Prompts (leading axis).

    Returns:
      Losses `[member prompt]`.
    """
    return over_members(lambda member: losses(member, prompts), predictors)


Losses = Callable[[Prompt], Mapping[str, Array]]  # maps a batch of prompts to named losses [... prompt]


@checked
def streamed_risks(
    losses: Losses, sample: Callable[[Array], Prompt], key: Array, n_prompts: Size, chunk: Size = CHUNK
) -> dict[str, Risk]:
    """Risks on many prompts, which are drawn chunk by chunk and not stored. All losses use the same prompts.

    Chunk means are averaged in float64.

    Args:
      losses: maps a batch of prompts to named losses, whose *last* axis is the prompt. Equal functions share one
        compiled program; so do `jax.tree_util.Partial`s of one function that differ only in their arrays.
      sample: maps a key to one prompt. Equal functions share one compiled program here too.
      key: a JAX random key.
      n_prompts: number of prompts, rounded up to full chunks.
      chunk: number of prompts drawn and processed together. Default: 8192.

    Returns:
      The Risk of every named loss.
    """
    return streamed_risks_under([losses], Partial(_one_condition, as_partial(sample)), key, n_prompts, chunk)[0]


def _one_condition(sample: Callable[[Array], Prompt], key: Array) -> tuple[Prompt]:
    return (sample(key),)


@checked
def streamed_risks_under(
    losses: Sequence[Losses],
    sample: Callable[[Array], tuple[Prompt, ...]],
    key: Array,
    n_prompts: Size,
    chunk: Size = CHUNK,
) -> list[dict[str, Risk]]:
    """Like `streamed_risks`, but under several conditions, such as levels of label noise.

    `sample` draws the prompts of all conditions together, so random draws that conditions share are computed once.

    Args:
      losses: one function per condition, see `streamed_risks`.
      sample: maps a key to one prompt per condition.
      key: a JAX random key.
      n_prompts: number of prompts, rounded up to full chunks.
      chunk: number of prompts drawn and processed together. Default: 8192.

    Returns:
      For every condition, the Risk of every named loss.
    """
    by_condition = list(zip(*_in_chunks(_means, losses, sample, key, n_prompts, chunk), strict=True))
    drawn = len(by_condition[0]) * min(chunk, n_prompts)
    return [
        {name: _risk([part[name] for part in parts], drawn) for name in parts[0]}  # parts: one per chunk
        for parts in by_condition
    ]


def _risk(parts: Sequence[tuple[np.ndarray, np.ndarray]], drawn: int) -> Risk:
    """The Risk over `drawn` prompts, from the mean and the mean square of every chunk."""
    mean, square = (np.mean([np.asarray(part[i], np.float64) for part in parts], axis=0) for i in (0, 1))
    with np.errstate(invalid="ignore"):  # a predictor that diverges has an infinite mean and a standard error of nan
        return Risk(mean, np.sqrt(np.maximum(square - mean**2, 0.0) / drawn))


@checked
def sampled_losses(
    losses: Sequence[Losses],
    sample: Callable[[Array], tuple[Prompt, ...]],
    key: Array,
    n_prompts: Size,
    chunk: Size = CHUNK,
) -> list[dict[str, np.ndarray]]:
    """The individual losses whose means `streamed_risks_under` returns, on the same prompts.

    Args:
      losses: one function per condition, see `streamed_risks`.
      sample: maps a key to one prompt per condition.
      key: a JAX random key.
      n_prompts: number of prompts, rounded up to full chunks.
      chunk: number of prompts drawn and processed together. Default: 8192.

    Returns:
      For every condition, every named loss `[... prompt]`.
    """
    by_condition = list(zip(*_in_chunks(_call, losses, sample, key, n_prompts, chunk), strict=True))
    return [
        {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}  # parts: one per chunk
        for parts in by_condition
    ]


def tail(losses: np.ndarray, beyond: float | np.ndarray) -> Tail:
    """Tail statistics of losses: share of diverging prompts, mean loss over the other prompts, and median.

    Args:
      losses: losses `[... prompt]`, which may be infinite or nan.
      beyond: the loss above which a predictor counts as diverging; a number or an array that broadcasts to `losses`.

    Returns:
      Tail with `[...]` fields. If all prompts diverge, `bounded_mean` is nan.
    """
    values = np.asarray(losses, np.float64)
    is_bounded = values <= beyond  # False for nan
    total = np.where(is_bounded, values, 0.0).sum(-1)
    with np.errstate(invalid="ignore"):  # 0 / 0 if all prompts diverge
        bounded_mean = total / is_bounded.sum(-1)
    median = np.median(np.where(np.isnan(values), np.inf, values), axis=-1)
    return Tail(1 - is_bounded.mean(-1), bounded_mean, median)


def _in_chunks(
    measure: Callable[[Losses, Prompt], Any],
    losses: Sequence[Losses],
    sample: Callable[[Array], tuple[Prompt, ...]],
    key: Array,
    n_prompts: int,
    chunk: int,
) -> Iterator[list[Any]]:
    """Yields, for every chunk of prompts, a list with the measurements under every condition as NumPy arrays."""
    chunk = min(chunk, n_prompts)
    partials = [as_partial(condition_losses) for condition_losses in losses]
    n_chunks = -(-n_prompts // chunk)
    for i in range(n_chunks):
        # A separate program draws the prompts. Otherwise, XLA would fuse the drawing into every loss and repeat it.
        batches = draw_prompts(sample, jax.random.fold_in(key, i), chunk)
        program = quick_jit(measure)
        measured = [
            program(condition_losses, prompts) for condition_losses, prompts in zip(partials, batches, strict=True)
        ]
        yield jax.tree.map(np.asarray, measured)


def _call(losses: Losses, prompts: Prompt) -> Mapping[str, Array]:
    return losses(prompts)


def _means(losses: Losses, prompts: Prompt) -> dict[str, tuple[Array, Array]]:
    """Means over prompts of losses and of their squares."""
    return {name: (values.mean(-1), (values**2).mean(-1)) for name, values in losses(prompts).items()}
