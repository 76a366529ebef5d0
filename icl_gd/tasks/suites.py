"""The prompts that Garg et al. (2208.01066, section 4) test on what was trained on standard ones."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from icl_gd.tasks.families import PROMPT_DISTRIBUTIONS
from icl_gd.tasks.regression import FunctionRegression

SCALES = (1 / 3, 1 / 2, 2.0, 3.0)


def _on_family(name: str, task: FunctionRegression) -> FunctionRegression:
    return replace(task, family=name)


def _inputs_scaled(scale: float, task: FunctionRegression) -> FunctionRegression:
    return replace(task, input_scale=task.input_scale * scale)


def _labels_scaled(scale: float, task: FunctionRegression) -> FunctionRegression:
    return replace(task, label_scale=task.label_scale * scale)


def _noisy(task: FunctionRegression) -> FunctionRegression:
    return replace(task, noise_std=1.0, renormalised=True)


def _shown(scale: float) -> str:
    return {1 / 3: "third", 1 / 2: "half", 2.0: "double", 3.0: "triple"}[scale]


# From a task to the one that is tested on: families of prompts, scales of inputs and of labels, and noisy labels.
EVAL_SUITE: dict[str, Callable[[FunctionRegression], FunctionRegression]] = {
    **{name: partial(_on_family, name) for name in PROMPT_DISTRIBUTIONS},
    **{f"inputs_{_shown(scale)}": partial(_inputs_scaled, scale) for scale in SCALES},
    **{f"labels_{_shown(scale)}": partial(_labels_scaled, scale) for scale in SCALES},
    "noisy": _noisy,
}
