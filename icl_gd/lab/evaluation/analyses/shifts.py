"""Losses under distribution shifts; nothing is fitted anew."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from icl_gd import analysis, learners
from icl_gd.lab.evaluation.study import Found, Study, corruption, noise_to_weight, of_learner, of_members, together
from icl_gd.lab.reporting.results import curve
from icl_gd.tasks import FAMILIES, SHIFTS, LinearRegression, Shift, change_context, corrupt_labels
from icl_gd.types import Array, Prompt


def shifts(study: Study, found: Found) -> None:
    """Losses under every suite of shifts: trained, constructed, interpolated, gradient descent, closed form.

    Linear attention sums over the context, gradient descent takes a mean, eta / n of the n it is given. They part where
    n changes: the trained layer and the construction keep eta over the n of training, and take too long a step on more
    examples. `rescaled` are the trained layers with what they write multiplied by n of training over n, the convention
    of gradient descent and of softmax, whose patterns sum to one and which is left as it is.
    """
    losses_of = {
        "trained": of_members(study.trained.predictor(study.trained.params)),
        "gd": of_learner(study.reference.gd),
        "construction": of_learner(study.reference.construction),
    }
    if "interpolation" in study.analyses:
        losses_of["interpolated"] = of_members(study.of_circuits(study.interpolated))
    for suite, shift in SHIFTS.items():
        shift = shift._replace(values=looked_at(study, suite))
        risks = _risks_under(study, shift, losses_of)
        for name in risks[0]:
            mean = np.stack([risk[name].mean for risk in risks])
            found.curves[f"loss_by_{suite}_{name}"] = curve(
                shift.values, mean if mean.ndim == 1 else mean[:, found.shown]
            )
        if suite in ("input_scale", "corrupted_labels"):
            standard = "gd" if study.reference.main == "gd" else "construction"  # which is GD++ then
            ours, theirs = (np.stack([risk[name].mean for risk in risks]) for name in ("trained", standard))
            with np.errstate(invalid="ignore"):  # where both diverge
                deviation = np.abs(ours / theirs[:, None] - 1).max(0)
            found.add(f"{suite}_deviation", deviation)
    _closed_form_under_scale(study, found)
    _closed_form_under_corruption(study, found)


def looked_at(study: Study, suite: str) -> tuple:
    """The values of a suite that are looked at."""
    values = tuple(SHIFTS[suite].values)
    if suite == "corrupted_labels":  # there are no more than all
        values = tuple(k for k in values if int(k) <= study.task.n_context)
    return study.few(values)


def _rescaled(study: Study, n_context: int) -> Callable[[Prompt], Array]:
    """Losses of the trained layers as means over contexts of another length."""
    ratio = study.task.n_context / n_context
    scale = lambda path, leaf: leaf * ratio if path[-1].key == "P" else leaf
    return of_members(study.trained.predictor(jax.tree_util.tree_map_with_path(scale, study.trained.params)))


@dataclass(frozen=True)
class _Shifted:
    """A key to a prompt of a task under each of several values of a shift, made of the same random numbers."""

    task: LinearRegression
    apply: Callable[..., LinearRegression]

    def __call__(self, values: Array, key: Array) -> tuple[Prompt, ...]:
        every = jax.vmap(lambda value: self.apply(self.task, value).sample(key))(values)
        return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], every) for i in range(len(values)))


@dataclass(frozen=True)
class _Each:
    """A key to a prompt of each of several tasks."""

    tasks: tuple[LinearRegression, ...]

    def __call__(self, key: Array) -> tuple[Prompt, ...]:
        return tuple(task.sample(key) for task in self.tasks)


@dataclass(frozen=True)
class _FirstExamples:
    """As `_Each`, of tasks that differ in length: a prompt's first examples are those of the longest."""

    longest: LinearRegression
    lengths: tuple[int, ...]

    def __call__(self, key: Array) -> tuple[Prompt, ...]:
        whole = self.longest.sample(key)
        return tuple(whole._replace(x=whole.x[:n], y=whole.y[:n]) for n in self.lengths)


def _is_in_numbers(apply: Callable[..., LinearRegression], values: Sequence) -> bool:
    """Whether a shift changes numbers of a program alone; families and lengths are another program each."""
    return not isinstance(values[0], str) and apply is not change_context


def shifted(task: LinearRegression, apply: Callable[..., LinearRegression], values: Sequence) -> Callable:
    """A key to a prompt of the task under each of the values: one program for all of them."""
    if _is_in_numbers(apply, values):
        return Partial(_Shifted(task, apply), jnp.asarray(values, float))
    tasks = tuple(apply(task, value) for value in values)
    if apply is change_context and not task.corrupted_labels:  # which labels are replaced depends on the length
        lengths = tuple(one.n_context for one in tasks)
        return Partial(_FirstExamples(replace(task, n_context=max(lengths)), lengths))
    return Partial(_Each(tasks))


def _part(study: Study, of: int) -> int:
    """How many prompts a shift is measured on: a part of all, less of them the deeper, but a whole chunk, or programs
    would be compiled anew."""
    return max(study.n_prompts // (of * study.trained.config.n_layers), min(study.n_prompts, analysis.CHUNK))


def _risks_under(
    study: Study, shift: Shift, losses_of: Mapping[str, Callable[[Prompt], Array]]
) -> list[dict[str, analysis.Risk]]:
    """Risks at every value of a shift, the same keys under each."""
    losses = [together(losses_of)] * len(shift.values)
    if shift.apply is change_context and set(study.trained.config.kinds) == {"linear"}:
        lengths = [shift.apply(study.task, factor).n_context for factor in shift.values]
        losses = [together({**losses_of, "rescaled": _rescaled(study, n)}) for n in lengths]
    of = 4 if _is_in_numbers(shift.apply, shift.values) else 32
    sample = shifted(study.task, shift.apply, shift.values)
    return analysis.streamed_risks_under(losses, sample, study.key, _part(study, of))


def _sizes(study: Study) -> tuple[int, int, float, float, float] | None:
    """What the closed forms of one gradient step ask for, where they hold."""
    task, steps = study.task, len(study.reference.rates["gd"].step_sizes)
    known = task.covariance is None and FAMILIES[task.inputs].independent
    if not known or steps != 1 or study.trained.config.n_layers != 1:
        return None
    return task.d_input, task.n_context, task.second_moment[0, 0], task.fourth_moment, noise_to_weight(task)


def _closed_form_under_scale(study: Study, found: Found) -> None:
    task, sizes = study.task, _sizes(study)
    if sizes is None:
        return
    risk: Callable[..., float] = partial(learners.one_step_risk, study.reference.step_size, *sizes)
    alphas = looked_at(study, "input_scale")
    exact = [task.d_output * risk(task.weight_scale, float(a), **corruption(task)) for a in alphas]
    found.curves["loss_by_input_scale_closed_form"] = curve(alphas, exact)


def _closed_form_under_corruption(study: Study, found: Found) -> None:
    """Of the step that was tuned for the task, and of the best step for every number of corrupted labels."""
    sizes, task = _sizes(study), study.task
    if sizes is None:
        return
    exact: dict[str, list[float]] = {"closed_form": [], "gd_tuned": []}
    ks = looked_at(study, "corrupted_labels")
    for k in ks:
        noise = corruption(corrupt_labels(task, int(k)))
        steps = {"closed_form": study.reference.step_size, "gd_tuned": learners.optimal_step_size(*sizes, **noise)}
        for name, step in steps.items():
            risk = learners.one_step_risk(step, *sizes, float(task.weight_scale), **noise)
            exact[name].append(task.d_output * risk)
    for name, values in exact.items():
        found.curves[f"loss_by_corrupted_labels_{name}"] = curve(ks, values)
