"""What members are compared with: constructions, and learners without weights."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from icl_gd import constructions, learners
from icl_gd.lab.evaluation.measured import noise_to_weight
from icl_gd.lab.inspection.subject import Subject
from icl_gd.models import Model
from icl_gd.tasks import LinearRegression
from icl_gd.types import Predictor, Prompt


class Side(NamedTuple):
    """One model of the page.

    Attributes:
      name: the name by which it is selected.
      kind: "member" or "construction".
      about: what the model is, in one sentence.
      model: the model.
    """

    name: str
    kind: str
    about: str
    model: Model


def sides_of(subject: Subject, members: Sequence[int], fit: Prompt) -> list[Side]:
    """The models of the page.

    Args:
      subject: the models and their task.
      members: numbers of the members to show.
      fit: prompts that the rates of constructions are fitted on.

    Returns:
      The members, then the construction of the zoo, or those of `constructed`.
    """
    result = [_member(subject, i) for i in members]
    if subject.construction is None:
        return result + constructed(result[0].model, subject.task, fit)
    about, built = subject.construction
    return [*result, Side("Construction", "construction", f"{_in_words(built)}. {about.rstrip('.')}", built)]


def _member(subject: Subject, i: int) -> Side:
    name = f"Member {i}" + (f" ({subject.members[i]})" if subject.members[i] else "")
    return Side(name, "member", _in_words(subject.member(i)), subject.member(i))


def _in_words(model: Model) -> str:
    return repr(model).partition("\n")[0].removeprefix("Model: ")


def constructed(model: Model, task: Any, fit: Prompt) -> list[Side]:
    """The constructions that a model is compared with: gradient descent and GD++ with a step for each layer.

    They exist for linear regression with concatenated tokens (x, y) that are not embedded, if the model is not causal.

    Args:
      model: the model.
      task: the task.
      fit: prompts that the rates are fitted on.

    Returns:
      One construction for a model of one layer, two for deeper models; none if there is none.
    """
    config = model.config
    if not isinstance(task, LinearRegression) or model.layout.name != "concatenated":
        return []
    if config.causal or config.is_embedded or task.corrupted_labels:
        return []
    n_steps, d, n = config.n_layers, task.d_input, task.n_context
    result = []
    for name, (step_sizes, gammas) in _rates(task, fit, n_steps).items():
        built = constructions.gd_plus_plus_model(d, task.d_output, n, step_sizes, gammas)
        rates = f"step size {float(step_sizes[0]):.4g}" + (f", gamma {float(gammas[0]):.4g}" if any(gammas) else "")
        about = f"{_in_words(built)}. {n_steps} step{'s' * (n_steps > 1)} of {name}, {rates}"
        result.append(Side(f"Construction: {name}", "construction", about, built))
    return result


def _rates(task: LinearRegression, fit: Prompt, n_steps: int) -> dict[str, learners.GDPlusPlusRates]:
    """The best rates of gradient descent and, for several steps, of GD++; each has the same rates in every step."""
    none = np.zeros(n_steps)
    if n_steps == 1:
        return {"gradient descent": learners.GDPlusPlusRates(learners.fit_step_size(fit)[None], none)}
    spectrum, step_sizes = _fitted(task, fit, n_steps)
    plain = learners.GDPlusPlusRates(step_sizes, none)
    return {"gradient descent": plain, "GD++": learners.fit_gd_plus_plus(spectrum, n_steps)}


def _fitted(task: LinearRegression, fit: Prompt, n_steps: int) -> tuple[learners.Spectrum, np.ndarray]:
    """The spectrum of a task, and the step sizes with which several steps of gradient descent have the least risk."""
    spectrum = learners.Spectrum.of(fit.x, task.second_moment, noise_to_weight(task))
    return spectrum, learners.fit_step_sizes(spectrum, n_steps)


def learners_of(task: Any, fit: Prompt, n_steps: int) -> list[tuple[str, Predictor]]:
    """The learners that a page compares models with, by name.

    Args:
      task: the task.
      fit: prompts that step sizes are fitted on.
      n_steps: the number of steps of gradient descent, one for each layer of a model.

    Returns:
      Predicting zero first, least squares last.
    """
    one = learners.gradient_descent(learners.fit_step_size(fit)[None])
    result = [("Predict zero", learners.predict_zero), ("One step of gradient descent", one)]
    if isinstance(task, LinearRegression) and n_steps > 1 and not task.corrupted_labels:
        _, step_sizes = _fitted(task, fit, n_steps)
        result.append((f"{n_steps} steps of gradient descent", learners.gradient_descent(step_sizes)))
    if isinstance(task, LinearRegression) and task.noise_std:
        result.append(("Ridge regression (Bayes)", learners.ridge(noise_to_weight(task))))
    return [*result, ("Least squares", learners.least_squares)]
