"""Risk of Predictors: `1/2 |y_hat - y_query|^2`, summed over output dimensions, averaged over prompts."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from icl_gd.types import Array, Predictor, Prompt

MEMBERS_AT_ONCE = 16
CHUNK = 8192  # prompts


class Risk(NamedTuple):
    """A mean with its sampling error; arrays keep whatever axes the losses had besides prompts."""

    mean: np.ndarray
    stderr: np.ndarray

    @classmethod
    def of(cls, losses: Array) -> "Risk":
        """Of losses `[... prompt]`."""
        values = np.asarray(losses, np.float64)
        return cls(values.mean(-1), values.std(-1) / values.shape[-1] ** 0.5)


class Tail(NamedTuple):
    """What rare prompts do to a mean; every field has whatever axes the losses had besides prompts."""

    diverging: np.ndarray  # share of prompts on which the predictor has diverged
    bounded_mean: np.ndarray  # over the other prompts
    median: np.ndarray  # over all; nan counts as infinite


class Interval(NamedTuple):
    """A mean with a percentile-bootstrap interval; arrays keep whatever axes the values had besides prompts."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def losses(predictor: Predictor, prompts: Prompt) -> Array:
    """Loss of every prompt of a batch `[prompt]` (or `[prompt layer]` for a layerwise Predictor)."""
    y_hat = jax.vmap(predictor)(prompts.x, prompts.y, prompts.x_query)
    extra = y_hat.ndim - prompts.y_query.ndim
    target = prompts.y_query.reshape(len(y_hat), *(1,) * extra, -1)
    return 0.5 * jnp.sum((y_hat - target) ** 2, axis=-1)


def bootstrap_interval(values: Array, key: Array, level: float = 0.9, resamples: int = 1000) -> Interval:
    """Mean over prompts of `values [prompt *more]` with its percentile-bootstrap interval (Efron 1979).

    Resamples prompts, one sample at a time, so memory stays at one copy of the values.

    Raises:
      ValueError: if the level is not between 0 and 1.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level={level} must be between 0 and 1")
    means = np.asarray(_resampled_means(values, key, resamples), np.float64)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Interval(np.asarray(values, np.float64).mean(0), low, high)


@partial(jax.jit, static_argnames="resamples")
def _resampled_means(values: Array, key: Array, resamples: int) -> Array:
    n = len(values)
    resampled = lambda k: jnp.mean(values[jax.random.randint(k, (n,), 0, n)], axis=0)
    return jax.lax.map(resampled, jax.random.split(key, resamples))


def risk(predictor: Predictor, prompts: Prompt, key: Array, level: float = 0.9) -> Interval:
    """Risk of a Predictor on a batch of prompts, with bootstrap interval."""
    return bootstrap_interval(losses(predictor, prompts), key, level)


def over_members(f: Callable[[Any], Any], params: Any) -> Any:
    """`vmap` over members, a few at a time, so that memory does not grow with the population."""
    return jax.lax.map(f, params, batch_size=MEMBERS_AT_ONCE)


def member_losses(predictor_of: Callable[[Any], Predictor], params: Any, prompts: Prompt) -> Array:
    """Losses `[member prompt]` of a population, from a function of one member's parameters."""
    return over_members(lambda member: losses(predictor_of(member), prompts), params)


def streamed_risks(
    losses: Callable[[Prompt], Mapping[str, Array]],
    sample: Callable[[Array], Prompt],
    key: Array,
    n_prompts: int,
    chunk: int = CHUNK,
) -> dict[str, Risk]:
    """Risks on many prompts, drawn and forgotten chunk by chunk: the same prompts for all.

    Args:
      losses: a batch of prompts to named losses whose *last* axis is the prompt; compiled once, however often it is
        handed in. So is a `sample` that is a `jax.tree_util.Partial` of one function and any arrays.
      n_prompts: rounded up to whole chunks; sums are kept in float64.
    """
    parts = [
        {name: _mean_and_square(v) for name, v in values.items()}
        for values in _in_chunks(losses, sample, key, n_prompts, chunk)
    ]
    drawn = len(parts) * min(chunk, n_prompts)
    risks = {}
    for name in parts[0]:
        mean = np.mean([np.asarray(part[name][0], np.float64) for part in parts], axis=0)
        square = np.mean([np.asarray(part[name][1], np.float64) for part in parts], axis=0)
        with np.errstate(invalid="ignore"):  # a predictor that diverges has infinite risk and no error
            risks[name] = Risk(mean, np.sqrt(np.maximum(square - mean**2, 0.0) / drawn))
    return risks


def sampled_losses(
    losses: Callable[[Prompt], Mapping[str, Array]],
    sample: Callable[[Array], Prompt],
    key: Array,
    n_prompts: int,
    chunk: int = CHUNK,
) -> dict[str, np.ndarray]:
    """Every loss `[... prompt]` that `streamed_risks` takes the mean of, on the same prompts: for more than a mean."""
    parts = [jax.tree.map(np.asarray, values) for values in _in_chunks(losses, sample, key, n_prompts, chunk)]
    return {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}


def tail(losses: np.ndarray, beyond: float | np.ndarray) -> Tail:
    """How much of a mean hangs on rare prompts, from losses `[... prompt]` some of which may be infinite or nan.

    Args:
      beyond: the loss above which a predictor has diverged.
    """
    values = np.asarray(losses, np.float64)
    stays = values <= beyond  # false for nan
    kept = np.where(stays, values, 0.0).sum(-1)
    with np.errstate(invalid="ignore"):  # where all diverge there is no mean of the others
        bounded_mean = kept / stays.sum(-1)
    return Tail(1 - stays.mean(-1), bounded_mean, np.median(np.where(np.isnan(values), np.inf, values), axis=-1))


def _in_chunks(
    losses: Callable[[Prompt], Mapping[str, Array]],
    sample: Callable[[Array], Prompt],
    key: Array,
    n_prompts: int,
    chunk: int,
) -> Iterator[Mapping[str, Array]]:
    chunk = min(chunk, n_prompts)
    measure, sample = jax.jit(losses), sample if isinstance(sample, Partial) else Partial(sample)
    for i in range(-(-n_prompts // chunk)):
        # Two programs: what draws the prompts is not fused into, and computed again by, each of the losses.
        yield measure(_draw(sample, jax.random.split(jax.random.fold_in(key, i), chunk)))


@jax.jit
def _draw(sample: Partial, keys: Array) -> Prompt:
    return jax.vmap(sample)(keys)


@jax.jit
def _mean_and_square(values: Array) -> tuple[Array, Array]:
    return values.mean(-1), (values**2).mean(-1)
