"""One layer of softmax heads: its first-order expansion, compared with a gradient step on the centred context."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, learners, models, plots
from icl_gd.lab.config.questions import Analysis, Done, Evidence, Picture, Unfit, needs, unfit
from icl_gd.lab.evaluation.comparing import align, compare_with
from icl_gd.lab.evaluation.measured import GROUPS, Evaluation, Records, losses_of_members, merge_losses
from icl_gd.learners import centred
from icl_gd.types import Array, Circuits, Predictor


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "gradient_descent"})
    needs(experiment, **{"model.n_layers": 1})
    if experiment.model.kinds != ("softmax",):
        raise Unfit("model.attention", experiment.model.attention, "needs softmax")
    plain = {"layer_norm": False, "sum_normalised": False, "clip": None, "d_embed": None, "input_mlp_width": None}
    needs(experiment, **{f"model.{name}": value for name, value in plain.items()})
    if experiment["task.n_context"] < 2:
        unfit(experiment, "task.n_context", "needs at least 2, because the mean of the context is subtracted")


def measure(evaluation: Evaluation, records: Records) -> None:
    """Compares the heads, to first order in their scores, with a gradient step on the centred context.

    A softmax pattern sums to one, so the fair reference is gradient descent on a context whose mean is subtracted. The
    first-order expansion is derived in `icl_gd.analysis.softmax`.
    """
    task, model = evaluation.task, evaluation.trained.config
    d, n = task.d_input, task.n_context
    linear = jax.vmap(partial(analysis.first_order, d_head=model.head_width, n_context=n))(evaluation.circuits)
    step = float(learners.fit_step_size(learners.centre(evaluation.prompts)))
    gd = centred(learners.gradient_descent([step]))
    records.add_one("step_size_gd_centred", step / n)

    compare_with(evaluation, records, "gd_centred", gd)
    losses = merge_losses({"linear": losses_of_members(centred(evaluation.predictor_of_circuits(linear)))})
    risk = analysis.streamed_risks(losses, task.sample, evaluation.key, evaluation.n_prompts)["linear"]
    records.add("loss_first_order", risk.mean, risk.stderr)
    minimal = jax.vmap(lambda c: analysis.minimal_norm_qk(c, d))(evaluation.circuits)
    align(evaluation, records, "gd_centred_without_common", gd, partial(_softmax_predictor, evaluation), minimal)

    matrices = jax.vmap(lambda c: analysis.effective_preconditioner(c, d, n).mean(0))(linear)  # [member d d]
    summed = evaluation.circuits.W_KQ[:, 0, :, :d, :d].sum(1)
    records.add(
        "mean_pattern_left",
        jax.vmap(lambda c: analysis.mean_pattern_residue(c, d)[0])(evaluation.circuits),
        over=GROUPS,
    )
    records.add("product_anisotropy", jax.vmap(analysis.anisotropy)(matrices), over=GROUPS)
    records.add("summed_W_KQ_anisotropy", jax.vmap(analysis.anisotropy)(summed), over=GROUPS)
    records.add("step_size_first_order", jnp.trace(matrices, axis1=1, axis2=2) / d / n, over=GROUPS)
    by_path = jax.vmap(partial(analysis.label_paths, d_input=d))(evaluation.circuits)._asdict()
    for name, shares in by_path.items():
        records.add(f"share_{name}", shares, over=GROUPS)
    _record_heads(evaluation, records, matrices)


def _softmax_predictor(evaluation: Evaluation, circuits: Circuits) -> Predictor:
    """The Predictor of a layer of softmax heads with these circuits."""
    model = evaluation.trained.config
    identity = jnp.broadcast_to(jnp.eye(model.width), circuits.W_KQ[0].shape)
    # This network has a larger head width, by whose square root scores are divided. A factor in W_Q cancels this.
    w_q = circuits.W_KQ[0] * (model.width / model.head_width) ** 0.5
    attention = {"W_K": identity, "W_Q": w_q, "W_V": identity, "P": circuits.W_PV[0]}
    config = replace(model, d_head=None)
    return models.query_predictor(config, {config.blocks[0]: {"attention": attention}}, evaluation.trained.layout)


def _record_heads(evaluation: Evaluation, records: Records, matrices: Array) -> None:
    """Records the circuits of the member with the smallest loss, for each head and summed."""
    best = int(np.nanargmin(records.measured["loss_trained"].values))
    member: Circuits = jax.tree.map(lambda leaf: np.asarray(leaf[best, 0], np.float64), evaluation.circuits)
    records.arrays |= {"d_input": evaluation.task.d_input, "n_context": evaluation.task.n_context}
    for circuit, heads in member._asdict().items():
        records.arrays[f"{circuit}_heads"] = heads.tolist()
        records.arrays[f"{circuit}_summed"] = heads.sum(0).tolist()
    records.arrays["first_order_matrix"] = np.asarray(matrices[best], np.float64).tolist()


def _draw(done: Done) -> plots.Figure:
    """Draws both circuits of every head and of their sum, and the matrix of the equivalent linear layer."""
    arrays, heads = done["arrays"], len(done["arrays"]["W_KQ_heads"])
    figure, axes = plots.subplots(2, heads + 2, figsize=(plots.PAGE * max(1.0, (heads + 2) / 4), 3.6), squeeze=False)
    for row, circuit in enumerate(("W_KQ", "W_PV")):
        symbol = f"W_{{{circuit[2:]}}}"
        for head in range(heads):
            values, title = arrays[f"{circuit}_heads"][head], f"${symbol}$, head {head + 1}"
            plots.matrix(axes[row, head], values, title, arrays["d_input"])
        plots.matrix(axes[row, heads], arrays[f"{circuit}_summed"], f"${symbol}$, summed", arrays["d_input"])
    plots.matrix(axes[0, -1], arrays["first_order_matrix"], "sum of products")
    step = done["metrics"]["step_size_gd_centred"]["mean"] * arrays["n_context"]
    plots.matrix(axes[1, -1], (step * np.eye(arrays["d_input"])).tolist(), "centred GD step")
    return figure


ANALYSIS = Analysis(
    "softmax",
    measure,
    records=(
        *("step_size_gd_centred", "loss_gd_centred", "loss_ratio_gd_centred", "loss_first_order", "mean_pattern_left"),
        *(f"{measure}_gd_centred*" for measure in analysis.Alignment._fields),
        *("product_anisotropy", "summed_W_KQ_anisotropy", "step_size_first_order"),
        *(f"share_{name}" for name in analysis.LabelPaths._fields),
    ),
    check=check,
    figures=(
        Picture(
            "softmax_heads",
            ("W_KQ_heads", "first_order_matrix"),
            _draw,
            "QK circuits (top) and OV circuits (bottom) of the softmax heads, for the seed with the smallest loss. "
            "The heads' W_PV sum to zero in the y row, so that the constant part of the patterns cancels. Right "
            "column: the sum over heads of the products of W_PV and W_KQ, and the matrix of the gradient step on the "
            "centred context.",
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
