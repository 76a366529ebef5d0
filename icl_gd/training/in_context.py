"""Training Transformers to learn in context: binds task, layout and model to the population trainer."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from icl_gd import models
from icl_gd.models import TransformerConfig
from icl_gd.tokens import concatenated
from icl_gd.training import population
from icl_gd.training.checkpoint import Checkpoints, unflatten
from icl_gd.training.population import Keys, State, TrainSettings
from icl_gd.types import Array, Layout, Moments, Predictor, Prompt


@runtime_checkable
class Task(Protocol):
    """What training asks of a task."""

    @property
    def d_input(self) -> int: ...
    @property
    def d_output(self) -> int: ...
    def sample(self, key: Array) -> Prompt: ...


@runtime_checkable
class MomentTask(Protocol):
    """A task that draws a batch of moments at once, faster than prompt by prompt."""

    def sample_moments(self, key: Array, n_prompts: int) -> tuple[Moments, Array]: ...


@dataclass(frozen=True)
class Population:
    """Trained members with what is needed to use them; `params` has a leading member axis."""

    config: TransformerConfig
    layout: Layout
    params: Any

    def __len__(self) -> int:
        return len(jax.tree.leaves(self.params)[0])

    def member(self, i: int) -> Any:
        """Parameters of one member."""
        return jax.tree.map(lambda leaf: leaf[i], self.params)

    def predictor(self, params: Any) -> Predictor:
        """One member's parameters as a Predictor; vmap it over `params` to have them all."""
        return fastest_predictor(self.config, params, self.layout)

    @property
    def predictors(self) -> list[Predictor]:
        """One Predictor per member."""
        return [self.predictor(self.member(i)) for i in range(len(self))]


def fastest_predictor(config: TransformerConfig, params: Any, layout: Layout) -> Predictor:
    """The moment form where it is exact, the token form otherwise."""
    if models.has_moment_form(config):
        return models.circuit_predictor(models.circuits(config, params), layout)
    return models.predictor(config, params, layout)


def learning_problem(
    task: Task, config: TransformerConfig, layout: Layout, batch_size: int
) -> tuple[Callable[[Array], Any], Callable[[Any, Any], Array]]:
    """What the population trainer asks for: `draw(key) -> batch` and `loss(params, batch)`.

    The loss is `1/2 |y_hat - y_query|^2`, averaged over the batch. A network that has the moment form is trained in it.
    """
    prompts = lambda key: jax.vmap(task.sample)(jax.random.split(key, batch_size))

    def loss_of_moments(params: Any, batch: tuple[Moments, Array]) -> Array:
        moments, y_query = batch
        y_hat = models.read_moments(models.circuits(config, params), moments, task.d_output)
        return 0.5 * jnp.mean(jnp.sum((y_hat - y_query) ** 2, axis=0))

    def loss_of_tokens(params: Any, batch: Prompt) -> Array:
        y_hat = jax.vmap(models.predictor(config, params, layout))(batch.x, batch.y, batch.x_query)
        return 0.5 * jnp.mean(jnp.sum((y_hat - batch.y_query) ** 2, axis=-1))

    def moments(key: Array) -> tuple[Moments, Array]:
        batch = prompts(key)
        tokens = jax.vmap(layout.encode, out_axes=-1)(batch.x, batch.y, batch.x_query)
        return Moments.of(tokens), batch.y_query.T

    if not models.has_moment_form(config):
        return prompts, loss_of_tokens
    if isinstance(task, MomentTask):
        return partial(task.sample_moments, n_prompts=batch_size), loss_of_moments
    return moments, loss_of_moments


def train(
    task: Task,
    config: TransformerConfig,
    settings: TrainSettings,
    *,
    seeds: int = 1,
    seed: int = 0,
    checkpoints: str | Path | None = None,
    checkpoint_every: int = 1000,
    chunk_steps: int = 100,
    on_resume: Callable[[int], None] = lambda step: None,
    on_chunk: Callable[[Population, int, Array], None] = lambda trained, step, loss: None,
    stop_requested: Callable[[], int | None] = lambda: None,
) -> Population:
    """Trains `seeds` Transformers on a task, resuming from `checkpoints` if there are any.

    Args:
      task: gives prompts; its sizes must fit the model's token width.
      seeds, seed: number of members, and the seed of the first; member i is the run of seed + i alone.
      checkpoints: a directory; nothing is written when left out.
      chunk_steps: steps per compiled chunk; `on_chunk(population, step, loss [step member])` is called after each.
      on_resume: with `checkpoints`, told the step training goes on from; 0 where no sound one is there.
      stop_requested: polled after each chunk; a signal number saves and raises `Interrupted`.

    Raises:
      ValueError: if the token width does not fit the task, or the checkpoints are of another population.
      population.Interrupted, FloatingPointError: see `population.run_chunks`; the last good state is kept.
    """
    if config.d_token != task.d_input + task.d_output:
        raise ValueError(f"d_token={config.d_token} does not fit d_input + d_output = {task.d_input + task.d_output}")
    layout = concatenated(task.d_input, task.d_output)
    keys = population.member_keys(seed, seeds)
    state = population.start(lambda key: models.init(config, key), settings, keys)
    store = None if checkpoints is None else Checkpoints(checkpoints)
    about: dict[str, Any] = {
        "model": asdict(config),
        "d_input": task.d_input,
        "d_output": task.d_output,
        "seed": seed,
        "seeds": seeds,
    }
    sizes = asdict(task) if is_dataclass(task) and not isinstance(task, type) else {}
    about["task"] = {"type": type(task).__qualname__, **sizes}
    about["settings"] = asdict(settings)
    if settings.schedule == "constant":
        del about["settings"]["steps"]  # such a run can be extended: its first steps do not depend on the last
    about = json.loads(json.dumps(about, default=str))  # as it comes back

    if store is not None:
        step = 0
        if (restored := store.restore()) is not None:
            step, leaves, stored = restored
            if stored != about:
                store.close()
                differ = ", ".join(key for key in about if stored.get(key) != about[key])
                raise ValueError(f"{checkpoints} holds checkpoints of another population: {differ} differ")
            state = jax.tree.map(jnp.asarray, unflatten(state, leaves))
        store.forget_broken()
        on_resume(step)

    def after(state: State, loss: Array) -> None:
        step = int(state.step)
        signal = stop_requested()
        last = step >= settings.steps
        # Before the checkpoint: a run that resumes from it has all that was to be recorded up to it.
        on_chunk(Population(config, layout, jax.tree.map(jnp.copy, state.params)), step, loss)  # chunks donate theirs
        ending = settings.steps - step < chunk_steps  # or the last whole chunk, from where a longer run goes on
        if store is not None and (ending or signal is not None or step % checkpoint_every < len(loss)):
            store.save(step, state, about)
        if signal is not None and not last:
            raise population.Interrupted(step, signal)

    draw, loss = learning_problem(task, config, layout, settings.batch_size)
    chunk = population.make_chunk(draw, loss, settings)
    try:
        state = population.run_chunks(chunk, state, keys, settings.steps, chunk_steps, after)
    finally:
        if store is not None:
            store.close()
    return Population(config, layout, state.params)


def load(workdir: str | Path) -> Population:
    """The trained members of a run, from its workdir (or from a directory of checkpoints).

    Raises:
      FileNotFoundError: if there is no readable checkpoint.
    """
    directory = Path(workdir)
    if (directory / "checkpoints").is_dir():
        directory = directory / "checkpoints"
    inside = sorted(path.name for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []
    if not any(name.isdecimal() for name in inside):
        points = [str(directory / name) for name in inside if any(map(_is_step, (directory / name).iterdir()))]
        holds = f"holds a sweep; load one of {', '.join(points)}" if points else "holds no checkpoints"
        raise FileNotFoundError(f"{workdir} {holds}")
    store = Checkpoints(directory, create=False)
    try:
        restored = store.restore()
    finally:
        store.close()
    if restored is None:
        raise FileNotFoundError(f"no readable checkpoint under {workdir}")
    _, leaves, about = restored
    params: dict[str, Any] = {}
    for name, leaf in leaves.items():
        if name.startswith("params."):
            *path, last = name.split(".")[1:]
            reduce(lambda node, key: node.setdefault(key, {}), path, params)[last] = jnp.asarray(leaf)
    return Population(TransformerConfig(**about["model"]), concatenated(about["d_input"], about["d_output"]), params)


def _is_step(path: Path) -> bool:
    return path.name.isdecimal() and path.is_dir()


__all__ = ["Keys", "Population", "TrainSettings", "fastest_predictor", "learning_problem", "load", "train"]
