"""Whether the dual models are the layers; their way there, a demonstration at a time; and who is heard."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, dual, learners, models, plots
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, Unfit, needs
from icl_gd.lab.evaluation.measured import EVERY, Evaluation, Records, take
from icl_gd.lab.reporting.results import curve
from icl_gd.types import Array, Predictor, Prompt

FEW = 64  # prompts that processes are drawn of
PROCESSED = 512  # and measured on


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "one_step"})
    if set(experiment.model.kinds) not in ({"softmax"}, {"linear"}):
        accepted = "is of layers that have dual models, all of softmax or all of linear attention"
        raise Unfit("model.attention", experiment.model.attention, accepted)


def measure(study: Evaluation, found: Records) -> None:
    """Whether the dual models are the layers; their way there, a demonstration at a time; and who is heard."""
    config, layout = study.trained.config, study.trained.layout
    layers, heads = range(config.n_layers), range(config.n_heads)
    prompts = take(study.prompts, PROCESSED)
    met = len(study.encode(jax.tree.map(lambda leaf: leaf[0], prompts))) - 1  # demonstrations

    def of_prompt(params: Any, prompt: Prompt) -> dict[str, Array]:
        tokens = study.encode(prompt)
        residual = models.apply(config, params, tokens).residual
        records: dict[str, list] = {"error": [], "distance": [], "norm": [], "loss": [], "pull": []}
        outputs = jnp.zeros(())
        for layer in layers:
            of_heads = [dual.dual_of(config, params, layer, head, study.kind)(tokens) for head in heads]
            ways = [dual.trajectory(one) for one in of_heads]
            outputs = jnp.stack([way.prediction[: met + 1] for way in ways], axis=1)  # [iterate head d_head]
            out = jnp.stack([dual.prediction(one) for one in of_heads])
            came, left = residual[layer : layer + 2, -1]
            said = dual.block_of(config, params, layer, tokens)(out)
            records["error"].append(jnp.abs(said - left).max() / jnp.abs(left - came).max())
            apart = jnp.linalg.norm(outputs - out[None], axis=-1) / jnp.linalg.norm(out, axis=-1)[None]
            records["distance"].append(apart.mean(1))
            records["pull"].append(jnp.stack([dual.attention_weights(one) for one in of_heads]))
            for name in ("norm", "loss"):
                values = jnp.stack([getattr(way, name)[: met + 1] for way in ways])
                records[name].append((values / jnp.abs(values[:, -1:])).mean(0))
        last = jax.vmap(dual.block_of(config, params, config.n_layers - 1, tokens))(outputs)
        y_hat = jax.vmap(models.read_out(config, params, layout))(last)
        records["loss_of_prediction"] = 0.5 * jnp.sum((y_hat - prompt.y_query[None]) ** 2, axis=-1)  # pyright: ignore
        return {name: jnp.stack(values) if isinstance(values, list) else values for name, values in records.items()}

    seen = study.over_members(lambda params, prompts: jax.vmap(partial(of_prompt, params))(prompts), prompts)
    found.add("dual_error", seen["error"].max((1, 2)), 0.0)
    steps = list(range(met + 1))
    for name in ("distance", "norm", "loss"):
        for layer in layers:
            values = seen[name][found.shown, :, layer].mean(1)  # [member iterate]
            found.curves[f"dual_{name}_by_step_layer_{layer + 1}"] = curve(steps, values.T)
    found.add("dual_distance_at_end", seen["distance"][..., -1].max((1, 2)), 0.0)
    found.add("dual_distance_at_start", seen["distance"][..., 0].mean((1, 2)))
    found.curves["loss_by_dual_step"] = curve(steps, seen["loss_of_prediction"][found.shown].mean(1).T)
    found.arrays["n_layers"] = config.n_layers
    of_heads = seen["pull"][found.middle("loss_trained")]  # [prompt layer head token]
    found.arrays["pull_of_heads"] = {"mean": of_heads.mean(0).tolist(), "one": of_heads[0].tolist()}
    found.arrays["tokens_are_examples"] = layout.inputs is None
    gd = learners.gradient_descent([study.reference.step_size])
    for name, learner in (("gd", gd), ("zero", learners.predict_zero)):
        found.arrays[f"loss_{name}_on_processed"] = float(analysis.losses(learner, prompts).mean())
    _aligned(study, found, gd)
    if config.n_layers == 1 and layout.inputs is None:
        _beside_gradient_descent(study, found, take(prompts, FEW))


def _aligned(study: Evaluation, found: Records, gd: Predictor) -> None:
    """How far networks are from the best least-squares gradient step, beside half that step and untrained networks."""
    predictor = partial(models.fastest_predictor, study.trained.config, layout=study.trained.layout)
    prompts = take(study.prompts, PROCESSED)
    half = learners.gradient_descent([study.reference.step_size / 2])
    to_gd = lambda params, prompts: analysis.alignment(predictor(params), gd, prompts)
    control = jax.jit(lambda prompts: analysis.alignment(half, gd, prompts))(prompts)
    of_all = jax.jit(lambda params, *more: jax.lax.map(lambda one: to_gd(one, *more), params))
    untrained = jax.tree.map(np.asarray, of_all(study.untrained, prompts))
    of = {"": study.over_members(to_gd, prompts), "_untrained": untrained}
    for measure, value in control._asdict().items():
        found.add_one(f"{measure}_gd_wrong_step", float(value))
        for ending, aligned in of.items():
            found.add(f"{measure}_gd{ending}", getattr(aligned, measure), over=("",) if ending else EVERY)


def _beside_gradient_descent(study: Evaluation, found: Records, prompts: Prompt) -> None:
    """What each demonstration adds to the prediction, by the dual model and by a least-squares gradient step."""
    config, n, m = study.trained.config, study.task.n_context, study.task.d_output
    eta = study.reference.step_size

    def added(params: Any, prompt: Prompt) -> Array:
        """`[n m]`, minus what is written into the query's y slots."""
        tokens, written = study.encode(prompt), jnp.zeros((n, m))
        for head in range(config.n_heads):
            one = dual.dual_of(config, params, 0, head, study.kind)(tokens)
            per_token = (dual.attention_weights(one)[:, None] * one.values)[:n]
            written = written - per_token @ params[config.blocks[0]]["attention"]["P"][head, -m:].T
        return written

    by_step = lambda prompt: eta / n * (prompt.x @ prompt.x_query)[:, None] * prompt.y
    ours = study.over_members(lambda params, prompts: jax.vmap(partial(added, params))(prompts), prompts)
    theirs = np.asarray(jax.vmap(by_step)(prompts))
    centre = lambda values: values - values.mean(-2, keepdims=True)
    a, b = centre(ours), centre(theirs)[None]
    norm = lambda values: np.sqrt((values**2).sum((-2, -1)))
    found.add("pull_correlation_gd", ((a * b).sum((-2, -1)) / (norm(a) * norm(b))).mean(1))
    one = found.middle("loss_trained")
    found.arrays["pull_dual"], found.arrays["pull_gd"] = ours[one, :, :, 0].tolist(), theirs[..., 0].tolist()


def _draw_process(done: Done) -> plots.Figure:
    figure, axes = plots.subplots(2, 2, figsize=(plots.PAGE * 0.85, 4.4), sharex=True)
    curves, layers = done["curves"], range(1, done["arrays"]["n_layers"] + 1)
    measures = {
        "distance": "distance to the layer's output",
        "norm": r"$|W_t| / |W_N|$",
        "loss": r"dual model's loss / $|$its last$|$",
    }
    for ax, (name, label) in zip(axes.flat, measures.items(), strict=False):
        for layer, shade in zip(layers, plots.shades(len(layers)), strict=True):
            curve = curves[f"dual_{name}_by_step_layer_{layer}"]
            ax.plot(curve["x"], curve["mean"], color=shade, label=f"layer {layer}")
            ax.fill_between(curve["x"], curve["low"], curve["high"], color=shade, alpha=0.2, linewidth=0)
        ax.set_ylabel(label)
        if name != "loss":
            ax.set_ylim(0, None)
    last = axes[1, 1]
    plots.line(last, curves["loss_by_dual_step"], "trained", label="last layer's prediction")
    plots.level(last, done["arrays"]["loss_gd_on_processed"], "gd", "one gradient step")
    plots.level(last, done["arrays"]["loss_zero_on_processed"], "zero")
    last.set(ylabel=r"loss  $\frac{1}{2}(\hat y - y)^2$", ylim=(0, None))
    met = "demonstrations met" if done["arrays"]["tokens_are_examples"] else "tokens met"
    for ax in axes[1]:
        ax.set_xlabel(met)
    (handles, labels), (more, names) = (ax.get_legend_handles_labels() for ax in (axes[0, 0], last))
    figure.legend([*handles, *more], [*labels, *names], loc="outside lower center", ncols=3)
    return figure


def _draw_pull(done: Done) -> plots.Figure:
    figure, (left, right) = plots.subplots(1, 2, figsize=(plots.PAGE * 0.85, 2.5))
    ours, theirs = (np.asarray(done["arrays"][f"pull_{name}"], float) for name in ("dual", "gd"))
    places = np.arange(1, ours.shape[1] + 1)
    for values, role, marker, label in (
        (ours[0], "trained", "o", "dual model"),
        (theirs[0], "gd", "s", "gradient step"),
    ):
        _, colour, _ = plots.ROLES[role]
        left.plot(places, values, marker, color=colour, markerfacecolor="none", label=label)
    left.axhline(0, color="black", linewidth=0.4)
    left.set(xlabel="demonstration of one prompt", ylabel="adds to the prediction")
    figure.legend(loc="outside lower center", ncols=2)
    right.plot(theirs.ravel(), ours.ravel(), ".", color=plots.ROLES["trained"][1], markersize=1.5)
    right.set(xlabel="by a gradient step", ylabel="by the dual model")
    return figure


def _draw_heads(done: Done) -> plots.Figure:
    pull = {name: np.asarray(values, float) for name, values in done["arrays"]["pull_of_heads"].items()}
    layers, heads, _ = pull["mean"].shape
    rows = layers * heads
    figure, axes = plots.subplots(1, 2, figsize=(plots.PAGE, 0.9 + 0.2 * rows))
    for ax, (name, title) in zip(axes, (("mean", "mean over prompts"), ("one", "one prompt")), strict=True):
        plots.matrix(ax, pull[name].reshape(rows, -1), title)
        ax.set_aspect("auto")
        ax.set_xlabel("token")
    axes[0].set_yticks(range(rows), [f"layer {i + 1}, head {j + 1}" for i in range(layers) for j in range(heads)])
    return figure


ANALYSIS = Analysis(
    "dual",
    measure,
    records=(
        *("dual_error", "dual_distance_*", "dual_norm_by_step_*", "dual_loss_by_step_*", "loss_by_dual_step"),
        *(f"{of}_gd{ending}" for of in analysis.Alignment._fields for ending in ("", "_untrained", "_wrong_step")),
        "pull_correlation_gd",
    ),
    check=check,
    figures=(
        Picture(
            "dual_process",
            ("loss_by_dual_step", "dual_distance_by_step_layer_1"),
            _draw_process,
            "Dual models on their way, after steps on so many demonstrations: the distance of their output to "
            "what the layer computes (relative), the norm of their weights, their own loss (these three: "
            "means over heads and prompts), and the loss of the prediction that the last layer's would give, "
            "beside others' on the same prompts. Bands: range over free seeds.",
            place=340,
        ),
        Picture(
            "dual_pull",
            ("pull_dual", "pull_gd"),
            _draw_pull,
            "What each demonstration adds to the prediction, by the dual models of all heads and by the best "
            "least-squares gradient step: of one prompt, and of 64, in the free seed whose loss is the middle "
            "one.",
            place=350,
        ),
        Picture(
            "dual_heads",
            ("pull_of_heads",),
            _draw_heads,
            "How much of each token's value the query gets, K(k, q)/D, by the dual model of every head: of the "
            "free seed whose loss is the middle one.",
            place=360,
        ),
    ),
    evidence=(
        Evidence("sensitivity_cosine_gd", at_least=0.9999),
        Evidence("sensitivity_difference_gd", at_most=1e-4),
        Evidence("prediction_difference_gd", at_most=1e-4),
        Evidence("pull_correlation_gd", at_least=0.9999),
    ),
    identities={"dual_error": 1e-3, "dual_distance_at_end": 1e-3},
)
