"""Out-of-distribution evaluation of models trained on standard prompts (Garg et al. 2208.01066, section 4).

Example:
  >>> from icl_gd.tasks import Linear
  >>> task = FunctionRegression(Linear(d_input=2), n_context=3)
  >>> EVAL_SUITE["inputs_double"](task).input_scale, EVAL_SUITE["skewed"](task).family
  (2.0, 'skewed')
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from icl_gd.tasks.families import PROMPT_DISTRIBUTIONS
from icl_gd.tasks.regression import FunctionRegression

SCALES = {"third": 1 / 3, "half": 1 / 2, "double": 2.0, "triple": 3.0}


def _with_family(name: str, task: FunctionRegression) -> FunctionRegression:
    return replace(task, family=name)


def _scale_inputs(scale: float, task: FunctionRegression) -> FunctionRegression:
    return replace(task, input_scale=task.input_scale * scale)


def _scale_labels(scale: float, task: FunctionRegression) -> FunctionRegression:
    return replace(task, label_scale=task.label_scale * scale)


def _add_noise(task: FunctionRegression) -> FunctionRegression:
    return replace(task, noise_std=1.0, renormalised=True)


# Each entry maps the training task to the evaluation task.
EVAL_SUITE: dict[str, Callable[[FunctionRegression], FunctionRegression]] = {
    **{name: partial(_with_family, name) for name in PROMPT_DISTRIBUTIONS},
    **{f"inputs_{name}": partial(_scale_inputs, scale) for name, scale in SCALES.items()},
    **{f"labels_{name}": partial(_scale_labels, scale) for name, scale in SCALES.items()},
    "noisy": _add_noise,
}
