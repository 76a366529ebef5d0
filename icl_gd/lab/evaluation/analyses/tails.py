"""Rare prompts: deep networks without a clip diverge on some, which are then all of a mean."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.tree_util import Partial

from icl_gd import analysis, learners, plots
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, needs
from icl_gd.lab.evaluation.comparing import LEARNERS, looked_at, shifted
from icl_gd.lab.evaluation.measured import DIVERGES, Evaluation, Losses, Records, merge_losses, of_learner, of_members
from icl_gd.lab.reporting.results import curve
from icl_gd.tasks import scale_inputs
from icl_gd.types import Array, Prompt

PROMPTS, SHIFTED_PROMPTS = 2**20, 2**15  # at most, all in memory; and at every scale of the inputs


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})


def measure(study: Evaluation, found: Records) -> None:
    """On how many prompts trained layers and learners diverge, the loss on the others, and the median.

    Under scaled inputs too, where the mean of what is not clipped is soon infinite.
    """

    trained = of_members(study.trained.predictor(study.trained.params))
    losses_of = Partial(
        _both,
        merge_losses({"loss_trained": trained, "loss_zero": of_learner(learners.predict_zero)}),
        study.reference.losses,
    )

    def tails_at(alphas: Sequence[float], n_prompts: int) -> list[dict[str, analysis.Tail]]:
        """Tails at every scale of the inputs."""
        sample = shifted(study.task, scale_inputs, alphas)
        found = analysis.sampled_losses([losses_of] * len(alphas), sample, study.key, n_prompts)
        return [tails_of({name.removeprefix("loss_"): its for name, its in losses.items()}) for losses in found]

    n_prompts = min(study.n_prompts, PROMPTS)
    (tails,) = tails_at([1.0], n_prompts)
    for name, tail in tails.items():
        add = found.add if name == "trained" else found.add_one
        add(f"diverging_share_{name}", tail.diverging, np.sqrt(tail.diverging * (1 - tail.diverging) / n_prompts))
        add(f"loss_bounded_{name}", tail.bounded_mean)
        add(f"loss_median_{name}", tail.median)
        if name != "trained":
            found.add(f"loss_bounded_ratio_{name}", tails["trained"].bounded_mean / tail.bounded_mean)
    alphas = looked_at(study, "input_scale")
    by_scale = tails_at(alphas, min(study.n_prompts, SHIFTED_PROMPTS))
    for name in by_scale[0]:
        shown = (lambda values: values[:, found.shown]) if name == "trained" else (lambda values: values)
        diverging, median = (
            shown(np.stack([getattr(tails[name], part) for tails in by_scale])) for part in ("diverging", "median")
        )
        found.curves[f"diverging_share_by_input_scale_{name}"] = curve(alphas, diverging)
        found.curves[f"loss_median_by_input_scale_{name}"] = curve(alphas, median)


def tails_of(losses: Mapping[str, np.ndarray]) -> dict[str, analysis.Tail]:
    """Tails of losses `[... prompt]` by name; those of `zero` say from where on a prompt is one that diverges."""
    beyond = DIVERGES * losses["zero"].mean(dtype=np.float64)
    return {name: analysis.tail(values, beyond) for name, values in losses.items() if name != "zero"}


def _both(ours: Losses, theirs: Losses, prompts: Prompt) -> dict[str, Array]:
    return ours(prompts) | theirs(prompts)


def _draw(done: Done) -> plots.Figure:
    figure, axes = plots.subplots(1, 2, figsize=(plots.PAGE, 2.7))
    for ax, quantity in zip(axes, ("loss_median", "diverging_share"), strict=True):
        for role in ("trained", *LEARNERS):
            if (curve := done["curves"].get(f"{quantity}_by_input_scale_{role}")) is not None:
                if quantity == "diverging_share":
                    curve = _with_many_prompts(curve, done["metrics"][f"diverging_share_{role}"])
                plots.line(ax, curve, role, marker="o" if role == "trained" or len(curve["x"]) == 1 else "")
        ax.set_xlabel("scale of the inputs / that of training")
    axes[0].set(ylabel="median loss over prompts", yscale="log")
    plots.frame_losses(axes[0], done["metrics"]["loss_zero"]["mean"])
    axes[1].set_yscale("symlog", linthresh=1e-6)
    axes[1].set(ylabel="share of prompts that diverge", ylim=(-4e-7, 1.5))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _with_many_prompts(curve: dict, metric: dict) -> dict:
    """A curve over the inputs' scale with what was measured at that of training on many more prompts."""
    measured = plots.band(metric)
    at = lambda part: [
        measured[part][0] if x == 1.0 else value for x, value in zip(curve["x"], curve[part], strict=True)
    ]
    return {"x": curve["x"], **{part: at(part) for part in ("mean", "low", "high")}}


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
            "Inputs of other scales; nothing is trained anew. Left: the median loss, which rare prompts leave alone. "
            "Right: the share of prompts with more than a hundred times the mean loss of predicting zero, of a "
            "million at the scale of training and of 32,768 at others, where smaller shares than 3e-5 are not seen. "
            f"Without a clip they are most of a mean. {plots.ARROWS}",
            place=140,
        ),
    ),
    evidence=(Evidence("loss_bounded_ratio_gd_plus_plus", at_most=1.0001),),
)
