"""The reference for sine waves: gradient descent on meta-learned deep features."""

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
    GROUPS,
    Evaluation,
    PreparedReference,
    Records,
    Setting,
    free_members,
    losses_of_learner,
    losses_of_members,
    merge_losses,
)
from icl_gd.lab.reporting.results import curves_by_step
from icl_gd.models import TransformerConfig
from icl_gd.schema import Size, check
from icl_gd.training import Population
from icl_gd.types import Array, Predictor, Prompt

LEARNER = "gd_deep_features"
LOSS = f"loss_{LEARNER}"
GRID = np.linspace(-5.0, 5.0, 201)  # inputs x at which functions and features are evaluated
Params = Any
LEARNER_BETA2 = 0.999  # beta2 of Adam for the learner, as published; for the Transformer it is 0.98


@dataclass(frozen=True)
class DeepFeatures(Reference):
    """Gradient descent on the last layer of a network with meta-learned features, one learner for each seed.

    The learners are trained first, so that the Transformers' alignment to them can be measured during training, as in
    von Oswald et al. 2212.07677. Member i of the Transformers is compared with member i of the learners.

    Attributes:
      steps: gradient steps of the learner; None: one per layer of the Transformer.
      learning_rate: learning rate with which the learner's features are trained.
      step_size: size of every gradient step. It is fixed, because the trained features can change their scale instead.
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
                "model.layout",
                experiment.model.layout,
                "reference.name=deep_features needs concatenated, and model.style=von_oswald",
            )
        if network.d_embed is None or network.d_embed < 2:
            reject(
                "model.d_embed",
                network.d_embed,
                "reference.name=deep_features needs at least 2: one or more features, and a slot for y",
            )
        if experiment["train.weight_decay"] != 0.0:
            reject(
                "train.weight_decay",
                experiment["train.weight_decay"],
                "would also shrink the constructed layers of the learner; only 0 is accepted",
            )
        if any(experiment.combinations()):
            field, values = next(iter(experiment.sweep.items()))
            reject(
                field,
                values,
                "takes one value with reference.name=deep_features, which trains one learner for each seed",
            )

    def prepare(self, setting: Setting) -> "PreparedDeepFeatures":
        """Trains the embeddings of the learners: networks whose attention layers are constructed and frozen."""
        network, task, prompts = setting.network, setting.task, setting.prompts
        step_sizes = [self.step_size] * (self.steps or network.n_layers)
        config = TransformerConfig(
            network.d_token,
            len(step_sizes),
            init_scale=network.init_scale,
            d_embed=network.d_embed,
            input_mlp_width=network.input_mlp_width,
        )
        n_features = config.width - task.d_output
        frozen = constructions.gradient_descent_weights(config, n_features, task.n_context, step_sizes)
        settings = replace(setting.experiment.settings, learning_rate=self.learning_rate, beta2=LEARNER_BETA2)
        predictor_of = partial(models.fastest_predictor, config, layout=setting.layout)
        loss = jax.jit(lambda params: analysis.member_losses(predictor_of(params), prompts).mean(-1))

        def watch(params: Params) -> dict[str, np.ndarray]:
            return {LOSS: np.asarray(loss(params))}

        learner = setting.train(task, config, settings, watch, "learner", frozen=frozen)
        return PreparedDeepFeatures(setting, learner, tuple(step_sizes))


@dataclass(frozen=True)
class PreparedDeepFeatures(PreparedReference):
    """A population of trained learners, compared with a population of Transformers.

    Attributes:
      setting: the setting of the population of Transformers.
      learner: the population of learners: networks whose attention layers are constructed.
      step_sizes: the sizes of the gradient steps, the same for every learner.
    """

    setting: Setting
    learner: Population
    step_sizes: tuple[float, ...]

    def descend(self, params: Params) -> Predictor:
        """Gradient descent on the features of one learner, with the prediction of every iterate: `[iterate m]`."""
        embed = models.features(self.learner.config, params, self.setting.task.d_output)
        return learners.layerwise_deep_gradient_descent(embed, self.step_sizes)

    def descended(self, params: Params) -> Predictor:
        """Gradient descent on the features of one learner, with the final prediction: `[m]`."""
        return learners.final_iterate(self.descend(params))

    @cached_property
    def _watch(self) -> Callable[[Params, Params], dict[str, Array]]:
        network, layout = self.setting.network, self.setting.layout
        transformer_of = partial(models.fastest_predictor, network, layout=layout)
        learner_of = partial(models.fastest_predictor, self.learner.config, layout=layout)
        metrics_of = partial(pair_metrics, transformer_of, learner_of, self.setting.prompts)
        return jax.jit(lambda params, others: analysis.over_members(lambda pair: metrics_of(*pair), (params, others)))

    def watch(self, params: Params) -> dict[str, np.ndarray]:
        """Loss of every Transformer and its alignment to its learner, `[member]` each."""
        return jax.tree.map(np.asarray, self._watch(params, self.learner.params))

    def evaluate(self, evaluation: Evaluation) -> Records:
        """Records of the losses before and after the layers of both populations, and of the Transformers' alignment."""
        return evaluate(evaluation)

    def over_training(self, evaluation: Evaluation, records: Records) -> None:
        """Adds curves over all seeds, including trapped seeds.

        On this task a trapped seed has been trained too briefly; it has not learned another solution.
        """
        histories = {**evaluation.history, **evaluation.read_history("learner")}
        histories.pop("training_loss", None)  # both populations have one, and the merged mapping would contain only one
        seed, members = evaluation.experiment.seed, range(evaluation.experiment.seeds)
        records.curves |= curves_by_step(histories, seed, members)


def pair_metrics(
    transformer_of: Callable[[Params], Predictor],
    learner_of: Callable[[Params], Predictor],
    prompts: Prompt,
    params: Params,
    others: Params,
) -> dict[str, Array]:
    """Loss of one Transformer, and its alignment to one learner.

    Args:
      transformer_of: returns the Predictor of a Transformer, given its parameters.
      learner_of: returns the Predictor of a learner, given its parameters.
      prompts: the batch that both are evaluated on.
      params: parameters of the Transformer.
      others: parameters of the learner.

    Returns:
      Metrics by name.
    """
    predictor, reference = transformer_of(params), learner_of(others)
    aligned = analysis.alignment(predictor, reference, prompts)._asdict()
    metrics = {f"{name}_{LEARNER}": value for name, value in aligned.items()}
    return {"loss_trained": analysis.losses(predictor, prompts).mean(), **metrics}


def evaluate(evaluation: Evaluation) -> Records:
    """Final metrics of a population of Transformers and of its learners."""
    step_size = float(learners.fit_step_size(evaluation.prompts))
    gd = learners.gradient_descent([step_size])
    trained, learner = evaluation.trained, evaluation.reference.learner
    losses_of = {
        "loss_trained": losses_of_members(trained.predictor(trained.params)),
        "loss_untrained": losses_of_members(trained.predictor(evaluation.untrained)),
        "loss_trained_before": losses_of_members(Partial(_Before(trained.config), trained.params)),
        LOSS: losses_of_members(jax.vmap(evaluation.reference.descended)(learner.params)),
        f"{LOSS}_before": losses_of_members(Partial(_Before(learner.config), learner.params)),
        "loss_gd": losses_of_learner(gd),
        "loss_zero": losses_of_learner(learners.predict_zero),
    }
    risks = analysis.streamed_risks(
        merge_losses(losses_of), evaluation.task.sample, evaluation.key, evaluation.n_prompts
    )
    diverged = [np.asarray(population.diverged_at) >= 0 for population in (trained, learner)]
    records = Records(free_members(risks["loss_trained"].mean, risks[LOSS].mean.mean()), np.logical_or(*diverged))
    records.add_risks(risks)
    records.add(f"loss_ratio_{LEARNER}", risks["loss_trained"].mean / risks[LOSS].mean)
    records.add_one("step_size_gd", step_size / evaluation.task.n_context)
    records.arrays["loss_zero"] = evaluation.task.label_moments[1] / 2
    alignment(evaluation, records)
    return records


@dataclass(frozen=True)
class _Before:
    """The prediction of a network before its first layer, or of a learner before its first step."""

    config: models.TransformerConfig

    def __call__(self, params: Params, x: Array, y: Array, x_query: Array) -> Array:
        return -models.features(self.config, params, y.shape[-1])(x_query, jnp.zeros_like(y[0]))[1]


def alignment(evaluation: Evaluation, records: Records) -> None:
    """Adds the alignment of Transformer i to learner i, and that of untrained Transformers as a control."""
    for name, values in evaluation.watched.items():
        if name != "loss_trained":
            records.add(name, values)
    for name, values in evaluation.watched_untrained.items():
        if name != "loss_trained":
            records.add(f"{name}_untrained", values, over=GROUPS[:1])


def _draw_loss(done: Done) -> plots.Figure:
    figure, ax = plots.subplots(figsize=(plots.COLUMN, 2.7))
    plots.line(ax, done["curves"]["loss_trained_by_step"], "trained")
    plots.line(ax, done["curves"][f"loss_{LEARNER}_by_step"], LEARNER)
    plots.horizontal_line(ax, done["arrays"]["loss_zero"], "zero")
    ax.set(xlabel="training step", ylabel=r"loss  $\frac{1}{2}(\hat y - y)^2$", yscale="log")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _draw_alignment(done: Done) -> plots.Figure:
    figure, axes = plots.subplots(1, 3, figsize=(plots.PAGE, 2.2))
    for ax, name in zip(axes, ("sensitivity_cosine", "sensitivity_difference", "prediction_difference"), strict=True):
        plots.line(ax, done["curves"][f"{name}_{LEARNER}_by_step"], "trained")
        plots.horizontal_line(ax, done["metrics"][f"{name}_{LEARNER}_untrained"]["mean"], "untrained")
        ax.set(xlabel="training step", ylabel=f"{name.replace('_', ' ')}\nto gradient descent")
    axes[0].legend()
    return figure


PICTURES = (
    Picture(
        "deep_features_loss",
        (f"loss_{LEARNER}_by_step",),
        _draw_loss,
        "Loss on held-out prompts during training, of the Transformers and of gradient descent on meta-learned "
        "features. Lines are means over seeds, bands their range. The horizontal line is the loss of predicting zero.",
        place=250,
    ),
    Picture(
        "deep_features_alignment",
        (f"sensitivity_cosine_{LEARNER}_by_step",),
        _draw_alignment,
        "Alignment of each Transformer to its fully trained learner during training: cosine and difference between "
        "the input sensitivities (derivatives with respect to the query), and difference between the predictions. "
        "Lines show means over seeds, bands show their range. Horizontal lines are untrained Transformers.",
        place=260,
    ),
)
