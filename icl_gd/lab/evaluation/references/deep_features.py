"""A Transformer on sine waves beside gradient descent on deep features: losses and alignment."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Gt, Le
from jax.tree_util import Partial

from icl_gd import analysis, constructions, learners, models, plots
from icl_gd.lab.config.errors import reject
from icl_gd.lab.config.experiment import Experiment
from icl_gd.lab.config.parts import Sine
from icl_gd.lab.config.questions import Done, Picture, Reference
from icl_gd.lab.evaluation.measured import (
    EVERY,
    Compared,
    Evaluation,
    Records,
    Setting,
    free_members,
    merge_losses,
    of_learner,
    of_members,
)
from icl_gd.lab.reporting.results import curves_by_step
from icl_gd.models import TransformerConfig
from icl_gd.schema import Size, check
from icl_gd.training import Population
from icl_gd.types import Array, Predictor, Prompt

LEARNER = "gd_deep_features"
LOSS = f"loss_{LEARNER}"
GRID = np.linspace(-5.0, 5.0, 201)  # of x, on which functions and features are looked at
Params = Any
LEARNER_BETA2 = 0.999  # of its Adam, as published; the Transformer's is .98


@dataclass(frozen=True)
class DeepFeatures(Reference):
    """Gradient descent on the head of a network whose features are meta-learned, one learner a seed.

    The learner is trained first, so that the Transformer's alignment to it is known over training, as von Oswald et al.
    show it. Member i of one population is compared with member i of the other.

    Attributes:
      steps: of the learner; None takes as many as the Transformer has layers.
      learning_rate: with which its features are learned.
      step_size: of a gradient step on its head, fixed; features learn their scale.
    """

    name: ClassVar[str] = "deep_features"
    tasks: ClassVar[tuple[type, ...]] = (Sine,)
    records: ClassVar[tuple[str, ...]] = (
        *("loss_trained", "loss_untrained", "loss_trained_before", LOSS, f"{LOSS}_before", "loss_gd", "loss_zero"),
        *(f"loss_ratio_{LEARNER}", "step_size_gd", "training_loss"),
        *(f"{measure}_{LEARNER}*" for measure in analysis.Alignment._fields),
    )
    steps: Size | None = None
    learning_rate: Annotated[float, Gt(0), Le(1e30)] = 3e-4
    step_size: Annotated[float, Gt(0)] = 0.1

    def __post_init__(self):
        check(self)

    def check(self, experiment: Experiment) -> None:
        network = experiment.network
        if network.causal or experiment.model.layout != "concatenated":
            reject(
                "model.layout", experiment.model.layout, "reference.name=deep_features takes von_oswald's concatenated"
            )
        if network.d_embed is None or network.d_embed < 2:
            reject(
                "model.d_embed",
                network.d_embed,
                "reference.name=deep_features takes at least 2: features, and a slot for y",
            )
        if experiment["train.weight_decay"] != 0.0:
            reject(
                "train.weight_decay",
                experiment["train.weight_decay"],
                "would shrink the built layers of the learner too; 0 is accepted",
            )
        if any(experiment.together()):
            field, values = next(iter(experiment.sweep.items()))
            reject(
                field,
                values,
                "takes one value beside reference.name=deep_features, whose members have learners of their own",
            )

    def prepare(self, setting: Setting) -> "BesideDeepFeatures":
        """Trains the learner: a network whose layers are built to be gradient descent, its embedding learned."""
        network, task, prompts = setting.network, setting.task, setting.prompts
        steps = [self.step_size] * (self.steps or network.n_layers)
        built = TransformerConfig(
            network.d_token,
            len(steps),
            init_scale=network.init_scale,
            d_embed=network.d_embed,
            input_mlp_width=network.input_mlp_width,
        )
        frozen = constructions.gradient_descent_weights(built, built.width - task.d_output, task.n_context, steps)
        settings = replace(setting.experiment.settings, learning_rate=self.learning_rate, beta2=LEARNER_BETA2)
        of_learner = partial(models.fastest_predictor, built, layout=setting.layout)
        loss = jax.jit(lambda params: analysis.member_losses(of_learner(params), prompts).mean(-1))
        learner = setting.train(
            task, built, settings, lambda params: {LOSS: np.asarray(loss(params))}, "learner", frozen=frozen
        )
        return BesideDeepFeatures(setting, learner, tuple(steps))


@dataclass(frozen=True)
class BesideDeepFeatures(Compared):
    """A population of learners, and one of Transformers that is measured beside them.

    Attributes:
      learner: the learners, whose layers are a construction.
      step_sizes: of each.
    """

    setting: Setting
    learner: Population
    step_sizes: tuple[float, ...]

    def descend(self, params: Params) -> Predictor:
        """The learner itself, with a member's features: every iterate's prediction `[iterate m]`."""
        embed = models.features(self.learner.config, params, self.setting.task.d_output)
        return learners.layerwise_deep_gradient_descent(embed, self.step_sizes)

    def descended(self, params: Params) -> Predictor:
        return learners.final_iterate(self.descend(params))

    @cached_property
    def _watch(self) -> Callable[[Params, Params], dict[str, Array]]:
        network, layout = self.setting.network, self.setting.layout
        of_transformer = partial(models.fastest_predictor, network, layout=layout)
        of_learner = partial(models.fastest_predictor, self.learner.config, layout=layout)
        of_pair = partial(beside, of_transformer, of_learner, self.setting.prompts)
        return jax.jit(lambda params, others: analysis.over_members(lambda pair: of_pair(*pair), (params, others)))

    def watch(self, params: Params) -> dict[str, np.ndarray]:
        """Loss of every Transformer, and its alignment to its learner `[member]`."""
        return jax.tree.map(np.asarray, self._watch(params, self.learner.params))

    def evaluate(self, study: Evaluation) -> Records:
        """Losses of both populations, before and after their layers or steps, and alignment."""
        return evaluate(study)

    def over_training(self, study: Evaluation, found: Records) -> None:
        """Curves of all seeds: a loss of 1.2 times the learner's is a shortfall here, and not another solution."""
        histories = {**study.history, **study.read_history("learner")}
        histories.pop("training_loss", None)  # of one population, under a name that both have
        seed, members = study.experiment.seed, range(study.experiment.seeds)
        found.curves |= curves_by_step(histories, seed, members)


def beside(
    of_transformer: Callable[[Params], Predictor],
    of_learner: Callable[[Params], Predictor],
    prompts: Prompt,
    params: Params,
    others: Params,
) -> dict[str, Array]:
    """Loss of one Transformer, and its alignment to one learner."""
    predictor, reference = of_transformer(params), of_learner(others)
    found = {
        f"{name}_{LEARNER}": value
        for name, value in analysis.alignment(predictor, reference, prompts)._asdict().items()
    }
    return {"loss_trained": analysis.losses(predictor, prompts).mean(), **found}


def evaluate(study: Evaluation) -> Records:
    """Everything that is recorded of a study."""
    step_size = float(learners.fit_step_size(study.prompts))
    gd = learners.gradient_descent([step_size])
    trained, learner = study.trained, study.reference.learner
    losses_of = {
        "loss_trained": of_members(trained.predictor(trained.params)),
        "loss_untrained": of_members(trained.predictor(study.untrained)),
        "loss_trained_before": of_members(Partial(_Before(trained.config), trained.params)),
        LOSS: of_members(jax.vmap(study.reference.descended)(learner.params)),
        f"{LOSS}_before": of_members(Partial(_Before(learner.config), learner.params)),
        "loss_gd": of_learner(gd),
        "loss_zero": of_learner(learners.predict_zero),
    }
    risks = analysis.streamed_risks(merge_losses(losses_of), study.task.sample, study.key, study.n_prompts)
    gone = [np.asarray(population.diverged_at) >= 0 for population in (trained, learner)]
    found = Records(free_members(risks["loss_trained"].mean, risks[LOSS].mean.mean()), np.logical_or(*gone))
    found.add_risks(risks)
    found.add(f"loss_ratio_{LEARNER}", risks["loss_trained"].mean / risks[LOSS].mean)
    found.add_one("step_size_gd", step_size / study.task.n_context)
    found.arrays["loss_zero"] = study.task.label_moments[1] / 2
    alignment(study, found)
    return found


@dataclass(frozen=True)
class _Before:
    """What a network predicts before its first layer, or a learner before its first step."""

    config: models.TransformerConfig

    def __call__(self, params: Params, x: Array, y: Array, x_query: Array) -> Array:
        return -models.features(self.config, params, y.shape[-1])(x_query, jnp.zeros_like(y[0]))[1]


def alignment(study: Evaluation, found: Records) -> None:
    """Alignment of member i to learner i, beside an untrained control."""
    measures = lambda of: {k: v for k, v in of.items() if k != "loss_trained"}
    for name, values in measures(study.watched).items():
        found.add(name, values)
    for name, values in measures(study.watched_untrained).items():
        found.add(f"{name}_untrained", values, over=EVERY[:1])


def _draw_loss(done: Done) -> plots.Figure:
    figure, ax = plots.subplots(figsize=(plots.COLUMN, 2.7))
    plots.line(ax, done["curves"]["loss_trained_by_step"], "trained")
    plots.line(ax, done["curves"][f"loss_{LEARNER}_by_step"], LEARNER)
    plots.level(ax, done["arrays"]["loss_zero"], "zero")
    ax.set(xlabel="training step", ylabel=r"loss  $\frac{1}{2}(\hat y - y)^2$", yscale="log")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _draw_alignment(done: Done) -> plots.Figure:
    figure, axes = plots.subplots(1, 3, figsize=(plots.PAGE, 2.2))
    for ax, name in zip(axes, ("sensitivity_cosine", "sensitivity_difference", "prediction_difference"), strict=True):
        plots.line(ax, done["curves"][f"{name}_{LEARNER}_by_step"], "trained")
        plots.level(ax, done["metrics"][f"{name}_{LEARNER}_untrained"]["mean"], "untrained")
        ax.set(xlabel="training step", ylabel=f"{name.replace('_', ' ')}\nto gradient descent")
    axes[0].legend()
    return figure


PICTURES = (
    Picture(
        "deep_features_loss",
        (f"loss_{LEARNER}_by_step",),
        _draw_loss,
        "Loss on held-out prompts over training, of the Transformer and of the meta-learned "
        "learner: mean and range over seeds.",
        place=250,
    ),
    Picture(
        "deep_features_alignment",
        (f"sensitivity_cosine_{LEARNER}_by_step",),
        _draw_alignment,
        "Alignment of each Transformer to a fully trained learner over training, beside an untrained control.",
        place=260,
    ),
)
