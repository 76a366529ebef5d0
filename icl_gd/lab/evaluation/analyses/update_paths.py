"""The two paths of GD++, cut one at a time: the update of the inputs, and the update of the labels.

A layer of GD++ adds to the x slots of every token ("input"), and to the y slots of the tokens of the context ("label").
A cut removes one of these updates, in one layer or in all: "input" for all tokens, "context_input" for the context
only, "query_input" for the query only, "label" for the context. The y slot of the query holds the prediction, and is
never cut.

With the input path cut in all layers, GD++ is gradient descent with the step sizes of GD++, which are larger than those
that are best for gradient descent. Nothing reads the updates of the context by the last layer, so cutting them there
changes nothing.

In the last layer but one, cutting the inputs of the context is as bad as cutting that of the query. Proof: the last
layer predicts from the scores x_j^T (I - gamma S) x_q if one of the two has this layer's update, where x_j and x_q are
inputs before the layer, and S, their second moment over the context, is symmetric. The residual labels do not depend on
the inputs after the layer. QED

A trained network may have other rates than the best ones. So its losses are also compared with those of GD++ with the
rates that are nearest to its own weights, with the same cuts (`cut_own_deviation_PATH`).

Losses are means over prompts, where the loss of one prompt counts at most as a hundred times the mean loss of
predicting zero.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, constructions, learners, plots
from icl_gd.lab.config.questions import (
    Analysis,
    Done,
    Evidence,
    Picture,
    needs,
    needs_linear_layers,
    needs_step_a_layer,
    unfit,
)
from icl_gd.lab.evaluation.measured import DIVERGES, GROUPS, Evaluation, Records, clip_losses, largest_error, take
from icl_gd.models import Model, edits
from icl_gd.types import Array, Circuits

PROMPTS = 4096
PATHS = {
    "input": "inputs, all tokens",
    "context_input": "inputs, context only",
    "query_input": "input, query only",
    "label": "labels",
}


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})
    if experiment["model.n_layers"] == 1:
        unfit(experiment, "model.n_layers", "needs several layers")
    if experiment["reference.learner"] == "gd":
        unfit(experiment, "reference.learner", "needs a variant of GD++")
    needs_step_a_layer(experiment)
    needs_linear_layers(experiment)


def cut(model: Model, path: str, layer: int | str, d_input: int, n_context: int) -> Model:
    """A copy of a model in which a path is cut.

    Args:
      model: a Transformer with tokens (x, y).
      path: a key of `PATHS`.
      layer: the layer, from 0; "*" for all layers.
      d_input: width of x.
      n_context: number of examples.

    Returns:
      The edited model.
    """
    kept = np.ones((n_context + 1, model.config.width))
    tokens = {"input": slice(None), "query_input": slice(n_context, None)}.get(path, slice(n_context))
    kept[tokens, slice(d_input, None) if path == "label" else slice(d_input)] = 0.0
    return model.edit({f"blocks.{layer}.attn_out": edits.scale(jnp.asarray(kept, float))})


def cuts(n_layers: int) -> list[tuple[str, int | str, str]]:
    """Path, layer and name of every cut. The names count layers from 1."""
    layers = [*((layer, str(layer + 1)) for layer in range(n_layers)), ("*", "all")]
    return [(path, layer, f"{path}_{name}") for path in PATHS for layer, name in layers]


def measure(evaluation: Evaluation, records: Records) -> None:
    """Measures losses with every path cut in every layer: trained, untrained and constructed."""
    task, network, layout = evaluation.task, evaluation.trained.config, evaluation.trained.layout
    prompts, n_layers = take(evaluation.prompts, PROMPTS), network.n_layers
    zero = jnp.mean(analysis.losses(learners.predict_zero, prompts))

    def losses(model: Model) -> dict[str, Array]:
        def of(one: Model) -> Array:
            return jnp.mean(clip_losses(analysis.losses(one, prompts), DIVERGES * zero))

        sizes = task.d_input, task.n_context
        intact = model.edit({"prediction": edits.scale(1.0)})  # predicts in the same form as a model with a cut
        return {"none": of(intact)} | {
            name: of(cut(model, path, layer, *sizes)) for path, layer, name in cuts(n_layers)
        }

    of_members = jax.jit(partial(analysis.over_members, lambda params: losses(Model(network, params, layout))))
    rates = evaluation.reference.rates[evaluation.reference.constructed]
    built_model = constructions.gd_plus_plus_model(task.d_input, task.d_output, task.n_context, *rates)
    compiled = jax.jit(losses)
    built = {name: float(value) for name, value in compiled(built_model).items()}
    trained, untrained = (
        {name: np.asarray(values, np.float64) for name, values in of_members(params).items()}
        for params in (evaluation.trained.params, evaluation.untrained)
    )
    own_rates = own_rates_of(evaluation.circuits, task.d_input, task.n_context)  # [rate member layer]
    of_own_rates = [
        compiled(constructions.gd_plus_plus_model(task.d_input, task.d_output, task.n_context, *rates_of_member))
        for rates_of_member in own_rates.swapaxes(0, 1)
    ]
    own = {name: np.asarray([float(one[name]) for one in of_own_rates]) for name in built}
    for name, values in zip(("step_size", "gamma"), own_rates, strict=True):
        records.add(f"own_{name}", values.mean(1))
    on_curves = evaluation.reference.losses(prompts)
    gd = float(jnp.mean(on_curves["loss_gd"]))
    for name, values in trained.items():
        records.add(f"cut_loss_{name}", values)
        records.add(f"cut_ratio_zero_{name}", values / float(zero))
        records.add(f"cut_ratio_gd_{name}", values / gd)
        records.add_one(f"cut_loss_{name}_construction", built[name])
        records.add(f"cut_loss_{name}_own", own[name])
        records.add(f"cut_loss_{name}_untrained", untrained[name], over=GROUPS[:1])
    records.add("cut_effect_untrained", _effect(untrained, list(untrained)), over=GROUPS[:1])
    unread = [f"{path}_{n_layers}" for path in PATHS]
    records.add("cut_unread_error", _effect(trained, unread))
    last_but_one = n_layers - 1  # as names count layers
    sides = trained[f"context_input_{last_but_one}"] / trained[f"query_input_{last_but_one}"]
    records.add("cut_asymmetry", np.abs(sides - 1))
    for path in PATHS:
        read = [f"{path}_{layer}" for layer in range(1, n_layers)]
        ours, theirs = np.stack([trained[name] for name in read]), np.asarray([built[name] for name in read])
        records.add(f"cut_deviation_{path}", np.max(np.abs(ours / theirs[:, None] - 1), axis=0))
        own_deviation = np.abs(ours / np.stack([own[name] for name in read]) - 1)
        records.add(f"cut_own_deviation_{path}", np.max(own_deviation, axis=0))
        same = np.argsort(ours, axis=0) == np.argsort(theirs)[:, None]
        records.add(f"cut_order_{path}", same.mean(0))
    is_gd = jax.jit(
        lambda: largest_error(
            *(
                jax.vmap(predictor)(prompts.x, prompts.y, prompts.x_query)
                for predictor in (
                    cut(built_model, "input", "*", task.d_input, task.n_context),
                    learners.gradient_descent(rates[0]),
                )
            )
        )
    )
    records.add_one("cut_construction_error", is_gd())
    records.arrays["cut_layers"] = n_layers
    records.arrays["cut_levels"] = {"zero": float(zero), "gd": gd}


def own_rates_of(circuits: Circuits, d_input: int, n_context: int) -> np.ndarray:
    """The rates of GD++ that are nearest to trained weights.

    GD++ has W_PV W_KQ = -eta / n in the y slots and -gamma / n in the x slots, times the identity.

    Args:
      circuits: the circuits of all members, with a leading member axis.
      d_input: width of x.
      n_context: number of examples n.

    Returns:
      Step sizes and gammas `[rate member layer]`, from the means of the diagonals.
    """

    def diagonal(matrix: Array, slots: slice) -> np.ndarray:
        """The mean `[member layer head]` of the diagonal in the x or y slots."""
        block = np.asarray(matrix, np.float64)[..., slots, slots]
        return np.diagonal(block, axis1=-2, axis2=-1).mean(-1)

    x, y = slice(d_input), slice(d_input, None)
    scores = diagonal(circuits.W_KQ, x)
    return np.stack([-n_context * (diagonal(circuits.W_PV, slots) * scores).sum(-1) for slots in (y, x)])


def _effect(losses: dict[str, np.ndarray], names: list[str]) -> np.ndarray:
    """The largest relative change of the loss by some of the cuts."""
    return np.max([np.abs(losses[name] / losses["none"] - 1) for name in names], axis=0)


def _draw(done: Done) -> plots.Figure:
    """Draws the loss with each path cut in one layer, or in all layers."""
    metrics, n_layers, levels = done["metrics"], done["arrays"]["cut_layers"], done["arrays"]["cut_levels"]
    names, xs = [*map(str, range(1, n_layers + 1)), "all"], np.append(np.arange(n_layers), n_layers + 0.3)
    figure, axes = plots.subplots(2, 2, figsize=(plots.PAGE * 0.85, 4.4), sharex=True, sharey=True)
    for ax, (path, title) in zip(axes.flat, PATHS.items(), strict=True):
        plots.horizontal_line(ax, levels["zero"], "zero")
        plots.horizontal_line(ax, levels["gd"], "gd")
        built = [metrics[f"cut_loss_{path}_{name}_construction"]["mean"] for name in names]
        _, colour, _ = plots.ROLES["construction"]
        ax.plot(xs, built, "s", color=colour, markersize=6.5, markerfacecolor="none", label="GD++, best rates")
        own = [np.mean(plots.seed_values(metrics[f"cut_loss_{path}_{name}_own"])) for name in names]
        _, colour, _ = plots.ROLES["gd_plus_plus"]
        ax.plot(xs, own, "D", color=colour, markersize=5, markerfacecolor="none", label="GD++, rates of the weights")
        untrained = [plots.seed_values(metrics[f"cut_loss_{path}_{name}_untrained"]) for name in names]
        _, colour, _ = plots.ROLES["untrained"]
        ax.plot(xs, [np.mean(values) for values in untrained], "x", color=colour, label="untrained")
        _, colour, _ = plots.ROLES["trained"]
        for i, (x, name) in enumerate(zip(xs, names, strict=True)):
            values = plots.seed_values(metrics[f"cut_loss_{path}_{name}"])
            ax.plot([x] * len(values), values, "o", color=colour, markersize=2.5, label="" if i else "trained")
        intact = metrics["cut_loss_none"]["mean"]
        ax.axhline(intact, color=colour, linewidth=0.8, label="trained, nothing cut")
        ax.set(title=title, yscale="log")
        ax.set_xticks(xs, names)
    for ax in axes[1]:
        ax.set_xlabel("layer in which the update is cut")
    for ax in axes[:, 0]:
        ax.set_ylabel("loss")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


ANALYSIS = Analysis(
    "update_paths",
    measure,
    records=(
        *("cut_loss_*", "cut_ratio_zero_*", "cut_ratio_gd_*", "cut_effect_untrained", "cut_unread_error"),
        *("own_step_size", "own_gamma", "cut_own_deviation_*"),
        *("cut_asymmetry", "cut_deviation_*", "cut_order_*", "cut_construction_error"),
    ),
    check=check,
    figures=(
        Picture(
            "update_paths",
            ("cut_layers", "cut_loss_none"),
            _draw,
            "Loss with one of the updates of GD++ cut in one layer, or in all: that of the inputs of all tokens, of "
            "the context only, of the query only, or that of the labels of the context. Small circles are seeds. "
            "Diamonds are GD++ with the rates that are nearest to the trained weights (means over seeds), squares GD++ "
            "with the best shared pair of rates, both constructed and with the same cut; crosses are untrained layers. "
            "Lines are the losses of the intact trained layers, of gradient descent with as many steps, and of "
            "predicting zero. A prompt counts at most as a hundred times the loss of predicting zero.",
            place=125,
        ),
    ),
    evidence=tuple(Evidence(f"cut_deviation_{path}", at_most=1e-3) for path in PATHS),
    identities={"cut_unread_error": 1e-6, "cut_construction_error": 1e-4},
)
