"""Losses under distribution shifts; nothing is fitted anew."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from icl_gd import analysis, learners, plots
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, needs
from icl_gd.lab.evaluation.comparing import is_in_numbers, looked_at, shifted
from icl_gd.lab.evaluation.measured import (
    Evaluation,
    Records,
    corruption,
    merge_losses,
    noise_to_weight,
    of_learner,
    of_members,
)
from icl_gd.lab.reporting.results import curve
from icl_gd.tasks import INPUT_DISTRIBUTIONS, SHIFTS, Shift, change_context, corrupt_labels
from icl_gd.types import Array, Prompt


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})


def measure(study: Evaluation, found: Records) -> None:
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
    if study.asks("interpolation"):
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
            standard = "gd" if study.reference.constructed == "gd" else "construction"  # which is GD++ then
            ours, theirs = (np.stack([risk[name].mean for risk in risks]) for name in ("trained", standard))
            with np.errstate(invalid="ignore"):  # where both diverge
                deviation = np.abs(ours / theirs[:, None] - 1).max(0)
            found.add(f"{suite}_deviation", deviation)
    _closed_form_under_scale(study, found)
    _closed_form_under_corruption(study, found)


def _rescaled(study: Evaluation, n_context: int) -> Callable[[Prompt], Array]:
    """Losses of the trained layers as means over contexts of another length."""
    ratio = study.task.n_context / n_context
    scale = lambda path, leaf: leaf * ratio if path[-1].key == "P" else leaf
    return of_members(study.trained.predictor(jax.tree_util.tree_map_with_path(scale, study.trained.params)))


def _part(study: Evaluation, of: int) -> int:
    """How many prompts a shift is measured on: a part of all, less of them the deeper, but a whole chunk, or programs
    would be compiled anew."""
    return max(study.n_prompts // (of * study.trained.config.n_layers), min(study.n_prompts, analysis.CHUNK))


def _risks_under(
    study: Evaluation, shift: Shift, losses_of: Mapping[str, Callable[[Prompt], Array]]
) -> list[dict[str, analysis.Risk]]:
    """Risks at every value of a shift, the same keys under each."""
    losses = [merge_losses(losses_of)] * len(shift.values)
    if shift.apply is change_context and set(study.trained.config.kinds) == {"linear"}:
        lengths = [shift.apply(study.task, factor).n_context for factor in shift.values]
        losses = [merge_losses({**losses_of, "rescaled": _rescaled(study, n)}) for n in lengths]
    of = 4 if is_in_numbers(shift.apply, shift.values) else 32
    sample = shifted(study.task, shift.apply, shift.values)
    return analysis.streamed_risks_under(losses, sample, study.key, _part(study, of))


def _sizes(study: Evaluation) -> tuple[int, int, float, float, float] | None:
    """What the closed forms of one gradient step ask for, where they hold."""
    task, steps = study.task, len(study.reference.rates["gd"].step_sizes)
    known = task.covariance is None and INPUT_DISTRIBUTIONS[task.inputs].independent
    if not known or steps != 1 or study.trained.config.n_layers != 1:
        return None
    return task.d_input, task.n_context, task.second_moment[0, 0], task.fourth_moment, noise_to_weight(task)


def _closed_form_under_scale(study: Evaluation, found: Records) -> None:
    task, sizes = study.task, _sizes(study)
    if sizes is None:
        return
    risk: Callable[..., float] = partial(learners.one_step_risk, study.reference.step_size, *sizes)
    alphas = looked_at(study, "input_scale")
    exact = [task.d_output * risk(task.weight_scale, float(a), **corruption(task)) for a in alphas]
    found.curves["loss_by_input_scale_closed_form"] = curve(alphas, exact)


def _closed_form_under_corruption(study: Evaluation, found: Records) -> None:
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


def _draw(done: Done) -> plots.Figure:
    figure, axes = plots.subplots(1, 3, figsize=(plots.PAGE, 2.8), width_ratios=(1, 1, 1.3))
    roles = ("trained", "gd", "construction", "interpolated", "closed_form")
    for ax, suite, label in zip(
        axes,
        ("input_scale", "weight_scale", "input_family"),
        (r"input scale $\alpha$", r"weight scale $\beta$", "family of inputs"),
        strict=True,
    ):
        curves = {role: done["curves"].get(f"loss_by_{suite}_{role}") for role in roles}
        curves = {role: curve for role, curve in curves.items() if curve is not None}
        if isinstance(next(iter(curves.values()))["x"][0], str):
            plots.by_name(ax, {role: curve for role, curve in curves.items() if role != "closed_form"})
            ax.tick_params(axis="x", rotation=30)
        else:
            for role, curve in curves.items():
                plots.line(ax, curve, role, marker="o" if role == "trained" else "")
        ax.set(xlabel=label, ylabel="loss", yscale="log")
        plots.frame_losses(ax, done["metrics"]["loss_zero"]["mean"])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _draw_noise_and_length(done: Done) -> plots.Figure:
    figure, axes = plots.subplots(1, 2, figsize=(plots.PAGE, 2.7))
    roles = ("trained", "rescaled", "gd", "construction", "interpolated", "closed_form", "gd_tuned")
    labels = {"context_length": r"context examples / those of training", "corrupted_labels": "corrupted labels"}
    for ax, (suite, label) in zip(axes, labels.items(), strict=True):
        for role in roles:
            if (curve := done["curves"].get(f"loss_by_{suite}_{role}")) is not None:
                plots.line(ax, curve, role, marker="o" if role == "trained" else "")
        ax.set(xlabel=label, ylabel="loss", yscale="log")
        plots.frame_losses(ax, done["metrics"]["loss_zero"]["mean"])
    axes[0].set_xscale("log", base=2)
    axes[0].xaxis.set_major_formatter("{x:g}")
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
    return figure


ANALYSIS = Analysis(
    "shifts",
    measure,
    records=(*(f"loss_by_{suite}_*" for suite in SHIFTS), "input_scale_deviation", "corrupted_labels_deviation"),
    check=check,
    figures=(
        Picture(
            "shifts",
            ("loss_by_input_scale_trained",),
            _draw,
            "Losses under shifts of the test distribution; nothing is fitted anew. Bands and bars: range over free "
            f"seeds. {plots.ARROWS}",
            place=60,
        ),
        Picture(
            "noise_and_length",
            ("loss_by_corrupted_labels_trained", "loss_by_context_length_trained"),
            _draw_noise_and_length,
            "Losses on contexts of other lengths, and with labels replaced by noise; nothing is trained "
            "anew. Linear attention sums over the context: a trained layer and the construction take a "
            "step of eta over the n of training, gradient descent and the layer as a mean one of eta over "
            f"the n there is. {plots.ARROWS}",
            place=200,
        ),
    ),
    evidence=(
        Evidence("input_scale_deviation", at_most=1e-3),
        Evidence("corrupted_labels_deviation", at_most=1e-3),
    ),
)
