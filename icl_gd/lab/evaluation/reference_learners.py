"""Learners that a population is compared with: gradient descent and, for deep linear networks, variants of GD++."""

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

WRONG_STEP = 0.5  # a control has this multiple of the best step size; cosines of sensitivities cannot detect it
SPECTRAL_FIT = 2**17  # the largest number of prompts that rates of several steps are fitted to
CLIPPED_FIT = 2**13  # the same with a clip, which makes a prompt n times as expensive


@dataclass(frozen=True)
class ReferenceLearners:
    """Reference learners by name, and constructed weights that implement one of them.

    Attributes:
      rates: step sizes and gammas of every learner; the gammas of gradient descent are zero.
      constructed: name of the learner that the constructed weights implement.
      config: the config of the constructed Transformer. Learners clip their activations with `config.clip` too.
      d_input: input dimension.
      d_output: output dimension.
      n_context: number of context examples.
    """

    rates: Mapping[str, GDPlusPlusRates]
    constructed: str
    config: models.TransformerConfig
    d_input: int
    d_output: int
    n_context: int

    def layerwise(self, name: str) -> Predictor:
        """A learner that returns its prediction after every step: y_hat `[iterate m]`."""
        return self._form(*self.rates[name])

    def over_learners(self, f: Callable[[Predictor], Any]) -> dict[str, Any]:
        """Applies f to every learner, in one program for all.

        Args:
          f: a function of a layerwise Predictor.

        Returns:
          The results by the learner's name.
        """
        return _by_name(tuple(self.rates), jax.lax.map(f, self.every))

    @property
    def every(self) -> Predictor:
        """All learners stacked into one layerwise Predictor, whose rates have a leading learner axis."""
        step_sizes, gammas = zip(*self.rates.values(), strict=True)
        stacked = (jnp.stack([jnp.asarray(leaf, float) for leaf in leaves]) for leaves in (step_sizes, gammas))
        return jax.vmap(self._form)(*stacked)

    def _form(self, step_sizes: Rates, gammas: Rates) -> Predictor:
        """GD++ with these rates; or the cheaper gradient descent, if there is no clip and no learner has gammas."""
        clip = self.config.clip
        if clip is not None or any(np.any(gammas) for _, gammas in self.rates.values()):
            return learners.layerwise_gd_plus_plus(step_sizes, gammas, clip)
        return learners.layerwise_gradient_descent(step_sizes)

    @property
    def losses(self) -> Callable[[Prompt], dict[str, Array]]:
        """A function that maps a batch of prompts to `loss_NAME` `[prompt]` of every learner."""
        return Partial(_LearnerLosses(tuple(self.rates)), self.every)

    def responses(self, prompts: Prompt) -> dict[str, analysis.Response]:
        """The Response of every learner to a batch of prompts, by the learner's name."""
        return _responses(tuple(self.rates), self.every, prompts)

    def learner(self, name: str) -> Predictor:
        """A learner that returns its final prediction."""
        return final_iterate(self.layerwise(name))

    @property
    def gd(self) -> Predictor:
        """Gradient descent with as many steps as the model has layers, and the best shared step size."""
        return self.learner("gd")

    @property
    def wrong_step(self) -> Predictor:
        """Gradient descent with half the best step size: a control."""
        return final_iterate(self._form(WRONG_STEP * self.rates["gd"].step_sizes, self.rates["gd"].gammas))

    @property
    def step_size(self) -> float:
        """The first step size of gradient descent."""
        return float(self.rates["gd"].step_sizes[0])

    @cached_property
    def params(self) -> Any:
        """Parameters of the constructed Transformer."""
        with jax.ensure_compile_time_eval():  # caches an array, not a tracer, even if first called inside a jit
            return constructions.gd_plus_plus_weights(
                self.config, self.d_input, self.n_context, *self.rates[self.constructed]
            )

    @property
    def construction(self) -> Predictor:
        """The Predictor of the constructed Transformer."""
        return models.fastest_predictor(self.config, self.params, concatenated(self.d_input, self.d_output))

    @property
    def circuits(self) -> Circuits:
        """Circuits of the constructed Transformer."""
        return models.circuits(self.config, self.params)


@dataclass(frozen=True)
class _LearnerLosses:
    names: tuple[str, ...]

    def __call__(self, every: Predictor, prompts: Prompt) -> dict[str, Array]:
        losses = jax.lax.map(lambda layerwise: analysis.losses(final_iterate(layerwise), prompts), every)
        return {f"loss_{name}": values for name, values in _by_name(self.names, losses).items()}


@partial(jax.jit, static_argnums=0)  # rates are arguments: as constants, compilation would wait for their values
def _responses(names: tuple[str, ...], every: Predictor, prompts: Prompt) -> dict[str, analysis.Response]:
    return _by_name(names, jax.lax.map(lambda layerwise: analysis.response(final_iterate(layerwise), prompts), every))


def _by_name(names: tuple[str, ...], stacked: Any) -> dict[str, Any]:
    """Splits a tree of arrays with a leading axis of learners by the names of the learners."""
    return {name: jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i, name in enumerate(names)}


def reference_learners(
    task: LinearRegression,
    model: models.TransformerConfig,
    key: Array,
    n_fit: int,
    constructed: str = "gd",
    steps: int | None = None,
    published_steps: int = 1000,
) -> ReferenceLearners:
    """Fits all learners that a population is compared with, on a sample of prompts.

    If the model clips activations, all learners clip too, and the rates of GD++ are fitted with the clip. Step sizes of
    gradient descent are fitted without it, because residual labels are far below a clip of practical size.

    Args:
      task: the task of the prompts.
      model: the trained Transformer; its number of layers and its clip are used.
      key: the random key of the sample, and of the training of the published rates.
      n_fit: number of prompts in the sample.
      constructed: the learner that weights are constructed for. "gd" fits only gradient descent; the name of a
        variant of GD++ fits all learners that deep networks are compared with.
      steps: steps of every learner. Default: one per layer of the model.
      published_steps: steps of Adam that learn the rates of "gd_plus_plus_published".

    Returns:
      The learners with their rates.
    """
    n_steps = model.n_layers if steps is None else steps
    key_fit, key_published = jax.random.split(key)
    fit = draw_prompts(task.sample, key_fit, n_fit)
    no_gammas = np.zeros(n_steps)
    if n_steps == 1 and constructed == "gd":
        rates = {"gd": GDPlusPlusRates(learners.fit_step_size(fit)[None], no_gammas)}
    else:
        moment = np.einsum("pi,pj->ij", *[np.asarray(fit.x_query, np.float64)] * 2) / n_fit
        noise = float(task.noise_std / task.weight_scale) ** 2
        spectrum = Spectrum.of(fit.x[:SPECTRAL_FIT], moment, noise)
        rates = {"gd": GDPlusPlusRates(learners.fit_step_sizes(spectrum, n_steps), no_gammas)}
        if constructed != "gd":
            rates |= _deep_rates(task, model, spectrum, fit, n_steps, key_published, published_steps)
    config = constructions.gradient_descent_config(task.d_input, task.d_output, n_steps)
    return ReferenceLearners(
        rates, constructed, replace(config, clip=model.clip), task.d_input, task.d_output, task.n_context
    )


def _deep_rates(
    task: LinearRegression,
    model: models.TransformerConfig,
    spectrum: Spectrum,
    fit: Prompt,
    n_steps: int,
    key: Array,
    published_steps: int,
) -> dict[str, GDPlusPlusRates]:
    """Rates of gradient descent with one step size per step, and of all variants of GD++."""
    print(f"fitting the rates of gradient descent and GD++, {n_steps} steps each", flush=True)
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
        "gd_plus_plus_published": _published_rates(task, model, spectrum, n_steps, key, published_steps),
    }


def _published_rates(
    task: LinearRegression, model: models.TransformerConfig, spectrum: Spectrum, n_steps: int, key: Array, steps: int
) -> GDPlusPlusRates:
    """Rates of GD++, learned by Adam as in the published code.

    The parameters are the diagonal entries of P and W_V in the slots of x and of y: four numbers for all layers if the
    model shares weights, otherwise four per layer. Training uses batches of 512 prompts, and starts at the best rates
    of the form gamma = step_size / n.

    Source: von Oswald et al. 2212.07677, published code.
    """
    n = task.n_context
    tied = learners.tied_step_size(spectrum, n_steps, n)
    ones = np.ones(1 if model.shared else n_steps)
    start = {"P_x": -tied / n**2 * ones, "W_V_x": ones, "P_y": tied / n * ones, "W_V_y": -ones}
    start = {name: jnp.asarray(leaf, float) for name, leaf in start.items()}

    def products(params: dict[str, Array]) -> dict[str, Array]:
        return {slot: params[f"P_{slot}"] * params[f"W_V_{slot}"] for slot in ("x", "y")}

    settings = TrainSettings(
        steps=steps,
        batch_size=512,
        learning_rate=5e-4 if n_steps > 3 else 1e-3,
        clip=10.0 if n_steps > 2 else 1e-3,
        beta2=0.999,
        epsilon=1e-8,
    )
    draw, predict = by_gram(task) if model.clip is None else by_prompts(task, model.clip)

    def loss(params: dict[str, Array], batch: tuple[Any, Array]) -> Array:
        prompts, labels = batch
        factors = products(params)
        in_x, in_y = (jnp.broadcast_to(factors[slot], n_steps) for slot in ("x", "y"))
        y_hat = predict(in_x, in_y, prompts)
        return 0.5 * jnp.mean(jnp.sum((y_hat - labels) ** 2, axis=0))

    params = _train_from(lambda key, step: draw(key, settings.batch_size), loss, settings, start, key)
    rates = {slot: -n * np.asarray(product, np.float64) for slot, product in products(params).items()}
    return GDPlusPlusRates(np.broadcast_to(rates["y"], n_steps), np.broadcast_to(rates["x"], n_steps))


# (key, number of prompts) -> a batch, and the labels [m prompt] of its queries.
Draw = Callable[[Array, int], tuple[Any, Array]]
# (factor of the update to x [layer], factor of the update to y [layer], batch) -> y_hat [m prompt].
Predict = Callable[[Array, Array, Any], Array]


def by_gram(task: LinearRegression) -> tuple[Draw, Predict]:
    """GD++ on the Gram matrices of prompts: the fast form, without a clip.

    Args:
      task: the task of the prompts.

    Returns:
      A function that draws a batch of Gram matrices, and one that predicts the labels of its queries.
    """
    d, m = task.d_input, task.d_output

    def predict(in_x: Array, in_y: Array, gram: Gram) -> Array:
        diagonal = jnp.concatenate([jnp.repeat(in_x[:, None], d, 1), jnp.repeat(in_y[:, None], m, 1)], axis=1)
        w_pv = jax.vmap(jnp.diag)(diagonal)[:, None]
        w_kq = jnp.broadcast_to(jnp.diag(jnp.repeat(jnp.array([1.0, 0.0], w_pv.dtype), np.array([d, m]))), w_pv.shape)
        return models.read_gram(Circuits(w_kq, w_pv), gram, m)

    return lambda key, n_prompts: task.sample_gram(key, n_prompts=n_prompts), predict


def by_prompts(task: LinearRegression, clip: float) -> tuple[Draw, Predict]:
    """GD++ on prompts, with a clip. A clip acts on tokens, which a Gram matrix does not contain.

    Args:
      task: the task of the prompts.
      clip: the largest absolute value of an activation.

    Returns:
      A function that draws a batch of prompts, and one that predicts the labels of its queries.
    """

    def draw(key: Array, n_prompts: int) -> tuple[Prompt, Array]:
        prompts = jax.vmap(task.sample)(jax.random.split(key, n_prompts))
        return prompts, prompts.y_query.T

    def predict(in_x: Array, in_y: Array, prompts: Prompt) -> Array:
        learner = learners.gd_plus_plus(-task.n_context * in_y, -task.n_context * in_x, clip)
        return jax.vmap(learner, out_axes=1)(prompts.x, prompts.y, prompts.x_query)

    return draw, predict


def _train_from(
    draw: Callable[[Array, Array], Any],
    loss: Callable[[Any, Any], Array],
    settings: TrainSettings,
    start: Any,
    key: Array,
) -> Any:
    """Trains one member from the parameters `start`, and returns its final parameters."""
    seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
    members = population.member_specs(seed, 1, settings, {})
    placement = mesh.place("none", 1, settings.batch_size, settings.share_batches)
    chunk = population.make_chunk(draw, loss, settings, placement)
    state = population.start(lambda key, of_model: start, settings, members)

    def report(state: population.PopulationState, loss: Array) -> None:
        print(f"GD++ as published: step {state.step}/{settings.steps}", flush=True)

    state = population.run_chunks(chunk, state, members, settings.steps, max(500, settings.steps // 10), report)
    return jax.tree.map(lambda leaf: leaf[0], state.member.params)
