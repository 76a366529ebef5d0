"""Generalisation gap of the dual model: the difference of its losses on training and on fresh demonstrations."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import dual, plots
from icl_gd.lab.config.questions import Analysis, Done, Picture, needs, needs_one_kernel, needs_slope
from icl_gd.lab.evaluation.measured import Evaluation, Records
from icl_gd.lab.reporting.results import curve
from icl_gd.types import Array

LENGTHS = tuple(2**i for i in range(3, 11))  # numbers of demonstrations
GAP_PROMPTS = 128  # prompts for every number of demonstrations


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "one_step"})
    needs_one_kernel(experiment)
    needs(experiment, **{"model.style": "von_oswald"})
    needs_slope(experiment)


def measure(evaluation: Evaluation, records: Records) -> None:
    """Measures the dual model's mean loss on its n training demonstrations and on n fresh ones of the same function.

    Training on a demonstration lowers the loss on this demonstration (self-influence). The loss on the training
    demonstrations is measured with self-influence, as in the bound, and without it, so that only the n - 1 other
    demonstrations contribute. The difference falls like 1 / n.
    """
    config = evaluation.trained.config

    def gap(params: Any, key: Array, n: int) -> Array:
        """Losses `[head 3]`: on fresh demonstrations, on training ones, and on training ones without self-influence."""
        prompt = replace(evaluation.task, n_context=2 * n).sample(key)
        encode = evaluation.trained.layout.encode
        halves = slice(n), slice(n, None)
        training, fresh = (encode(prompt.x[half], prompt.y[half], prompt.x_query) for half in halves)
        by_head = []
        for head in range(config.n_heads):
            dual_of = dual.dual_of(config, params, 0, head, evaluation.kind)
            model, fresh_pairs = dual_of(training), dual_of(fresh)
            on_fresh, on_training = (
                dual.mean_loss(model, pairs.keys[:n], pairs.values[:n]) for pairs in (fresh_pairs, model)
            )
            without_self_influence = (n * on_training + jnp.sum(dual.self_influence(model))) / (n - 1)
            by_head.append(jnp.stack([on_fresh, on_training, without_self_influence]))
        return jnp.stack(by_head)

    keys = jax.random.split(jax.random.fold_in(evaluation.key, 2), GAP_PROMPTS)
    gaps, lengths = [], evaluation.subsample(LENGTHS)
    for n in lengths:
        losses = evaluation.over_members(lambda params, keys, n=n: jax.lax.map(partial(gap, params, n=n), keys), keys)
        scale = np.abs(losses[..., :1]).mean(1, keepdims=True)  # [member 1 head 1]: heads have different units
        gaps.append((np.abs(losses[..., 1:] - losses[..., :1]) / scale).mean((1, 2)))
    values = np.asarray(gaps)  # [n member 2]
    for i, suffix in enumerate(("", "_others")):
        records.curves[f"generalisation_gap{suffix}_by_length"] = curve(lengths, values[:, records.shown, i])
        records.add(f"generalisation_gap{suffix}_slope", np.polyfit(np.log(lengths), np.log(values[..., i]), 1)[0])


def _draw(done: Done) -> plots.Figure:
    figure, ax = plots.subplots(figsize=(plots.COLUMN, 2.4))
    curve = done["curves"]["generalisation_gap_by_length"]
    plots.line(ax, curve, "trained", marker="o", label="with self-influence")
    others = done["curves"]["generalisation_gap_others_by_length"]
    plots.line(ax, others, "construction", marker="s", label="without self-influence")
    plots.inverse_square_root(ax, others, "demonstrations")
    ax.set(
        xlabel="number of demonstrations $N$", ylabel="gap / loss on fresh demonstrations", xscale="log", yscale="log"
    )
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
            "Generalisation gap of the dual model over the number of demonstrations N: the absolute difference of "
            "its mean losses on its N training demonstrations and on N fresh demonstrations, divided by the loss on "
            "fresh demonstrations. Squares: without the effect of each demonstration on its own loss. Lines are means "
            "over prompts, heads and untrapped seeds, bands the range over seeds.",
            place=380,
        ),
    ),
)
