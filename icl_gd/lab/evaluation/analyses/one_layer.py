"""Questions whose answers are known of one layer only: weights, interpolation, roll-out, optimum."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from icl_gd import analysis, learners, models
from icl_gd.lab.evaluation.study import EVERY, Found, Study, noise_to_weight, of_members, together
from icl_gd.lab.reporting.results import curve
from icl_gd.types import Array, Circuits, Predictor, Prompt

ROLL_OUT = (50, 0.75)  # iterations and damping, as published


def weights(study: Study, found: Found) -> None:
    """Distance to the construction modulo gauge, and the circuits of a free and of a trapped member."""
    d, n, built = study.task.d_input, study.task.n_context, study.reference.circuits
    distance = lambda c: analysis.gauge_distance(c, built, d)

    def of_member(c: Circuits) -> dict[str, Any]:
        rank = jnp.mean(jax.vmap(analysis.participation_ratio)(analysis.effective_preconditioner(c, d, n)))
        shares = {f"share_{name}": share for name, share in analysis.routes(c, d)._asdict().items()}
        matched = analysis.match_scale(c, built) if study.trained.config.n_heads == 1 else None
        return {"distance": distance(c), "over_seeds": {"participation_ratio": rank, **shares}, "matched": matched}

    untrained = lambda params: distance(models.circuits(study.trained.config, params))
    both = lambda circuits, params: (jax.vmap(of_member)(circuits), jax.vmap(untrained)(params))
    ours, at_start = jax.tree.map(np.asarray, jax.jit(both)(study.circuits, study.untrained))
    found.add("gauge_distance_gd", ours["distance"])
    found.add("gauge_distance_gd_untrained", at_start, over=EVERY[:1])
    for name, values in ours["over_seeds"].items():
        found.add(name, values, over=EVERY)
    found.arrays["d_input"] = d
    shown = {"construction": built}
    for name, members in (("trained", found.shown), ("trapped", found.trapped)):
        if len(members) and ours["matched"] is not None:
            shown[name] = jax.tree.map(lambda leaf, i=members[0]: leaf[i], ours["matched"])
    for name, circuits in shown.items():
        for circuit, value in circuits._asdict().items():
            found.arrays[f"{circuit}_{name}"] = np.asarray(value[0, 0], np.float64).tolist()


def interpolation(study: Study, found: Found) -> None:
    """Losses along the line from trained to constructed weights; the middle of it is measured by `evaluate`."""
    ts = np.linspace(0.0, 1.0, 11)

    of_member = jax.vmap(analysis.interpolate, (0, None, None))
    with_ts = jax.vmap(of_member, (None, None, 0))  # [t member ...]
    mixed = jax.jit(with_ts)(study.circuits, study.reference.circuits, jnp.asarray(ts, float))
    along = Partial(_along, study.of_circuits(mixed))
    n_prompts = max(study.n_prompts // 8, 1)
    risks = analysis.streamed_risks(together({"along": along}), study.task.sample, study.key, n_prompts)["along"]
    middle, *ends = (found.measured[f"loss_{name}"].values for name in ("interpolated", "trained", "construction"))
    if np.isfinite(middle[found.shown]).any():  # there is something to draw
        found.curves["loss_by_interpolation"] = curve(ts.tolist(), risks.mean[:, found.shown])
    found.add("interpolation_ratio", middle / np.minimum(*ends))


def _along(predictors: Predictor, prompts: Prompt) -> Array:
    """Losses `[t member prompt]` of Predictors `[t member]`."""
    return jax.lax.map(lambda members: analysis.member_losses(members, prompts), predictors)


def rollout(study: Study, found: Found) -> None:
    """One trained layer applied many times, against gradient descent with the same damping, and both undamped."""
    n, damping = ROLL_OUT
    d, layout = study.task.d_input, study.trained.layout

    def rolled(factor: float, prompts: Prompt) -> Array:  # [member iteration prompt]
        def member(circuits: Circuits) -> Array:
            stack = analysis.roll_out(circuits, d, n, factor)
            return analysis.losses(models.layerwise_circuit_predictor(stack, layout), prompts).T

        return jax.lax.map(member, study.circuits)

    for suffix, factor in (("", damping), ("_undamped", 1.0)):
        descent = learners.layerwise_gradient_descent([factor * study.reference.step_size] * n)
        losses_of = {"trained": partial(rolled, factor), "gd": lambda p, f=descent: analysis.losses(f, p).T}
        risks = analysis.streamed_risks(
            together(losses_of), study.task.sample, study.key, len(study.prompts.x), chunk=2048
        )
        ours, theirs = risks["trained"].mean.T, risks["gd"].mean
        found.curves[f"loss_by_iteration_trained{suffix}"] = curve(range(n + 1), ours[:, found.shown])
        found.curves[f"loss_by_iteration_gd{suffix}"] = curve(range(n + 1), theirs)
        if not suffix:
            found.add("rollout_ratio", (ours / theirs[:, None]).max(0))
            found.add("rollout_loss_final", ours[-1], risks["trained"].stderr[:, -1])
            found.add_one("rollout_loss_final_gd", theirs[-1], risks["gd"].stderr[-1])
            found.arrays["damping"] = damping


def optimum(study: Study, found: Found) -> None:
    """The learned matrix against the optimum's, and the risk at test lengths it was not trained on."""
    task = study.task
    ratio = noise_to_weight(task)
    exact = learners.gaussian_optimum_matrix(task.second_moment, task.n_context, ratio)
    matrices = jax.vmap(lambda c: analysis.effective_preconditioner(c, task.d_input, task.n_context))(study.circuits)
    matrices = np.asarray(matrices, np.float64)  # [member m d d]
    found.add("preconditioner_error", np.linalg.norm(matrices - exact, axis=(-2, -1)).max(-1) / np.linalg.norm(exact))
    found.arrays["preconditioner_exact"] = exact.tolist()
    if len(found.shown):
        found.arrays["preconditioner_trained"] = matrices[found.shown[0], 0].tolist()

    lengths = [max(1, round(task.n_context * factor)) for factor in (0.25, 0.5, 1, 2, 4, 8)]
    means, closed = [], []
    for m in lengths:
        risks = _risk_at_length(study, m)
        means.append(risks)
        closed.append(task.d_output * learners.gaussian_optimum_risk(task.second_moment, task.n_context, ratio,
                                                                     float(task.weight_scale), m))  # fmt: skip
    ours, theirs = np.stack(means), np.asarray(closed)
    found.curves["loss_by_test_length_trained"] = curve(lengths, ours[:, found.shown])
    found.curves["loss_by_test_length_closed_form"] = curve(lengths, theirs)
    found.add("test_length_deviation", np.abs(ours / theirs[:, None] - 1).max(0))


def _risk_at_length(study: Study, m: int) -> np.ndarray:
    """Risk `[member]` on contexts of m examples, the sum over the context rescaled to the n it was trained on.

    The formula at test length M is that of a mean over M examples; the layer sums, so its W_PV is multiplied by n / M.
    """
    task = replace(study.task, n_context=m)
    circuits = study.circuits._replace(W_PV=study.circuits.W_PV * (study.task.n_context / m))
    losses = together({"risk": of_members(study.of_circuits(circuits))})
    return analysis.streamed_risks(losses, task.sample, study.key, min(study.n_prompts, 2**18))["risk"].mean
