"""Learners that a population is compared with: gradient descent and, for deep linear networks, the family of GD++."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from icl_gd import analysis, constructions, learners, models
from icl_gd.learners import GDPlusPlusRates, Spectrum, final_iterate
from icl_gd.tasks import LinearRegression, draw_prompts
from icl_gd.tokens import concatenated
from icl_gd.training import TrainSettings, mesh, population
from icl_gd.types import Array, Circuits, Gram, Predictor, Prompt, Rates

WRONG_STEP = 0.5  # times the best step size: the control that the cosine cannot see
SPECTRAL_FIT = 2**17  # prompts at most that rates of several steps are found on
CLIPPED_FIT = 2**13  # and under a clip, where a prompt costs n times as much


@dataclass(frozen=True)
class ReferenceLearners:
    """Learners by the names that metrics have for them, and the weights built to be one of them.

    Attributes:
      rates: step sizes and gammas of every learner; of gradient descent the gammas are zero.
      constructed: the learner that is constructed, and interpolated with.
      config: of the constructed Transformer; what clips its activations clips those of the learners.
    """

    rates: Mapping[str, GDPlusPlusRates]
    constructed: str
    config: models.TransformerConfig
    d_input: int
    d_output: int
    n_context: int

    def layerwise(self, name: str) -> Predictor:
        """A learner, read out after every step: y_hat `[iterate m]`."""
        return self._form(*self.rates[name])

    def over_learners(self, f: Callable[[Predictor], Any]) -> dict[str, Any]:
        """f of every learner that is read out after every step, as `layerwise` gives it: one program for all."""
        return _by_name(tuple(self.rates), jax.lax.map(f, self.every))

    @property
    def every(self) -> Predictor:
        """All learners, as one Predictor like `layerwise` whose rates have a leading axis of learners."""
        rates = zip(*self.rates.values(), strict=True)
        return jax.vmap(self._form)(*(jnp.stack([jnp.asarray(leaf, float) for leaf in of_all]) for of_all in rates))

    def _form(self, step_sizes: Rates, gammas: Rates) -> Predictor:
        """Of step sizes and gammas; gradient descent is written as such where no learner has a gamma or a clip."""
        clip = self.config.clip
        if clip is not None or any(np.any(gammas) for _, gammas in self.rates.values()):
            return learners.layerwise_gd_plus_plus(step_sizes, gammas, clip)
        return learners.layerwise_gradient_descent(step_sizes)

    @property
    def losses(self) -> Callable[[Prompt], dict[str, Array]]:
        """A batch of prompts to `loss_NAME` `[prompt]` of every learner."""
        return Partial(_LearnerLosses(tuple(self.rates)), self.every)

    def responses(self, prompts: Prompt) -> dict[str, analysis.Response]:
        """The Response of every learner."""
        return _responses(tuple(self.rates), self.every, prompts)

    def learner(self, name: str) -> Predictor:
        return final_iterate(self.layerwise(name))

    @property
    def gd(self) -> Predictor:
        """Gradient descent with as many steps as layers and its best shared step size."""
        return self.learner("gd")

    @property
    def wrong_step(self) -> Predictor:
        return final_iterate(self._form(WRONG_STEP * self.rates["gd"].step_sizes, self.rates["gd"].gammas))

    @property
    def step_size(self) -> float:
        """Of gradient descent."""
        return float(self.rates["gd"].step_sizes[0])

    @cached_property
    def params(self) -> Any:
        """Of the constructed Transformer."""
        with jax.ensure_compile_time_eval():  # what is kept must not be a tracer of whoever asks first
            return constructions.gd_plus_plus_weights(
                self.config, self.d_input, self.n_context, *self.rates[self.constructed]
            )

    @property
    def construction(self) -> Predictor:
        return models.fastest_predictor(self.config, self.params, concatenated(self.d_input, self.d_output))

    @property
    def circuits(self) -> Circuits:
        return models.circuits(self.config, self.params)


@dataclass(frozen=True)
class _LearnerLosses:
    names: tuple[str, ...]

    def __call__(self, every: Predictor, prompts: Prompt) -> dict[str, Array]:
        found = jax.lax.map(lambda layerwise: analysis.losses(final_iterate(layerwise), prompts), every)
        return {f"loss_{name}": values for name, values in _by_name(self.names, found).items()}


@partial(jax.jit, static_argnums=0)  # rates are arguments: the first one's may still be being computed
def _responses(names: tuple[str, ...], every: Predictor, prompts: Prompt) -> dict[str, analysis.Response]:
    return _by_name(names, jax.lax.map(lambda layerwise: analysis.response(final_iterate(layerwise), prompts), every))


def _by_name(names: tuple[str, ...], found: Any) -> dict[str, Any]:
    """What was found of all learners, by the name of each."""
    return {name: jax.tree.map(lambda leaf, i=i: leaf[i], found) for i, name in enumerate(names)}


def reference_learners(
    task: LinearRegression,
    model: models.TransformerConfig,
    key: Array,
    n_fit: int,
    constructed: str = "gd",
    steps: int | None = None,
    published_steps: int = 1000,
) -> ReferenceLearners:
    """All learners that a population is compared with, their rates found on a sample of prompts.

    Under a clip of the model's activations, which is then that of all learners too, the rates of GD++ are found with
    it; those of gradient descent, whose residual labels stay far within a clip of practical size, without.

    Args:
      constructed: "gd" for gradient descent alone; the name of a kind of GD++ for all learners of deep networks.
      steps: of every learner; as many as the model has layers when left out.
      published_steps: of Adam, by which the published code learns the rates of GD++.
    """
    n_steps = model.n_layers if steps is None else steps
    key_fit, key_published = jax.random.split(key)
    fit = draw_prompts(task.sample, key_fit, n_fit)
    none = np.zeros(n_steps)
    if n_steps == 1 and constructed == "gd":
        rates = {"gd": GDPlusPlusRates(learners.fit_step_size(fit)[None], none)}
    else:
        moment = np.einsum("pi,pj->ij", *[np.asarray(fit.x_query, np.float64)] * 2) / n_fit
        noise = float(task.noise_std / task.weight_scale) ** 2
        spectrum = Spectrum.of(fit.x[:SPECTRAL_FIT], moment, noise)
        rates = {"gd": GDPlusPlusRates(learners.fit_step_sizes(spectrum, n_steps), none)}
        if constructed != "gd":
            rates |= _deep(task, model, spectrum, fit, n_steps, key_published, published_steps)
    config = constructions.gradient_descent_config(task.d_input, task.d_output, n_steps)
    return ReferenceLearners(
        rates, constructed, replace(config, clip=model.clip), task.d_input, task.d_output, task.n_context
    )


def _deep(
    task: LinearRegression,
    model: models.TransformerConfig,
    spectrum: Spectrum,
    fit: Prompt,
    n_steps: int,
    key: Array,
    published_steps: int,
) -> dict[str, GDPlusPlusRates]:
    print(f"finding the rates of gradient descent and GD++, {n_steps} steps each", flush=True)
    best = learners.fit_gd_plus_plus(spectrum, n_steps)
    best_free = learners.fit_gd_plus_plus(spectrum, n_steps, free=True)
    if model.clip is not None:
        fit = jax.tree.map(lambda leaf: leaf[:CLIPPED_FIT], fit)
        best = learners.fit_gd_plus_plus_on(fit, best, model.clip)
        best_free = learners.fit_gd_plus_plus_on(fit, best, model.clip, free=True)
    return {
        "gd_free_steps": GDPlusPlusRates(learners.fit_step_sizes(spectrum, n_steps, free=True), np.zeros(n_steps)),
        "gd_plus_plus": best,
        "gd_plus_plus_free_steps": best_free,
        "gd_plus_plus_published": _published(task, model, spectrum, n_steps, key, published_steps),
    }


def _published(
    task: LinearRegression, model: models.TransformerConfig, spectrum: Spectrum, n_steps: int, key: Array, steps: int
) -> GDPlusPlusRates:
    """GD++ as the published code finds it: the diagonals of P and W_V, of the built layer, learned by Adam.

    One set for all layers, or one per layer where the model has weights per layer; batches of 512, from the best step
    size with gamma = step_size / n.
    """
    n = task.n_context
    tied = learners.tied_step_size(spectrum, n_steps, n)
    ones = np.ones(1 if model.shared else n_steps)
    start = {"P_x": -tied / n**2 * ones, "W_V_x": ones, "P_y": tied / n * ones, "W_V_y": -ones}
    start = {name: jnp.asarray(leaf, float) for name, leaf in start.items()}
    products = lambda params: {slot: params[f"P_{slot}"] * params[f"W_V_{slot}"] for slot in ("x", "y")}
    every = lambda rates, xp: xp.broadcast_to(rates, n_steps)
    settings = TrainSettings(
        steps=steps,
        batch_size=512,
        learning_rate=5e-4 if n_steps > 3 else 1e-3,
        clip=10.0 if n_steps > 2 else 1e-3,
        beta2=0.999,
        epsilon=1e-8,
    )
    draw, predict = by_moments(task) if model.clip is None else by_prompts(task, model.clip)

    def loss(params: dict[str, Array], batch: tuple[Any, Array]) -> Array:
        found = products(params)
        y_hat = predict(every(found["x"], jnp), every(found["y"], jnp), batch[0])
        return 0.5 * jnp.mean(jnp.sum((y_hat - batch[1]) ** 2, axis=0))

    params = _learned(lambda key, step: draw(key, settings.batch_size), loss, settings, start, key)
    found = products(params)
    return GDPlusPlusRates(*(every(-n * np.asarray(found[slot], np.float64), np) for slot in ("y", "x")))


Drawn = Callable[[Array, int], tuple[Any, Array]]  # batches, and their queries' labels [m prompt]
Predicted = Callable[[Array, Array, Any], Array]  # of what a layer adds to x and to y, `[layer]` each: y_hat [m prompt]


def by_moments(task: LinearRegression) -> tuple[Drawn, Predicted]:
    """What GD++ is learned on, and predicts, by the moments of prompts."""
    d, m = task.d_input, task.d_output

    def predict(in_x: Array, in_y: Array, moments: Gram) -> Array:
        diagonal = jnp.concatenate([jnp.repeat(in_x[:, None], d, 1), jnp.repeat(in_y[:, None], m, 1)], axis=1)
        w_pv = jax.vmap(jnp.diag)(diagonal)[:, None]
        w_kq = jnp.broadcast_to(jnp.diag(jnp.repeat(jnp.array([1.0, 0.0], w_pv.dtype), np.array([d, m]))), w_pv.shape)
        return models.read_gram(Circuits(w_kq, w_pv), moments, m)

    return lambda key, n_prompts: task.sample_gram(key, n_prompts=n_prompts), predict


def by_prompts(task: LinearRegression, clip: float) -> tuple[Drawn, Predicted]:
    """The same by prompts themselves: a clip acts on tokens, which moments do not see."""

    def draw(key: Array, n_prompts: int) -> tuple[Prompt, Array]:
        prompts = jax.vmap(task.sample)(jax.random.split(key, n_prompts))
        return prompts, prompts.y_query.T

    def predict(in_x: Array, in_y: Array, prompts: Prompt) -> Array:
        learner = learners.gd_plus_plus(-task.n_context * in_y, -task.n_context * in_x, clip)
        return jax.vmap(learner, out_axes=1)(prompts.x, prompts.y, prompts.x_query)

    return draw, predict


def _learned(
    draw: Callable[[Array, Array], Any],
    loss: Callable[[Any, Any], Array],
    settings: TrainSettings,
    start: Any,
    key: Array,
) -> Any:
    """The parameters that one member, trained from `start`, ends with."""
    seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
    members = population.members_of(seed, 1, settings, {})
    placement = mesh.place("none", 1, settings.batch_size, settings.share_batches)
    chunk = population.make_chunk(draw, loss, settings, placement)
    state = population.start(lambda key, of_model: start, settings, members)
    told = lambda state, loss: print(f"GD++ as published: step {state.step}/{settings.steps}", flush=True)
    state = population.run_chunks(chunk, state, members, settings.steps, max(500, settings.steps // 10), told)
    return jax.tree.map(lambda leaf: leaf[0], state.member.params)
