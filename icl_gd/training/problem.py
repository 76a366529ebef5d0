"""Training problems: the functions `draw` and `loss` that train a Transformer on a task.

>>> from icl_gd.tasks import LinearRegression
>>> from icl_gd.tokens import concatenated
>>> settings = TrainSettings(batch_size=4)
>>> draw, loss = learning_problem(LinearRegression(2, 1, 3), TransformerConfig(3), concatenated(2, 1), settings)
>>> gram, y_query = jax.eval_shape(draw, jax.random.key(0), 0)
>>> gram.context.shape, gram.query.shape, y_query.shape
((3, 3, 4), (3, 4), (1, 4))
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from icl_gd import models
from icl_gd.models import TransformerConfig
from icl_gd.programs import cached_by_value
from icl_gd.training import population
from icl_gd.training.microbatch import microbatched
from icl_gd.training.population import TrainSettings
from icl_gd.types import Array, Gram, Layout, PrefixPrompt, Prompt

HIDDEN_FLOATS = 2**18  # hidden activations of an MLP per microbatch; they fit in the cache of a core


@runtime_checkable
class Task(Protocol):
    """A task that can be trained on."""

    @property
    def d_input(self) -> int:
        """The dimension of the inputs."""
        ...

    @property
    def d_output(self) -> int:
        """The dimension of the labels."""
        ...

    def sample(self, key: Array) -> Prompt:
        """Draws one prompt.

        Returns:
          A prompt without batch axis.
        """
        ...


@runtime_checkable
class PrefixTask(Protocol):
    """A task whose prompts have a query after every prefix, for the training of causal models."""

    @property
    def n_context(self) -> int:
        """The number of context examples; a prompt has one more point, the last query."""
        ...

    def sample_prefixes(self, key: Array, active: Array | int | None = None) -> PrefixPrompt:
        """Draws one prompt.

        Args:
          key: a JAX random key.
          active: number of active input coordinates, the first ones; the others are set to zero. Default: None, all
            are active.

        Returns:
          A prompt of `n_context + 1` points, without batch axis.
        """
        ...


@runtime_checkable
class GramTask(Protocol):
    """A task that draws a batch in Gram form, which is faster than drawing prompt by prompt."""

    def sample_gram(self, key: Array, n_prompts: int) -> tuple[Gram, Array]:
        """Draws a batch of prompts in Gram form.

        Returns:
          `(gram, y_query [m prompt])`, with the prompts in the last axis.
        """
        ...


Problem = tuple[Callable[[Array, Array], Any], Callable[[Any, Any], Array]]  # (draw, loss)


def learning_problem(
    task: Task, config: TransformerConfig, layout: Layout, settings: TrainSettings, concatenated: bool = True
) -> Problem:
    """The functions `draw` and `loss` with which the population trainer trains a Transformer on a task.

    The loss is `1/2 |y_hat - y_query|^2`, summed over outputs and averaged over the batch.

    A causal network on a layout with separate tokens is trained on all prefixes of a prompt, if the task is a
    `PrefixTask`. The loss is then also averaged over the points of a prompt. If `task.logistic`, it is the logistic
    loss.

    Equal arguments return the same function objects, so training is compiled once.

    Args:
      task: draws prompts.
      config: the model.
      layout: converts prompts to tokens of the model's width.
      settings: batch size, curriculum, and `form`, the form in which the loss is computed.
      concatenated: whether the tokens of the layout are (x, y). Only then can `task.sample_gram` be used. Default:
        True.

    Returns:
      `(draw, loss)`, with `draw(key, step) -> batch` and `loss(params, batch) -> scalar`. Batches have the prompts in
      the last axis of every leaf.

    Raises:
      ValueError: if `settings.form` is not exact for the model, if a curriculum is set but training is not on prefixes,
        or if the query after a prefix is not the next input.
    """
    arguments = models.program_config(config), layout, settings.program_settings
    if config.causal and layout.inputs is not None and isinstance(task, PrefixTask):
        if not getattr(task, "in_order", True):
            raise ValueError(
                f"training on all prefixes needs a task with in_order=True, whose k-th query is the next input x[k], "
                f"but in_order=False for {task}"
            )
        return _prefix_problem(task, *arguments)
    _check_query_settings(config, settings)
    return _query_problem(task, *arguments, concatenated)


def _check_query_settings(config: TransformerConfig, settings: TrainSettings) -> None:
    """Checks the settings of training on one query per prompt."""
    if settings.curriculum is not None:
        raise ValueError(
            "a curriculum needs training on prefixes: a causal model, a layout with separate tokens for x and y, and a "
            "task with `sample_prefixes`; otherwise set curriculum=None"
        )
    if settings.form == "gram" and not models.has_gram_form(config):
        raise ValueError(f"form='gram' is exact only for plain linear layers; use 'auto' or 'tokens' for {config}")
    if settings.form == "query" and not models.has_query_form(config):
        raise ValueError(f"form='query' is exact only for one layer of attention; use 'auto' or 'tokens' for {config}")


@cached_by_value
def _query_problem(
    task: Task, config: TransformerConfig, layout: Layout, settings: TrainSettings, concatenated: bool
) -> Problem:
    """`learning_problem` for one query per prompt."""
    form = _exact_form(config, settings.form)
    if form == "gram":
        return _gram_problem(task, config, layout, settings.batch_size, concatenated)
    draw = _prompt_draw(task, settings.batch_size)
    loss = (_query_loss if form == "query" else _token_loss)(config, layout, task.d_output)
    tokens = jax.eval_shape(lambda key: layout.encode(*task.sample(key)[:3]), jax.random.key(0))
    return draw, _microbatched_on_cpu(loss, config, len(tokens))


def _exact_form(config: TransformerConfig, form: str) -> str:
    """The requested form of the loss; for "auto", the fastest form that is exact."""
    if form != "auto":
        return form
    if models.has_gram_form(config):
        return "gram"
    return "query" if models.has_query_form(config) else "tokens"


def _prompt_draw(task: Task, batch_size: int) -> population.Draw:
    """A function that draws batches of prompts."""

    def draw(key: Array, step: Array | int) -> Prompt:
        return jax.vmap(task.sample, out_axes=-1)(jax.random.split(key, batch_size))

    return draw


def _gram_problem(
    task: Task, config: TransformerConfig, layout: Layout, batch_size: int, concatenated: bool
) -> Problem:
    """`_query_problem` in Gram form: `loss` applies the circuits of the model to the Gram matrices from `draw`."""
    draw_prompts = _prompt_draw(task, batch_size)

    def draw(key: Array, step: Array) -> tuple[Gram, Array]:
        if isinstance(task, GramTask) and concatenated:
            return task.sample_gram(key, n_prompts=batch_size)
        prompts = draw_prompts(key, step)
        tokens = jax.vmap(layout.encode, -1, -1)(prompts.x, prompts.y, prompts.x_query)
        return Gram.of(tokens), prompts.y_query

    def loss(params: Any, batch: tuple[Gram, Array]) -> Array:
        gram, y_query = batch
        return _mean_risk(models.read_gram(models.circuits(config, params), gram, task.d_output), y_query)

    return draw, loss


def _query_loss(config: TransformerConfig, layout: Layout, d_output: int) -> population.Loss:
    """The loss of a single layer, computed at the query token only."""

    def loss(params: Any, batch: Prompt) -> Array:
        tokens = jax.vmap(layout.encode, -1, -1)(batch.x, batch.y, batch.x_query)
        return _mean_risk(models.read_query(config, params, tokens, d_output), batch.y_query)

    return loss


def _token_loss(config: TransformerConfig, layout: Layout, d_output: int) -> population.Loss:
    """The loss of any network, computed on all tokens."""

    def loss(params: Any, batch: Prompt) -> Array:
        y_hat = jax.vmap(models.predictor(config, params, layout), -1, -1)(batch.x, batch.y, batch.x_query)
        return _mean_risk(y_hat, batch.y_query)

    return loss


def _mean_risk(y_hat: Array, y_query: Array) -> Array:
    """`1/2 |y_hat - y_query|^2` of `[m prompt]`, averaged over prompts."""
    return 0.5 * jnp.mean(jnp.sum((y_hat - y_query) ** 2, axis=0))


@cached_by_value
def _prefix_problem(task: PrefixTask, config: TransformerConfig, layout: Layout, settings: TrainSettings) -> Problem:
    """`learning_problem` for all prefixes of a prompt: each point is predicted from the points before it.

    The loss is averaged over the points of a prompt; a curriculum limits their number. It is `1/2 |y_hat - y|^2`, or
    the logistic loss `log(1 + exp(-y y_hat))` if `task.logistic`. As in Garg et al., the targets y are the noisy
    context labels; the noise does not change the minimiser.
    """
    n_points = task.n_context + 1
    is_logistic = getattr(task, "logistic", False)

    def draw(key: Array, step: Array | int) -> tuple[Array, Array, Array]:
        """Draws a batch `(x [point d prompt], y [point m prompt], weight [point prompt])`."""
        curriculum = settings.curriculum
        active = None if curriculum is None else curriculum.inputs.at(step)
        points = n_points if curriculum is None else curriculum.points.at(step)
        sample = partial(task.sample_prefixes, active=active)
        prompts = jax.vmap(sample, out_axes=-1)(jax.random.split(key, settings.batch_size))
        weight = jnp.where(jnp.arange(n_points) < points, 1.0, 0.0) / points
        weight = weight[:, None].astype(prompts.y.dtype)
        return prompts.x, prompts.y, jnp.broadcast_to(weight, (n_points, settings.batch_size))

    def loss(params: Any, batch: tuple[Array, Array, Array]) -> Array:
        x, y, weight = (jnp.moveaxis(leaf, -1, 0) for leaf in batch)
        y_hat = jax.vmap(models.prefix_predictor(config, params, layout))(x, y)
        errors = jax.nn.softplus(-y * y_hat) if is_logistic else 0.5 * (y_hat - y) ** 2
        return jnp.mean(jnp.sum(weight * jnp.sum(errors, axis=-1), axis=-1))

    return draw, _microbatched_on_cpu(loss, config, 2 * n_points - 1)


def _microbatched_on_cpu(loss: population.Loss, config: TransformerConfig, n_tokens: int) -> population.Loss:
    """The loss; for a network with MLPs on CPU, evaluated in microbatches that fit in cache."""
    width = max(config.input_mlp_width or 0, config.block_mlp_width or 0)
    if not width or jax.default_backend() != "cpu":
        return loss
    return microbatched(loss, max(HIDDEN_FLOATS // (n_tokens * width), 1))
