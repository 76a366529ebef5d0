"""Losses under distribution shifts, without further training or fitting."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from icl_gd import analysis, learners, plots
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, needs
from icl_gd.lab.evaluation.comparing import changes_only_numbers, evaluated_values, shifted
from icl_gd.lab.evaluation.measured import (
    Evaluation,
    Records,
    corruption,
    losses_of_learner,
    losses_of_members,
    merge_losses,
    noise_to_weight,
)
from icl_gd.lab.reporting.results import curve
from icl_gd.tasks import INPUT_DISTRIBUTIONS, SHIFTS, Shift, change_context, corrupt_labels
from icl_gd.types import Array, Prompt


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})


def measure(evaluation: Evaluation, records: Records) -> None:
    """For every shift, measures the losses of trained, constructed and interpolated weights and of gradient descent.

    Linear attention sums over the context. So the trained layer and the construction use the step eta / n_train on
    contexts of any length n. Gradient descent takes the mean over the context, so its step is eta / n. For longer
    contexts, eta / n_train is too large. `rescaled` is the trained layer with its output multiplied by n_train / n, as
    in gradient descent. Softmax patterns sum to one and need no rescaling.
    """
    losses_of = {
        "trained": losses_of_members(evaluation.trained.predictor(evaluation.trained.params)),
        "gd": losses_of_learner(evaluation.reference.gd),
        "construction": losses_of_learner(evaluation.reference.construction),
    }
    if evaluation.has_analysis("interpolation"):
        losses_of["interpolated"] = losses_of_members(evaluation.predictor_of_circuits(evaluation.interpolated))
    for suite, shift in SHIFTS.items():
        shift = shift._replace(values=evaluated_values(evaluation, suite))
        risks = _risks_under(evaluation, shift, losses_of)
        for name in risks[0]:
            mean = np.stack([risk[name].mean for risk in risks])
            records.curves[f"loss_by_{suite}_{name}"] = curve(
                shift.values, mean if mean.ndim == 1 else mean[:, records.shown]
            )
        if suite in ("input_scale", "corrupted_labels"):
            # The trained layers are compared with the learner that the construction implements.
            reference = "gd" if evaluation.reference.constructed == "gd" else "construction"
            trained, expected = (np.stack([risk[name].mean for risk in risks]) for name in ("trained", reference))
            with np.errstate(invalid="ignore"):  # inf / inf if both diverge
                deviation = np.abs(trained / expected[:, None] - 1).max(0)
            records.add(f"{suite}_deviation", deviation)
    _closed_form_under_scale(evaluation, records)
    _closed_form_under_corruption(evaluation, records)


def _rescaled(evaluation: Evaluation, n_context: int) -> Callable[[Prompt], Array]:
    """Losses of the trained layers with outputs multiplied by n_train / `n_context`."""
    ratio = evaluation.task.n_context / n_context

    def scale(path: tuple, leaf: Array) -> Array:
        return leaf * ratio if path[-1].key == "P" else leaf

    return losses_of_members(
        evaluation.trained.predictor(jax.tree_util.tree_map_with_path(scale, evaluation.trained.params))
    )


def _n_prompts(evaluation: Evaluation, parts: int) -> int:
    """Number of prompts per value of a shift: n_prompts / (parts * n_layers), but at least one chunk.

    A smaller chunk would have to be compiled separately. If n_prompts is less than a chunk, all prompts are used.
    """
    return max(
        evaluation.n_prompts // (parts * evaluation.trained.config.n_layers), min(evaluation.n_prompts, analysis.CHUNK)
    )


def _risks_under(
    evaluation: Evaluation, shift: Shift, losses_of: Mapping[str, Callable[[Prompt], Array]]
) -> list[dict[str, analysis.Risk]]:
    """Risks by name at every value of a shift. All values use the same random keys."""
    losses = [merge_losses(losses_of)] * len(shift.values)
    if shift.apply is change_context and set(evaluation.trained.config.kinds) == {"linear"}:
        lengths = [shift.apply(evaluation.task, factor).n_context for factor in shift.values]
        losses = [merge_losses({**losses_of, "rescaled": _rescaled(evaluation, n)}) for n in lengths]
    parts = 4 if changes_only_numbers(shift.apply, shift.values) else 32
    sample = shifted(evaluation.task, shift.apply, shift.values)
    return analysis.streamed_risks_under(losses, sample, evaluation.key, _n_prompts(evaluation, parts))


def _sizes(evaluation: Evaluation) -> tuple[int, int, float, float, float] | None:
    """The arguments of the closed forms of one gradient step; None if no closed form applies."""
    task, steps = evaluation.task, len(evaluation.reference.rates["gd"].step_sizes)
    known = task.covariance is None and INPUT_DISTRIBUTIONS[task.inputs].independent
    if not known or steps != 1 or evaluation.trained.config.n_layers != 1:
        return None
    return task.d_input, task.n_context, task.second_moment[0, 0], task.fourth_moment, noise_to_weight(task)


def _closed_form_under_scale(evaluation: Evaluation, records: Records) -> None:
    """Adds the closed-form loss of the gradient step at every input scale."""
    task, sizes = evaluation.task, _sizes(evaluation)
    if sizes is None:
        return
    risk: Callable[..., float] = partial(learners.one_step_risk, evaluation.reference.step_size, *sizes)
    alphas = evaluated_values(evaluation, "input_scale")
    exact = [task.d_output * risk(task.weight_scale, float(a), **corruption(task)) for a in alphas]
    records.curves["loss_by_input_scale_closed_form"] = curve(alphas, exact)


def _closed_form_under_corruption(evaluation: Evaluation, records: Records) -> None:
    """Adds the closed-form losses of one gradient step, by the number of corrupted labels.

    `closed_form` uses the optimal step size for the unshifted task, and `gd_tuned` the optimal step size for each
    number of corrupted labels.
    """
    sizes, task = _sizes(evaluation), evaluation.task
    if sizes is None:
        return
    exact: dict[str, list[float]] = {"closed_form": [], "gd_tuned": []}
    ks = evaluated_values(evaluation, "corrupted_labels")
    for k in ks:
        noise = corruption(corrupt_labels(task, int(k)))
        steps = {"closed_form": evaluation.reference.step_size, "gd_tuned": learners.optimal_step_size(*sizes, **noise)}
        for name, step in steps.items():
            risk = learners.one_step_risk(step, *sizes, float(task.weight_scale), **noise)
            exact[name].append(task.d_output * risk)
    for name, values in exact.items():
        records.curves[f"loss_by_corrupted_labels_{name}"] = curve(ks, values)


def _draw(done: Done) -> plots.Figure:
    figure, axes = plots.subplots(1, 3, figsize=(plots.PAGE, 2.8), width_ratios=(1, 1, 1.3))
    roles = ("trained", "gd", "construction", "interpolated", "closed_form")
    for ax, suite, label in zip(
        axes,
        ("input_scale", "weight_scale", "input_family"),
        (r"input scale $\alpha$", r"weight scale $\beta$", "input distribution"),
        strict=True,
    ):
        curves = {role: done["curves"].get(f"loss_by_{suite}_{role}") for role in roles}
        curves = {role: curve for role, curve in curves.items() if curve is not None}
        if isinstance(next(iter(curves.values()))["x"][0], str):
            plots.grouped_points(ax, {role: curve for role, curve in curves.items() if role != "closed_form"})
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
    labels = {
        "context_length": "context examples / examples in training",
        "corrupted_labels": "number of corrupted labels",
    }
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
            "Loss under shifts of the test distribution, without further training or fitting: other scales of the "
            "inputs, other scales of the weights of the task, other distributions of the inputs. Bands and bars show "
            f"the range over untrapped seeds. {plots.ARROWS}",
            place=60,
        ),
        Picture(
            "noise_and_length",
            ("loss_by_corrupted_labels_trained", "loss_by_context_length_trained"),
            _draw_noise_and_length,
            "Loss on contexts of other lengths (left) and with labels replaced by noise (right), without further "
            "training. Linear attention sums over the context, so the trained layer and the construction use the step "
            "eta / n_train. Gradient descent and the rescaled layer use eta / n, where n is the length of the context. "
            f"{plots.ARROWS}",
            place=200,
        ),
    ),
    evidence=(
        Evidence("input_scale_deviation", at_most=1e-3),
        Evidence("corrupted_labels_deviation", at_most=1e-3),
    ),
)
