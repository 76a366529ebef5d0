"""What a population is compared with: gradient descent and, for deep linear networks, the family of GD++."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, constructions, learners, models
from icl_gd.learners import Pairs, Spectrum
from icl_gd.tasks import LinearRegression
from icl_gd.tokens import concatenated
from icl_gd.training import TrainSettings, fastest_predictor, mesh, population
from icl_gd.types import Array, Circuits, Moments, Predictor, Prompt

WRONG_STEP = 0.5  # times the best step size: the control that the cosine cannot see
SPECTRAL_FIT = 2**17  # prompts at most that rates of several steps are found on


@dataclass(frozen=True)
class References:
    """Learners by the names that metrics have for them, and the weights built to be one of them.

    Attributes:
      rates: step sizes and gammas of every learner; of gradient descent the gammas are zero.
      main: the learner that is constructed, and interpolated with.
      config, params: the constructed Transformer.
    """

    rates: Mapping[str, Pairs]
    main: str
    config: models.TransformerConfig
    params: Any
    d_input: int
    d_output: int

    def layerwise(self, name: str) -> Predictor:
        """A learner, read out after every step: y_hat `[iterate m]`."""
        return self._form(*self.rates[name])

    def over_learners(self, f: Callable[[Predictor], Any]) -> dict[str, Any]:
        """f of every learner that is read out after every step, as `layerwise` gives it: one program for all."""
        rates = Pairs(*(np.stack(rates) for rates in zip(*self.rates.values(), strict=True)))
        found = jax.lax.map(lambda rates: f(self._form(*rates)), rates)
        return {name: jax.tree.map(lambda leaf, i=i: leaf[i], found) for i, name in enumerate(self.rates)}

    @property
    def _form(self) -> Callable[..., Predictor]:
        """Of step sizes and gammas; gradient descent is written as such where no learner has a gamma."""
        if any(np.any(gammas) for _, gammas in self.rates.values()):
            return learners.layerwise_gd_plus_plus
        return lambda step_sizes, gammas: learners.layerwise_gradient_descent(step_sizes)

    def losses(self, prompts: Prompt) -> dict[str, Array]:
        """`loss_NAME` `[prompt]` of every learner."""
        found = self.over_learners(lambda layerwise: analysis.losses(last(layerwise), prompts))
        return {f"loss_{name}": values for name, values in found.items()}

    def responses(self, prompts: Prompt) -> dict[str, analysis.Response]:
        """The Response of every learner."""
        return self.over_learners(lambda layerwise: analysis.response(last(layerwise), prompts))

    def learner(self, name: str) -> Predictor:
        return last(self.layerwise(name))

    @property
    def gd(self) -> Predictor:
        """Gradient descent with as many steps as layers and its best shared step size."""
        return self.learner("gd")

    @property
    def wrong_step(self) -> Predictor:
        return learners.gradient_descent(WRONG_STEP * self.rates["gd"].step_sizes)

    @property
    def step_size(self) -> float:
        """Of gradient descent."""
        return float(self.rates["gd"].step_sizes[0])

    @property
    def construction(self) -> Predictor:
        return fastest_predictor(self.config, self.params, concatenated(self.d_input, self.d_output))

    @property
    def circuits(self) -> Circuits:
        return models.circuits(self.config, self.params)


def last(layerwise: Predictor) -> Predictor:
    """What a learner that is read out after every step predicts in the end."""
    return lambda x, y, x_query: layerwise(x, y, x_query)[-1]


def references(
    task: LinearRegression,
    model: models.TransformerConfig,
    key: Array,
    n_fit: int,
    main: str = "gd",
    steps: int | None = None,
    published_steps: int = 1000,
) -> References:
    """All learners that a population is compared with, their rates found on a sample of prompts.

    Args:
      main: "gd" for gradient descent alone; the name of a kind of GD++ for all learners of deep networks.
      steps: of every learner; as many as the model has layers when left out.
      published_steps: of Adam, by which the published code learns the rates of GD++.
    """
    n_steps = model.n_layers if steps is None else steps
    key_fit, key_published = jax.random.split(key)
    fit = jax.jit(jax.vmap(task.sample))(jax.random.split(key_fit, n_fit))
    none = np.zeros(n_steps)
    if n_steps == 1 and main == "gd":
        rates = {"gd": Pairs(np.array([learners.best_step_size(fit)]), none)}
    else:
        moment = np.einsum("pi,pj->ij", *[np.asarray(fit.x_query, np.float64)] * 2) / n_fit
        noise = (task.noise_std / task.weight_scale) ** 2
        spectrum = Spectrum.of(fit.x[:SPECTRAL_FIT], moment, noise)
        rates = {"gd": Pairs(learners.best_step_sizes(spectrum, n_steps), none)}
        if main != "gd":
            rates |= _deep(task, model, spectrum, n_steps, key_published, published_steps)
    config = constructions.gradient_descent_config(task.d_input, task.d_output, n_steps)
    params = constructions.gd_plus_plus_weights(config, task.d_input, task.n_context, *rates[main])
    return References(rates, main, config, params, task.d_input, task.d_output)


def _deep(
    task: LinearRegression, model: models.TransformerConfig, spectrum: Spectrum, n_steps: int, key: Array, steps: int
) -> dict[str, Pairs]:
    print(f"finding the rates of gradient descent and GD++, {n_steps} steps each", flush=True)
    free = learners.best_step_sizes(spectrum, n_steps, free=True)
    return {
        "gd_free_steps": Pairs(free, np.zeros(n_steps)),
        "gd_plus_plus": learners.best_gd_plus_plus(spectrum, n_steps),
        "gd_plus_plus_free_steps": learners.best_gd_plus_plus(spectrum, n_steps, free=True),
        "gd_plus_plus_published": _published(task, model, spectrum, n_steps, key, steps),
    }


def _published(
    task: LinearRegression, model: models.TransformerConfig, spectrum: Spectrum, n_steps: int, key: Array, steps: int
) -> Pairs:
    """GD++ as the published code finds it: the diagonals of P and W_V, of the built layer, learned by Adam.

    One set for all layers, or one per layer where the model has weights per layer; batches of 512, from the best step
    size with gamma = step_size / n.
    """
    d, m, n = task.d_input, task.d_output, task.n_context
    tied = learners.tied_step_size(spectrum, n_steps, n)
    layers = 1 if model.shared else n_steps
    ones = np.ones(layers)
    start = {"P_x": -tied / n**2 * ones, "W_V_x": ones, "P_y": tied / n * ones, "W_V_y": -ones}
    start = {name: jnp.asarray(leaf, float) for name, leaf in start.items()}
    w_kq = np.broadcast_to(np.diag(np.repeat([1.0, 0.0], [d, m])), (n_steps, 1, d + m, d + m))

    def loss(params: dict[str, Array], batch: tuple[Moments, Array]) -> Array:
        diagonal = jnp.concatenate(
            [
                jnp.repeat(params[f"P_{s}"][:, None] * params[f"W_V_{s}"][:, None], size, 1)
                for s, size in (("x", d), ("y", m))
            ],
            axis=1,
        )
        w_pv = jnp.broadcast_to(jax.vmap(jnp.diag)(diagonal)[:, None], w_kq.shape)
        y_hat = models.read_moments(Circuits(jnp.asarray(w_kq, w_pv.dtype), w_pv), batch[0], m)
        return 0.5 * jnp.mean(jnp.sum((y_hat - batch[1]) ** 2, axis=0))

    settings = TrainSettings(
        steps=steps, batch_size=512, learning_rate=5e-4 if n_steps > 3 else 1e-3,
        clip=10.0 if n_steps > 2 else 1e-3, beta2=0.999, epsilon=1e-8,
    )  # fmt: skip
    params = _learned(lambda key, step: task.sample_moments(key, n_prompts=512), loss, settings, start, key)
    product = {slot: params[f"P_{slot}"] * params[f"W_V_{slot}"] for slot in ("x", "y")}
    every = lambda rates: np.broadcast_to(-n * np.asarray(rates, np.float64), n_steps)
    return Pairs(every(product["y"]), every(product["x"]))


def _learned(
    draw: Callable[[Array, Array], Any],
    loss: Callable[[Any, Any], Array],
    settings: TrainSettings,
    start: Any,
    key: Array,
) -> Any:
    """The parameters that one member, trained from `start`, ends with."""
    seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
    members = population.members_of(seed, 1, settings)
    placement = mesh.place("none", 1, settings.batch_size, settings.share_batches)
    chunk = population.make_chunk(draw, loss, settings, placement)
    state = population.start(lambda key, scale: start, settings, members)
    told = lambda state, loss: print(f"GD++ as published: step {state.step}/{settings.steps}", flush=True)
    state = population.run_chunks(chunk, state, members, settings.steps, max(500, settings.steps // 10), told)
    return jax.tree.map(lambda leaf: leaf[0], state.member.params)
