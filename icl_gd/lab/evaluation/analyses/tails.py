"""Tails of the loss: deep networks without a clip diverge on rare prompts, which dominate the mean loss."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.tree_util import Partial

from icl_gd import analysis, learners, plots
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, needs
from icl_gd.lab.evaluation.comparing import LEARNERS, evaluated_values, shifted
from icl_gd.lab.evaluation.measured import (
    DIVERGES,
    Evaluation,
    Losses,
    Records,
    losses_of_learner,
    losses_of_members,
    merge_losses,
)
from icl_gd.lab.reporting.results import curve
from icl_gd.tasks import scale_inputs
from icl_gd.types import Array, Prompt

PROMPTS = 2**20  # the largest number of prompts whose losses are stored in memory
SHIFTED_PROMPTS = 2**15  # the largest number of prompts per input scale


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})


def measure(evaluation: Evaluation, records: Records) -> None:
    """Measures the share of prompts on which networks and learners diverge, the mean loss on the rest, and the median.

    The share and the median are also measured under scaled inputs, for which the mean loss without a clip soon becomes
    infinite.
    """
    trained = losses_of_members(evaluation.trained.predictor(evaluation.trained.params))
    losses_of = Partial(
        _all_losses,
        merge_losses({"loss_trained": trained, "loss_zero": losses_of_learner(learners.predict_zero)}),
        evaluation.reference.losses,
    )

    def tails_at(alphas: Sequence[float], n_prompts: int) -> list[dict[str, analysis.Tail]]:
        """The tails of all losses at every scale of the inputs, by name."""
        sample = shifted(evaluation.task, scale_inputs, alphas)
        sampled = analysis.sampled_losses([losses_of] * len(alphas), sample, evaluation.key, n_prompts)
        return [tails_of({name.removeprefix("loss_"): loss for name, loss in losses.items()}) for losses in sampled]

    n_prompts = min(evaluation.n_prompts, PROMPTS)
    (tails,) = tails_at([1.0], n_prompts)
    for name, tail in tails.items():
        add = records.add if name == "trained" else records.add_one
        add(f"diverging_share_{name}", tail.diverging, np.sqrt(tail.diverging * (1 - tail.diverging) / n_prompts))
        add(f"loss_bounded_{name}", tail.bounded_mean)
        add(f"loss_median_{name}", tail.median)
        if name != "trained":
            records.add(f"loss_bounded_ratio_{name}", tails["trained"].bounded_mean / tail.bounded_mean)
    alphas = evaluated_values(evaluation, "input_scale")
    by_scale = tails_at(alphas, min(evaluation.n_prompts, SHIFTED_PROMPTS))
    for name in by_scale[0]:
        for part, quantity in (("diverging", "diverging_share"), ("median", "loss_median")):
            values = np.stack([getattr(tails[name], part) for tails in by_scale])
            shown = values[:, records.shown] if name == "trained" else values
            records.curves[f"{quantity}_by_input_scale_{name}"] = curve(alphas, shown)


def tails_of(losses: Mapping[str, np.ndarray]) -> dict[str, analysis.Tail]:
    """Tails of losses.

    Args:
      losses: `[... prompt]` by name. A prompt diverges if its loss is above `DIVERGES` times the mean of "zero", the
        losses of predicting zero.

    Returns:
      Tails by name, without "zero".
    """
    beyond = DIVERGES * losses["zero"].mean(dtype=np.float64)
    return {name: analysis.tail(values, beyond) for name, values in losses.items() if name != "zero"}


def _all_losses(member_losses: Losses, learner_losses: Losses, prompts: Prompt) -> dict[str, Array]:
    """Losses of members and learners by name."""
    return member_losses(prompts) | learner_losses(prompts)


def _draw(done: Done) -> plots.Figure:
    figure, axes = plots.subplots(1, 2, figsize=(plots.PAGE, 2.7))
    for ax, quantity in zip(axes, ("loss_median", "diverging_share"), strict=True):
        for role in ("trained", *LEARNERS):
            if (curve := done["curves"].get(f"{quantity}_by_input_scale_{role}")) is not None:
                if quantity == "diverging_share":
                    curve = _with_many_prompts(curve, done["metrics"][f"diverging_share_{role}"])
                plots.line(ax, curve, role, marker="o" if role == "trained" or len(curve["x"]) == 1 else "")
        ax.set_xlabel("input scale / input scale of training")
    axes[0].set(ylabel="median loss over prompts", yscale="log")
    plots.frame_losses(axes[0], done["metrics"]["loss_zero"]["mean"])
    axes[1].set_yscale("symlog", linthresh=1e-6)
    axes[1].set(ylabel="share of diverging prompts", ylim=(-4e-7, 1.5))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _with_many_prompts(curve: dict, metric: dict) -> dict:
    """Replaces the value of a curve at the input scale of training by the metric, measured on many more prompts."""
    measured = plots.curve_of_metric(metric)
    result = {"x": curve["x"]}
    for part in ("mean", "low", "high"):
        pairs = zip(curve["x"], curve[part], strict=True)
        result[part] = [measured[part][0] if x == 1.0 else value for x, value in pairs]
    return result


ANALYSIS = Analysis(
    "tails",
    measure,
    records=("diverging_share_*", "loss_bounded_*", "loss_median_*"),
    check=check,
    figures=(
        Picture(
            "tails",
            ("loss_median_by_input_scale_trained",),
            _draw,
            "Trained networks and learners on inputs of other scales, without further training or fitting. Left: "
            "median loss over prompts, which rare prompts do not affect. Right: share of prompts that diverge, with "
            "a loss above a hundred times the mean loss of predicting zero, among up to a million prompts at the "
            f"scale of training and 32,768 at every other scale. {plots.ARROWS}",
            place=140,
        ),
    ),
    evidence=(Evidence("loss_bounded_ratio_gd_plus_plus", at_most=1.0001),),
)
