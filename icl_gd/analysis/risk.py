"""Risk of Predictors: `1/2 |y_hat - y_query|^2`, summed over output dimensions, averaged over prompts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Gt, Lt
from jax.tree_util import Partial
from jaxtyping import Float

from icl_gd.programs import as_partial, brief, held, kept
from icl_gd.schema import Size, checked
from icl_gd.tasks import draw_prompts
from icl_gd.types import Array, Predictor, Prompt, batched

MEMBERS_AT_ONCE = 16
CHUNK = 8192  # prompts

Level = Annotated[float, Gt(0), Lt(1)]


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
    return with_program(_losses, predictor, prompts)


def _losses(predictor: Predictor, prompts: Prompt) -> Array:
    y_hat = predictions(predictor, prompts)
    extra = y_hat.ndim - prompts.y_query.ndim
    target = prompts.y_query.reshape(len(y_hat), *(1,) * extra, -1)
    return 0.5 * jnp.sum((y_hat - target) ** 2, axis=-1)


def predictions(predictor: Predictor, prompts: Prompt) -> Float[Array, "prompt *depth m"]:
    """What a Predictor says of every prompt of a batch, in the cheapest way it has."""
    if (many := batched(predictor)) is None:
        return jax.vmap(predictor)(prompts.x, prompts.y, prompts.x_query)
    return jnp.moveaxis(many(*batch_last(prompts)), -1, 0)


def batch_last(prompts: Prompt) -> tuple[Array, Array, Array]:
    """Contexts and queries of a batch of prompts, with the batch in the last axis."""
    x, y, x_query = (jnp.moveaxis(leaf, 0, -1) for leaf in prompts[:3])
    return x, y, x_query


def with_program(measure: Callable[..., Any], *args: Any) -> Any:
    """`measure(...)` as one program, which is kept for all Predictors that differ in arrays alone.

    A Predictor that is a function of its own (no `Partial`, see `programs.as_partial`) is measured without: programs of
    functions that nobody has any more would fill up the memory.
    """
    args = tuple(map(held, args))
    if any(callable(arg) and not isinstance(arg, Partial) for arg in args):
        return measure(*args)
    return _program(measure)(*args)


@kept
def _program(measure: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(measure)


@checked
def bootstrap_interval(values: Array, key: Array, level: Level = 0.9, resamples: Size = 1000) -> Interval:
    """Mean over prompts of `values [prompt *more]` with its percentile-bootstrap interval (Efron 1979).

    Resamples prompts, one sample at a time, so memory stays at one copy of the values.

    Raises:
      ValueError: if the level is not between 0 and 1.
    """
    means = np.asarray(_resampled_means(values, key, resamples), np.float64)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Interval(np.asarray(values, np.float64).mean(0), low, high)


@partial(jax.jit, static_argnames="resamples")
def _resampled_means(values: Array, key: Array, resamples: int) -> Array:
    n = len(values)
    resampled = lambda k: jnp.mean(values[jax.random.randint(k, (n,), 0, n)], axis=0)
    return jax.lax.map(resampled, jax.random.split(key, resamples))


@checked
def risk(predictor: Predictor, prompts: Prompt, key: Array, level: Level = 0.9) -> Interval:
    """Risk of a Predictor on a batch of prompts, with bootstrap interval."""
    return bootstrap_interval(losses(predictor, prompts), key, level)


def over_members(f: Callable[[Any], Any], params: Any) -> Any:
    """`vmap` over members, a few at a time, so that memory does not grow with the population."""
    return jax.lax.map(f, params, batch_size=MEMBERS_AT_ONCE)


def member_losses(predictors: Predictor, prompts: Prompt) -> Array:
    """Losses `[member prompt]` of a population.

    Args:
      predictors: one Predictor whose arrays have a leading member axis, as `population.predictor(population.params)`;
        of any function of one member's parameters, `jax.vmap` of it makes such a one.
    """
    return over_members(lambda member: losses(member, prompts), predictors)


Losses = Callable[[Prompt], Mapping[str, Array]]


@checked
def streamed_risks(
    losses: Losses, sample: Callable[[Array], Prompt], key: Array, n_prompts: Size, chunk: Size = CHUNK
) -> dict[str, Risk]:
    """Risks on many prompts, drawn and forgotten chunk by chunk: the same prompts for all.

    Args:
      losses: a batch of prompts to named losses whose *last* axis is the prompt. It is compiled once for equal
        functions: for a `jax.tree_util.Partial` of one function whatever its arrays are. So is `sample`.
      n_prompts: rounded up to whole chunks; sums are kept in float64.
    """
    return streamed_risks_under([losses], Partial(_alone, as_partial(sample)), key, n_prompts, chunk)[0]


def _alone(sample: Callable[[Array], Prompt], key: Array) -> tuple[Prompt]:
    return (sample(key),)


@checked
def streamed_risks_under(
    losses: Sequence[Losses],
    sample: Callable[[Array], tuple[Prompt, ...]],
    key: Array,
    n_prompts: Size,
    chunk: Size = CHUNK,
) -> list[dict[str, Risk]]:
    """As `streamed_risks`, under each of several conditions.

    Args:
      losses: under every condition.
      sample: a key to a prompt under every condition; what they have in common is drawn once.
    """
    sums = list(zip(*_in_chunks(_means, losses, sample, key, n_prompts, chunk), strict=True))  # [condition][chunk]
    drawn = len(sums[0]) * min(chunk, n_prompts)
    return [{name: _risk([part[name] for part in parts], drawn) for name in parts[0]} for parts in sums]


def _risk(parts: Sequence[tuple[np.ndarray, np.ndarray]], drawn: int) -> Risk:
    mean, square = (np.mean([np.asarray(part[i], np.float64) for part in parts], axis=0) for i in (0, 1))
    with np.errstate(invalid="ignore"):  # a predictor that diverges has infinite risk and no error
        return Risk(mean, np.sqrt(np.maximum(square - mean**2, 0.0) / drawn))


@checked
def sampled_losses(
    losses: Sequence[Losses],
    sample: Callable[[Array], tuple[Prompt, ...]],
    key: Array,
    n_prompts: Size,
    chunk: Size = CHUNK,
) -> list[dict[str, np.ndarray]]:
    """Every loss `[... prompt]` that `streamed_risks_under` takes the mean of, on the same prompts."""
    parts = list(zip(*_in_chunks(_call, losses, sample, key, n_prompts, chunk), strict=True))
    return [{name: np.concatenate([part[name] for part in its], axis=-1) for name in its[0]} for its in parts]


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
    measure: Callable[[Losses, Prompt], Any],
    losses: Sequence[Losses],
    sample: Callable[[Array], tuple[Prompt, ...]],
    key: Array,
    n_prompts: int,
    chunk: int,
) -> Iterator[list[Any]]:
    """What is measured under every condition, chunk after chunk of prompts, as NumPy arrays."""
    chunk, losses = min(chunk, n_prompts), [as_partial(its) for its in losses]
    for i in range(-(-n_prompts // chunk)):
        # Two programs: what draws the prompts is not fused into, and computed again by, each of the losses.
        batches = draw_prompts(sample, jax.random.fold_in(key, i), chunk)
        found = [brief(measure)(its, prompts) for its, prompts in zip(losses, batches, strict=True)]
        yield jax.tree.map(np.asarray, found)


def _call(losses: Losses, prompts: Prompt) -> Mapping[str, Array]:
    return losses(prompts)


def _means(losses: Losses, prompts: Prompt) -> dict[str, tuple[Array, Array]]:
    """Means of losses and of their squares."""
    return {name: (values.mean(-1), (values**2).mean(-1)) for name, values in losses(prompts).items()}
