"""Gradient descent, and for deep linear networks the family of GD++, beside linear self-attention on regression."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Annotated, Any, ClassVar

import jax
import numpy as np
from jax.tree_util import Partial

from icl_gd import analysis, learners, models
from icl_gd.lab.config.errors import reject
from icl_gd.lab.config.experiment import Experiment
from icl_gd.lab.config.parts import Regression
from icl_gd.lab.config.questions import Reference
from icl_gd.lab.config.resources import FIT_FLOATS
from icl_gd.lab.evaluation.measured import (
    DIVERGES,
    EVERY,
    Compared,
    Evaluation,
    Losses,
    Records,
    Setting,
    clip_losses,
    construction_error,
    corruption,
    free_members,
    merge_losses,
    noise_to_weight,
    of_learner,
    of_members,
)
from icl_gd.lab.evaluation.reference_learners import ReferenceLearners, reference_learners
from icl_gd.lab.reporting.results import curves_by_step
from icl_gd.programs import brief
from icl_gd.schema import OneOf, Size, check
from icl_gd.tasks import INPUT_DISTRIBUTIONS
from icl_gd.types import Array, Predictor, Prompt

LEARNERS = ("gd", "gd_plus_plus", "gd_plus_plus_free_steps", "gd_plus_plus_published")


@dataclass(frozen=True)
class GradientDescent(Reference):
    """Gradient descent with its best rates; beside deep networks GD++ too.

    Attributes:
      learner: what is built, and interpolated with; a kind of GD++ adds all learners that deep networks have.
      steps: of every learner; None takes as many as layers.
      published_steps: of Adam, by which the published code learns GD++.
    """

    name: ClassVar[str] = "gradient_descent"
    tasks: ClassVar[tuple[type, ...]] = (Regression,)
    records: ClassVar[tuple[str, ...]] = (
        *("loss_trained", "loss_untrained", "loss_zero", "loss_ols", "loss_ridge", "loss_construction"),
        *("loss_interpolated", "loss_optimal", "loss_ratio_optimal", "step_size_gd", "construction_error"),
        *(f"loss{ratio}_{name}" for ratio in ("", "_ratio") for name in (*LEARNERS, "gd_free_steps")),
        # Watched during training, whoever asks for it after it.
        *("sensitivity_cosine_*", "sensitivity_difference_*", "prediction_difference_*", "softmax_share*"),
        "training_loss",
    )
    learner: Annotated[str, OneOf(LEARNERS)] = "gd"
    steps: Size | None = None
    published_steps: Size = 1000

    def __post_init__(self):
        check(self)

    def check(self, experiment: Experiment) -> None:
        network, corrupted = experiment.network, experiment.law.corrupted_labels
        if network.causal:
            reject("model.style", experiment.model.name, "reference.name=gradient_descent takes von_oswald")
        if self.learner != "gd" and network.n_layers == 1:
            reject("reference.learner", self.learner, "GD++ is for deep networks; model.n_layers=1 needs gd")
        if corrupted and ((self.steps or network.n_layers) > 1 or self.learner != "gd"):
            reject(
                "task.corrupted_labels",
                corrupted,
                "best rates of several steps and of GD++ are known for labels "
                "as they are; 0, or reference.learner=gd and reference.steps=1",
            )

    def prepare(self, setting: Setting) -> "Beside":
        task, network = setting.task, setting.network
        n_fit = min(setting.n_prompts, 2**18, FIT_FLOATS // ((task.n_context + 1) * network.d_token))
        found = reference_learners(
            task, network, setting.key_fit, n_fit, self.learner, self.steps, self.published_steps
        )
        return Beside(**{its.name: getattr(found, its.name) for its in fields(found)}, setting=setting)


@dataclass(frozen=True)
class Beside(ReferenceLearners, Compared):
    """The learners, and a population that is measured beside them."""

    setting: Setting

    @cached_property
    def _watch(self) -> Callable[[Any], dict[str, Array]]:
        """What learners say of the prompts is computed once."""
        network, layout, prompts = self.setting.network, self.setting.layout, self.setting.prompts
        learned = self.responses(prompts)

        def one(params: Any, prompts: Prompt, learned: Mapping[str, analysis.Response]) -> dict[str, Array]:
            shares = models.softmax_share(params)  # of layers that learn how much of them is softmax
            shares = {f"softmax_share{f'_{name}' * (len(shares) > 1)}": share for name, share in shares.items()}
            return _aligned(models.fastest_predictor(network, params, layout), prompts, learned) | shares

        # Arguments, not constants: the compiler would fold those, for seconds, by computing with them itself.
        compiled = brief(lambda params, *fixed: analysis.over_members(lambda member: one(member, *fixed), params))
        return lambda params: compiled(params, prompts, learned)

    def watch(self, params: Any) -> dict[str, np.ndarray]:
        """Loss and alignment to every learner `[member]`."""
        return jax.tree.map(np.asarray, self._watch(params))

    def evaluate(self, study: Evaluation) -> Records:
        """Final losses, all but those of least squares on the same prompts, and which members are trapped."""
        task, trained = study.task, study.trained
        losses_of = {
            "loss_trained": of_members(trained.predictor(trained.params)),
            "loss_untrained": of_members(trained.predictor(study.untrained)),
            "loss_construction": of_learner(self.construction),
            "loss_zero": of_learner(learners.predict_zero),
        }
        if task.noise_std > 0:
            losses_of["loss_ridge"] = of_learner(learners.ridge(noise_to_weight(task)))
        if study.asks("interpolation"):
            losses_of["loss_interpolated"] = of_members(study.of_circuits(study.interpolated))
        beyond = DIVERGES * float(of_learner(learners.predict_zero)(study.prompts).mean())
        every = Partial(_every, merge_losses(losses_of), self.losses, beyond)
        risks = analysis.streamed_risks(every, task.sample, study.key, study.n_prompts)
        # A singular-value decomposition per prompt: on the curves' prompts only, a hundred times fewer.
        risks["loss_ols"] = analysis.Risk.of(of_learner(learners.ols)(study.prompts))

        optimal = _optimal_loss(study)
        # Deep networks are held to what the paper holds them to, the best GD++ being out of their reach; where rare
        # prompts on which that diverges are all of its mean, to gradient descent.
        standard = min(risks[name].mean for name in ("loss_gd", "loss_gd_plus_plus_published") if name in risks)
        standard = standard if optimal is None else optimal
        found = Records(free_members(risks.pop("clipped").mean, standard), np.asarray(trained.diverged_at) >= 0)
        found.add_risks(risks)
        for name in self.rates:
            over = EVERY if name == "gd" else EVERY[:2]
            found.add(f"loss_ratio_{name}", risks["loss_trained"].mean / risks[f"loss_{name}"].mean, over=over)
        found.add("steps_skipped", trained.skipped, 0.0, over=EVERY[:1])
        found.arrays["n_layers"], found.arrays["constructed"] = trained.config.n_layers, self.constructed
        found.arrays["rates"] = {name: [rates.tolist() for rates in pairs] for name, pairs in self.rates.items()}
        found.add_one("step_size_gd", self.step_size / task.n_context)
        found.add_one(
            "construction_error", construction_error(self.construction, self.learner(self.constructed), study.prompts)
        )
        if optimal is not None:
            found.add_one("loss_optimal", optimal, 0.0)
            found.add("loss_ratio_optimal", risks["loss_trained"].mean / optimal)
        on_curves = self.losses(study.prompts) | {"loss_zero": of_learner(learners.predict_zero)(study.prompts)}
        found.arrays |= {f"{name}_on_curve_prompts": float(values.mean()) for name, values in on_curves.items()}
        return found

    def over_training(self, study: Evaluation, found: Records) -> None:
        """Curves over the free members, and the losses of the trapped ones."""
        seed = study.experiment.seed
        if not found.is_free.any():
            found.arrays["none_free"] = True
        found.curves |= curves_by_step(study.history, seed, found.shown)
        losses = study.history.get("loss_trained", {})
        found.arrays["loss_trained_by_step_trapped"] = [
            [losses[step][seed + i] for i in found.trapped] for step in sorted(losses)
        ]


def _aligned(predictor: Predictor, prompts: Prompt, learned: Mapping[str, analysis.Response]) -> dict[str, Array]:
    """Loss, and alignment to every learner."""
    found, ours = {"loss_trained": analysis.losses(predictor, prompts).mean()}, analysis.response(predictor, prompts)
    for name, theirs in learned.items():
        found |= {f"{measure}_{name}": value for measure, value in analysis.compare(ours, theirs)._asdict().items()}
    return found


def _every(losses_of: Losses, of_learners: Losses, beyond: Array, prompts: Prompt) -> dict[str, Array]:
    losses = losses_of(prompts) | of_learners(prompts)
    return losses | {"clipped": clip_losses(losses["loss_trained"], beyond)}


def _optimal_loss(study: Evaluation) -> float | None:
    """The closed-form risk of the best linear layer, where there is one: Gaussian inputs, or independent coordinates.

    Corrupted labels leave it a gradient step: flipping all signs of w and of what replaces labels shows that terms
    without labels, or of even order in them, only add to the variance.
    """
    task, model = study.task, study.trained.config
    if model.n_layers != 1 or not models.has_gram_form(model):
        return None
    ratio, n = noise_to_weight(task), task.n_context
    if task.inputs == "normal" and not task.corrupted_labels:
        optimum = learners.gaussian_optimum_risk(task.second_moment, n, ratio, float(task.weight_scale))
    elif INPUT_DISTRIBUTIONS[task.inputs].independent and task.covariance is None:
        moments = task.second_moment[0, 0], task.fourth_moment
        step_size = learners.optimal_step_size(task.d_input, n, *moments, ratio, **corruption(task))
        sizes = step_size, task.d_input, n, *moments, ratio, float(task.weight_scale)
        optimum = learners.one_step_risk(*sizes, **corruption(task))
    else:
        return None
    return task.d_output * optimum
