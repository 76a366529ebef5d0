"""The dual model's loss on the demonstrations of its step beside that on fresh ones."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import dual, plots
from icl_gd.lab.config.questions import Analysis, Done, Picture, Unfit, needs, unfit
from icl_gd.lab.evaluation.measured import Evaluation, Records
from icl_gd.lab.reporting.results import curve
from icl_gd.types import Array

LENGTHS, GAP_PROMPTS = tuple(2**i for i in range(3, 11)), 128  # of contexts, and prompts of each


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "one_step"})
    if set(experiment.model.kinds) not in ({"softmax"}, {"linear"}):
        accepted = "is of layers that have dual models, all of softmax or all of linear attention"
        raise Unfit("model.attention", experiment.model.attention, accepted)
    needs(experiment, **{"model.style": "von_oswald"})
    if experiment.eval.suite_values is not None and experiment.eval.suite_values < 2:
        unfit(experiment, "eval.suite_values", "fits slopes; at least 2")


def measure(study: Evaluation, found: Records) -> None:
    """The dual model's mean loss on the demonstrations it was trained on and on fresh ones of the same function.

    With what every demonstration adds to its own loss, as the bound has it, and without, each then judged by the n - 1
    others: what it adds falls like 1/N.
    """
    config = study.trained.config

    def gap(params: Any, key: Array, n: int) -> Array:
        """`[head 3]`: losses on fresh demonstrations, on its own ones, and on those by the others', of one prompt."""
        prompt = replace(study.task, n_context=2 * n).sample(key)
        encode = study.trained.layout.encode
        own, fresh = (encode(prompt.x[part], prompt.y[part], prompt.x_query) for part in (slice(n), slice(n, None)))
        of_heads = []
        for head in range(config.n_heads):
            dual_of = dual.dual_of(config, params, 0, head, study.kind)
            one, other = dual_of(own), dual_of(fresh)
            losses = [dual.mean_loss(one, pairs.keys[:n], pairs.values[:n]) for pairs in (other, one)]
            of_heads.append(jnp.stack([*losses, (n * losses[1] + jnp.sum(dual.self_influence(one))) / (n - 1)]))
        return jnp.stack(of_heads)

    keys = jax.random.split(jax.random.fold_in(study.key, 2), GAP_PROMPTS)
    apart, lengths = [], study.subsample(LENGTHS)
    for n in lengths:
        losses = study.over_members(lambda params, keys, n=n: jax.lax.map(partial(gap, params, n=n), keys), keys)
        scale = np.abs(losses[..., :1]).mean(1, keepdims=True)  # [member 1 head 1]: heads write in units of their own
        apart.append((np.abs(losses[..., 1:] - losses[..., :1]) / scale).mean((1, 2)))
    values = np.asarray(apart)  # [n member 2]
    for i, ending in enumerate(("", "_others")):
        found.curves[f"generalisation_gap{ending}_by_length"] = curve(lengths, values[:, found.shown, i])
        found.add(f"generalisation_gap{ending}_slope", np.polyfit(np.log(lengths), np.log(values[..., i]), 1)[0])


def _draw(done: Done) -> plots.Figure:
    figure, ax = plots.subplots(figsize=(plots.COLUMN, 2.4))
    curve = done["curves"]["generalisation_gap_by_length"]
    plots.line(ax, curve, "trained", marker="o", label="difference of losses")
    others = done["curves"]["generalisation_gap_others_by_length"]
    plots.line(ax, others, "construction", marker="s", label="without a demonstration's own part")
    plots.root(ax, others, "demonstrations")
    ax.set(xlabel="demonstrations $N$", ylabel="difference / loss on fresh ones", xscale="log", yscale="log")
    ax.legend()
    return figure


ANALYSIS = Analysis(
    "generalisation_gap",
    measure,
    records=(
        "generalisation_gap_by_length",
        "generalisation_gap_others_by_length",
        "generalisation_gap_slope",
        "generalisation_gap_others_slope",
    ),
    check=check,
    figures=(
        Picture(
            "generalisation_gap",
            ("generalisation_gap_by_length",),
            _draw,
            "Absolute difference between the dual model's mean loss on the N demonstrations of its step "
            "and on N fresh ones, relative to the latter, with and without what a demonstration adds "
            "to its own loss: mean over prompts and heads, range over free seeds.",
            place=380,
        ),
    ),
)
