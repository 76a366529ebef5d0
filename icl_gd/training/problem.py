"""What a Transformer is trained on, and how its errors are summed: from task, layout and model to `draw` and `loss`."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from icl_gd import models
from icl_gd.models import TransformerConfig
from icl_gd.programs import kept
from icl_gd.training import population
from icl_gd.training.microbatch import microbatched
from icl_gd.training.population import TrainSettings
from icl_gd.types import Array, Gram, Layout, PrefixPrompt, Prompt

HIDDEN_FLOATS = 2**18  # of a perceptron, at once: they stay in a core's cache


@runtime_checkable
class Task(Protocol):
    """What training asks of a task."""

    @property
    def d_input(self) -> int: ...
    @property
    def d_output(self) -> int: ...
    def sample(self, key: Array) -> Prompt: ...


@runtime_checkable
class PrefixTask(Protocol):
    """A task whose prompts are problems at every length, the first so many inputs of which may be active."""

    @property
    def n_context(self) -> int: ...
    def sample_prefixes(self, key: Array, active: Array | int | None = None) -> PrefixPrompt: ...


@runtime_checkable
class GramTask(Protocol):
    """A task that draws a batch of moments at once, faster than prompt by prompt."""

    def sample_gram(self, key: Array, n_prompts: int) -> tuple[Gram, Array]: ...


Problem = tuple[Callable[[Array, Array], Any], Callable[[Any, Any], Array]]


def learning_problem(
    task: Task, config: TransformerConfig, layout: Layout, settings: TrainSettings, concatenated: bool = True
) -> Problem:
    """What the population trainer asks for: `draw(key, step) -> batch` and `loss(params, batch)`.

    The loss is `1/2 |y_hat - y_query|^2`, averaged over the batch. A network that has the moment form is trained in it,
    unless `settings.form` says otherwise. A causal network is trained on every prefix of a prompt, where layout and
    task have them: see `_prefix_problem`. For equal tasks, models and settings both functions are the same.

    Args:
      concatenated: whether the layout's tokens are (x, y), whose moments a task may draw by itself.

    Raises:
      ValueError: if a form is asked for where it is not exact, or a curriculum where there are no prefixes.
    """
    program = models.weighted(config), layout, settings.of_program
    if config.causal and layout.inputs is not None and isinstance(task, PrefixTask):
        if not getattr(task, "in_order", True):
            raise ValueError("the task's queries are not the inputs to come, on which all prefixes are trained at once")
        return _prefix_problem(task, *program)
    if settings.curriculum is not None:
        raise ValueError(
            "a curriculum is one of prefixes: it needs a causal model, tokens apart, and a task that has them"
        )
    if settings.form == "gram" and not models.has_gram_form(config):
        raise ValueError(f"form='gram' is exact for linear layers alone, which these are not: {config}")
    if settings.form == "query" and not models.has_query_form(config):
        raise ValueError(f"form='query' is exact for one layer of attention alone, which this is not: {config}")
    return _query_problem(task, *program, concatenated)


@kept
def _query_problem(
    task: Task, config: TransformerConfig, layout: Layout, settings: TrainSettings, concatenated: bool
) -> Problem:
    """As `learning_problem`, of one query a prompt."""
    batch_size = settings.batch_size
    prompts = lambda key, step: jax.vmap(task.sample, out_axes=-1)(jax.random.split(key, batch_size))

    def loss_of_moments(params: Any, batch: tuple[Gram, Array]) -> Array:
        moments, y_query = batch
        y_hat = models.read_gram(models.circuits(config, params), moments, task.d_output)
        return 0.5 * jnp.mean(jnp.sum((y_hat - y_query) ** 2, axis=0))

    def loss_of_tokens(params: Any, batch: Prompt) -> Array:
        y_hat = jax.vmap(models.predictor(config, params, layout), -1, -1)(batch.x, batch.y, batch.x_query)
        return 0.5 * jnp.mean(jnp.sum((y_hat - batch.y_query) ** 2, axis=0))

    def loss_of_queries(params: Any, batch: Prompt) -> Array:
        tokens = jax.vmap(layout.encode, -1, -1)(batch.x, batch.y, batch.x_query)
        y_hat = models.read_query(config, params, tokens, task.d_output)
        return 0.5 * jnp.mean(jnp.sum((y_hat - batch.y_query) ** 2, axis=0))

    def moments(key: Array, step: Array | int) -> tuple[Gram, Array]:
        batch = prompts(key, step)
        tokens = jax.vmap(layout.encode, -1, -1)(batch.x, batch.y, batch.x_query)
        return Gram.of(tokens), batch.y_query

    if settings.form in ("tokens", "query") or not models.has_gram_form(config):
        loss = loss_of_queries if settings.form != "tokens" and models.has_query_form(config) else loss_of_tokens
        tokens = jax.eval_shape(lambda key: layout.encode(*task.sample(key)[:3]), jax.random.key(0))
        return prompts, _in_cache(loss, config, len(tokens))
    if isinstance(task, GramTask) and concatenated:
        return lambda key, step: task.sample_gram(key, n_prompts=batch_size), loss_of_moments
    return moments, loss_of_moments


@kept
def _prefix_problem(task: PrefixTask, config: TransformerConfig, layout: Layout, settings: TrainSettings) -> Problem:
    """As `learning_problem`, of all prefixes at once: the loss is a mean over the points of a prompt.

    Each point is predicted from those before it. Of a task of classes the loss is the logistic one, `log(1 + exp(-y
    y_hat))`. The targets are labels as the context has them, with their noise, as published; it changes no minimiser.
    """
    n, logistic = task.n_context + 1, getattr(task, "logistic", False)

    def prefixes(key: Array, step: Array | int) -> tuple[Array, Array, Array]:
        stage = settings.curriculum
        active, points = (None, n) if stage is None else (stage.inputs.at(step), stage.points.at(step))
        sample = partial(task.sample_prefixes, active=active)
        batch = jax.vmap(sample, out_axes=-1)(jax.random.split(key, settings.batch_size))
        weight = jnp.where(jnp.arange(n) < points, 1.0, 0.0) / points
        return batch.x, batch.y, jnp.broadcast_to(weight[:, None].astype(batch.y.dtype), (n, settings.batch_size))

    def loss(params: Any, batch: tuple[Array, Array, Array]) -> Array:
        x, y, weight = (jnp.moveaxis(leaf, -1, 0) for leaf in batch)
        y_hat = jax.vmap(models.prefix_predictor(config, params, layout))(x, y)
        errors = jax.nn.softplus(-y * y_hat) if logistic else 0.5 * (y_hat - y) ** 2
        return jnp.mean(jnp.sum(weight * jnp.sum(errors, axis=-1), axis=-1))

    return prefixes, _in_cache(loss, config, 2 * n - 1)


def _in_cache(loss: population.Loss, config: TransformerConfig, n_tokens: int) -> population.Loss:
    """On a CPU, as many prompts at a time as a perceptron holds in cache; elsewhere all of them."""
    width = max(config.input_mlp_width or 0, config.block_mlp_width or 0)
    if not width or jax.default_backend() != "cpu":
        return loss
    return microbatched(loss, max(HIDDEN_FLOATS // (n_tokens * width), 1))
