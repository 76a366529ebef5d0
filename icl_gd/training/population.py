"""Training a population: `vmap` over members, `lax.scan` over the steps of a chunk, Python outside.

A training batch has its prompts in the *last* axis of every leaf.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from annotated_types import Ge, Gt, Le, Lt
from jax.flatten_util import ravel_pytree

from icl_gd.programs import brief, kept
from icl_gd.schema import Count, OneOf, Size, check, checked
from icl_gd.training.curriculum import Curriculum
from icl_gd.training.mesh import ALL, DATA, LOSSES, MEMBERS, PROMPTS, Placement
from icl_gd.types import Array, Scalar

Params = Any
Batch = Any
Draw = Callable[[Array, Array], Batch]
Loss = Callable[[Params, Batch], Array]
Step = Callable[[Any, Batch, Array], tuple[Any, Array]]
Chunk = Callable[["PopulationState", "MemberSpecs", int], tuple["PopulationState", Array]]
Values = Scalar | tuple[float, ...]

FORMS = ("auto", "tokens", "gram", "query")
PATIENCE = 5  # steps in a row that are not finite, with which a member has diverged
SCHEDULES: dict[str, Callable[[Any, int], optax.Schedule]] = {
    "constant": lambda rate, steps: optax.constant_schedule(rate),
    "cosine": optax.cosine_decay_schedule,
    "linear": lambda rate, steps: optax.linear_schedule(rate, 0.0, steps),
}
OF_ADAMW = ("beta1", "beta2", "epsilon", "weight_decay"), "AdamW"
OF_SGD = ("momentum",), "SGD"


@dataclass(frozen=True)
class TrainSettings:
    """How a population is trained; the defaults are those of von Oswald et al. for one layer.

    A tuple in place of a number is swept over, in the fields of `MemberHyperparams`: see `combinations`.

    Attributes:
      steps, batch_size: length of training and prompts per step and member.
      optimizer: "adamw", or "sgd", which takes plain gradient steps, with `momentum`.
      learning_rate: of the optimiser.
      schedule: of the learning rate, "constant", or "cosine" or "linear", which decay to zero at the last step.
      warmup: steps over which the learning rate rises from zero before the schedule begins; 0 begins with it.
      clip: the gradient's global norm is clipped to this, before the optimiser; None does not clip.
      beta1, beta2, epsilon, weight_decay: of AdamW alone.
      momentum: of SGD alone: what is left of the last step in the next one.
      share_batches: all members see the same batch at each step (common random numbers) instead of their own.
      form: the network runs on "tokens" or, where that is exact, on their "gram" or on the "query" alone; "auto"
        takes the fastest that is exact.
      curriculum: of training on all prefixes: how many inputs and points a step has; all when left out.
    """

    steps: Annotated[int, Ge(1), Le(2**31 - 1)] = 5000
    batch_size: Size = 2048
    optimizer: Annotated[str, OneOf(("adamw", "sgd"))] = "adamw"
    learning_rate: Annotated[Values, Gt(0), Le(1e30)] = 1e-3
    schedule: Annotated[str, OneOf(SCHEDULES)] = "constant"
    warmup: Annotated[int, Ge(0), Le(2**31 - 1)] = 0
    clip: Annotated[Values | None, Gt(0)] = 1e-3
    beta1: Annotated[Values, Ge(0), Lt(1)] = 0.9
    beta2: Annotated[Values, Ge(0), Lt(1)] = 0.98
    epsilon: Annotated[float, Gt(0)] = 1e-9
    weight_decay: Annotated[Values, Ge(0)] = 0.0
    momentum: Annotated[Values, Ge(0), Lt(1)] = 0.0
    share_batches: bool = False
    form: Annotated[str, OneOf(FORMS)] = "auto"
    curriculum: Curriculum | None = None

    def __post_init__(self):
        check(self)
        if self.warmup >= self.steps:
            raise ValueError(f"warmup={self.warmup} must be below steps={self.steps}")
        others, of = OF_SGD if self.optimizer == "adamw" else OF_ADAMW
        for name in others:
            if (value := getattr(self, name)) != (default := getattr(TrainSettings, name)):
                raise ValueError(f"{name}={value} is of {of}; with optimizer={self.optimizer} leave it at {default}")

    @property
    def of_program(self) -> "TrainSettings":
        """These settings as far as a compiled step depends on them: rates are its arguments."""
        constant = self.schedule == "constant" and not self.warmup
        alike = (*MemberHyperparams._fields, "steps") if constant else MemberHyperparams._fields
        return replace(self, **{name: getattr(TrainSettings, name) for name in alike})

    def transformation(self, rates: "MemberHyperparams") -> optax.GradientTransformation:
        """The optimiser of one member, behind its clip."""
        schedule = SCHEDULES[self.schedule](rates.learning_rate, self.steps - self.warmup)
        if self.warmup:
            rising = optax.linear_schedule(0.0, rates.learning_rate, self.warmup)
            schedule = optax.join_schedules([rising, schedule], [self.warmup])
        if self.optimizer == "sgd":
            steps = optax.sgd(schedule, rates.momentum)
        else:
            steps = optax.adamw(schedule, rates.beta1, rates.beta2, self.epsilon, weight_decay=rates.weight_decay)
        return optax.chain(optax.clip_by_global_norm(rates.clip), steps)


class MemberHyperparams(NamedTuple):
    """The settings that members of one population may differ in `[member]`."""

    learning_rate: Array
    clip: Array
    beta1: Array
    beta2: Array
    weight_decay: Array
    momentum: Array


def combinations(settings: TrainSettings, of_model: Mapping[str, Values]) -> list[dict[str, float]]:
    """The product of all tuples of `MemberHyperparams` and of what models differ in, the last field fastest; one
    without tuples has one."""
    fields: dict[str, Any] = {name: getattr(settings, name) for name in MemberHyperparams._fields} | dict(of_model)
    values = [value if isinstance(value, tuple) else (value,) for value in fields.values()]
    return [dict(zip(fields, point, strict=True)) for point in product(*values)]


class MemberState(NamedTuple):
    """What training changes of one member; of a population, every leaf has a leading member axis."""

    params: Params
    opt_state: Any
    skipped: Array  # steps that would not have been finite, and were not taken
    in_a_row: Array  # of these, the last ones
    diverged_at: Array  # the first of `PATIENCE` such steps in a row, before which the member is frozen; -1 otherwise


class PopulationState(NamedTuple):
    """A population at a step. Batches are a function of (seed, step), so no key is carried."""

    member: MemberState
    step: Array


class MemberSpecs(NamedTuple):
    """What makes the members of a population differ `[member]`. Keys depend on a member's own seed alone."""

    init: Array
    data: Array
    rates: MemberHyperparams
    of_model: dict[str, Array]  # what models differ in


def members_of(seed: int, seeds: int, settings: TrainSettings, of_model: Mapping[str, Values]) -> MemberSpecs:
    """For every combination in turn, members of seeds `seed, seed + 1, ...`.

    Their keys are the children of `key(seed + i)`: draw test prompts from another key.
    """
    points = combinations(settings, of_model)
    init, data = _keys(np.arange(seed, seed + seeds, dtype=np.uint32), settings.share_batches, len(points))
    unbounded = lambda value: np.inf if value is None else value  # a clip that is not there
    number = lambda name: [unbounded(point[name]) for point in points]
    values = {name: jnp.asarray(np.repeat(number(name), seeds), float) for name in points[0]}
    return MemberSpecs(init, data, MemberHyperparams(*map(values.pop, MemberHyperparams._fields)), values)


@partial(jax.jit, static_argnums=(1, 2))
def _keys(seeds: Array, share_batches: bool, n_points: int) -> tuple[Array, Array]:
    """Keys of initial weights and of data `[member]`."""
    init, data = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)), out_axes=1)(seeds)
    data = jnp.broadcast_to(data[0], data.shape) if share_batches else data
    return jnp.tile(init, n_points), jnp.tile(data, n_points)


Init = Callable[[Array, Mapping[str, Array]], Params]


def start(init: Init, settings: TrainSettings, members: MemberSpecs) -> PopulationState:
    """A fresh population at step 0; `init` takes a key and what its model differs in."""
    params, opt_state = _starter(init, settings.of_program)(members.init, members.rates, members.of_model)
    every = lambda value: jnp.full(len(members.data), value, jnp.int32)  # buffers of their own: each is given away
    return PopulationState(MemberState(params, opt_state, every(0), every(0), every(-1)), jnp.zeros((), jnp.int32))


# On a CPU the compiler takes out what keeps it from computing sums again (`models.transformer`) before it might.
KEEP_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}
# Without these emitters, which runs that compile quickly go without, a loop of few steps rounds otherwise than a long
# one: chunks would not be the whole to the bit.
TO_THE_BIT = {"xla_cpu_use_fusion_emitters": True}


@kept
def _starter(init: Init, settings: TrainSettings) -> Callable[..., tuple[Params, Any]]:
    def fresh(key: Array, rates: MemberHyperparams, of_model: Mapping[str, Array]) -> tuple[Params, Any]:
        params = init(key, of_model)
        return params, settings.transformation(rates).init(params)

    return brief(jax.vmap(fresh))


def _mean_over_data(found: Any) -> Any:
    """Of all leaves at once: devices wait for each other at every sum, which takes longer than small sums."""
    flat, unflatten = ravel_pytree(found)
    return unflatten(jax.lax.pmean(flat, DATA))


def _update(
    loss: Loss, settings: TrainSettings, over_data: bool
) -> Callable[[MemberState, MemberHyperparams, Batch, Array], tuple[MemberState, Array]]:
    """One step of one member, `(member, rates, batch, number) -> (member, loss)`; what is not finite is not taken."""

    def update(member: MemberState, rates: MemberHyperparams, batch: Batch, number: Array) -> tuple[MemberState, Array]:
        found = jax.value_and_grad(loss)(member.params, batch)
        value, gradient = _mean_over_data(found) if over_data else found
        updates, opt_state = settings.transformation(rates).update(gradient, member.opt_state, member.params)
        params = optax.apply_updates(member.params, updates)
        # Of a gradient whose norm overflows the clip makes zero: weights stay finite, and learn nothing.
        square = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))
        watched = [value, square, *jax.tree.leaves(params)]
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in watched]))
        going = member.diverged_at < 0
        new, old = (params, opt_state), (member.params, member.opt_state)
        params, opt_state = jax.tree.map(partial(jnp.where, going & finite), new, old)
        in_a_row = jnp.where(finite, 0, member.in_a_row + going)
        gone = going & (in_a_row == PATIENCE)
        diverged_at = jnp.where(gone, number - (PATIENCE - 1), member.diverged_at)
        skipped = member.skipped + (going & ~finite)
        return MemberState(params, opt_state, skipped, in_a_row, diverged_at), jnp.where(going & finite, value, jnp.nan)

    return update


def _scan(
    step: Step, batch_of: Callable[[Array], Batch], member: MemberState, numbers: Array
) -> tuple[MemberState, Array]:
    """Steps of a member, or of several, one after another; `batch_of` draws the batch of a number."""

    def body(carry: tuple[MemberState, Batch], number: Array) -> tuple[tuple[MemberState, Batch], Array]:
        # The next batch is drawn beside the step, and carried: what XLA may fuse into a step it computes again
        # for each of its uses, which on a CPU doubled the time of a step.
        member, batch = carry
        member, value = step(member, batch, number)
        return (member, batch_of(number + 1)), value

    (member, _), losses = jax.lax.scan(body, (member, batch_of(numbers[0])), numbers)
    return member, losses


def make_chunk(
    draw: Draw, loss: Loss, settings: TrainSettings, placement: Placement, side_by_side: bool = True
) -> Chunk:
    """Compiles `(state, members, n_steps) -> (state, loss [step member])`, a scan over `n_steps` training steps.

    A step with which a member's loss or weights would stop being finite is not taken: its loss is nan, the member stays
    as it was, and nothing changes for the others. One prompt in many millions on which a deep network overflows ends no
    run so; a member with `PATIENCE` such steps in a row has diverged, and stays as it is for good.

    Args:
      draw: a key and the number of its step, from zero, to a batch: any pytree with prompts in the last axis of leaves.
      loss: `(params, batch) -> scalar` of one member, a mean over prompts.
      placement: over which devices members and prompts are spread.
      side_by_side: whether members that share a batch gain by meeting it together, as in one matrix product. On a CPU
        those that do not take turns, each in cache.
    """
    return _chunk(draw, loss, settings.of_program, placement, side_by_side)


@kept
def _chunk(draw: Draw, loss: Loss, settings: TrainSettings, placement: Placement, side_by_side: bool) -> Chunk:
    on_cpu = jax.default_backend() == "cpu"
    update = _update(loss, settings, placement.data > 1)

    def own(member: MemberState, members: MemberSpecs, numbers: Array) -> tuple[MemberState, Array]:
        """Members with batches of their own share nothing: on a CPU each takes all steps before the next one does."""

        def one(both: tuple[MemberState, MemberSpecs]) -> tuple[MemberState, Array]:
            member, its = both
            batch_of = lambda number: placement.local_shard(draw(jax.random.fold_in(its.data, number), number))
            return _scan(lambda m, batch, number: update(m, its.rates, batch, number), batch_of, member, numbers)

        member, losses = jax.lax.map(one, (member, members), batch_size=1 if on_cpu else len(members.data))
        return member, losses.T

    def shared(member: MemberState, members: MemberSpecs, numbers: Array) -> tuple[MemberState, Array]:
        """Members whose data keys are one key."""

        def every(
            member: MemberState, rates: MemberHyperparams, batch: Batch, number: Array
        ) -> tuple[MemberState, Array]:
            one = lambda both: update(both[0], both[1], batch, number)
            return jax.lax.map(one, (member, rates)) if on_cpu and not side_by_side else jax.vmap(one)((member, rates))

        step, part = every, placement.local_shard
        if placement.mode == "jit":  # the compiler spreads the drawing of the batch too, so that it is drawn once
            step = placement.shard_map(every, (MEMBERS, MEMBERS, PROMPTS, ALL), (MEMBERS, MEMBERS))
            part = placement.constrain
        batch_of = lambda number: part(draw(jax.random.fold_in(members.data[0], number), number))
        return _scan(lambda m, batch, number: step(m, members.rates, batch, number), batch_of, member, numbers)

    @cache
    def run(one_batch: bool) -> Callable[[MemberState, MemberSpecs, Array], tuple[MemberState, Array]]:
        if placement.mode == "pmap":
            return placement.pmapped(shared if one_batch else own)
        if placement.mode == "none" or one_batch:
            return shared if one_batch else own
        return placement.shard_map(own, (MEMBERS, MEMBERS, ALL), (MEMBERS, LOSSES))

    def chunk(state: PopulationState, members: MemberSpecs, n_steps: int) -> tuple[PopulationState, Array]:
        numbers = state.step + jnp.arange(n_steps, dtype=state.step.dtype)
        member, losses = run(settings.share_batches or len(members.data) == 1)(state.member, members, numbers)
        return PopulationState(member, state.step + n_steps), losses

    if placement.mode == "pmap":
        return chunk
    # The state comes back lying as it was put, or the second call would compile again.
    lies = PopulationState._make(map(placement.sharding, (MEMBERS, ALL))), placement.sharding(ALL)
    return jax.jit(
        chunk,
        static_argnames="n_steps",
        donate_argnums=0,
        out_shardings=lies,
        compiler_options=KEEP_BARRIERS | TO_THE_BIT if on_cpu else None,
    )


class Interrupted(Exception):
    """Training was asked to stop; `signal` is the number of the signal that asked."""

    def __init__(self, step: int, signal: int):
        super().__init__(f"interrupted at step {step}")
        self.step, self.signal = step, signal


@checked
def run_chunks(
    chunk: Chunk,
    state: PopulationState,
    members: MemberSpecs,
    steps: Count,
    chunk_steps: Size,
    on_chunk: Callable[[PopulationState, Array], None] = lambda state, loss: None,
    at_powers: bool = False,
) -> PopulationState:
    """Trains up to step `steps` in chunks of `chunk_steps`, calling `on_chunk(state, loss [step member])` after each.

    Chunks end at multiples of `chunk_steps`, so a resumed run passes through the same states as an uninterrupted one.

    Args:
      at_powers: whether the first chunk is cut at 1, 2, 4, 8, ... steps.
    """
    done = int(state.step)
    while done < steps:
        n_steps = min(chunk_steps - done % chunk_steps, steps - done)
        if at_powers and done < chunk_steps:
            n_steps = min(n_steps, 2 ** done.bit_length() - done)
        state, loss = chunk(state, members, n_steps)
        done += n_steps
        jax.block_until_ready(loss)  # programs with collectives must not queue up: on CPU devices they deadlock
        on_chunk(state, loss)
    return state
