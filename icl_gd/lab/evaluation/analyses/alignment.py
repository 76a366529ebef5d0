"""Alignment of predictions and sensitivities to gradient descent, with controls."""

from functools import partial
from typing import Any

import jax

from icl_gd import analysis, plots
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, needs
from icl_gd.lab.evaluation.comparing import ALIGNED
from icl_gd.lab.evaluation.measured import GROUPS, Evaluation, Records


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})


def measure(evaluation: Evaluation, records: Records) -> None:
    """Adds the alignment to gradient descent, and two controls: untrained members, and a wrong step size."""
    for name, values in evaluation.watched.items():
        if name != "loss_trained":
            records.add(name, values)
    for name, values in evaluation.watched_untrained.items():
        if name != "loss_trained":
            records.add(f"{name}_untrained", values, over=GROUPS[:1])
    control = partial(analysis.alignment, evaluation.reference.wrong_step, evaluation.reference.gd)
    for measure, value in jax.jit(control)(evaluation.prompts)._asdict().items():
        records.add_one(f"{measure}_gd_wrong_step", float(value))


def _draw(done: Done) -> plots.Figure:
    figure, axes = plots.subplots(1, 3, figsize=(plots.PAGE, 2.4))
    names = ("sensitivity_cosine_gd", "sensitivity_difference_gd", "prediction_difference_gd")
    for ax, name in zip(axes, names, strict=True):
        curve = done["curves"][f"{name}_by_step"]
        plots.line(ax, curve, "trained")
        if "difference" in name:
            plots.log_where_it_spikes(ax, [curve])
        for control in ("untrained", "wrong_step"):
            if (value := done["metrics"].get(f"{name}_{control}", {}).get("mean")) is not None:
                plots.horizontal_line(ax, value, control)
        ax.set(xlabel="training step", ylabel=f"{name.removesuffix('_gd').replace('_', ' ')}\nto gradient descent")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _draw_deep(done: Done) -> plots.Figure:
    figure, axes = plots.subplots(1, 3, figsize=(plots.PAGE, 2.5))
    measures = ("sensitivity_cosine", "sensitivity_difference", "prediction_difference")
    for ax, measure in zip(axes, measures, strict=True):
        curves = {name: done["curves"][f"{measure}_{name}_by_step"] for name in ALIGNED}
        for name, curve in curves.items():
            plots.line(ax, curve, name)
        if "difference" in measure:
            plots.log_where_it_spikes(ax, curves.values())
        ax.set(xlabel="training step", ylabel=measure.replace("_", " "))
    if done["curves"]["sensitivity_cosine_gd_by_step"]["mean"][-1] > 0.8:
        axes[0].set_ylim(0.8, 1.005)  # earlier, smaller cosines are the same for all learners
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def _draw_share(done: Done) -> plots.Figure:
    figure, ax = plots.subplots(figsize=(plots.COLUMN, 2.2))
    plots.line(ax, done["curves"]["softmax_share_by_step"], "trained")
    ax.set(xlabel="training step", ylabel="softmax fraction of the pattern", ylim=(-0.02, 1.02))
    return figure


ANALYSIS = Analysis(
    "alignment",
    measure,
    records=("sensitivity_cosine_*", "sensitivity_difference_*", "prediction_difference_*", "softmax_share*"),
    check=check,
    figures=(
        Picture(
            "alignment",
            ("sensitivity_cosine_gd_by_step", "sensitivity_difference_gd_by_step"),
            _draw,
            "Alignment of the trained layers to gradient descent during training: cosine and difference between the "
            "input sensitivities (derivatives with respect to the query), and difference between the predictions. "
            "Lines show means over untrapped seeds, bands show their range. Horizontal lines are controls: untrained "
            "layers, and gradient descent with half its step size.",
            place=30,
        ),
        Picture(
            "depth_alignment",
            ("sensitivity_cosine_gd_plus_plus_by_step",),
            _draw_deep,
            "Alignment of deep networks to gradient descent and to variants of GD++ during training: cosine and "
            "difference between the input sensitivities (derivatives with respect to the query), and difference "
            "between the predictions. Lines show means over untrapped seeds, bands show their range. The axis of "
            "cosines starts at 0.8 if the cosine of gradient descent ends above 0.8.",
            place=110,
        ),
        Picture(
            "softmax_share",
            ("softmax_share_by_step",),
            _draw_share,
            "Learned softmax fraction of the mixed attention pattern during training; 1 is softmax, 0 linear "
            "attention. The line is the mean over untrapped seeds, the band their range.",
            place=220,
        ),
    ),
    evidence=(
        Evidence("sensitivity_cosine_gd", at_least=0.9999),
        Evidence("sensitivity_difference_gd", at_most=1e-4),
        Evidence("prediction_difference_gd", at_most=1e-4),
    ),
)
