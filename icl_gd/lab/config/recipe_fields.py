"""What each recipe takes: tasks, layouts, fields that do nothing in it, and fields that it takes one value of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from icl_gd.lab.config.asked import Config

_REFERENCE = ("reference.learner", "reference.steps", "reference.published_steps")
_OF_SINE = ("task.faithful", "reference.learning_rate", "reference.step_size")
_OF_FUNCTIONS = (
    *("task.family", "task.function_pool", "model.style", "model.compute", "train.active_inputs"),
    *("train.active_points", "eval.families", "eval.baselines"),
)
# Of one class of functions each; what they do nothing for.
_OF_ONE_CLASS = {"sparse": "task.non_zeros", "relu_network": "task.hidden", "decision_tree": "task.depth"}
# What Ren & Liu make of attention, fields of config.model; as in icl_gd.models.Modification.
MODIFICATIONS = ("alpha", "beta", "share", "augment_keys", "augment_values")
_OF_DUALS = tuple(f"model.{name}" for name in ("reads_query", *MODIFICATIONS))
_OF_LINEAR_TASKS = ("task.inputs", "task.eigenvalues", "task.rotation_seed", "task.corrupted_labels")


@dataclass(frozen=True)
class Takes:
    """What a recipe takes.

    Attributes:
      tasks, layouts: accepted in `task.name` and `model.layout`.
      idle: fields that do nothing, and are refused if they are not as the defaults have them.
      only: fields of which one value will do.
      sweeps: whether tuples are swept over.
      analyses: that it takes; None: those of evaluation.analyses.
    """

    tasks: tuple[str, ...]
    layouts: tuple[str, ...]
    idle: tuple[str, ...]
    only: Mapping[str, Any] = field(default_factory=dict)
    sweeps: bool = False
    analyses: tuple[str, ...] | None = None

    def idle_of(self, task: str) -> tuple[str, ...]:
        """The fields that do nothing for one of its tasks."""
        return (*self.idle, *(name for owner, name in _OF_ONE_CLASS.items() if owner != task))


RECIPES = {
    "linear_attention": Takes(
        ("linear",), ("concatenated", "interleaved"), (*_OF_SINE, *_OF_FUNCTIONS, *_OF_DUALS), sweeps=True
    ),
    "sine": Takes(
        ("sine",), ("concatenated",),
        (*_OF_FUNCTIONS, *_OF_DUALS, *_OF_LINEAR_TASKS, "task.input_scale", "task.weight_scale", "task.noise_std",
         "task.pool", "analyses"),
        {"task.d_input": 1, "task.d_output": 1, "reference.learner": "gd", "train.weight_decay": 0.0},
    ),
    "function_classes": Takes(
        ("linear", "sparse", "quadratic", "signs", "relu_network", "decision_tree"), ("alternating",),
        (*_OF_SINE, *_OF_DUALS, *_REFERENCE, *_OF_LINEAR_TASKS, "analyses", "model.layer_norm", "model.normalised",
         "model.mlp_width", "model.d_head", "train.form"),
        {"task.d_output": 1, "model.style": "gpt2"}, sweeps=True,
    ),
    "dual_models": Takes(
        ("linear", "trigonometric", "exponential"), ("concatenated", "alternating"),
        (*_OF_SINE, *_REFERENCE, *_OF_LINEAR_TASKS, "task.family", "task.function_pool", "eval.families",
         "eval.baselines", "task.input_scale", "task.weight_scale", "task.noise_std", "task.pool", "train.form",
         "model.normalised"),
        sweeps=True, analyses=("dual", "random_features", "generalisation_gap"),
    ),
}  # fmt: skip


def beside_linear(config: Config) -> dict[str, Any]:
    """The fields by which a network is not linear layers alone, whose moment form is exact."""
    model = config.model
    plain = {"attention": "linear", "clip": None, "layer_norm": False, "normalised": False, "d_embed": None,
             "mlp_width": None}  # fmt: skip
    kinds = ",".join(sorted({word.strip() for word in model.attention.split(",")}))
    found = {**{name: model[name] for name in plain}, "attention": kinds}
    return {f"model.{name}": value for name, value in found.items() if value != plain[name]}
