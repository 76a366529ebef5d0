"""Token copying, shown by interventions: which tokens carry a label to the prediction, and what the loss is without.

The network has two layers and separate tokens of x and y. Two interventions are measured, during training and after it.

Patching. One label y_j is replaced by that of another prompt. In the corrupted run, one value of the first layer at a
time is set to its value of the clean run. The *share* that this restores is the regression coefficient of the restored
change of the prediction on the whole change, over prompts: it is one if the value carries the whole effect of the
label. The *effect* is the root mean square of the restored change.

The second layer is linear attention, to which the token of the query is never a key. The prediction is then a sum over
the other tokens, so their effects add up (`patch_additivity_error`).

Ablation. The attention of the first layer is replaced: its patterns by uniform ones ("uniform"), its heads by their
means over prompts ("mean"). Or the attention of every input to its label is set to zero ("edges"), with the attention
to the label of the next example as a control ("other_edges"). The *share lost* is the increase of the loss, divided by
the reduction of the loss from that of predicting zero.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, constructions, learners, plots
from icl_gd.analysis.corruptions import one_label
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, needs, unfit
from icl_gd.lab.evaluation.analyses.copying import CLEAR, halfway_down, history_table, lasting_from
from icl_gd.lab.evaluation.measured import GROUPS, Evaluation, Records, take
from icl_gd.models import Model, edits
from icl_gd.types import Array, Prompt

PATCHED, MAPPED, ABLATED = 256, 512, 1024  # prompts of patching, of maps after training, and of ablation
ROLES = ("input", "label", "other_input", "other_label", "query")  # of a token, with respect to the corrupted label
ABLATIONS = ("uniform", "mean", "edges", "other_edges")
NAMES = {
    "input": "token of its input",
    "label": "its own token",
    "query": "query",
    "other_input": "other inputs, summed",
}
NAMES_OF_ABLATIONS = {
    "uniform": "uniform patterns",
    "mean": "mean outputs of heads",
    "edges": "input to its label cut",
    "other_edges": "input to next label cut",
}
MOMENTS = {  # metric -> what it shows
    "edges_seen_at": "cut attention to own label: significant",
    "ablation_seen_at": "uniform patterns: significant",
    "copying_starts_at": "derivatives: next > other",
    "patching_starts_at": "patching: its input > another input",
    "copying_clear_at": "derivatives: next > 2 × other",
    "patching_clear_at": "patching: its input > 2 × another input",
    "patching_carries_at": "patching: its input carries half",
    "edges_clear_at": "cut attention to own label: half is lost",
    "ablation_clear_at": "uniform patterns: half is lost",
}
COLOURS, DASHES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000"), ("-", "-", "--", ":", "-")
BEFORE, AFTER = 600, 1400  # training steps before and after the fall of the loss that the figure shows
SIGNIFICANT = 3.0  # an increase of the loss is significant above this multiple of its standard error over prompts


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})
    needs(experiment, **{"model.layout": "interleaved"})
    needs(experiment, **{"model.n_layers": 2})
    if experiment.model.kinds[-1] != "linear":
        unfit(experiment, "model.attention", "needs linear attention in the last layer")
    if experiment["task.n_context"] < 2:
        unfit(experiment, "task.n_context", "needs at least 2, to compare two labels")


def watch(setting: Any) -> Callable[[Any], dict[str, Array]]:
    """Makes the function that patches and ablates one member, during training and after it.

    Returns:
      A function from the parameters of one member to metrics by name: `patch_share_ROLE`, `patch_effect_ROLE` (of one
      token), `patch_share_value`, `loss_without_ABLATION`, and the same for the intact network as `loss_intact`;
      `significance_ABLATION` is the increase of the loss divided by its standard error.
    """
    to_patch, to_ablate = take(setting.prompts, PATCHED), take(setting.prompts, ABLATED)

    def metrics_of(params: Any) -> dict[str, Array]:
        model = Model(setting.network, params, setting.layout)
        return {**_patched(model, to_patch), **_ablated(model, to_ablate)}

    return metrics_of


def _patched(model: Model, prompts: Prompt) -> dict[str, Array]:
    """Shares and effects by role; prompt i has another label in example i modulo the number of examples."""
    n = prompts.x.shape[1]
    corrupted_at = jnp.arange(len(prompts.x)) % n
    others = _others(prompts)
    change, restored, of_value, at_once = jax.vmap(lambda *of: _restored(model, *of))(prompts, others, corrupted_at)
    roles = jax.vmap(lambda j: _roles(n, j))(corrupted_at)  # [prompt role token]
    total = jnp.sum(change**2)
    products, squares = jnp.sum(restored * change[:, None], -1), jnp.sum(restored**2, -1)  # [prompt token]
    metrics = {"patch_share_value": jnp.sum(of_value * change) / total}
    for i, role in enumerate(ROLES):
        metrics[f"patch_share_{role}"] = jnp.sum(products * roles[:, i]) / total
        metrics[f"patch_effect_{role}"] = jnp.sqrt(jnp.sum(squares * roles[:, i]) / jnp.sum(roles[:, i]))
    error = jnp.sum(restored[:, :-1], axis=1) - at_once
    return metrics | {"patch_additivity_error": jnp.max(jnp.abs(error)) / jnp.max(jnp.abs(prompts.y))}


def _others(prompts: Prompt) -> Prompt:
    """For every prompt another one, from which the corrupted label is taken."""
    return jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=0), prompts)


def _roles(n: int, j: Array) -> Array:
    """Which tokens `[role token]` have each role if the label of example j is corrupted; one or zero."""
    example, is_label = jnp.divmod(jnp.arange(2 * n), 2)
    own = example == j
    of_context = jnp.stack(
        [own & (is_label == 0), own & (is_label == 1), ~own & (is_label == 0), ~own & (is_label == 1)]
    )
    return jnp.pad(of_context, ((0, 1), (0, 1))).at[-1, -1].set(True).astype(float)


def _restored(model: Model, prompt: Prompt, other: Prompt, j: Array) -> tuple[Array, Array, Array, Array]:
    """Patches one prompt whose label j is corrupted.

    Returns:
      The whole change of the prediction `[m]`; the changes that the residual after the first layer restores at each
      token `[token m]`; that of the values of the label's token in the first layer `[m]`; and that of the residuals of
      all tokens but the query at once `[m]`.
    """
    clean, corrupted = prompt[:3], one_label(other, prompt, j)[:3]
    kept = model.run(*clean, names=("blocks.0.attn.v", "blocks.0.resid_post", "prediction"))
    start = model.run(*corrupted, names="prediction")["prediction"]

    def change(site: str, position: Any) -> Array:
        edited = model.edit({site: edits.constant(kept[site], position=position)})
        return edited.run(*corrupted, names="prediction")["prediction"] - start

    restored = analysis.patch(model, corrupted, kept, "resid_post", layers=(0,), batch=len(kept["resid_post", 0]))[0]
    of_value = change("blocks.0.attn.v", 2 * j + 1)
    at_once = change("blocks.0.resid_post", tuple(range(2 * len(prompt.x))))
    return kept["prediction"] - start, restored - start[None], of_value, at_once


def ablations(model: Model, prompts: Prompt) -> dict[str, Model]:
    """The network without the copying of its first layer, by the name of the ablation."""
    n = prompts.x.shape[1]
    keys = np.append(np.ones(2 * n), 0.0)
    to_label, to_other = np.ones((2, 2 * n + 1, 2 * n + 1))
    examples = np.arange(n)
    to_label[2 * examples, 2 * examples + 1] = 0.0
    to_other[2 * examples, 2 * np.roll(examples, -1) + 1] = 0.0
    z = jax.vmap(lambda p: model.run(*p[:3], names="blocks.0.attn.z")["attn.z", 0])(prompts)
    pattern = "blocks.0.attn.pattern"
    return {
        "uniform": model.edit({pattern: edits.constant(jnp.asarray(keys / (2 * n)))}),
        "mean": model.edit({"blocks.0.attn.z": edits.mean(z)}),
        "edges": model.edit({pattern: edits.scale(jnp.asarray(to_label))}),
        "other_edges": model.edit({pattern: edits.scale(jnp.asarray(to_other))}),
    }


def _ablated(model: Model, prompts: Prompt) -> dict[str, Array]:
    """Losses with and without copying, and the significance of their differences."""
    intact = analysis.losses(model, prompts)
    metrics = {"loss_intact": jnp.mean(intact)}
    for name, ablated in ablations(model, prompts).items():
        losses = analysis.losses(ablated, prompts)
        increase = losses - intact
        error = jnp.std(increase) / len(increase) ** 0.5
        metrics[f"loss_without_{name}"] = jnp.mean(losses)
        metrics[f"significance_{name}"] = jnp.mean(increase) / jnp.maximum(error, jnp.finfo(error.dtype).tiny)
    return metrics


def measure(evaluation: Evaluation, records: Records) -> None:
    """Measures which tokens carry labels, what the loss is without copying, and when each of them shows copying."""
    for watched, suffix, over in (
        (evaluation.watched, "", GROUPS[:2]),
        (evaluation.watched_untrained, "_untrained", GROUPS[:1]),
    ):
        for name, values in watched.items():
            if name.startswith(("patch_", "loss_intact", "loss_without_", "significance_")):
                records.add(f"{name}{suffix}", values, over=over)
        contrast = _contrast(watched["patch_effect_input"], watched["patch_effect_other_input"])
        records.add(f"patch_contrast{suffix}", contrast, over=over)
    _shares_lost(evaluation, records)
    _construction(evaluation, records)
    _maps(evaluation, records)
    if evaluation.history:
        _moments(evaluation, records)


def _contrast(effect: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The ratio of two effects, which is finite even if the other is zero."""
    return np.asarray(effect, np.float64) / np.maximum(np.asarray(other, np.float64), np.finfo(np.float32).tiny)


def _shares_lost(evaluation: Evaluation, records: Records) -> None:
    """The share of the reduction of the loss that each ablation loses, on all prompts of the curves."""
    prompts, layout, network = evaluation.prompts, evaluation.trained.layout, evaluation.trained.config
    zero = jnp.mean(analysis.losses(learners.predict_zero, prompts))

    def shares(params: Any) -> dict[str, Array]:
        return _share_of_each(Model(network, params, layout), prompts, zero)

    for name, values in evaluation.over_members(shares).items():
        records.add(f"share_lost_{name}", values)


def _share_of_each(model: Model, prompts: Prompt, zero: Array) -> dict[str, Array]:
    intact = jnp.mean(analysis.losses(model, prompts))
    return {
        name: (jnp.mean(analysis.losses(ablated, prompts)) - intact) / (zero - intact)
        for name, ablated in ablations(model, prompts).items()
    }


def _construction(evaluation: Evaluation, records: Records) -> None:
    """The same of the constructed network that copies and takes a gradient step: a control."""
    task, step = evaluation.task, evaluation.reference.step_size
    built = constructions.copying_model(task.d_input, task.d_output, task.n_context, [step])
    to_patch, to_ablate = take(evaluation.prompts, PATCHED), take(evaluation.prompts, ABLATED)
    zero = jnp.mean(analysis.losses(learners.predict_zero, to_ablate))
    patched = jax.jit(_patched)(built, to_patch)
    lost = jax.jit(_share_of_each)(built, to_ablate, zero)
    for name in ("patch_share_input", "patch_share_label", "patch_share_value"):
        records.add_one(f"{name}_construction", patched[name])
    for name, share in lost.items():
        records.add_one(f"share_lost_{name}_construction", share)


def _maps(evaluation: Evaluation, records: Records) -> None:
    """Shares restored by site, layer and token of one corrupted label, and by token of every corrupted label."""
    prompts = take(evaluation.prompts, MAPPED)
    n, middle = prompts.x.shape[1], prompts.x.shape[1] // 2
    others = _others(prompts)

    def patched_share(
        model: Model, prompt: Prompt, other: Prompt, j: Array, kind: str, is_base: bool
    ) -> tuple[Array, Array]:
        clean, corrupted = prompt[:3], one_label(other, prompt, j)[:3]
        base, source = (clean, corrupted) if is_base else (corrupted, clean)
        start, end = (model.run(*problem, names="prediction")["prediction"] for problem in (base, source))
        patched = analysis.patch(model, base, source, kind, heads="all")  # [layer token m]
        change = end - start
        return jnp.sum((patched - start[None, None]) * change[None, None], -1), jnp.sum(change**2)

    def shares(params: Any, kind: str, j: Array, is_base: bool = False) -> Array:
        model = Model(evaluation.trained.config, params, evaluation.trained.layout)
        products, total = jax.vmap(lambda one, other: patched_share(model, one, other, j, kind, is_base))(
            prompts, others
        )
        return jnp.sum(products, 0) / jnp.sum(total)  # [layer token]

    for name, kind, is_base in (
        ("resid_post", "resid_post", False),
        ("z", "attn.z", False),
        ("v", "attn.v", False),
        ("noising", "resid_post", True),
    ):
        maps = evaluation.over_members(lambda params, kind=kind, of=is_base: shares(params, kind, middle, of))
        records.arrays[f"patch_map_{name}"] = maps[records.shown].tolist()
    by_label = evaluation.over_members(
        lambda params: jax.lax.map(lambda j: shares(params, "resid_post", j)[0], jnp.arange(n))
    )
    records.arrays["patch_map_by_label"] = by_label[records.shown].mean(0).tolist()
    records.arrays["patched_label"] = middle + 1


def _moments(evaluation: Evaluation, records: Records) -> None:
    """Adds, for every member, the steps from which each intervention shows copying, and their leads."""
    history = evaluation.history
    steps, _ = history_table(history["loss_intact"])

    def of(name: str) -> np.ndarray:
        """Values `[step member]`."""
        return history_table(history[name])[1]

    zero = float(analysis.losses(learners.predict_zero, take(evaluation.prompts, ABLATED)).mean())
    intact, losses = of("loss_intact"), of("loss_trained")
    lost = {name: (of(f"loss_without_{name}") - intact) / (zero - intact) for name in ABLATIONS}
    contrast = _contrast(of("patch_effect_input"), of("patch_effect_other_input"))
    plateau = float(analysis.losses(learners.predict_zero, evaluation.prompts).mean())
    moments = {
        "patching_starts_at": contrast > 1.0,
        "patching_clear_at": contrast > CLEAR,
        "patching_carries_at": of("patch_share_input") > 0.5,
        "ablation_seen_at": of("significance_uniform") > SIGNIFICANT,
        "ablation_clear_at": lost["uniform"] > 0.5,
        "edges_seen_at": of("significance_edges") > SIGNIFICANT,
        "edges_clear_at": lost["edges"] > 0.5,
    }
    at = {name: lasting_from(steps, holds) for name, holds in moments.items()}
    for name, first in at.items():
        records.add(name, first)
    halfway = halfway_down(steps, losses, plateau)
    records.add("patching_carries_leads_by", halfway - at["patching_carries_at"])
    records.add("ablation_clear_leads_by", halfway - at["ablation_clear_at"])
    curves = {"patch_contrast": contrast, "loss_intact": intact}
    if "derivative_following" in history:  # the analysis `copying` measures these
        following, others = of("derivative_following"), of("derivative_others")
        curves["derivative_contrast"] = following / others
        starts, clear = (lasting_from(steps, following > times * others) for times in (1.0, CLEAR))
        records.add("patching_clear_leads_derivatives_by", clear - at["patching_clear_at"])
        records.add("patching_starts_leads_derivatives_by", starts - at["patching_starts_at"])
        records.add("ablation_seen_leads_derivatives_by", clear - at["ablation_seen_at"])
        records.add("ablation_clear_lags_derivatives_by", at["ablation_clear_at"] - starts)
        records.add("edges_seen_leads_derivatives_by", starts - at["edges_seen_at"])
        seen = np.searchsorted(steps, np.nan_to_num(at["edges_seen_at"], nan=steps[-1]))
        contrast_then = curves["derivative_contrast"][seen, np.arange(len(seen))]
        records.add("edges_seen_at_derivative_contrast", np.where(np.isnan(at["edges_seen_at"]), np.nan, contrast_then))
    shown = records.shown
    curves |= {f"loss_without_{name}": of(f"loss_without_{name}") for name in ABLATIONS}
    curves |= {f"patch_share_{role}": of(f"patch_share_{role}") for role in ROLES}
    records.arrays["loss_zero_on_ablated_prompts"] = zero
    records.arrays["induction_by_seed"] = {"step": steps.tolist()} | {
        name: values[:, shown].T.tolist() for name, values in curves.items()
    }


def _draw_training(done: Done) -> plots.Figure:
    """Draws one line per seed, over the steps since the loss was halfway down: seeds fall at different steps."""
    by_seed, metrics = done["arrays"]["induction_by_seed"], done["metrics"]
    shown = metrics["loss_halfway_at_untrapped"]["per_seed"] or metrics["loss_halfway_at"]["per_seed"]
    figure, axes = plots.subplots(3, 1, figsize=(plots.COLUMN * 1.15, 6.2), sharex=True)
    panels = (
        (
            "contrast, of one token\nto another token",
            {"patch_contrast": "patching", "derivative_contrast": "derivatives"},
        ),
        ("share of a label's effect", {f"patch_share_{role}": name for role, name in NAMES.items()}),
        ("loss", {f"loss_without_{name}": NAMES_OF_ABLATIONS[name] for name in ABLATIONS} | {"loss_intact": "intact"}),
    )
    for ax, (label, lines) in zip(axes, panels, strict=True):
        for name, colour, dashes in zip(lines, COLOURS, DASHES, strict=False):
            for i, (values, at) in enumerate(zip(by_seed.get(name, []), shown, strict=False)):
                x = np.asarray(by_seed["step"]) - (at or 0.0)
                near = (x >= -BEFORE) & (x <= AFTER) if at else np.full(len(x), True)
                ax.plot(
                    x[near],
                    np.asarray(values, float)[near],
                    dashes,
                    color=colour,
                    linewidth=0.8,
                    label=lines[name] if i == 0 else None,
                )
        ax.axvline(0.0, color="black", linewidth=0.5)
        ax.set_ylabel(label)
        ax.legend(loc="upper left", handlelength=1.5, labelspacing=0.2)
    axes[0].set_yscale("log")
    axes[0].axhline(CLEAR, color="black", linewidth=0.5, linestyle=":")
    axes[1].axhline(0.5, color="black", linewidth=0.5, linestyle=":")
    axes[1].set_ylim(-0.6, 1.9)
    zero = done["arrays"]["loss_zero_on_ablated_prompts"]
    axes[2].set_ylim(0.0, 3.3 * zero)
    plots.horizontal_line(axes[2], zero, "zero", "_")
    axes[-1].set_xlabel("training steps since the loss was halfway down")
    return figure


def _draw_moments(done: Done) -> plots.Figure:
    """Draws the steps by which every kind of evidence for copying precedes the fall of the loss."""
    metrics = done["metrics"]
    halfway = metrics["loss_halfway_at"]["per_seed"]
    leads_of = {}
    for name in MOMENTS:
        pairs = zip(metrics.get(name, {"per_seed": []})["per_seed"], halfway, strict=False)
        leads_of[name] = [at - end for at, end in pairs if at is not None and end is not None]
    leads_of = {name: leads for name, leads in leads_of.items() if leads}
    rows = sorted(leads_of.items(), key=lambda item: float(np.median(item[1])))
    figure, ax = plots.subplots(figsize=(plots.PAGE * 0.8, 0.26 * max(len(rows), 1) + 0.8))
    for row, (name, leads) in enumerate(rows):
        colour = COLOURS[0] if name.startswith("patching") else COLOURS[1] if name.startswith("copying") else COLOURS[2]
        ax.plot(leads, [row] * len(leads), "o", color=colour, markerfacecolor="none")
        ax.plot([np.median(leads)], [row], "|", color=colour, markersize=11, markeredgewidth=1.5)
    ax.axvline(0.0, color="black", linewidth=0.5)
    ax.set_yticks(range(len(rows)), [MOMENTS[name] for name, _ in rows])
    ax.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    ax.set_xlabel("training steps since the loss was halfway down")
    return figure


def _draw_maps(done: Done) -> plots.Figure:
    """Draws the shares restored by layer and token, and by corrupted label and token."""
    arrays = done["arrays"]
    by_label = np.asarray(arrays["patch_map_by_label"], float)
    n = len(by_label)
    tokens = plots.token_names(n, has_separate_tokens=True)
    kinds = {"resid_post": "residual after the layer", "z": "output of the head", "v": "value"}
    figure, axes = plots.subplots(
        len(kinds) + 1, 1, figsize=(plots.PAGE, 1.0 * len(kinds) + 3.0), height_ratios=[2.0] * len(kinds) + [n * 0.7]
    )
    label = "share restored"
    for ax, (kind, title) in zip(axes, kinds.items(), strict=False):
        values = np.mean(np.asarray(arrays[f"patch_map_{kind}"], float), axis=0)
        title = f"{title}, label $y_{{{arrays['patched_label']}}}$ corrupted"
        plots.site_map(ax, values, tokens, label=label, title=title, rows=["layer 1", "layer 2"], limits=(-1.0, 1.0))
    plots.site_map(
        axes[-1],
        by_label,
        tokens,
        label=label,
        title="residual after layer 1, by corrupted label",
        rows=tokens[1:-1:2],
        limits=(-1.0, 1.0),
    )
    return figure


ANALYSIS = Analysis(
    "induction",
    measure,
    records=(
        *("patch_share_*", "patch_effect_*", "patch_contrast*", "patch_additivity_error*"),
        *("loss_intact*", "loss_without_*", "significance_*", "share_lost_*"),
        *("patching_*_at", "ablation_*_at", "edges_*_at", "patching_*_by", "ablation_*_by", "edges_*_by"),
        "edges_seen_at_derivative_contrast",
    ),
    check=check,
    watch=watch,
    figures=(
        Picture(
            "induction_training",
            ("induction_by_seed", "loss_zero_on_ablated_prompts"),
            _draw_training,
            "Copying during training, one line for each untrapped seed, over the steps since the loss was halfway "
            "down. Top: effect of patching the input of a corrupted label, relative to that of another input, and norm "
            "of the first layer's derivative by the next token, relative to that by another token. Middle: share of "
            "the effect of a corrupted label that patching tokens after the first layer restores; before the loss "
            "falls, the effect itself is small. Bottom: loss, and losses if the first layer's patterns become uniform, "
            "if its outputs become means over prompts, or if the attention of inputs to a label is cut. The dotted "
            "line is the loss of predicting zero on the same prompts.",
            place=161,
        ),
        Picture(
            "induction_moments",
            ("patching_clear_at", "induction_by_seed"),
            _draw_moments,
            "Steps from which on each kind of evidence shows copying until the end of training, relative to the step "
            "at which the loss is halfway down. Circles are seeds, bars medians, by which rows are sorted. An increase "
            "of the loss is significant above three standard errors over 1024 prompts.",
            place=162,
        ),
        Picture(
            "induction_maps",
            ("patch_map_by_label", "patch_map_resid_post"),
            _draw_maps,
            "Share of the effect of one corrupted label on the prediction that is restored if one value at one token "
            "is that of the clean run; means over untrapped seeds. Layer 1 is softmax, layer 2 linear attention. "
            "Bottom: every label is corrupted in turn; after layer 1, the token of its input carries its effect.",
            place=163,
        ),
    ),
    evidence=(
        Evidence("patch_share_input", at_least=0.999, at_most=1.001),
        Evidence("share_lost_edges", at_least=0.99, at_most=1.01),
    ),
    identities={"patch_additivity_error": 1e-4},
)
