"""One layer of softmax heads: what their circuits are together, and how near that is to a gradient step."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, learners, models, plots
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, Unfit, needs, unfit
from icl_gd.lab.evaluation.comparing import align, compare_with
from icl_gd.lab.evaluation.measured import EVERY, Evaluation, Records, merge_losses, of_members
from icl_gd.learners import centred
from icl_gd.types import Array, Circuits, Predictor


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})
    needs(experiment, **{"model.n_layers": 1})
    if experiment.model.kinds != ("softmax",):
        raise Unfit("model.attention", experiment.model.attention, "needs softmax")
    plain = {"layer_norm": False, "normalised": False, "clip": None, "d_embed": None, "input_mlp_width": None}
    needs(experiment, **{f"model.{name}": value for name, value in plain.items()})
    if experiment["task.n_context"] < 2:
        unfit(experiment, "task.n_context", "takes the context's mean away; at least 2")


def measure(study: Evaluation, found: Records) -> None:
    """The heads to first order in their scores (`icl_gd.analysis.softmax`), beside a step on the centred context.

    A pattern sums to one, so the honest reference is gradient descent on a context with its mean removed: its loss and
    alignment are measured like those of gradient descent itself.
    """
    task, model = study.task, study.trained.config
    d, n = task.d_input, task.n_context
    linear = jax.vmap(partial(analysis.first_order, d_head=model.head_width, n_context=n))(study.circuits)
    step = float(learners.fit_step_size(learners.centre(study.prompts)))
    gd = centred(learners.gradient_descent([step]))
    found.add_one("step_size_gd_centred", step / n)

    compare_with(study, found, "gd_centred", gd)
    losses = merge_losses({"linear": of_members(centred(study.of_circuits(linear)))})
    risk = analysis.streamed_risks(losses, task.sample, study.key, study.n_prompts)["linear"]
    found.add("loss_first_order", risk.mean, risk.stderr)
    least = jax.vmap(lambda c: analysis.minimal_norm_qk(c, d))(study.circuits)
    align(study, found, "gd_centred_without_common", gd, partial(_of_softmax_circuits, study), least)

    matrices = jax.vmap(lambda c: analysis.effective_preconditioner(c, d, n).mean(0))(linear)  # [member d d]
    summed = study.circuits.W_KQ[:, 0, :, :d, :d].sum(1)
    found.add(
        "mean_pattern_left", jax.vmap(lambda c: analysis.mean_pattern_residue(c, d)[0])(study.circuits), over=EVERY
    )
    found.add("product_anisotropy", jax.vmap(analysis.anisotropy)(matrices), over=EVERY)
    found.add("summed_W_KQ_anisotropy", jax.vmap(analysis.anisotropy)(summed), over=EVERY)
    found.add("step_size_first_order", jnp.trace(matrices, axis1=1, axis2=2) / d / n, over=EVERY)
    by_route = jax.vmap(partial(analysis.label_paths, d_input=d))(study.circuits)._asdict()
    for name, shares in by_route.items():
        found.add(f"share_{name}", shares, over=EVERY)
    _shown(study, found, matrices)


def _of_softmax_circuits(study: Evaluation, circuits: Circuits) -> Predictor:
    """A layer of softmax heads known by its circuits."""
    model = study.trained.config
    one = jnp.broadcast_to(jnp.eye(model.width), circuits.W_KQ[0].shape)
    w_q = circuits.W_KQ[0] * (model.width / model.head_width) ** 0.5  # scores are divided by the root of a head's width
    attention = {"W_K": one, "W_Q": w_q, "W_V": one, "P": circuits.W_PV[0]}
    config = replace(model, d_head=None)
    return models.query_predictor(config, {config.blocks[0]: {"attention": attention}}, study.trained.layout)


def _shown(study: Evaluation, found: Records, matrices: Array) -> None:
    """The circuits of one member, head by head and summed, for the figure; where none is free, its best."""
    best = int(np.nanargmin(found.measured["loss_trained"].values))
    member: Circuits = jax.tree.map(lambda leaf: np.asarray(leaf[best, 0], np.float64), study.circuits)
    found.arrays |= {"d_input": study.task.d_input, "n_context": study.task.n_context}
    for circuit, heads in member._asdict().items():
        found.arrays[f"{circuit}_heads"] = heads.tolist()
        found.arrays[f"{circuit}_summed"] = heads.sum(0).tolist()
    found.arrays["first_order_matrix"] = np.asarray(matrices[best], np.float64).tolist()


def _draw(done: Done) -> plots.Figure:
    """Both circuits of every head and of all together, and the matrix of the linear layer they are."""
    arrays, heads = done["arrays"], len(done["arrays"]["W_KQ_heads"])
    figure, axes = plots.subplots(2, heads + 2, figsize=(plots.PAGE * max(1.0, (heads + 2) / 4), 3.6), squeeze=False)
    for row, circuit in enumerate(("W_KQ", "W_PV")):
        symbol = f"W_{{{circuit[2:]}}}"
        for head in range(heads):
            plots.matrix(
                axes[row, head], arrays[f"{circuit}_heads"][head], f"${symbol}$, head {head + 1}", arrays["d_input"]
            )
        plots.matrix(axes[row, heads], arrays[f"{circuit}_summed"], f"${symbol}$, summed", arrays["d_input"])
    plots.matrix(axes[0, -1], arrays["first_order_matrix"], "heads' products")
    step = done["metrics"]["step_size_gd_centred"]["mean"] * arrays["n_context"]
    plots.matrix(axes[1, -1], (step * np.eye(arrays["d_input"])).tolist(), "centred GD step")
    return figure


ANALYSIS = Analysis(
    "softmax",
    measure,
    records=(
        *("step_size_gd_centred", "loss_gd_centred", "loss_ratio_gd_centred", "loss_first_order", "mean_pattern_left"),
        *(f"{of}_gd_centred*" for of in analysis.Alignment._fields),
        *("product_anisotropy", "summed_W_KQ_anisotropy", "step_size_first_order"),
        *(f"share_{name}" for name in analysis.LabelPaths._fields),
    ),
    check=check,
    figures=(
        Picture(
            "softmax_heads",
            ("W_KQ_heads", "first_order_matrix"),
            _draw,
            "Softmax heads of the best seed. W_PV adds up to zero in the y row, so that the mean pattern "
            "cancels; W_KQ need not add up to anything, the products W_PV W_KQ are the linear solution.",
            place=210,
        ),
    ),
    evidence=(
        Evidence("loss_ratio_gd_centred", at_least=0.9999, at_most=1.0001),
        Evidence("sensitivity_cosine_gd_centred", at_least=0.9999),
        Evidence("mean_pattern_left", at_most=1e-4),
        Evidence("product_anisotropy", at_most=1e-4),
    ),
)
