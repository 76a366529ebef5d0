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
    """Keys of members `seed, seed + 1, ...`: member i is the population of one with base seed `seed + i`."""
    roots = jax.vmap(jax.random.key)(jnp.arange(seed, seed + seeds, dtype=jnp.uint32))
    split = jax.vmap(jax.random.split)(roots)
    return Keys(split[:, 0], split[:, 1])


def start(init: Callable[[Array], Params], settings: TrainSettings, keys: Keys) -> State:
    """A fresh population at step 0."""
    params = jax.vmap(init)(keys.init)
    return State(params, jax.vmap(settings.optimizer().init)(params), jnp.zeros((), jnp.int32))


def make_chunk(
    sample: Callable[[Array], Batch],
    loss: Callable[[Params, Batch], Array],
    settings: TrainSettings,
) -> Callable[[State, Keys, int], tuple[State, Array]]:
    """Compiles `(state, keys, n_steps) -> (state, loss [step member])`, a scan over `n_steps` training steps.

    Args:
      sample: a key to one problem; batched here.
      loss: `(params, one problem) -> scalar`; averaged over the batch here.
    """
    optimizer = settings.optimizer()

    def batch(key: Array) -> Batch:
        return jax.vmap(sample)(jax.random.split(key, settings.batch_size))

    def update(params: Params, opt_state: Any, problems: Batch) -> tuple[Params, Any, Array]:
        mean_loss = lambda p: jnp.mean(jax.vmap(partial(loss, p))(problems))
        value, gradient = jax.value_and_grad(mean_loss)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    @partial(jax.jit, static_argnames="n_steps", donate_argnums=0)
    def chunk(state: State, keys: Keys, n_steps: int) -> tuple[State, Array]:
        def step(state: State, _: None) -> tuple[State, Array]:
            if settings.share_batches:
                problems = batch(jax.random.fold_in(keys.data[0], state.step))
                new = jax.vmap(update, in_axes=(0, 0, None))(state.params, state.opt_state, problems)
            else:
                own = lambda params, opt_state, key: update(
                    params, opt_state, batch(jax.random.fold_in(key, state.step))
                )
                new = jax.vmap(own)(state.params, state.opt_state, keys.data)
            params, opt_state, value = new
            return State(params, opt_state, state.step + 1), value

        return jax.lax.scan(step, state, None, length=n_steps)

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
        if not bool(jnp.all(jnp.isfinite(loss))):
            raise FloatingPointError(f"the training loss is not finite between steps {done - n_steps} and {done}")
        on_chunk(state, loss)
    return state
