"""Head ablation: which heads of one layer are needed, what each adds, and whether a step without one is still a step.

Four ablations replace one head at a time, for all tokens: its output by zero ("zero"), by its mean over prompts
("mean"), by its value on another prompt ("resample"); or its pattern by the mean pattern over prompts ("pattern"),
which is uniform for softmax heads.

A head *rescales* the prediction if one fitted factor maps the ablated predictions back to the intact ones: if R^2 of
this fit is at least 0.9. Otherwise its ablation *breaks* the prediction. The layer adds up its heads. So for a head
whose share of the prediction is s, a head that only rescales has two consequences, which are compared with the
measurements: zero ablation multiplies the loss L of the best step by 1 + s^2 (L_zero - L) / L, and resampling leaves
R^2 = (1 - s)^2 / ((1 - s)^2 + s^2).

The layer determines only the sum over heads of the products of W_PV and W_KQ, for softmax heads to first order in the
scores (`analysis.softmax`). Whatever else the heads add cancels. So the same is measured without the part of W_KQ that
cancels (`METRIC_without_common`).
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, models, plots
from icl_gd.lab.config.experiment import LINEAR
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, needs, needs_one_layer
from icl_gd.lab.evaluation.measured import GROUPS, Evaluation, Records, take
from icl_gd.models import Activations, Model, TransformerConfig
from icl_gd.types import Array, Layout, Prompt

PROMPTS = 4096
KINDS = {"zero": "zero", "mean": "mean over prompts", "resample": "another prompt", "pattern": "mean pattern"}
GREY = "#666666"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
RESCALES = 0.9  # the smallest R^2 with which an ablation rescales
WITHOUT_COMMON = ("rescaled_r2_", "rescaled_ratio_", "rescale_factor_", "heads_that_break_")  # metrics
NEEDED = 1.01  # a head is needed if its ablation multiplies the loss by more


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})
    needs_one_layer(experiment)
    needs(experiment, **{"model.layout": "concatenated"})


def measure(evaluation: Evaluation, records: Records) -> None:
    """Ablates every head of every member, and of the untrained members."""
    prompts = take(evaluation.prompts, PROMPTS)
    network, layout = evaluation.trained.config, evaluation.trained.layout
    step = jax.vmap(evaluation.reference.gd)(prompts.x, prompts.y, prompts.x_query)

    def of_member(params: Any) -> dict[str, Array]:
        return head_metrics(Model(network, params, layout), prompts, step)

    compiled = jax.jit(partial(analysis.over_members, of_member))
    for suffix, params, over in (
        ("", evaluation.trained.params, GROUPS[:2]),
        ("_untrained", evaluation.untrained, GROUPS[:1]),
    ):
        for name, values in compiled(params).items():
            if np.ndim(values) == 1:
                records.add(f"{name}{suffix}", values, over=over)
            elif not suffix:
                for head, of_head in enumerate(np.asarray(values).T, 1):
                    records.add(f"{name}_{head}", of_head)
    if not _has_common_part(evaluation):
        return

    def reduced_metrics(params: Any) -> dict[str, Array]:
        found = head_metrics(_without_common(network, params, layout, evaluation.task.d_input), prompts, step)
        return {name: values for name, values in found.items() if name.startswith(WITHOUT_COMMON)}

    for name, values in evaluation.over_members(reduced_metrics).items():
        records.add(f"{name}_without_common", values)


def _has_common_part(evaluation: Evaluation) -> bool:
    """Whether circuits determine the heads, so that the part of W_KQ that cancels can be removed."""
    config = evaluation.trained.config
    is_plain = all(getattr(config, name) == value for name, value in LINEAR.items())
    return is_plain and not config.modification.enabled and config.kinds in (("linear",), ("softmax",))


def _without_common(config: TransformerConfig, params: Any, layout: Layout, d_input: int) -> Model:
    """The layer without the part of the heads' W_KQ that cancels in their sum, to first order in the scores."""
    circuits = analysis.minimal_norm_qk(models.circuits(config, params), d_input)
    identity = jnp.broadcast_to(jnp.eye(config.width), circuits.W_KQ[0].shape)
    # This network has another head width, by whose square root softmax scores are divided.
    scale = (config.width / config.head_width) ** 0.5 if config.kinds == ("softmax",) else 1.0
    weights = {"W_K": identity, "W_Q": scale * circuits.W_KQ[0], "W_V": identity, "P": circuits.W_PV[0]}
    config = replace(config, d_head=None)
    return Model(config, {config.blocks[0]: {"attention": weights}}, layout)


def head_metrics(model: Model, prompts: Prompt, step: Array) -> dict[str, Array]:
    """The metrics of one member.

    Args:
      model: a Transformer of one layer.
      prompts: `[prompt ...]`.
      step: predictions `[prompt m]` of one gradient step.

    Returns:
      Scalars by name. `head_share`, `head_size`, `head_ratio_KIND` and `head_r2_KIND` are `[head]`; the first head is
      the one whose zero ablation has the largest loss.
    """
    intact, parts, rest = jax.vmap(lambda p: _parts(model, p))(prompts)
    ablated = _ablated(model, prompts)
    total = jnp.sum(intact**2)
    share = jnp.einsum("phm,pm->h", parts, intact) / total
    size = jnp.sqrt(jnp.sum(parts**2, (0, 2)) / total)
    loss, zero = (_loss(prediction, prompts) for prediction in (intact, jnp.zeros_like(intact)))
    fits = {kind: jax.vmap(lambda one: _fit(one, intact, step, prompts), 1)(ablated[kind]) for kind in KINDS}
    order = jnp.argsort(-fits["zero"]["loss"])
    metrics: dict[str, Array] = {"head_share": share[order], "head_size": size[order]}
    for kind, fit in fits.items():
        ratio = fit["loss"] / loss
        metrics[f"head_ratio_{kind}"], metrics[f"head_r2_{kind}"] = ratio[order], fit["r2"][order]
        metrics[f"ablated_ratio_{kind}"] = jnp.max(ratio)
        metrics[f"rescaled_ratio_{kind}"] = jnp.max(fit["rescaled_loss"]) / loss
        metrics[f"rescaled_r2_{kind}"] = jnp.min(fit["r2"])
        metrics[f"rescaled_r2_gd_{kind}"] = jnp.min(fit["r2_gd"])
        metrics[f"rescale_factor_{kind}"] = jnp.mean(fit["factor"])
        metrics[f"heads_that_break_{kind}"] = jnp.sum(fit["r2"] < RESCALES).astype(float)
    expected = 1 + share**2 * (zero - loss) / loss
    left = (1 - share) ** 2
    return metrics | {
        "heads_needed": jnp.sum(fits["zero"]["loss"] > NEEDED * loss).astype(float),
        "head_cancellation": jnp.sum(size),
        "rescaled_loss_error": jnp.max(jnp.abs(fits["zero"]["loss"] / loss - expected)),
        "resampled_r2_error": jnp.max(jnp.abs(fits["resample"]["r2"] - left / (left + share**2))),
        "head_sum_error": jnp.max(jnp.abs(jnp.sum(parts, 1) + rest - intact)) / jnp.max(jnp.abs(intact)),
        "ablation_attribution_error": jnp.max(jnp.abs(intact[:, None] - ablated["zero"] - parts))
        / jnp.max(jnp.abs(parts)),
    }


def _parts(model: Model, prompt: Prompt) -> tuple[Array, Array, Array]:
    """The prediction `[m]` of one prompt, the share of every head `[head m]`, and the rest `[m]`."""
    shares = analysis.attribution(model, *prompt[:3])
    prediction = model.run(*prompt[:3], names="prediction")["prediction"]
    return prediction, shares.heads[0], shares.total - jnp.sum(shares.heads[0], 0)


def _ablated(model: Model, prompts: Prompt) -> dict[str, Array]:
    """Predictions `[prompt head m]` without one head at a time, by the kind of ablation."""
    recorded = jax.vmap(lambda p: model.run(*p[:3], names=("attn.z", "attn.pattern")))(prompts)
    z, pattern = recorded["attn.z", 0], recorded["attn.pattern", 0]
    uniform = Activations({"blocks.0.attn.pattern": jnp.mean(pattern, 0)})

    def one(p: Prompt, other: Array) -> dict[str, Array]:
        values = {"zero": None, "mean": jnp.mean(z, 0)[None], "resample": other[None]}
        of = {kind: analysis.ablate_heads(model, *p[:3], value)[0] for kind, value in values.items()}
        return of | {"pattern": analysis.patch(model, p[:3], uniform, "attn.pattern", positions="all")[0]}

    return jax.vmap(one)(prompts, jnp.roll(z, 1, axis=0))


def _fit(ablated: Array, intact: Array, step: Array, prompts: Prompt) -> dict[str, Array]:
    """Losses of ablated predictions `[prompt m]`, and their best multiples."""
    square = jnp.maximum(jnp.sum(ablated**2), jnp.finfo(ablated.dtype).tiny)

    def factor(target: Array) -> Array:
        return jnp.sum(ablated * target) / square

    def r2(target: Array) -> Array:
        return 1 - jnp.sum((target - factor(target) * ablated) ** 2) / jnp.sum(target**2)

    return {
        "loss": _loss(ablated, prompts),
        "rescaled_loss": _loss(factor(prompts.y_query) * ablated, prompts),
        "factor": factor(intact),
        "r2": r2(intact),
        "r2_gd": r2(step),
    }


def _loss(predictions: Array, prompts: Prompt) -> Array:
    return jnp.mean(analysis.prediction_losses(predictions, prompts))


def _points(done: Done) -> list[tuple[int, dict[str, Any]]]:
    """Number of heads and metrics of every population. Without a sweep, heads are counted by their metrics."""
    points = [(point["fields"].get("model.n_heads"), point["metrics"]) for point in done["sweep"]]
    points = points or [(None, done["metrics"])]
    return [
        (heads or sum(name[len("head_share_") :].isdecimal() for name in metrics), metrics) for heads, metrics in points
    ]


def _draw(done: Done) -> plots.Figure:
    """Draws the loss and R^2 without the head that matters most, and what every head adds."""
    from matplotlib.ticker import LogLocator, NullFormatter

    points = _points(done)
    figure, (losses, r2, parts) = plots.subplots(1, 3, figsize=(plots.PAGE, 2.9))
    panels = (
        (losses, "ablated_ratio_{}", "o", False),
        (losses, "rescaled_ratio_{}", "o", True),
        (r2, "rescaled_r2_{}", "o", True),
        (r2, "rescaled_r2_{}_without_common", "^", False),
    )
    for i, (kind, name) in enumerate(KINDS.items()):
        colour = COLOURS[i]
        for ax, metric, marker, is_filled in panels:
            for place, (_, metrics) in enumerate(points):
                values = plots.seed_values(metrics.get(metric.format(kind), {"per_seed": []}))
                x = [place + 0.18 * (i - 1.5)] * len(values)
                ax.plot(x, values, marker, color=colour, markerfacecolor=colour if is_filled else "none")
        r2.plot([], [], "o", color=colour, label=name)
    for marker, fill, label in (
        ("o", "none", "left: as it is"),
        ("o", GREY, "left: best multiple"),
        ("^", "none", "middle: without what cancels"),
    ):
        r2.plot([], [], marker, color=GREY, markerfacecolor=fill, label=label)
    losses.axhline(1.0, color="black", linewidth=0.6)
    r2.axhline(RESCALES, color="black", linewidth=0.6, linestyle=":")
    losses.set(ylabel="loss without a head / loss", yscale="log")
    losses.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    losses.yaxis.set_major_formatter("{x:g}")
    losses.yaxis.set_minor_formatter(NullFormatter())
    r2.set(ylabel="$R^2$ of the best multiple", ylim=(-0.05, 1.05))
    for place, (heads, metrics) in enumerate(points):
        for head in range(1, heads + 1):
            x = place + 0.18 * (head - (heads + 1) / 2)
            for metric, marker, fill in (("head_size", "s", "none"), ("head_share", "o", None)):
                values = plots.seed_values(metrics[f"{metric}_{head}"])
                colour = plots.ROLES["trained"][1]
                parts.plot([x] * len(values), values, marker, color=colour, markerfacecolor=fill or colour)
    for marker, fill, label in (("s", "none", "root mean square"), ("o", None, "share")):
        colour = plots.ROLES["trained"][1]
        parts.plot([], [], marker, color=colour, markerfacecolor=fill or colour, label=label)
    parts.axhline(0.0, color="black", linewidth=0.6)
    parts.set(ylabel="part of a head / prediction")
    parts.legend()
    for ax in (losses, r2, parts):
        ax.set(xlabel="heads", xlim=(-0.5, len(points) - 0.5))
        ax.set_xticks(range(len(points)), [str(heads) for heads, _ in points])
    figure.legend(*r2.get_legend_handles_labels(), loc="outside lower center", ncols=len(KINDS))
    return figure


ANALYSIS = Analysis(
    "head_ablation",
    measure,
    records=(
        *(f"head_{name}_*" for name in ("share", "size", "ratio", "r2")),
        *(f"{name}_{kind}*" for name in ("ablated_ratio", "rescaled_ratio", "rescaled_r2") for kind in KINDS),
        *(f"{name}_{kind}*" for name in ("rescaled_r2_gd", "rescale_factor", "heads_that_break") for kind in KINDS),
        *("heads_needed*", "head_cancellation*", "rescaled_loss_error*", "resampled_r2_error*"),
        *("head_sum_error*", "ablation_attribution_error*"),
    ),
    check=check,
    figures=(
        Picture(
            "head_ablation",
            ("rescaled_r2_zero", "head_share_1"),
            _draw,
            "One head ablated at a time: set to zero, to its mean over prompts, to its output on another prompt, or "
            "with its mean pattern over prompts. One circle for each seed. Left: loss without the head that matters "
            "most, relative to the intact layer, before (hollow) and after (filled) the prediction is multiplied by "
            "the best factor. Middle: smallest R^2, over heads, of the intact predictions by the best multiple of the "
            "ablated ones; above the dotted line, the ablation only rescales the step. Triangles: without the part of "
            "the heads' W_KQ that cancels in their sum. Right: what each head adds, the head whose ablation is worst "
            "first: its share of the prediction, and its root mean square relative to that of the prediction. If heads "
            "cancel each other, the root mean squares are larger than the shares.",
            place=212,
        ),
    ),
    evidence=(Evidence("rescale_factor_pattern", at_least=1.95, at_most=2.05),),
    identities={"head_sum_error": 1e-5, "ablation_attribution_error": 1e-4},
)
