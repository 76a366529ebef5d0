"""Trains populations of Transformers on in-context tasks, and loads them from checkpoints.

`train` combines a task, a token layout and a model with the population trainer, and with checkpoints from which
training can resume.
"""

import contextlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import models
from icl_gd.models import Model, TransformerConfig
from icl_gd.paths import local
from icl_gd.programs import cached_by_value
from icl_gd.schema import OneOf, Seed, Size, checked, tuples
from icl_gd.tokens import LAYOUTS
from icl_gd.training import mesh, population
from icl_gd.training.checkpoint import KEEP, Checkpoints, checksum, unflatten
from icl_gd.training.idle import idle_warning
from icl_gd.training.population import MemberState, PopulationState, TrainSettings
from icl_gd.training.problem import Task, learning_problem
from icl_gd.training.warm_start import Trained, start_weights
from icl_gd.trees import by_name, flatten, nested
from icl_gd.types import Array, Layout, Predictor, PrefixPredictor

Frozen = Mapping[str, Any]  # parameters of blocks, by block name
Tokens = Annotated[str, OneOf(LAYOUTS)]


@dataclass(frozen=True)
class Population:
    """The trained members of a population, with their architecture and token layout.

    `population[i]` is the `Model` of member i. Iteration yields the models of all members.

    Attributes:
      config: the architecture, common to all members.
      layout: converts prompts to tokens.
      params: parameters; every leaf has a leading member axis. Members are ordered by combination of swept values, then
        by seed.
      diverged_at: `[member]`, the step at which the member diverged: the first of five consecutive non-finite steps. A
        diverged member keeps the parameters from before that step. -1: the member has not diverged.
      skipped: `[member]`, the number of steps that were skipped because the loss or the update was not finite.
      swept: the swept values of each combination, by field name. Default: `({},)`, no sweep.
    """

    config: TransformerConfig
    layout: Layout
    params: Any
    diverged_at: Array | np.ndarray
    skipped: Array | np.ndarray
    swept: tuple[dict[str, Any], ...] = ({},)

    def __len__(self) -> int:
        return len(self.diverged_at)

    def __iter__(self) -> Iterator[Model]:
        """The models of all members, in order."""
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        combinations = f", {len(self.swept)} combinations of {', '.join(self.swept[0])}" if self.swept[0] else ""
        return f"Population({len(self)} members{combinations}, {self.config})"

    def combination(self, i: int) -> "Population":
        """The members of one combination of swept values.

        Returns:
          A population that contains only these members, one per seed.

        Raises:
          IndexError: if there is no such combination.
        """
        if not -len(self.swept) <= i < len(self.swept):
            raise IndexError(f"combination {i} does not exist; give 0 to {len(self.swept) - 1}")
        i, seeds = i % len(self.swept), len(self) // len(self.swept)

        def part(leaf: Any) -> Any:
            return leaf[i * seeds : (i + 1) * seeds]

        return replace(
            self,
            params=jax.tree.map(part, self.params),
            diverged_at=part(self.diverged_at),
            skipped=part(self.skipped),
            swept=(self.swept[i],),
        )

    def member(self, i: int) -> Any:
        """The parameters of one member.

        Returns:
          The pytree of parameters, without member axis.
        """
        return jax.tree.map(lambda leaf: leaf[i], self.params)

    def __getitem__(self, i: int) -> Model:
        """The model of member i; a negative i counts from the end."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"member {i}: a population of {len(self)} has members 0 to {len(self) - 1}")
        return Model(self.config, self.member(i), self.layout)

    @property
    def stacked(self) -> Model:
        """All members as one model whose leaves have a leading member axis, for `jax.vmap`."""
        return Model(self.config, self.params, self.layout)

    def predictor(self, params: Any) -> Predictor:
        """The Predictor with the parameters of one member.

        Returns:
          A Predictor, as a pytree whose leaves are the parameters. To get all members, vmap this method over `params`.
        """
        return models.fastest_predictor(self.config, params, self.layout)

    def prefix_predictor(self, params: Any) -> PrefixPredictor:
        """The PrefixPredictor with the parameters of one member of a causal model.

        Returns:
          A PrefixPredictor, as a pytree whose leaves are the parameters.
        """
        return models.prefix_predictor(self.config, params, self.layout)

    @property
    def predictors(self) -> list[Predictor]:
        """One Predictor per member."""
        return [self.predictor(self.member(i)) for i in range(len(self))]


@checked
def initialise(
    config: TransformerConfig, settings: TrainSettings, seed: Seed, seeds: Size, frozen: Frozen | None = None
) -> PopulationState:
    """The population at step 0, as `train` starts it.

    Args:
      config: the model.
      settings: the optimiser, and swept values.
      seed: the seed of the first member.
      seeds: members per combination of swept values.
      frozen: parameters by block name, which replace the random ones in every member. Default: None.

    Returns:
      The state; the leaves of `member` are `[member ...]`.
    """
    members = population.member_specs(seed, seeds, settings, config.per_member)
    init = _init(models.program_config(config))
    if frozen:
        init = _with_frozen_blocks(init, frozen)
    return population.start(init, settings, members)


@cached_by_value
def _init(config: TransformerConfig) -> population.Init:
    def init(key: Array, model_values: Mapping[str, Array]) -> Any:
        return models.init(config.with_values(model_values), key)

    return init


def _with_frozen_blocks(init: population.Init, frozen: Frozen) -> population.Init:
    """An `init` that replaces the random parameters of the frozen blocks."""
    frozen = dict(frozen)

    def init_with_frozen(key: Array, model_values: Mapping[str, Array]) -> Any:
        return {**init(key, model_values), **frozen}

    return init_with_frozen


@cached_by_value
def _stop_gradients(loss: population.Loss, blocks: tuple[str, ...]) -> population.Loss:
    """The loss with zero gradients for the named blocks, so that AdamW and SGD do not change these blocks."""

    def stopped(params: Any, batch: Any) -> Array:
        frozen = {name: jax.lax.stop_gradient(params[name]) for name in blocks}
        return loss({**params, **frozen}, batch)

    return stopped


def _with_weights(state: PopulationState, weights: Mapping[str, Array], frozen: Frozen) -> PopulationState:
    """The state in which the named weights are replaced, except in frozen blocks. Names are dotted."""
    leaves = by_name(state.member.params)
    leaves |= {name: leaf for name, leaf in weights.items() if name.split(".")[0] not in frozen}
    params = jax.tree.unflatten(jax.tree.structure(state.member.params), list(leaves.values()))
    return state._replace(member=state.member._replace(params=params))


@checked
def train(
    task: Task,
    config: TransformerConfig,
    settings: TrainSettings,
    *,
    layout: Tokens = "concatenated",
    seeds: Size = 1,
    seed: Seed = 0,
    start: Trained | None = None,
    frozen: Frozen | None = None,
    parallel: mesh.Parallel = "auto",
    checkpoints: str | Path | None = None,
    checkpoint_every: Size = 1000,
    keep_checkpoints: Annotated[str, OneOf(KEEP)] = "last",
    chunk_steps: Size = 100,
    on_resume: Callable[[int], None] = lambda step: None,
    on_chunk: Callable[[Population, int, Array], None] = lambda trained, step, loss: None,
    stop_requested: Callable[[], int | None] = lambda: None,
) -> Population:
    """Trains a population of Transformers on a task. If `checkpoints` holds checkpoints, training resumes from them.

    Tuples in `settings`, or in the fields of `config` that may differ between members (`init_scale` and the attention
    modifications), are swept over: the population has `seeds` members for every combination of the swept values.

    If the weights or the loss of a member did not change, a warning gives the likely cause.

        >>> from icl_gd.tasks import LinearRegression
        >>> settings = TrainSettings(steps=2, batch_size=4)
        >>> trained = train(LinearRegression(2, 1, 3), TransformerConfig(d_token=3), settings, seeds=2)
        >>> len(trained), trained.params["block_0"]["attention"]["W_K"].shape
        (2, (2, 1, 3, 3))

    Args:
      task: draws prompts.
      config: the model; `d_token` must be the width of the layout's tokens.
      settings: optimiser, batch size and number of steps.
      layout: the conversion of prompts to tokens, a key of `tokens.LAYOUTS`. Default: "concatenated".
      seeds: members per combination of swept values. Default: 1.
      seed: the seed of the first member. Within each combination, member i uses seed `seed + i`; training with only
        this seed gives the same member. Default: 0.
      start: a `Population` or `Model` with the initial weights: one set for all members, one for each seed, or one for
        each member. The optimiser state and the step count start anew. Default: None, random weights.
      frozen: parameters by block name, for example those of a construction. These blocks are the same in all members
        and are not trained. Default: None.
      parallel: the distribution of members and prompts over devices, see `mesh.place`. Default: "auto".
      checkpoints: the directory of the checkpoints. If there are several processes, only the first one writes. Default:
        None, no checkpoints.
      checkpoint_every: steps from one checkpoint to the next. Default: 1000.
      keep_checkpoints: the checkpoints to keep: "last", the last two; "all", the initial weights included; or "log",
        those at 0, 1, 2, 4, 8, ... steps. Beyond `chunk_steps` steps, "log" keeps the checkpoint of the first chunk
        that ends at or after each power of two. `load` reads a checkpoint by its step. Default: "last".
      chunk_steps: steps per compiled chunk. Default: 100.
      on_resume: with `checkpoints`, called with the step from which training continues; 0 if there is no readable
        checkpoint.
      on_chunk: called after each chunk, as `on_chunk(population, step, losses [step member])`, before its checkpoint is
        written.
      stop_requested: called after each chunk. If it returns a signal number, the state is saved and `Interrupted` is
        raised.

    Returns:
      The trained population.

    Raises:
      ValueError: if the token width does not fit the task, if `frozen`, `start` or `settings` do not fit the model, if
        the checkpoints belong to another population, or if population and batch cannot be divided among the devices.
      population.Interrupted: if a stop was requested.
      FloatingPointError: if every member has diverged; the last state is saved.
    """
    tokens = _layout_of_width(layout, task, config.d_token)
    members = population.member_specs(seed, seeds, settings, config.per_member)
    placement = mesh.place(parallel, len(members.data), settings.batch_size, settings.share_batches)
    draw, loss = learning_problem(task, config, tokens, settings, layout == "concatenated")
    _check_modification(config, settings)
    if frozen:
        _check_frozen(config, settings, frozen)
        loss = _stop_gradients(loss, tuple(sorted(frozen)))
    # With several layers, each member has its own Gram matrices after the first layer. Running members one after
    # another keeps these in cache.
    chunk = population.make_chunk(draw, loss, settings, placement, side_by_side=config.n_layers == 1)

    state = initialise(config, settings, seed, seeds, frozen)
    if start is not None:
        state = _with_weights(state, start_weights(start, config, len(members.data), seeds), frozen or {})
    about = {**_about(task, config, settings, seed, seeds), "layout": layout}
    about["frozen"] = checksum(flatten(frozen), {}) if frozen else None
    about["start"] = checksum(flatten(start.params), {}) if start is not None else None

    swept = _only_swept(population.combinations(settings, config.per_member))
    store = Checkpoints(checkpoints, keep_checkpoints) if checkpoints is not None and mesh.is_primary() else None
    mean_losses: list[np.ndarray] = []  # the mean losses `[member]` of the first and of the latest chunk

    def after_chunk(state: PopulationState, losses: Array) -> None:
        state, losses = mesh.on_host((state, losses))
        step, n_steps, diverged_at = int(state.step), len(losses), state.member.diverged_at
        mean_losses[1:] = [np.mean(losses, axis=0)]  # entry 0 is kept, entry 1 is replaced
        signal = mesh.any_signal(stop_requested())
        # `on_chunk` precedes the checkpoint, so a run that resumes from it has recorded all steps up to the checkpoint.
        on_chunk(_population(config, tokens, state.member, swept), step, losses)
        all_diverged = bool(np.all(diverged_at >= 0))
        is_due = _is_checkpoint_due(step, n_steps, settings.steps, chunk_steps, checkpoint_every, keep_checkpoints)
        if store is not None and (is_due or all_diverged or signal):
            store.save(step, state, about)
        if all_diverged:
            raise FloatingPointError(f"every member has diverged, the last at step {diverged_at.max()}")
        if signal and step < settings.steps:
            raise population.Interrupted(step, signal)

    try:
        if checkpoints is not None:
            state = _resumed(store, state, about, _defaults(task, config, settings))
            on_resume(int(state.step))
            if store is not None and keep_checkpoints != "last" and state.step == 0:
                store.save(0, state, about)
        first_step, before = int(state.step), jax.tree.map(np.array, state.member)
        members = placement.device_put(members)
        state = PopulationState(placement.device_put(state.member), placement.device_put(state.step, mesh.ALL))
        at_powers = checkpoints is not None and keep_checkpoints == "log"
        state = population.run_chunks(chunk, state, members, settings.steps, chunk_steps, after_chunk, at_powers)
    finally:
        if store is not None:
            store.close()

    member = mesh.on_host(state.member)
    if warning := idle_warning(before, member, settings.steps - first_step, settings, mean_losses):
        warnings.warn(warning, stacklevel=2)
    return _population(config, tokens, member, swept)


def _is_checkpoint_due(step: int, n_steps: int, last_step: int, chunk_steps: int, every: int, keep: str) -> bool:
    """Whether a checkpoint is due after a chunk of `n_steps` that ends at `step`."""
    # At the end of training, and after the last full chunk before the end: a longer run continues from that chunk.
    is_last = last_step - step < chunk_steps
    is_first_after_power = keep == "log" and step.bit_length() > (step - n_steps).bit_length()
    return is_last or is_first_after_power or step % every < n_steps


def _population(config: TransformerConfig, layout: Layout, member: MemberState, swept: tuple) -> Population:
    params = jax.tree.map(jnp.asarray, member.params)
    return Population(config, layout, params, member.diverged_at, member.skipped, swept)


def _layout_of_width(layout: str, task: Task, d_token: int) -> Layout:
    """The named layout for the sizes of a task. ValueError if its token width is not that of the model."""
    tokens = _layout(layout, task.d_input, task.d_output)
    if d_token != tokens.d_token:
        raise ValueError(
            f"d_token={d_token}: {layout} tokens of d_input={task.d_input}, d_output={task.d_output} have width "
            f"{tokens.d_token}; set d_token={tokens.d_token}"
        )
    return tokens


@checked
def _layout(layout: Tokens, d_input: Size, d_output: Size) -> Layout:
    return LAYOUTS[layout](d_input, d_output)


def _check_modification(config: TransformerConfig, settings: TrainSettings) -> None:
    """Checks that weight decay does not change the strengths of attention modifications, which are parameters."""
    if config.modification.enabled and settings.weight_decay != 0.0:
        names = ", ".join(config.modification.enabled)
        raise ValueError(
            f"weight_decay={settings.weight_decay} would shrink the attention modifications ({names}), which are not "
            f"trained; set weight_decay=0"
        )


def _check_frozen(config: TransformerConfig, settings: TrainSettings, frozen: Frozen) -> None:
    """Checks that frozen blocks have names and shapes of blocks of the model, and that there is no weight decay."""
    shapes = partial(jax.tree.map, jnp.shape)
    expected = shapes(models.shapes(config))
    if wrong := [name for name, block in frozen.items() if expected.get(name) != shapes(block)]:
        raise ValueError(
            f"frozen {', '.join(wrong)}: the model has no block with this name and these shapes; its blocks are "
            f"{', '.join(expected)} of {config}"
        )
    if settings.weight_decay != 0.0:
        raise ValueError(
            f"weight_decay={settings.weight_decay} would shrink the frozen blocks ({', '.join(frozen)}); set "
            f"weight_decay=0"
        )


def _about(task: Task, config: TransformerConfig, settings: TrainSettings, seed: int, seeds: int) -> dict[str, Any]:
    """The description by which a checkpoint is matched to a run, after a round trip through JSON."""
    task_fields = asdict(task) if is_dataclass(task) and not isinstance(task, type) else {}
    settings_fields = asdict(settings)
    if settings.schedule == "constant":
        # With a constant schedule a run can be extended, because no step depends on the total number of steps.
        del settings_fields["steps"]
    about = {
        "model": asdict(config),
        "d_input": task.d_input,
        "d_output": task.d_output,
        "seed": seed,
        "seeds": seeds,
        "task": {"type": type(task).__qualname__, **task_fields},
        "settings": settings_fields,
    }
    return json.loads(json.dumps(about, default=str))


def _defaults(task: Task, config: TransformerConfig, settings: TrainSettings) -> dict[str, Any]:
    """The defaults of all fields, for checkpoints that were written before a field existed."""
    parts = {"task": task, "model": config, "settings": settings}
    defaults = {name: _field_defaults(part) for name, part in parts.items()}
    return json.loads(json.dumps({**defaults, "layout": "concatenated"}))


def _field_defaults(part: Any) -> dict[str, Any]:
    if not is_dataclass(part):
        return {}
    defaults = {field.name: field.default for field in fields(part) if field.default is not MISSING}
    return {name: value for name, value in defaults.items() if not is_dataclass(value)}


def _resumed(
    store: Checkpoints | None, state: PopulationState, about: dict[str, Any], defaults: dict[str, Any]
) -> PopulationState:
    """The state of the newest intact checkpoint, or else `state`. Only the primary process has a store.

    Raises:
      ValueError: if the checkpoints belong to another population.
    """
    if store is not None:
        if (restored := store.restore()) is not None:
            _, leaves, stored = restored
            differ = [key for key in about if not _matches(stored.get(key), about[key], defaults.get(key))]
            if differ:
                raise ValueError(
                    f"the checkpoints belong to another population: {', '.join(differ)} differ; use another directory, "
                    f"or train with the values of the checkpoints"
                )
            state = unflatten(state, leaves)
        elif store.steps:
            warnings.warn("no checkpoint is readable; training starts again from step 0", stacklevel=3)
        store.delete_corrupt()
    return mesh.broadcast_from_primary(state)


def _matches(stored: Any, expected: Any, default: Any) -> bool:
    """Whether the stored value equals the expected one.

    A missing value, or a missing field of a dict, takes its default.
    """
    if isinstance(expected, dict) and isinstance(stored, dict):
        known_defaults = {name: default[name] for name in expected if name in default}
        return {**known_defaults, **stored} == expected
    return (default if stored is None else stored) == expected


def _only_swept(points: list[dict[str, float]]) -> tuple[dict[str, float], ...]:
    """The combinations of a sweep, without the fields that have only one value."""
    varying = [name for name in points[0] if len({point[name] for point in points}) > 1]
    return tuple({name: point[name] for name in varying} for point in points)


def load(workdir: str | Path, step: int | np.integer | Sequence[int] | np.ndarray | str | None = None) -> Population:
    """Loads the trained members of a run.

    Args:
      workdir: the workdir of a run, its directory of checkpoints, or one checkpoint.
      step: the step of the checkpoint. With several steps, or "all", the population contains the members at every step:
        `swept` gives the steps, and `combination(i)` the members at one of these. Default: None, the newest intact
        checkpoint.

    Returns:
      The population. With several steps, it contains all members at the first step, then all members at the next.

    Raises:
      FileNotFoundError: if there is no readable checkpoint, or no checkpoint of the requested step.
      ValueError: if the checkpoint of the requested step is unreadable.
    """
    directory = local(workdir, "workdir")
    if (directory / "checkpoints").is_dir():
        directory = directory / "checkpoints"
    if step is None and directory.name.isdecimal() and (directory / "state").is_dir():  # a single checkpoint
        directory, step = directory.parent, int(directory.name)
    _check_has_checkpoints(directory, workdir)
    with contextlib.closing(Checkpoints(directory, create=False)) as store:
        if step is None:
            if (restored := store.restore()) is None:
                raise FileNotFoundError(f"no readable checkpoint under {workdir}")
            _, leaves, about = restored
            return _stored(leaves, about)
        steps = store.steps if isinstance(step, str) and step == "all" else np.atleast_1d(np.asarray(step)).tolist()
        if not steps or not set(steps) <= set(store.steps):
            available = ", ".join(map(str, store.steps))
            raise FileNotFoundError(
                f"step={step!r}: {workdir} holds checkpoints of steps {available}; give some of them, or 'all'"
            )
        populations = [_stored(*store.at(int(one))) for one in steps]
    return populations[0] if np.ndim(step) == 0 and step != "all" else _concatenated(steps, populations)


def _check_has_checkpoints(directory: Path, workdir: str | Path) -> None:
    """Checks that a directory contains checkpoints. If it contains a sweep, the error lists the runs of the sweep."""
    inside = sorted(path for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []
    if any(map(_is_step, inside)):
        return
    points = [str(path) for path in inside if any(map(_is_step, path.iterdir()))]
    if points:
        raise FileNotFoundError(f"{workdir} holds a sweep; load one of {', '.join(points)}")
    if (directory / "model.safetensors").exists():
        raise FileNotFoundError(f"{workdir} holds a saved model; read it with icl_gd.load_model")
    if not directory.exists():
        raise FileNotFoundError(f"{workdir}: there is no such directory; give the workdir of a run")
    raise FileNotFoundError(f"{workdir} holds no checkpoints; give the workdir of a run")


def _is_step(path: Path) -> bool:
    """Whether a path is the directory of one checkpoint."""
    return path.name.isdecimal() and path.is_dir()


def _stored(leaves: Mapping[str, Any], about: Mapping[str, Any]) -> Population:
    """The population of one checkpoint."""
    prefix = "member.params."
    stored_params = {name.removeprefix(prefix): leaf for name, leaf in leaves.items() if name.startswith(prefix)}
    params = jax.tree.map(jnp.asarray, nested(stored_params))
    config = TransformerConfig.from_json(about["model"])
    settings = tuples(about["settings"])
    rates = {name: value for name, value in settings.items() if name in population.MemberHyperparams._fields}
    swept = _only_swept(population.combinations(TrainSettings(**rates), config.per_member))
    diverged_at, skipped = (jnp.asarray(leaves[f"member.{name}"]) for name in ("diverged_at", "skipped"))
    layout = _layout(about.get("layout", "concatenated"), about["d_input"], about["d_output"])
    return Population(config, layout, params, diverged_at, skipped, swept)


def _concatenated(steps: Sequence[int], populations: Sequence[Population]) -> Population:
    """The members of one population at several steps, as a single population whose sweep includes the step."""

    def concatenate(*leaves: Any) -> Array:
        return jnp.concatenate(leaves)

    swept = [
        {"step": step, **values}
        for step, population_at in zip(steps, populations, strict=True)
        for values in population_at.swept
    ]
    return replace(
        populations[0],
        params=jax.tree.map(concatenate, *(one.params for one in populations)),
        swept=tuple(swept),
        diverged_at=concatenate(*(one.diverged_at for one in populations)),
        skipped=concatenate(*(one.skipped for one in populations)),
    )


__all__ = ["Population", "TrainSettings", "load", "train"]
