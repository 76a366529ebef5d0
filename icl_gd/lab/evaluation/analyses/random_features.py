"""Errors of random-feature approximations of the softmax kernel."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import dual, plots
from icl_gd.dual import features
from icl_gd.lab.config.questions import Analysis, Done, Picture, needs, needs_slope, unfit
from icl_gd.lab.evaluation.measured import Evaluation, Records, take
from icl_gd.lab.reporting.results import curve
from icl_gd.types import Array, Prompt

FEATURES = tuple(2**i for i in range(4, 13))  # numbers of random features
DRAWS = 32  # independent draws of the features
FEATURE_PROMPTS = 16  # prompts that every draw is evaluated on
SLOPE_FROM = 64  # the smallest number of features in the fit of the slope
# Name -> options of the features, and whether keys and queries are scaled to norm one.
KINDS: dict[str, tuple[dict[str, bool], bool]] = {
    "standard": ({}, True),
    "orthogonal": ({"orthogonal": True}, True),
    "hyperbolic": ({"hyperbolic": True}, True),
    "hyperbolic_orthogonal": ({"hyperbolic": True, "orthogonal": True}, True),
    "trained": ({}, False),
    "trained_orthogonal": ({"orthogonal": True}, False),
}
# Name -> label, colour (by the kind of features) and line style (by their directions).
SHOWN = {
    "standard": ("standard, independent", "#0072B2", "-"),
    "orthogonal": ("standard, orthogonal", "#0072B2", "--"),
    "hyperbolic": ("hyperbolic, independent", "#D55E00", "-"),
    "hyperbolic_orthogonal": ("hyperbolic, orthogonal", "#D55E00", "--"),
    "trained": ("as trained, standard, independent", "#000000", "-"),
    "trained_orthogonal": ("as trained, standard, orthogonal", "#000000", "--"),
}


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "one_step"})
    if set(experiment.model.kinds) != {"softmax"}:
        accepted = "needs softmax, because random features approximate the kernel of softmax"
        unfit(experiment, "model.attention", accepted)
    needs(experiment, **{"model.style": "von_oswald"})
    needs_slope(experiment)


def measure(evaluation: Evaluation, records: Records) -> None:
    """Measures relative errors of patterns and outputs if m random features replace the kernel, for several m.

    The variance of a feature grows exponentially in the squared norm of key plus query. So for large norms, errors fall
    like 1 / sqrt(m) only for huge m. Errors are measured with keys and queries as trained, and with keys and queries
    scaled so that the largest norm in a prompt is one.
    """
    config, prompts = evaluation.trained.config, take(evaluation.prompts, FEATURE_PROMPTS)
    keys = jax.random.split(jax.random.fold_in(evaluation.key, 1), DRAWS)

    def errors(params: Any, keys: Array, prompts: Prompt, m: int, kind: Mapping[str, bool], unit: bool) -> Array:
        """Relative errors `[2]` of the first layer's pattern and output: means over draws, prompts and heads."""

        def errors_on(key: Array, prompt: Prompt) -> Array:
            phi, by_head = dual.positive_features(key, config.head_width, m, **kind), []
            for head in range(config.n_heads):
                model = dual.dual_of(config, params, 0, head)(evaluation.encode(prompt))
                if unit:
                    model = replace(model, keys=model.keys / longest(model), query=model.query / longest(model))
                exact, pattern, norm = dual.attention_weights(model), features.pattern(model, phi), jnp.linalg.norm
                relative = (
                    norm(pattern - exact) / norm(exact),
                    norm((pattern - exact) @ model.values) / norm(exact @ model.values),
                )
                by_head.append(jnp.stack(relative))
            return jnp.stack(by_head).mean(0)

        def mean_over_prompts(key: Array) -> Array:
            return jax.vmap(partial(errors_on, key))(prompts).mean(0)

        return jax.lax.map(mean_over_prompts, keys).mean(0)

    numbers = np.asarray(evaluation.subsample(FEATURES))
    fitted = numbers >= min(SLOPE_FROM, numbers[-2])
    measured: dict[str, np.ndarray] = {}  # [m member 2]
    for kind, (options, unit) in KINDS.items():
        errors_with = partial(errors, kind=options, unit=unit)
        values = np.asarray([evaluation.over_members(partial(errors_with, m=int(m)), keys, prompts) for m in numbers])
        for i, name in enumerate(("attention", "output")):
            records.curves[f"{name}_error_by_features_{kind}"] = curve(numbers.tolist(), values[:, records.shown, i])
        slopes = np.polyfit(np.log(numbers[fitted]), np.log(values[fitted, :, 0]), 1)[0]
        records.add("random_features_slope" if kind == "standard" else f"random_features_slope_{kind}", slopes)
        measured[kind] = values
    for suffix, kind in (("", "standard"), ("_hyperbolic", "hyperbolic")):
        orthogonal = "orthogonal" if kind == "standard" else f"{kind}_orthogonal"
        ratio = measured[orthogonal][:, :, 0] / measured[kind][:, :, 0]
        records.add(f"orthogonal_to_independent{suffix}", ratio.mean(0))

    def longest_in(params: Any, prompt: Prompt) -> Array:
        return longest(dual.dual_of(config, params, 0)(evaluation.encode(prompt)))

    lengths = evaluation.over_members(lambda params, prompts: jax.vmap(partial(longest_in, params))(prompts), prompts)
    records.add("longest_key_or_query", lengths.max(1))


def longest(model: dual.Dual) -> Array:
    """The largest norm among the keys and the query."""
    return jnp.linalg.norm(jnp.concatenate([model.keys, model.query[None]]), axis=1).max()


def _draw(done: Done) -> plots.Figure:
    figure, axes = plots.subplots(1, 2, figsize=(plots.PAGE, 2.6), sharey=True)
    for ax, name in zip(axes, ("attention", "output"), strict=True):
        for kind, (label, colour, dashes) in SHOWN.items():
            curve = done["curves"][f"{name}_error_by_features_{kind}"]
            ax.plot(curve["x"], curve["mean"], dashes, color=colour, label=label)
            ax.fill_between(curve["x"], curve["low"], curve["high"], color=colour, alpha=0.15, linewidth=0)
        plots.inverse_square_root(ax, done["curves"][f"{name}_error_by_features_standard"], "features")
        ax.set(xlabel="number of random features $m$", title=name, xscale="log", yscale="log")
    axes[0].set_ylabel("relative error")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


ANALYSIS = Analysis(
    "random_features",
    measure,
    records=(
        "attention_error_by_features_*",
        "output_error_by_features_*",
        "random_features_slope*",
        "orthogonal_to_independent*",
        "longest_key_or_query",
    ),
    check=check,
    figures=(
        Picture(
            "random_features",
            ("attention_error_by_features_standard",),
            _draw,
            "Relative errors of the attention pattern (left) and of its output (right) with random features in place "
            "of the softmax kernel, over the number of features. Lines are means over draws, prompts, heads and "
            "untrapped seeds, bands the range over seeds. Keys and queries are scaled so that the longest in a "
            "prompt has length one, or are left as trained.",
            place=370,
        ),
    ),
)
