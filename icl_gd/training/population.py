"""Training a population: `vmap` over members, `lax.scan` over the steps of a chunk, Python outside."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from icl_gd.types import Array

Params = Any
Batch = Any


@dataclass(frozen=True)
class TrainSettings:
    """How a population is trained; the defaults are those of von Oswald et al. for one layer.

    Attributes:
      steps, batch_size: length of training and prompts per step and member.
      learning_rate: of AdamW; `schedule` is "constant" or "cosine" (decaying to zero at the last step).
      clip: the gradient's global norm is clipped to this, before the optimiser.
      beta1, beta2, epsilon, weight_decay: of AdamW.
      share_batches: all members see the same batch at each step (common random numbers) instead of their own.
    """

    steps: int = 5000
    batch_size: int = 2048
    learning_rate: float = 1e-3
    schedule: str = "constant"
    clip: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-9
    weight_decay: float = 0.0
    share_batches: bool = False

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule={self.schedule!r} is unknown; choose from {', '.join(SCHEDULES)}")

    def optimizer(self) -> optax.GradientTransformation:
        rate = SCHEDULES[self.schedule](self.learning_rate, self.steps)
        adam = optax.adamw(rate, self.beta1, self.beta2, self.epsilon, weight_decay=self.weight_decay)
        return optax.chain(optax.clip_by_global_norm(self.clip), adam)


SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
    "constant": lambda rate, steps: optax.constant_schedule(rate),
    "cosine": optax.cosine_decay_schedule,
}


class State(NamedTuple):
    """What training changes. Batches are a function of (seed, step), so no key is carried."""

    params: Params  # every leaf has a leading member axis
    opt_state: Any
    step: Array


class Keys(NamedTuple):
    """The keys of a population `[member]`. A member's keys depend on its own seed alone."""

    init: Array
    data: Array


def member_keys(seed: int, seeds: int) -> Keys:
    """Keys of members `seed, seed + 1, ...`: member i is the population of one with base seed `seed + i`.

    They are the children of `key(seed + i)`: draw test prompts from another key.
    """
    roots = jax.vmap(jax.random.key)(jnp.arange(seed, seed + seeds, dtype=jnp.uint32))
    split = jax.vmap(jax.random.split)(roots)
    return Keys(split[:, 0], split[:, 1])


def start(init: Callable[[Array], Params], settings: TrainSettings, keys: Keys) -> State:
    """A fresh population at step 0."""
    params = jax.vmap(init)(keys.init)
    return State(params, jax.vmap(settings.optimizer().init)(params), jnp.zeros((), jnp.int32))


def make_chunk(
    draw: Callable[[Array], Batch],
    loss: Callable[[Params, Batch], Array],
    settings: TrainSettings,
) -> Callable[[State, Keys, int], tuple[State, Array]]:
    """Compiles `(state, keys, n_steps) -> (state, loss [step member])`, a scan over `n_steps` training steps.

    Args:
      draw: a key to one step's batch, any pytree.
      loss: `(params, batch) -> scalar` of one member.
    """
    optimizer = settings.optimizer()

    def member_chunk(params: Params, opt_state: Any, key: Array, first: Array, n_steps: int) -> tuple[Any, Array]:
        batch_of = lambda step: draw(jax.random.fold_in(key, step))

        def step(carry: tuple[Any, Any, Batch], number: Array) -> tuple[Any, Array]:
            # The next batch is drawn beside the step, and carried: what XLA may fuse into a step it computes again
            # for each of its uses, which on a CPU doubled the time of a step.
            params, opt_state, batch = carry
            value, gradient = jax.value_and_grad(loss)(params, batch)
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state, batch_of(number + 1)), value

        carry, losses = jax.lax.scan(step, (params, opt_state, batch_of(first)), first + jnp.arange(n_steps))
        return carry[:2], losses

    @partial(jax.jit, static_argnames="n_steps", donate_argnums=0)
    def chunk(state: State, keys: Keys, n_steps: int) -> tuple[State, Array]:
        one = partial(member_chunk, first=state.step, n_steps=n_steps)
        if settings.share_batches:
            batched = jax.vmap(lambda params, opt_state: one(params, opt_state, keys.data[0]))
            (params, opt_state), losses = batched(state.params, state.opt_state)
        else:
            # Members with batches of their own share nothing: on a CPU they run one after another, each in cache.
            at_once = 1 if jax.default_backend() == "cpu" else len(keys.data)
            members = state.params, state.opt_state, keys.data
            (params, opt_state), losses = jax.lax.map(lambda member: one(*member), members, batch_size=at_once)
        return State(params, opt_state, state.step + n_steps), losses.T

    return chunk


class Interrupted(Exception):
    """Training was asked to stop; `signal` is the number of the signal that asked."""

    def __init__(self, step: int, signal: int):
        super().__init__(f"interrupted at step {step}")
        self.step, self.signal = step, signal


def run_chunks(
    chunk: Callable[[State, Keys, int], tuple[State, Array]],
    state: State,
    keys: Keys,
    steps: int,
    chunk_steps: int,
    on_chunk: Callable[[State, Array], None] = lambda state, loss: None,
) -> State:
    """Trains up to step `steps` in chunks of `chunk_steps`, calling `on_chunk(state, loss [step member])` after each.

    Chunks end at multiples of `chunk_steps`, so a resumed run passes through the same states as an uninterrupted one.

    Raises:
      FloatingPointError: if a member's loss stops being finite.
    """
    done = int(state.step)
    while done < steps:
        n_steps = min(chunk_steps - done % chunk_steps, steps - done)
        state, loss = chunk(state, keys, n_steps)
        done += n_steps
        # The losses are those before each update; what the last update did shows in the parameters alone.
        if not all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in [loss, *jax.tree.leaves(state.params)]):
            raise FloatingPointError(f"training is not finite between steps {done - n_steps} and {done}")
        on_chunk(state, loss)
    return state
