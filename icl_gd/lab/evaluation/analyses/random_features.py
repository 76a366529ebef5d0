"""What random features cost that stand in place of the kernel of softmax."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import dual, plots
from icl_gd.dual import features
from icl_gd.lab.config.questions import Analysis, Done, Picture, Unfit, needs, unfit
from icl_gd.lab.evaluation.measured import Evaluation, Records, take
from icl_gd.lab.reporting.results import curve
from icl_gd.types import Array, Prompt

FEATURES = tuple(2**i for i in range(4, 13))  # how many random features
DRAWS, FEATURE_PROMPTS = 32, 16  # of features, each on as many prompts
SLOPE_FROM = 64  # features from which on the slope is fitted
# Features, and whether keys and queries are scaled to unit length.
KINDS: dict[str, tuple[dict[str, bool], bool]] = {
    "standard": ({}, True),
    "orthogonal": ({"orthogonal": True}, True),
    "hyperbolic": ({"hyperbolic": True}, True),
    "hyperbolic_orthogonal": ({"hyperbolic": True, "orthogonal": True}, True),
    "trained": ({}, False),
    "trained_orthogonal": ({"orthogonal": True}, False),
}
# Colours by the kind of features, dashes by their directions.
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
    if set(experiment.model.kinds) not in ({"softmax"}, {"linear"}):
        accepted = "is of layers that have dual models, all of softmax or all of linear attention"
        raise Unfit("model.attention", experiment.model.attention, accepted)
    if set(experiment.model.kinds) != {"softmax"}:
        raise Unfit("model.attention", experiment.model.attention, "is of the kernel of softmax")
    needs(experiment, **{"model.style": "von_oswald"})
    if experiment.eval.suite_values is not None and experiment.eval.suite_values < 2:
        unfit(experiment, "eval.suite_values", "fits slopes; at least 2")


def measure(study: Evaluation, found: Records) -> None:
    """Errors of patterns and outputs, relative, with random features in place of the kernel, by their number.

    A feature's variance grows like the exponential of the squared length of key plus query, so that for long ones the
    root is seen at huge numbers only. Both are measured: keys and queries as they were trained, and, what the others
    are of, scaled until the longest of a prompt has length one.
    """
    config, prompts = study.trained.config, take(study.prompts, FEATURE_PROMPTS)
    keys = jax.random.split(jax.random.fold_in(study.key, 1), DRAWS)

    def errors(params: Any, keys: Array, prompts: Prompt, m: int, kind: Mapping[str, bool], unit: bool) -> Array:
        """Of the first layer: `[2]`, means over draws, prompts and heads."""

        def one(key: Array, prompt: Prompt) -> Array:
            phi, of_heads = dual.positive_features(key, config.head_width, m, **kind), []
            for head in range(config.n_heads):
                model = dual.dual_of(config, params, 0, head)(study.encode(prompt))
                if unit:
                    model = replace(model, keys=model.keys / longest(model), query=model.query / longest(model))
                exact, pattern, norm = dual.attention_weights(model), features.pattern(model, phi), jnp.linalg.norm
                apart = (
                    norm(pattern - exact) / norm(exact),
                    norm((pattern - exact) @ model.values) / norm(exact @ model.values),
                )
                of_heads.append(jnp.stack(apart))
            return jnp.stack(of_heads).mean(0)

        of_draw = lambda key: jax.vmap(partial(one, key))(prompts).mean(0)
        return jax.lax.map(of_draw, keys).mean(0)

    numbers = np.asarray(study.subsample(FEATURES))
    fitted = numbers >= min(SLOPE_FROM, numbers[-2])
    measured: dict[str, np.ndarray] = {}  # [m member 2]
    for kind, (options, unit) in KINDS.items():
        of = partial(errors, kind=options, unit=unit)
        values = np.asarray([study.over_members(partial(of, m=int(m)), keys, prompts) for m in numbers])
        for i, name in enumerate(("attention", "output")):
            found.curves[f"{name}_error_by_features_{kind}"] = curve(numbers.tolist(), values[:, found.shown, i])
        slopes = np.polyfit(np.log(numbers[fitted]), np.log(values[fitted, :, 0]), 1)[0]
        found.add("random_features_slope" + f"_{kind}" * (kind != "standard"), slopes)
        measured[kind] = values
    for name, kind in (("", "standard"), ("_hyperbolic", "hyperbolic")):
        orthogonal = "orthogonal" if kind == "standard" else f"{kind}_orthogonal"
        ratio = measured[orthogonal][:, :, 0] / measured[kind][:, :, 0]
        found.add(f"orthogonal_to_independent{name}", ratio.mean(0))
    of_prompt = lambda params, prompt: longest(dual.dual_of(config, params, 0)(study.encode(prompt)))
    lengths = study.over_members(lambda params, prompts: jax.vmap(partial(of_prompt, params))(prompts), prompts)
    found.add("longest_key_or_query", lengths.max(1))


def longest(model: dual.Dual) -> Array:
    """The length of the longest key or query."""
    return jnp.linalg.norm(jnp.concatenate([model.keys, model.query[None]]), axis=1).max()


def _draw(done: Done) -> plots.Figure:
    figure, axes = plots.subplots(1, 2, figsize=(plots.PAGE, 2.6), sharey=True)
    for ax, name in zip(axes, ("attention", "output"), strict=True):
        for kind, (label, colour, dashes) in SHOWN.items():
            curve = done["curves"][f"{name}_error_by_features_{kind}"]
            ax.plot(curve["x"], curve["mean"], dashes, color=colour, label=label)
            ax.fill_between(curve["x"], curve["low"], curve["high"], color=colour, alpha=0.15, linewidth=0)
        plots.root(ax, done["curves"][f"{name}_error_by_features_standard"], "features")
        ax.set(xlabel="random features $m$", title=name, xscale="log", yscale="log")
    axes[0].set_ylabel("error, relative")
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
            "Errors of attention and of its output with random features in place of the kernel, by their "
            "number: means over draws, prompts and heads, bands range over free seeds. Keys and queries "
            "are as they were trained, or scaled until the longest of a prompt has length one.",
            place=370,
        ),
    ),
)
