"""Dual models of attention layers: their error, their trajectories over demonstrations, and attention weights."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, dual, learners, models, plots
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, needs, needs_one_kernel
from icl_gd.lab.evaluation.measured import GROUPS, Evaluation, Records, take
from icl_gd.lab.reporting.results import curve
from icl_gd.types import Array, Predictor, Prompt

CONTRIBUTION_PROMPTS = 64  # prompts for which the contribution of every demonstration is recorded
TRAJECTORY_PROMPTS = 512  # prompts that trajectories and alignment are measured on


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "one_step"})
    needs_one_kernel(experiment)


def measure(evaluation: Evaluation, records: Records) -> None:
    """Measures errors, trajectories and attention weights of the dual models, and alignment to a gradient step."""
    config, layout = evaluation.trained.config, evaluation.trained.layout
    layers, heads = range(config.n_layers), range(config.n_heads)
    prompts = take(evaluation.prompts, TRAJECTORY_PROMPTS)
    n_demonstrations = len(evaluation.encode(jax.tree.map(lambda leaf: leaf[0], prompts))) - 1

    def measures(params: Any, prompt: Prompt) -> dict[str, Array]:
        tokens = evaluation.encode(prompt)
        residual = models.apply(config, params, tokens).residual
        result: dict[str, list] = {"error": [], "distance": [], "norm": [], "loss": [], "weights": []}
        outputs = jnp.zeros(())
        for layer in layers:
            duals = [dual.dual_of(config, params, layer, head, evaluation.kind)(tokens) for head in heads]
            trajectories = [dual.trajectory(model) for model in duals]
            iterates = slice(n_demonstrations + 1)  # the start, and one iterate per demonstration
            outputs = jnp.stack([each.prediction[iterates] for each in trajectories], axis=1)  # [iterate head d_head]
            final = jnp.stack([dual.prediction(model) for model in duals])
            before, after = residual[layer : layer + 2, -1]
            by_dual = dual.block_of(config, params, layer, tokens)(final)
            result["error"].append(jnp.abs(by_dual - after).max() / jnp.abs(after - before).max())
            distance = jnp.linalg.norm(outputs - final[None], axis=-1) / jnp.linalg.norm(final, axis=-1)[None]
            result["distance"].append(distance.mean(1))
            result["weights"].append(jnp.stack([dual.attention_weights(model) for model in duals]))
            for name in ("norm", "loss"):
                values = jnp.stack([getattr(each, name)[iterates] for each in trajectories])
                result[name].append((values / jnp.abs(values[:, -1:])).mean(0))
        last_residual = jax.vmap(dual.block_of(config, params, config.n_layers - 1, tokens))(outputs)
        y_hat = jax.vmap(models.read_out(config, params, layout))(last_residual)
        loss = 0.5 * jnp.sum((y_hat - prompt.y_query[None]) ** 2, axis=-1)
        return {name: jnp.stack(values) for name, values in result.items()} | {"loss_of_prediction": loss}

    measured = evaluation.over_members(lambda params, prompts: jax.vmap(partial(measures, params))(prompts), prompts)
    records.add("dual_error", measured["error"].max((1, 2)), 0.0)
    steps = list(range(n_demonstrations + 1))
    for name in ("distance", "norm", "loss"):
        for layer in layers:
            values = measured[name][records.shown, :, layer].mean(1)  # [member iterate]
            records.curves[f"dual_{name}_by_step_layer_{layer + 1}"] = curve(steps, values.T)
    records.add("dual_distance_at_end", measured["distance"][..., -1].max((1, 2)), 0.0)
    records.add("dual_distance_at_start", measured["distance"][..., 0].mean((1, 2)))
    records.curves["loss_by_dual_step"] = curve(steps, measured["loss_of_prediction"][records.shown].mean(1).T)
    records.arrays["n_layers"] = config.n_layers
    weights = measured["weights"][records.median_member("loss_trained")]  # [prompt layer head token]
    records.arrays["pull_of_heads"] = {"mean": weights.mean(0).tolist(), "one": weights[0].tolist()}
    records.arrays["tokens_are_examples"] = layout.inputs is None
    gd = learners.gradient_descent([evaluation.reference.step_size])
    for name, learner in (("gd", gd), ("zero", learners.predict_zero)):
        records.arrays[f"loss_{name}_on_processed"] = float(analysis.losses(learner, prompts).mean())
    _aligned(evaluation, records, gd)
    if config.n_layers == 1 and layout.inputs is None:
        _contributions(evaluation, records, take(prompts, CONTRIBUTION_PROMPTS))


def _aligned(evaluation: Evaluation, records: Records, gd: Predictor) -> None:
    """Adds the networks' alignment to the best gradient step. Controls: half that step size, and untrained networks."""
    predictor = partial(models.fastest_predictor, evaluation.trained.config, layout=evaluation.trained.layout)
    prompts = take(evaluation.prompts, TRAJECTORY_PROMPTS)
    half = learners.gradient_descent([evaluation.reference.step_size / 2])

    def alignment(params: Any, prompts: Prompt) -> analysis.Alignment:
        return analysis.alignment(predictor(params), gd, prompts)

    control = jax.jit(lambda prompts: analysis.alignment(half, gd, prompts))(prompts)
    over_untrained = jax.jit(lambda params, *more: jax.lax.map(lambda member: alignment(member, *more), params))
    untrained = jax.tree.map(np.asarray, over_untrained(evaluation.untrained, prompts))
    trained = evaluation.over_members(alignment, prompts)
    for measure, value in control._asdict().items():
        records.add_one(f"{measure}_gd_wrong_step", float(value))
        records.add(f"{measure}_gd", getattr(trained, measure), over=GROUPS)
        records.add(f"{measure}_gd_untrained", getattr(untrained, measure), over=GROUPS[:1])


def _contributions(evaluation: Evaluation, records: Records, prompts: Prompt) -> None:
    """Records the contribution of each demonstration to the prediction of the dual model and of a gradient step."""
    config, n, m = evaluation.trained.config, evaluation.task.n_context, evaluation.task.d_output
    eta = evaluation.reference.step_size

    def by_dual(params: Any, prompt: Prompt) -> Array:
        """Contributions `[n m]`: minus each demonstration's part of the update of the query's y slots."""
        tokens, result = evaluation.encode(prompt), jnp.zeros((n, m))
        for head in range(config.n_heads):
            model = dual.dual_of(config, params, 0, head, evaluation.kind)(tokens)
            per_token = (dual.attention_weights(model)[:, None] * model.values)[:n]
            result = result - per_token @ params[config.blocks[0]]["attention"]["P"][head, -m:].T
        return result

    def by_step(prompt: Prompt) -> Array:
        return eta / n * (prompt.x @ prompt.x_query)[:, None] * prompt.y

    def centre(values: np.ndarray) -> np.ndarray:
        return values - values.mean(-2, keepdims=True)

    def inner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a * b).sum((-2, -1))

    contributions = evaluation.over_members(
        lambda params, prompts: jax.vmap(partial(by_dual, params))(prompts), prompts
    )
    step_contributions = np.asarray(jax.vmap(by_step)(prompts))
    a, b = centre(contributions), centre(step_contributions)[None]
    correlation = inner(a, b) / (np.sqrt(inner(a, a)) * np.sqrt(inner(b, b)))
    records.add("pull_correlation_gd", correlation.mean(1))
    member = records.median_member("loss_trained")
    records.arrays["pull_dual"], records.arrays["pull_gd"] = (
        contributions[member, :, :, 0].tolist(),
        step_contributions[..., 0].tolist(),
    )


def _draw_process(done: Done) -> plots.Figure:
    figure, axes = plots.subplots(2, 2, figsize=(plots.PAGE * 0.85, 4.4), sharex=True)
    curves, layers = done["curves"], range(1, done["arrays"]["n_layers"] + 1)
    measures = {
        "distance": "relative distance\nto layer output",
        "norm": "weight norm\n" r"$|W_t| / |W_N|$",
        "loss": "dual loss\n" r"/ $|$final dual loss$|$",
    }
    for ax, (name, label) in zip(axes.flat, measures.items(), strict=False):
        for layer, shade in zip(layers, plots.shades(len(layers)), strict=True):
            curve = curves[f"dual_{name}_by_step_layer_{layer}"]
            ax.plot(curve["x"], curve["mean"], color=shade, label=f"layer {layer}")
            ax.fill_between(curve["x"], curve["low"], curve["high"], color=shade, alpha=0.2, linewidth=0)
        ax.set_ylabel(label)
        if name != "loss":
            ax.set_ylim(0, None)
    prediction = axes[1, 1]
    plots.line(prediction, curves["loss_by_dual_step"], "trained", label="last layer's prediction")
    plots.horizontal_line(prediction, done["arrays"]["loss_gd_on_processed"], "gd", "one gradient step")
    plots.horizontal_line(prediction, done["arrays"]["loss_zero_on_processed"], "zero")
    prediction.set(ylabel=r"loss  $\frac{1}{2}(\hat y - y)^2$", ylim=(0, None))
    steps = "demonstrations processed" if done["arrays"]["tokens_are_examples"] else "tokens processed"
    for ax in axes[1]:
        ax.set_xlabel(steps)
    (handles, labels), (more_handles, more_labels) = (ax.get_legend_handles_labels() for ax in (axes[0, 0], prediction))
    figure.legend([*handles, *more_handles], [*labels, *more_labels], loc="outside lower center", ncols=3)
    return figure


def _draw_pull(done: Done) -> plots.Figure:
    figure, (left, right) = plots.subplots(1, 2, figsize=(plots.PAGE * 0.85, 2.5))
    by_dual, by_step = (np.asarray(done["arrays"][f"pull_{name}"], float) for name in ("dual", "gd"))
    positions = np.arange(1, by_dual.shape[1] + 1)
    for values, role, marker, label in (
        (by_dual[0], "trained", "o", "dual model"),
        (by_step[0], "gd", "s", "gradient step"),
    ):
        _, colour, _ = plots.ROLES[role]
        left.plot(positions, values, marker, color=colour, markerfacecolor="none", label=label)
    left.axhline(0, color="black", linewidth=0.4)
    left.set(xlabel="demonstration of one prompt", ylabel="contribution to the prediction")
    figure.legend(loc="outside lower center", ncols=2)
    right.plot(by_step.ravel(), by_dual.ravel(), ".", color=plots.ROLES["trained"][1], markersize=1.5)
    right.set(xlabel="contribution, gradient step", ylabel="contribution, dual model")
    return figure


def _draw_heads(done: Done) -> plots.Figure:
    weights = {name: np.asarray(values, float) for name, values in done["arrays"]["pull_of_heads"].items()}
    layers, heads, _ = weights["mean"].shape
    rows = layers * heads
    figure, axes = plots.subplots(1, 2, figsize=(plots.PAGE, 0.9 + 0.2 * rows))
    for ax, (name, title) in zip(axes, (("mean", "mean over prompts"), ("one", "one prompt")), strict=True):
        plots.matrix(ax, weights[name].reshape(rows, -1), title)
        ax.set_aspect("auto")
        ax.set_xlabel("key position")
    axes[0].set_yticks(range(rows), [f"layer {i + 1}, head {j + 1}" for i in range(layers) for j in range(heads)])
    return figure


ANALYSIS = Analysis(
    "dual",
    measure,
    records=(
        *("dual_error", "dual_distance_*", "dual_norm_by_step_*", "dual_loss_by_step_*", "loss_by_dual_step"),
        *(
            f"{measure}_gd{suffix}"
            for measure in analysis.Alignment._fields
            for suffix in ("", "_untrained", "_wrong_step")
        ),
        "pull_correlation_gd",
    ),
    check=check,
    figures=(
        Picture(
            "dual_process",
            ("loss_by_dual_step", "dual_distance_by_step_layer_1"),
            _draw_process,
            "Trajectories of the dual models over the number of demonstrations processed: relative distance of their "
            "output to the layer's output, norm of their weights, and dual loss, all as means over heads and "
            "prompts. Lower right: loss of the prediction that results from the last layer's dual models, with "
            "baselines on the same prompts. Bands are the range over untrapped seeds.",
            place=340,
        ),
        Picture(
            "dual_pull",
            ("pull_dual", "pull_gd"),
            _draw_pull,
            "Contribution of each demonstration to the prediction, by the dual models of all heads and by the best "
            "gradient step on the linear model. Left: one prompt. Right: 64 prompts, one dot for each demonstration. "
            "The network is the untrapped seed with the median loss.",
            place=350,
        ),
        Picture(
            "dual_heads",
            ("pull_of_heads",),
            _draw_heads,
            "Attention weights K(k, q)/D of the query in the dual model of every head (rows), over key positions "
            "(columns): the mean over prompts (left), and one prompt (right). The network is the untrapped seed with "
            "the median loss.",
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
