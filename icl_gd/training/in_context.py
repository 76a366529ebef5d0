"""Training Transformers to learn in context: binds task, layout and model to the population trainer."""

import contextlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import models
from icl_gd.models import Model, TransformerConfig
from icl_gd.paths import local
from icl_gd.programs import kept
from icl_gd.schema import OneOf, Seed, Size, checked
from icl_gd.tokens import LAYOUTS
from icl_gd.training import mesh, population
from icl_gd.training.checkpoint import KEEP, Checkpoints, by_name, checksum, flatten, nested, tuples, unflatten
from icl_gd.training.idle import why_nothing
from icl_gd.training.population import MemberState, PopulationState, TrainSettings
from icl_gd.training.problem import Task, learning_problem
from icl_gd.training.warm_start import Trained, weights_to_start
from icl_gd.types import Array, Layout, Predictor, PrefixPredictor

Frozen = Mapping[str, Any]  # blocks of parameters by name
Tokens = Annotated[str, OneOf(LAYOUTS)]


@dataclass(frozen=True)
class Population:
    """Trained members with what is needed to use them.

    Attributes:
      params: every leaf has a leading member axis; for every combination of swept values in turn, all seeds.
      diverged_at: `[member]`, the step from which on a member's loss or weights were not finite; it is kept as it was
        before that step. -1 for the others.
      skipped: `[member]`, how many steps were not taken because they would not have been finite.
      swept: the values of what was swept over, a mapping for every combination; `({},)` where nothing was.
    """

    config: TransformerConfig
    layout: Layout
    params: Any
    diverged_at: Array | np.ndarray
    skipped: Array | np.ndarray
    swept: tuple[dict[str, Any], ...] = ({},)

    def __len__(self) -> int:
        return len(self.diverged_at)

    def combination(self, i: int) -> "Population":
        """The members of one combination of swept values."""
        seeds = len(self) // len(self.swept)
        part = lambda leaf: leaf[i * seeds : (i + 1) * seeds]
        return replace(
            self,
            params=jax.tree.map(part, self.params),
            diverged_at=part(self.diverged_at),
            skipped=part(self.skipped),
            swept=(self.swept[i],),
        )

    def member(self, i: int) -> Any:
        """Parameters of one member."""
        return jax.tree.map(lambda leaf: leaf[i], self.params)

    def __getitem__(self, i: int) -> Model:
        """The model of member i, counted from the end where it is negative."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"member {i}: a population of {len(self)} has members 0 to {len(self) - 1}")
        return Model(self.config, self.member(i), self.layout)

    def predictor(self, params: Any) -> Predictor:
        """One member's parameters as a Predictor; vmap it over `params` to have them all."""
        return models.fastest_predictor(self.config, params, self.layout)

    def prefix_predictor(self, params: Any) -> PrefixPredictor:
        """One member's parameters, of a causal model, as a PrefixPredictor."""
        return models.prefix_predictor(self.config, params, self.layout)

    @property
    def predictors(self) -> list[Predictor]:
        """One Predictor per member."""
        return [self.predictor(self.member(i)) for i in range(len(self))]


@checked
def initialise(
    config: TransformerConfig, settings: TrainSettings, seed: Seed, seeds: Size, frozen: Frozen | None = None
) -> PopulationState:
    """The population at step 0; see `train` for what is frozen."""
    members = population.members_of(seed, seeds, settings, config.per_member)
    init = _init(models.weighted(config))
    if frozen:
        own, frozen = init, dict(frozen)
        init = lambda key, of_member: {**own(key, of_member), **frozen}
    return population.start(init, settings, members)


def _started(state: PopulationState, weights: Mapping[str, Array], frozen: Frozen) -> PopulationState:
    """The population with other weights, by dotted name, but for the blocks that are frozen."""
    own = by_name(state.member.params)
    own |= {name: leaf for name, leaf in weights.items() if name.split(".")[0] not in frozen}
    params = jax.tree.unflatten(jax.tree.structure(state.member.params), list(own.values()))
    return state._replace(member=state.member._replace(params=params))


@kept
def _init(config: TransformerConfig) -> population.Init:
    return lambda key, of_member: models.init(replace(config, **of_member), key)


@kept
def _only_own(loss: population.Loss, frozen: tuple[str, ...]) -> population.Loss:
    """The loss as a function of what is not frozen: the gradient of the rest is zero, and so are Adam's steps."""

    def of_own(params: Any, batch: Any) -> Array:
        still = {name: jax.lax.stop_gradient(params[name]) for name in frozen}
        return loss({**params, **still}, batch)

    return of_own


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
    """Trains `seeds` Transformers on a task, resuming from `checkpoints` if there are any.

    Warns of members whose weights are afterwards what they were, with the setting that explains it.

    With tuples in `settings`, or in `config` as `init_scale` or of a modification, as many for every combination of
    their values.

    Args:
      task: gives prompts.
      layout: a name in `tokens.LAYOUTS`: how a prompt becomes tokens, whose width must be the model's.
      seeds, seed: number of members, and the seed of the first; member i is the run of seed + i alone.
      start: a `Population` or `Model` whose weights training starts from, in place of random ones: one for all
        members, or one for each seed, or for each member. The optimiser, the steps and the data start anew.
      frozen: blocks of parameters, by name, that all members have and training leaves alone: those of a construction,
        say, to learn what stands before it.
      parallel: how members and prompts are spread over devices, see `mesh.place`.
      checkpoints: a directory; nothing is written when left out. Of several processes the first writes.
      checkpoint_every: steps from one checkpoint to the next.
      keep_checkpoints: which stay: the "last" two; "all", the initial weights too; or "log", at 0, 1, 2, 4, 8, ...
        steps (from a chunk on, at the first end of a chunk from there). `load` has them by step.
      chunk_steps: steps per compiled chunk; `on_chunk(population, step, loss [step member])` is called after each.
      on_resume: with `checkpoints`, told the step training goes on from; 0 where no sound one is there.
      stop_requested: polled after each chunk; a signal number saves and raises `Interrupted`.

    Raises:
      ValueError: if the token width does not fit the task, what is frozen or started from does not fit the model, the
        checkpoints are of another population, or population and batch cannot be spread over the devices as asked.
      population.Interrupted: when stopped.
      FloatingPointError: if every member has diverged; the last state is kept.
    """
    tokens = _layout(layout, task.d_input, task.d_output)
    if config.d_token != tokens.d_token:
        raise ValueError(
            f"d_token={config.d_token}: {layout} tokens of d_input={task.d_input}, d_output={task.d_output} have width "
            f"{tokens.d_token}"
        )
    members = population.members_of(seed, seeds, settings, config.per_member)
    placement = mesh.place(parallel, len(members.data), settings.batch_size, settings.share_batches)
    draw, loss = learning_problem(task, config, tokens, settings, layout == "concatenated")
    if config.modification.there and settings.weight_decay != 0.0:
        held = ", ".join(config.modification.there)
        raise ValueError(f"weight_decay={settings.weight_decay} would shrink {held}, which nobody trains; it must be 0")
    if frozen:
        _check_frozen(config, settings, frozen)
        loss = _only_own(loss, tuple(sorted(frozen)))
    # Below the last layer a member's circuits meet moments that are its own.
    chunk = population.make_chunk(draw, loss, settings, placement, side_by_side=config.n_layers == 1)
    swept = _only_swept(population.combinations(settings, config.per_member))
    state = initialise(config, settings, seed, seeds, frozen)
    about = {**_about(task, config, settings, seed, seeds), "layout": layout}
    about["frozen"] = checksum(flatten(frozen), {}) if frozen else None
    about["start"] = checksum(flatten(start.params), {}) if start is not None else None
    if start is not None:
        state = _started(state, weights_to_start(start, config, len(members.data), seeds), frozen or {})
    store = Checkpoints(checkpoints, keep_checkpoints) if checkpoints is not None and mesh.is_primary() else None

    means: list[np.ndarray] = []  # of the first chunk and the last

    def after(state: PopulationState, loss: Array) -> None:
        state, loss = mesh.on_host((state, loss))
        step, diverged_at = int(state.step), state.member.diverged_at
        signal, last = mesh.any_signal(stop_requested()), step >= settings.steps
        # Before the checkpoint: a run that resumes from it has all that was to be recorded up to it.
        on_chunk(_population(config, tokens, state.member, swept), step, loss)
        gone = bool(np.all(diverged_at >= 0))
        ending = settings.steps - step < chunk_steps  # or the last whole chunk, from where a longer run goes on
        taken, means[1:] = len(loss), [np.mean(loss, 0)]
        at_power = keep_checkpoints == "log" and step.bit_length() > (step - taken).bit_length()
        if store is not None and (ending or gone or signal or at_power or step % checkpoint_every < taken):
            store.save(step, state, about)
        if gone:
            raise FloatingPointError(f"every member has diverged, the last at step {diverged_at.max()}")
        if signal and not last:
            raise population.Interrupted(step, signal)

    try:
        if checkpoints is not None:
            state = _resumed(store, state, about, _defaults(task, config, settings))
            on_resume(int(state.step))
            if store is not None and keep_checkpoints != "last" and state.step == 0:
                store.save(0, state, about)
        began, before = int(state.step), jax.tree.map(np.array, state.member)
        members, state = (
            placement.device_put(members),
            PopulationState(placement.device_put(state.member), placement.device_put(state.step, mesh.ALL)),
        )
        by_powers = checkpoints is not None and keep_checkpoints == "log"
        state = population.run_chunks(chunk, state, members, settings.steps, chunk_steps, after, by_powers)
    finally:
        if store is not None:
            store.close()
    member = mesh.on_host(state.member)
    if said := why_nothing(before, member, settings.steps - began, settings, means):
        warnings.warn(said, stacklevel=2)
    return _population(config, tokens, member, swept)


def _population(config: TransformerConfig, layout: Layout, member: MemberState, swept: tuple) -> Population:
    return Population(
        config, layout, jax.tree.map(jnp.asarray, member.params), member.diverged_at, member.skipped, swept
    )


def _check_frozen(config: TransformerConfig, settings: TrainSettings, frozen: Frozen) -> None:
    shapes = partial(jax.tree.map, jnp.shape)
    own = shapes(models.shapes(config))
    if wrong := [name for name, block in frozen.items() if own.get(name) != shapes(block)]:
        raise ValueError(f"frozen {', '.join(wrong)}: not a block, or not of the shapes, of {config}")
    if settings.weight_decay != 0.0:
        raise ValueError(f"weight_decay={settings.weight_decay} would shrink what is frozen; it must be 0")


@checked
def _layout(layout: Tokens, d_input: Size, d_output: Size) -> Layout:
    return LAYOUTS[layout](d_input, d_output)


def _about(task: Task, config: TransformerConfig, settings: TrainSettings, seed: int, seeds: int) -> dict[str, Any]:
    """What makes two runs the same, as it comes back from JSON."""
    sizes = asdict(task) if is_dataclass(task) and not isinstance(task, type) else {}
    trained = asdict(settings)
    if settings.schedule == "constant":
        del trained["steps"]  # such a run can be extended: its first steps do not depend on the last
    about = {
        "model": asdict(config),
        "d_input": task.d_input,
        "d_output": task.d_output,
        "seed": seed,
        "seeds": seeds,
        "task": {"type": type(task).__qualname__, **sizes},
        "settings": trained,
    }
    return json.loads(json.dumps(about, default=str))


def _defaults(task: Task, config: TransformerConfig, settings: TrainSettings) -> dict[str, Any]:
    """What a checkpoint says that was written before there was a field."""
    parts = {"task": task, "model": config, "settings": settings}
    of = lambda part: (
        {f.name: f.default for f in fields(part) if f.default is not MISSING} if is_dataclass(part) else {}
    )
    return json.loads(json.dumps({**{name: of(part) for name, part in parts.items()}, "layout": "concatenated"}))


def _resumed(
    store: Checkpoints | None, state: PopulationState, about: dict[str, Any], defaults: dict[str, Any]
) -> PopulationState:
    """The state of the newest sound checkpoint, or `state`; the process that has the store tells the others.

    Raises:
      ValueError: if the checkpoints are of another population.
    """
    if store is not None:
        if (restored := store.restore()) is not None:
            _, leaves, stored = restored
            if differ := ", ".join(key for key in about if not _same(stored.get(key), about[key], defaults.get(key))):
                raise ValueError(f"the checkpoints are of another population: {differ} differ")
            state = unflatten(state, leaves)
        store.delete_corrupt()
    return mesh.broadcast_from_primary(state)


def _same(stored: Any, asked: Any, default: Any) -> bool:
    if isinstance(asked, dict) and isinstance(stored, dict):
        return {**{name: default[name] for name in asked if name in default}, **stored} == asked
    return (default if stored is None else stored) == asked


def _only_swept(points: list[dict[str, float]]) -> tuple[dict[str, float], ...]:
    """The combinations without the fields that take one value."""
    varying = [name for name in points[0] if len({point[name] for point in points}) > 1]
    return tuple({name: point[name] for name in varying} for point in points)


def load(workdir: str | Path, step: int | Sequence[int] | Literal["all"] | None = None) -> Population:
    """The trained members of a run, from its workdir, from a directory of checkpoints, or from one checkpoint there.

    Args:
      step: of which checkpoint; the newest sound one when left out. With several steps, or "all" that are there, the
        population has all members at the first, then all at the next, and `swept` says at which step: training as one
        more axis of members, `combination(i)` being those of a step.

    Raises:
      FileNotFoundError: if there is no readable checkpoint, or none of that step.
      ValueError: if the checkpoint of that step is unreadable.
    """
    directory = local(workdir, "workdir")
    if (directory / "checkpoints").is_dir():
        directory = directory / "checkpoints"
    if step is None and directory.name.isdecimal() and (directory / "state").is_dir():
        directory, step = directory.parent, int(directory.name)
    inside = sorted(path.name for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []
    if not any(name.isdecimal() for name in inside):
        points = [str(directory / name) for name in inside if any(map(_is_step, (directory / name).iterdir()))]
        holds = f"holds a sweep; load one of {', '.join(points)}" if points else "holds no checkpoints"
        raise FileNotFoundError(f"{workdir} {holds}")
    with contextlib.closing(Checkpoints(directory, create=False)) as store:
        if step is None:
            if (restored := store.restore()) is None:
                raise FileNotFoundError(f"no readable checkpoint under {workdir}")
            return _stored(*restored[1:])
        steps = store.steps if step == "all" else [step] if isinstance(step, int) else list(step)
        if not steps or not set(steps) <= set(store.steps):
            there = ", ".join(map(str, store.steps))
            raise FileNotFoundError(f"step={step}: {workdir} holds checkpoints of steps {there}, or 'all'")
        found = [_stored(*store.at(one)) for one in steps]
    if isinstance(step, int):
        return found[0]
    stacked = lambda *leaves: jnp.concatenate(leaves)
    one = found[0]
    swept = tuple({"step": at, **fields} for at, its in zip(steps, found, strict=True) for fields in its.swept)
    return replace(
        one,
        params=jax.tree.map(stacked, *(its.params for its in found)),
        swept=swept,
        diverged_at=stacked(*(its.diverged_at for its in found)),
        skipped=stacked(*(its.skipped for its in found)),
    )


def _stored(leaves: Mapping[str, Any], about: Mapping[str, Any]) -> Population:
    """The population of one checkpoint."""
    prefix = "member.params."
    of_member = {name.removeprefix(prefix): leaf for name, leaf in leaves.items() if name.startswith(prefix)}
    params = jax.tree.map(jnp.asarray, nested(of_member))
    config = TransformerConfig(**tuples(about["model"]))
    rates = {
        name: value for name, value in tuples(about["settings"]).items() if name in population.MemberHyperparams._fields
    }
    swept = _only_swept(population.combinations(TrainSettings(**rates), config.per_member))
    diverged_at, skipped = (jnp.asarray(leaves[f"member.{name}"]) for name in ("diverged_at", "skipped"))
    layout = _layout(about.get("layout", "concatenated"), about["d_input"], about["d_output"])
    return Population(config, layout, params, diverged_at, skipped, swept)


def _is_step(path: Path) -> bool:
    return path.name.isdecimal() and path.is_dir()


__all__ = ["Population", "TrainSettings", "load", "train"]
