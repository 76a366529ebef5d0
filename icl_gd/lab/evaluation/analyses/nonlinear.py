"""A Transformer on sine waves beside gradient descent on deep features: losses, differences, functions, features."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from icl_gd import analysis, learners, models
from icl_gd.lab.evaluation.study import EVERY, Found, free_members, of_learner, of_members, together
from icl_gd.lab.reporting.results import curve
from icl_gd.tasks import SineRegression
from icl_gd.training import Population
from icl_gd.types import Array, Predictor, Prompt

LEARNER = "gd_deep_features"
LOSS = f"loss_{LEARNER}"
Params = Any
GRID = np.linspace(-5.0, 5.0, 201)


@dataclass(frozen=True)
class SineStudy:
    """Two populations on the same prompts."""

    task: SineRegression
    trained: Population
    learner: Population  # whose layers are a construction
    step_sizes: tuple[float, ...]  # of the learner
    untrained: Params  # the Transformers' parameters at step 0
    prompts: Prompt  # the batch that curves and differences are measured on
    key: Array
    n_prompts: int  # of final losses
    watch: Callable[[Params, Params], dict[str, Array]]  # `beside` of all members

    def descend(self, params: Params) -> Predictor:
        """The learner itself, with a member's features: every iterate's prediction `[iterate m]`."""
        embed = models.features(self.learner.config, params, self.task.d_output)
        return learners.layerwise_deep_gradient_descent(embed, self.step_sizes)

    def descended(self, params: Params) -> Predictor:
        return learners.last(self.descend(params))


def beside(
    of_transformer: Callable[[Params], Predictor], of_learner: Callable[[Params], Predictor], prompts: Prompt,
    params: Params, others: Params,
) -> dict[str, Array]:  # fmt: skip
    """Loss of one Transformer, and its alignment to one learner."""
    predictor, reference = of_transformer(params), of_learner(others)
    found = {f"{name}_{LEARNER}": value for name, value in
             analysis.alignment(predictor, reference, prompts)._asdict().items()}  # fmt: skip
    return {"loss_trained": analysis.losses(predictor, prompts).mean(), **found}


def evaluate(study: SineStudy) -> Found:
    """Everything that is recorded of a study."""
    step_size = float(learners.best_step_size(study.prompts))
    gd = learners.gradient_descent([step_size])
    trained, learner = study.trained, study.learner
    losses_of = {
        "loss_trained": of_members(trained.predictor(trained.params)),
        "loss_untrained": of_members(trained.predictor(study.untrained)),
        "loss_trained_before": of_members(Partial(_Before(trained.config), trained.params)),
        LOSS: of_members(jax.vmap(study.descended)(learner.params)),
        f"{LOSS}_before": of_members(Partial(_Before(learner.config), learner.params)),
        "loss_gd": of_learner(gd),
        "loss_zero": of_learner(learners.zero),
    }
    risks = analysis.streamed_risks(together(losses_of), study.task.sample, study.key, study.n_prompts)
    gone = [np.asarray(population.diverged_at) >= 0 for population in (trained, learner)]
    found = Found(free_members(risks["loss_trained"].mean, risks[LOSS].mean.mean()), np.logical_or(*gone))
    for name, value in risks.items():
        if np.ndim(value.mean):
            found.add(name, value.mean, value.stderr, EVERY[:1] if name == "loss_untrained" else EVERY[:2])
        else:
            found.add_one(name, value.mean, value.stderr)
    found.add(f"loss_ratio_{LEARNER}", risks["loss_trained"].mean / risks[LOSS].mean)
    found.add_one("step_size_gd", step_size / study.task.n_context)
    found.arrays["loss_zero"] = study.task.label_moments[1] / 2
    alignment(study, found)
    differences(study, found)
    functions(study, found)
    features(study, found)
    return found


@dataclass(frozen=True)
class _Before:
    """What a network predicts before its first layer, or a learner before its first step."""

    config: models.TransformerConfig

    def __call__(self, params: Params, x: Array, y: Array, x_query: Array) -> Array:
        return -models.features(self.config, params, y.shape[-1])(x_query, jnp.zeros_like(y[0]))[1]


def alignment(study: SineStudy, found: Found) -> None:
    """Alignment of member i to learner i, beside an untrained control."""
    learned, measures = study.learner.params, lambda of: {k: v for k, v in of.items() if k != "loss_trained"}
    for name, values in measures(study.watch(study.trained.params, learned)).items():
        found.add(name, values)
    for name, values in measures(study.watch(study.untrained, learned)).items():
        found.add(f"{name}_untrained", values, over=EVERY[:1])


def differences(study: SineStudy, found: Found) -> None:
    """Differences of predictions next to the spread of targets, and next to those between seeds of one kind."""
    p = study.prompts
    predict = lambda of, params: np.asarray(jax.jit(partial(_predictions, of, p))(params))
    trained = predict(study.trained.predictor, study.trained.params)
    learned = predict(study.descended, study.learner.params)
    built = predict(study.learner.predictor, study.learner.params)
    found.add_one("construction_error", np.abs(built - learned).max() / np.abs(learned).max())
    mean, second = study.task.label_moments
    spread = (second - mean**2) ** 0.5
    found.add_one("target_spread", spread, 0.0)
    target = np.asarray(p.y_query)[:, 0]
    apart = {
        "targets": (target - mean)[None],
        "error_trained": trained - target,
        f"error_{LEARNER}": learned - target,
        LEARNER: trained - learned,
    }
    if len(trained) > 1:
        apart |= {"seeds": trained - np.roll(trained, 1, 0), f"{LEARNER}_seeds": learned - np.roll(learned, 1, 0)}
    for name in (LEARNER, *(name for name in apart if name.endswith("seeds"))):
        found.add(f"prediction_difference_ratio_{name}", np.abs(apart[name]).mean(1) / spread)
    levels = np.linspace(0.01, 0.99, 99)
    for name, values in apart.items():
        quantiles = np.quantile(np.abs(values), levels, axis=1)
        found.curves[f"absolute_{name}_by_quantile"] = curve(levels.tolist(), quantiles)


def _predictions(of: Callable[[Params], Predictor], prompts: Prompt, params: Params) -> Array:
    """`[member prompt]`."""
    one = lambda member: jax.vmap(of(member))(prompts.x, prompts.y, prompts.x_query)[:, 0]
    return analysis.over_members(one, params)


def functions(study: SineStudy, found: Found, shown: int = 4) -> None:
    """Predictions over x, before and after the layer or step, of one member for some prompts."""
    at = int(found.shown[0])
    transformer, learned = study.trained.member(at), study.learner.member(at)
    layerwise = {
        "trained": models.layerwise_predictor(study.trained.config, transformer, study.trained.layout),
        LEARNER: study.descend(learned),
    }
    drawn = []
    for i in range(shown):
        x, y, (amplitude, phase) = study.prompts.x[i], study.prompts.y[i], np.asarray(study.prompts.w[i, 0], np.float64)
        record = {
            "x": GRID.tolist(), "target": (amplitude * np.sin(GRID + phase)).tolist(),
            "context_x": np.asarray(x, np.float64)[:, 0].tolist(),
            "context_y": np.asarray(y, np.float64)[:, 0].tolist(),
        }  # fmt: skip
        for name, predict in layerwise.items():
            y_hat = jax.vmap(predict, (None, None, 0))(x, y, jnp.asarray(GRID[:, None], x.dtype))[..., 0]
            record[f"{name}_before"], record[name] = (np.asarray(y_hat[:, k], np.float64).tolist() for k in (0, -1))
        drawn.append(record)
    found.arrays["functions"] = drawn


def features(study: SineStudy, found: Found, shown: int = 3) -> None:
    """Features of the query over x, by their principal components, and how far features look at labels.

    A step predicts through products of the features of an example with those of the query, a layer through h^T W_KQ
    h_query: its features of the query are W_KQ h_query. Of both, the span of the largest components is asked how much
    of sin x and cos x, by which this task is linear, is in it.
    """
    grid = jnp.asarray(GRID[:, None], study.prompts.x.dtype)
    wave = np.stack([np.sin(GRID), np.cos(GRID)], 1)
    for name, population in (("trained", study.trained), (LEARNER, study.learner)):
        config = population.config

        def read(params: Params, config: models.TransformerConfig = config) -> Array:
            tokens = jnp.concatenate([grid, jnp.zeros_like(grid)], 1)
            query = models.embed(config, params, tokens)
            return query @ jnp.sum(models.circuits(config, params).W_KQ[0], 0).T

        explained = []
        for i in range(len(population)):
            left, size, _ = np.linalg.svd(np.asarray(read(population.member(i)), np.float64), full_matrices=False)
            basis = left[:, :shown]
            explained.append(1 - np.sum((wave - basis @ (basis.T @ wave)) ** 2) / np.sum(wave**2))
            if i == found.shown[0]:
                signs = np.sign(basis[np.abs(basis).argmax(0), range(shown)])
                found.arrays[f"features_{name}"] = (basis * signs * len(GRID) ** 0.5).T.tolist()
                found.arrays[f"features_share_{name}"] = (size**2 / np.sum(size**2))[:shown].tolist()
        found.add(f"waves_in_features_{name}", explained)
        found.add(f"label_share_of_features_{name}", jax.vmap(partial(_label_share, config, study.prompts))(
            population.params))  # fmt: skip
    found.arrays["features_x"] = GRID.tolist()


def _label_share(config: models.TransformerConfig, prompts: Prompt, params: Params) -> Array:
    """`E |phi(x, y) - phi(x, 0)|^2 / E |phi(x, y)|^2`: zero for features that do not see the labels."""
    of = lambda y: jax.vmap(models.features(config, params, 1))(prompts.x[:, 0], y)[0]
    seeing = of(prompts.y[:, 0])
    return jnp.sum((seeing - of(jnp.zeros_like(prompts.y[:, 0]))) ** 2) / jnp.sum(seeing**2)
