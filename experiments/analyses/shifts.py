"""Losses under distribution shifts; nothing is fitted anew."""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from experiments.results import curve
from experiments.study import Found, Losses, Study, noise_to_weight, together
from icl_gd import analysis, learners
from icl_gd.tasks import FAMILIES, SHIFTS, Shift
from icl_gd.types import Array, Prompt


def shifts(study: Study, found: Found) -> None:
    """Losses under every suite of shifts: trained, constructed, interpolated, gradient descent, closed form."""
    losses_of: dict[str, Callable[[Prompt], Array]] = {
        "trained": partial(analysis.member_losses, study.trained.predictor, study.trained.params),
        "gd": partial(analysis.losses, study.reference.gd),
        "construction": partial(analysis.losses, study.reference.construction),
    }
    if "interpolation" in study.analyses:
        losses_of["interpolated"] = partial(analysis.member_losses, study.of_circuits, study.interpolated)
    losses = together(losses_of)
    for suite, shift in SHIFTS.items():
        risks = _risks_under(study, shift, losses)
        for name in losses_of:
            mean = np.stack([risk[name].mean for risk in risks])
            found.curves[f"loss_by_{suite}_{name}"] = curve(
                shift.values, mean if mean.ndim == 1 else mean[:, found.shown]
            )
        if suite == "input_scale":
            ours, theirs = (np.stack([risk[name].mean for risk in risks]) for name in ("trained", "gd"))
            found.add("input_scale_deviation", np.abs(ours / theirs[:, None] - 1).max(0))
    _closed_form_under_scale(study, found)


def _risks_under(study: Study, shift: Shift, losses: Losses) -> list[dict[str, analysis.Risk]]:
    """Risks at every value of a shift, the same keys under each."""
    if isinstance(shift.values[0], str):
        samples, n_prompts = [shift.apply(study.task, value).sample for value in shift.values], study.n_prompts // 32
    else:
        shifted = lambda value, key: shift.apply(study.task, value).sample(key)
        values = jnp.asarray(shift.values, study.prompts.x.dtype)
        samples, n_prompts = [Partial(shifted, value) for value in values], study.n_prompts // 4
    return [analysis.streamed_risks(losses, sample, study.key, max(n_prompts, 1)) for sample in samples]


def _closed_form_under_scale(study: Study, found: Found) -> None:
    task = study.task
    if task.covariance is not None or not FAMILIES[task.inputs].independent or study.trained.config.n_layers != 1:
        return
    sizes = task.d_input, task.n_context, task.second_moment[0, 0], task.fourth_moment, noise_to_weight(task)
    risk = partial(learners.one_step_risk, study.reference.step_size, *sizes)
    alphas = SHIFTS["input_scale"].values
    exact = [task.d_output * risk(task.weight_scale, input_scale=float(a)) for a in alphas]
    found.curves["loss_by_input_scale_closed_form"] = curve(alphas, exact)
