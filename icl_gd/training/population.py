"""Population training: `vmap` over members, `lax.scan` over the steps of a chunk, a Python loop over chunks.

Training batches have their prompts in the *last* axis of every leaf.

>>> settings = TrainSettings(learning_rate=(1e-3, 1e-2))
>>> [point["learning_rate"] for point in combinations(settings, {"init_scale": 0.5})]
[0.001, 0.01]
>>> members = member_specs(seed=0, seeds=3, settings=settings, per_member={"init_scale": 0.5})
>>> members.rates.learning_rate.shape, members.data.shape
((6,), (6,))
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

from icl_gd.programs import cached_by_value, quick_jit
from icl_gd.schema import Count, OneOf, Size, check, checked
from icl_gd.training.curriculum import Curriculum
from icl_gd.training.mesh import ALL, DATA, LOSSES, MEMBERS, PROMPTS, Placement
from icl_gd.types import Array, Scalar

Params = Any
Batch = Any
Draw = Callable[[Array, Array], Batch]  # (key, step) -> batch
Loss = Callable[[Params, Batch], Array]  # (params, batch) -> scalar
Init = Callable[[Array, Mapping[str, Array]], Params]  # (key, values of the model's fields) -> params
Update = Callable[[Any, Batch, Array], tuple[Any, Array]]  # (member, batch, step) -> (member, loss)
Chunk = Callable[["PopulationState", "MemberSpecs", int], tuple["PopulationState", Array]]  # see `make_chunk`
Values = Scalar | tuple[float, ...]  # one value, or values to sweep over

FORMS = ("auto", "tokens", "gram", "query")
PATIENCE = 5  # a member has diverged after this many consecutive non-finite steps
SCHEDULES: dict[str, Callable[[Any, int], optax.Schedule]] = {
    "constant": lambda rate, steps: optax.constant_schedule(rate),
    "cosine": optax.cosine_decay_schedule,
    "linear": lambda rate, steps: optax.linear_schedule(rate, 0.0, steps),
}
ADAMW_FIELDS = ("beta1", "beta2", "epsilon", "weight_decay")
SGD_FIELDS = ("momentum",)


@dataclass(frozen=True)
class TrainSettings:
    """The settings of population training. The defaults are those of von Oswald et al. for one layer.

    The fields of `MemberHyperparams` also accept a tuple of values to sweep over (see `combinations`).

    Attributes:
      steps: number of training steps.
      batch_size: prompts per step and member.
      optimizer: "adamw", or "sgd" with `momentum`.
      learning_rate: learning rate of the optimiser.
      schedule: schedule of the learning rate: "constant", or a "cosine" or "linear" decay to zero at the last step.
      warmup: steps in which the learning rate rises linearly from zero, before the schedule. Default: 0, no warmup.
      clip: the global norm to which gradients are clipped before the optimiser uses them. None: no clipping.
      beta1, beta2, epsilon, weight_decay: parameters of AdamW.
      momentum: momentum of SGD: the fraction of the last update that is added to the next.
      share_batches: train all members on the same batch in each step (common random numbers). Otherwise each member
        has separate batches.
      form: how the loss is computed: from all "tokens", from their "gram" matrix, or only at the "query" token. "auto"
        chooses the fastest exact form.
      curriculum: numbers of active inputs and of points in each step, for training on all prefixes. Default: None, all.
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
        unused, owner = (SGD_FIELDS, "SGD") if self.optimizer == "adamw" else (ADAMW_FIELDS, "AdamW")
        for name in unused:
            value, default = getattr(self, name), getattr(TrainSettings, name)
            if value != default:
                raise ValueError(
                    f"{name}={value} is a parameter of {owner}; with optimizer={self.optimizer} leave it at {default}"
                )

    @property
    def program_settings(self) -> "TrainSettings":
        """These settings, with every field that does not affect the compiled step reset to its default.

        The hyperparameters of members are arguments of the program. A constant schedule does not depend on `steps`.
        """
        is_constant = self.schedule == "constant" and not self.warmup
        unused = (*MemberHyperparams._fields, "steps") if is_constant else MemberHyperparams._fields
        return replace(self, **{name: getattr(TrainSettings, name) for name in unused})

    def transformation(self, rates: "MemberHyperparams") -> optax.GradientTransformation:
        """The gradient transformation of one member: clipping, then the optimiser.

        Args:
          rates: scalar hyperparameters of the member, used instead of the same fields of `self`.

        Returns:
          An optax transformation.
        """
        schedule = SCHEDULES[self.schedule](rates.learning_rate, self.steps - self.warmup)
        if self.warmup:
            rising = optax.linear_schedule(0.0, rates.learning_rate, self.warmup)
            schedule = optax.join_schedules([rising, schedule], [self.warmup])
        if self.optimizer == "sgd":
            optimizer = optax.sgd(schedule, rates.momentum)
        else:
            optimizer = optax.adamw(schedule, rates.beta1, rates.beta2, self.epsilon, weight_decay=rates.weight_decay)
        return optax.chain(optax.clip_by_global_norm(rates.clip), optimizer)


class MemberHyperparams(NamedTuple):
    """The settings that may differ between members; each field is `[member]`."""

    learning_rate: Array
    clip: Array
    beta1: Array
    beta2: Array
    weight_decay: Array
    momentum: Array


def combinations(settings: TrainSettings, per_member: Mapping[str, Values]) -> list[dict[str, float]]:
    """The combinations of a sweep: the Cartesian product of all tuples, in which the last field varies fastest.

    Args:
      settings: tuples in the fields of `MemberHyperparams` are swept over.
      per_member: fields of the model that may differ between members, as `TransformerConfig.per_member`; tuples are
        swept over.

    Returns:
      A dict for each combination, with the value of every field. Without tuples there is one combination.
    """
    fields: dict[str, Any] = {name: getattr(settings, name) for name in MemberHyperparams._fields} | dict(per_member)
    values = [value if isinstance(value, tuple) else (value,) for value in fields.values()]
    return [dict(zip(fields, point, strict=True)) for point in product(*values)]


class MemberState(NamedTuple):
    """The state of one member, updated by training. In a population, every leaf has a leading member axis."""

    params: Params
    opt_state: Any
    skipped: Array  # number of steps that were skipped because the loss or the new weights were not finite
    in_a_row: Array  # number of consecutive skipped steps up to now
    diverged_at: Array  # first of `PATIENCE` consecutive skipped steps; the member is then frozen. -1: not diverged


class PopulationState(NamedTuple):
    """A population at a training step. No random key is stored: the step and `MemberSpecs.data` determine the batch."""

    member: MemberState
    step: Array


class MemberSpecs(NamedTuple):
    """The keys, hyperparameters and model values of members; every leaf is `[member]`.

    The keys of a member depend only on its seed, unless members share batches.
    """

    init: Array  # keys of the initial weights
    data: Array  # keys of the batches
    rates: MemberHyperparams
    model_values: dict[str, Array]  # values of the model's fields that may differ


def member_specs(seed: int, seeds: int, settings: TrainSettings, per_member: Mapping[str, Values]) -> MemberSpecs:
    """The members of a population: for every combination of swept values, the seeds `seed, seed + 1, ...`.

    The keys of a member are split from `jax.random.key` of its seed, so draw test prompts from another key.

    Args:
      seed: the first seed.
      seeds: members per combination.
      settings: hyperparameters, and whether members share batches. If so, all have the data key of the first member.
      per_member: fields of the model that may differ between members, as `TransformerConfig.per_member`.

    Returns:
      The specs of all members, `seeds` for each combination. `clip=None` becomes infinity.
    """
    points = combinations(settings, per_member)
    init, data = _keys(np.arange(seed, seed + seeds, dtype=np.uint32), settings.share_batches, len(points))

    def member_values(name: str) -> Array:
        """The values of a field `[member]`."""
        numbers = [np.inf if point[name] is None else point[name] for point in points]
        return jnp.asarray(np.repeat(numbers, seeds), float)

    values = {name: member_values(name) for name in points[0]}
    rates = MemberHyperparams(*(values.pop(name) for name in MemberHyperparams._fields))
    return MemberSpecs(init, data, rates, values)


@partial(jax.jit, static_argnums=(1, 2))
def _keys(seeds: Array, share_batches: bool, n_points: int) -> tuple[Array, Array]:
    """The keys of initial weights and of data, both `[member]`."""
    init, data = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)), out_axes=1)(seeds)
    data = jnp.broadcast_to(data[0], data.shape) if share_batches else data
    return jnp.tile(init, n_points), jnp.tile(data, n_points)


def start(init: Init, settings: TrainSettings, members: MemberSpecs) -> PopulationState:
    """A population with initial weights, at step 0.

    Args:
      init: `(key, model_values) -> params` of one member.
      settings: the optimiser.
      members: keys and hyperparameters of the members.

    Returns:
      The state; the leaves of `member` are `[member ...]`.
    """
    params, opt_state = _starter(init, settings.program_settings)(members.init, members.rates, members.model_values)

    def filled(value: int) -> Array:
        # The state is donated to the compiled chunk, so no two leaves may share a buffer.
        return jnp.full(len(members.data), value, jnp.int32)

    member = MemberState(params, opt_state, skipped=filled(0), in_a_row=filled(0), diverged_at=filled(-1))
    return PopulationState(member, jnp.zeros((), jnp.int32))


@cached_by_value
def _starter(init: Init, settings: TrainSettings) -> Callable[..., tuple[Params, Any]]:
    """The compiled initialisation of all members."""

    def init_member(key: Array, rates: MemberHyperparams, model_values: Mapping[str, Array]) -> tuple[Params, Any]:
        params = init(key, model_values)
        return params, settings.transformation(rates).init(params)

    return quick_jit(jax.vmap(init_member))


# On CPU, XLA removes optimisation barriers too early, before the passes that they are to restrain (see
# `models.transformer`). This option keeps the barriers.
KEEP_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}
# Runs with fast compilation switch off the fusion emitters of XLA; for chunks, this option switches them on. Without
# fusion emitters, a short loop rounds differently from a long one: results would depend on the lengths of chunks.
TO_THE_BIT = {"xla_cpu_use_fusion_emitters": True}


def _mean_over_data(tree: Any) -> Any:
    """The mean of all leaves over the devices of the data axis, by one collective operation.

    Devices wait for each other at every collective operation. For small leaves, waiting takes longer than summing.
    """
    flat, unflatten = ravel_pytree(tree)
    return unflatten(jax.lax.pmean(flat, DATA))


def _make_update(
    loss: Loss, settings: TrainSettings, over_data: bool
) -> Callable[[MemberState, MemberHyperparams, Batch, Array], tuple[MemberState, Array]]:
    """The training step of one member: `(member, rates, batch, step) -> (member, loss)`.

    A step that is not finite is skipped: the weights do not change, and the reported loss is nan. With `over_data`, the
    batch is split over devices, and loss and gradient are averaged over the data axis.
    """

    def update(member: MemberState, rates: MemberHyperparams, batch: Batch, step: Array) -> tuple[MemberState, Array]:
        local = jax.value_and_grad(loss)(member.params, batch)
        value, gradient = _mean_over_data(local) if over_data else local
        updates, opt_state = settings.transformation(rates).update(gradient, member.opt_state, member.params)
        params = optax.apply_updates(member.params, updates)
        # The squared gradient norm is checked too: if it overflows, clipping makes the gradient zero. The weights would
        # then stay finite, but the member would not learn.
        squared_norm = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))
        must_be_finite = [value, squared_norm, *jax.tree.leaves(params)]
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in must_be_finite]))
        active = member.diverged_at < 0
        new, old = (params, opt_state), (member.params, member.opt_state)
        params, opt_state = jax.tree.map(partial(jnp.where, active & finite), new, old)
        in_a_row = jnp.where(finite, 0, member.in_a_row + active)
        diverges = active & (in_a_row == PATIENCE)
        diverged_at = jnp.where(diverges, step - (PATIENCE - 1), member.diverged_at)
        skipped = member.skipped + (active & ~finite)
        reported = jnp.where(active & finite, value, jnp.nan)
        return MemberState(params, opt_state, skipped, in_a_row, diverged_at), reported

    return update


def _scan(
    update: Update, draw_at: Callable[[Array], Batch], member: MemberState, steps: Array
) -> tuple[MemberState, Array]:
    """Trains one member, or several together, for the given steps; `draw_at(step)` draws a batch.

    Each step draws the batch for the next step and passes it on in the carry. If a step used the batch that it draws,
    XLA would fuse the drawing into every use of the batch and repeat it, which doubled the time of a step on CPU.
    """

    def body(carry: tuple[MemberState, Batch], step: Array) -> tuple[tuple[MemberState, Batch], Array]:
        member, batch = carry
        member, loss = update(member, batch, step)
        return (member, draw_at(step + 1)), loss

    (member, _), losses = jax.lax.scan(body, (member, draw_at(steps[0])), steps)
    return member, losses


def make_chunk(
    draw: Draw, loss: Loss, settings: TrainSettings, placement: Placement, side_by_side: bool = True
) -> Chunk:
    """Compiles a chunk of training: a scan over `n_steps` steps of all members.

    If a step makes a member's loss or weights infinite or nan, the member skips this step: its reported loss is nan,
    and it does not change. The other members are unaffected. So a run continues if a deep network overflows on one
    prompt in many millions. After `PATIENCE` consecutive skipped steps, a member has diverged and is frozen.

    Args:
      draw: `(key, step) -> batch`, a pytree with the prompts in the last axis of every leaf; steps count from 0.
      loss: `(params, batch) -> scalar` of one member, a mean over prompts.
      settings: the optimiser, and whether members share batches.
      placement: the distribution of members and prompts over devices.
      side_by_side: for members that share batches, whether a step is computed for all of them together, by `vmap`.
        Default: True. False: on CPU one after another, so that each stays in cache; on other devices by `vmap` too.

    Returns:
      `(state, members, n_steps) -> (state, losses [step member])`. The argument `state` is donated.
    """
    return _chunk(draw, loss, settings.program_settings, placement, side_by_side)


# (member, members, steps) -> (member, losses [step member])
Loop = Callable[[MemberState, MemberSpecs, Array], tuple[MemberState, Array]]


@cached_by_value
def _chunk(draw: Draw, loss: Loss, settings: TrainSettings, placement: Placement, side_by_side: bool) -> Chunk:
    """`make_chunk`, cached by value."""
    on_cpu = jax.default_backend() == "cpu"
    update = _make_update(loss, settings, placement.data > 1)
    own_loop = _loop_with_own_batches(draw, update, placement, one_by_one=on_cpu)
    shared_loop = _loop_with_shared_batches(draw, update, placement, one_by_one=on_cpu and not side_by_side)

    @cache  # because `jax.pmap` compiles again for every new function object
    def make_loop(shares_batches: bool) -> Loop:
        loop = shared_loop if shares_batches else own_loop
        if placement.mode == "pmap":
            return placement.pmapped(loop)
        if placement.mode == "none" or shares_batches:
            return loop
        return placement.shard_map(loop, (MEMBERS, MEMBERS, ALL), (MEMBERS, LOSSES))

    def chunk(state: PopulationState, members: MemberSpecs, n_steps: int) -> tuple[PopulationState, Array]:
        steps = state.step + jnp.arange(n_steps, dtype=state.step.dtype)
        shares_batches = settings.share_batches or len(members.data) == 1
        member, losses = make_loop(shares_batches)(state.member, members, steps)
        return PopulationState(member, state.step + n_steps), losses

    if placement.mode == "pmap":
        return chunk
    # The result has the same sharding as the argument; otherwise the second call would compile again.
    state_shardings = PopulationState._make((placement.sharding(MEMBERS), placement.sharding(ALL)))
    return jax.jit(
        chunk,
        static_argnames="n_steps",
        donate_argnums=0,
        out_shardings=(state_shardings, placement.sharding(ALL)),
        compiler_options=KEEP_BARRIERS | TO_THE_BIT if on_cpu else None,
    )


def _loop_with_own_batches(draw: Draw, update: Callable, placement: Placement, one_by_one: bool) -> Loop:
    """The training loop of members that have separate batches, on one device.

    With `one_by_one`, each member runs all steps before the next member begins, so that it stays in cache.
    """

    def own(member: MemberState, members: MemberSpecs, steps: Array) -> tuple[MemberState, Array]:
        def train_one(state_and_specs: tuple[MemberState, MemberSpecs]) -> tuple[MemberState, Array]:
            member, specs = state_and_specs

            def draw_at(step: Array) -> Batch:
                return placement.local_shard(draw(jax.random.fold_in(specs.data, step), step))

            def update_at(member: MemberState, batch: Batch, step: Array) -> tuple[MemberState, Array]:
                return update(member, specs.rates, batch, step)

            return _scan(update_at, draw_at, member, steps)

        n_at_once = 1 if one_by_one else len(members.data)
        member, losses = jax.lax.map(train_one, (member, members), batch_size=n_at_once)
        return member, losses.T

    return own


def _loop_with_shared_batches(draw: Draw, update: Callable, placement: Placement, one_by_one: bool) -> Loop:
    """The training loop of members that share batches, which are drawn with the data key of the first member."""

    def update_each(
        member: MemberState, rates: MemberHyperparams, batch: Batch, step: Array
    ) -> tuple[MemberState, Array]:
        def update_one(state_and_rates: tuple[MemberState, MemberHyperparams]) -> tuple[MemberState, Array]:
            member, rates = state_and_rates
            return update(member, rates, batch, step)

        return jax.lax.map(update_one, (member, rates)) if one_by_one else jax.vmap(update_one)((member, rates))

    def shared(member: MemberState, members: MemberSpecs, steps: Array) -> tuple[MemberState, Array]:
        update_all, select = update_each, placement.local_shard
        if placement.mode == "jit":
            # The batch is drawn outside of the shard_map, so that the compiler distributes the drawing: each device of
            # the data axis draws only its own prompts.
            update_all = placement.shard_map(update_each, (MEMBERS, MEMBERS, PROMPTS, ALL), (MEMBERS, MEMBERS))
            select = placement.constrain

        def draw_at(step: Array) -> Batch:
            return select(draw(jax.random.fold_in(members.data[0], step), step))

        def update_at(member: MemberState, batch: Batch, step: Array) -> tuple[MemberState, Array]:
            return update_all(member, members.rates, batch, step)

        return _scan(update_at, draw_at, member, steps)

    return shared


class Interrupted(Exception):
    """Training was stopped on request.

    Attributes:
      step: the step of the state that was saved.
      signal: the number of the signal that requested the stop.
    """

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
    """Trains a population up to step `steps`, in chunks.

    Chunks end at multiples of `chunk_steps`, so a resumed run passes through the same states as an uninterrupted one.

    Args:
      chunk: the compiled chunk, from `make_chunk`.
      state: the population; it is donated.
      members: the specs of the members.
      steps: the step at which training ends. If the state is at this step or a later one, nothing is done.
      chunk_steps: the number of steps of a full chunk.
      on_chunk: called after each chunk, as `on_chunk(state, loss [step member])`.
      at_powers: whether the first chunk is also divided at 1, 2, 4, 8, ... steps. Default: False.

    Returns:
      The population at the last step.
    """
    done = int(state.step)
    while done < steps:
        n_steps = min(chunk_steps - done % chunk_steps, steps - done)
        if at_powers and done < chunk_steps:
            n_steps = min(n_steps, 2 ** done.bit_length() - done)
        state, loss = chunk(state, members, n_steps)
        done += n_steps
        jax.block_until_ready(loss)  # on CPU devices, queued programs with collective operations deadlock
        on_chunk(state, loss)
    return state
