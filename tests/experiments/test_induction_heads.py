"""The analyses of ablated heads, of cut update paths and of patched labels, beside independent derivations."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import constructions, models, tokens
from icl_gd.lab.evaluation.analyses import head_ablation, induction, update_paths
from icl_gd.lab.evaluation.measured import Records
from icl_gd.models import Model
from icl_gd.tasks import LinearRegression

D, N, K = 3, 6, 3
ETAS, GAMMAS = np.array([0.9, 1.3, 0.7]), np.array([0.4, 0.2, 0.3])


def gd_plus_plus(x, y, x_query, cut):
    """GD++ in NumPy, without the updates for which `cut(path, step)` is true."""
    x, residual, x_query, prediction = x.copy(), y.copy(), x_query.copy(), np.zeros(y.shape[1])
    for step, (eta, gamma) in enumerate(zip(ETAS, GAMMAS, strict=True)):
        gradient, moment = residual.T @ x / N, x.T @ x / N
        prediction += eta * gradient @ x_query
        if not cut("label", step):
            residual = residual - eta * x @ gradient.T
        new_x, new_query = x - gamma * x @ moment, x_query - gamma * moment @ x_query
        x = x if cut("input", step) or cut("context_input", step) else new_x
        x_query = x_query if cut("input", step) or cut("query_input", step) else new_query
    return prediction


@pytest.fixture
def prompt(x64):
    return LinearRegression(D, 1, N, input_scale=2.0).sample(jax.random.key(1))


def test_a_cut_of_the_construction_is_gd_plus_plus_without_this_update(prompt):
    model = constructions.gd_plus_plus_model(D, 1, N, ETAS, GAMMAS)
    cuts = update_paths.cuts(K)
    assert len(cuts) == len({name for *_, name in cuts}) == len(update_paths.PATHS) * (K + 1)

    @jax.jit
    def predict(*problem):
        return [update_paths.cut(model, path, layer, D, N)(*problem) for path, layer, _ in cuts]

    problem = prompt[:3]
    intact = gd_plus_plus(*map(np.asarray, problem), lambda path, step: False)
    for (path, layer, name), found in zip(cuts, predict(*problem), strict=True):

        def is_cut(at, step, path=path, layer=layer):
            return at == path and layer in ("*", step)

        expected = gd_plus_plus(*map(np.asarray, problem), is_cut)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12, err_msg=name)
        is_unread = layer == K - 1
        assert (np.abs(expected - intact).max() < 1e-12) == is_unread, name


def test_the_context_and_the_query_are_alike_in_the_last_layer_but_one(prompt):
    problem = [np.asarray(part) for part in prompt[:3]]
    sides = [
        gd_plus_plus(*problem, lambda at, step, path=path: (at, step) == (path, K - 2))
        for path in ("context_input", "query_input")
    ]
    np.testing.assert_allclose(*sides, rtol=0, atol=1e-12)


def of_heads(config, scales, prompts, seed=0):
    """The metrics of a layer whose heads are multiples of one gradient step, or random heads."""
    if scales is None:
        params = models.init(config, jax.random.key(seed))
    else:
        step = constructions.gradient_descent_weights(constructions.gradient_descent_config(D, 1, 1), D, N, [1.0])[
            "block_0"
        ]["attention"]
        params = {name: jnp.concatenate([leaf] * len(scales)) for name, leaf in step.items()}
        params["P"] = params["P"] * jnp.asarray(scales)[:, None, None]
        params = {"block_0": {"attention": params}}
    model = Model(config, params, tokens.concatenated(D, 1))
    step = jnp.einsum("pj,pjd,pd->p", prompts.y[..., 0], prompts.x, prompts.x_query)[:, None] / N
    return jax.jit(head_ablation.head_metrics)(model, prompts, step)


@pytest.fixture
def prompts(x64):
    task = LinearRegression(D, 1, N, input_scale=1.5)
    return jax.jit(jax.vmap(task.sample))(jax.random.split(jax.random.key(0), 256))


def test_heads_that_are_multiples_of_a_step_rescale_it(prompts):
    shares = np.array([0.5, 0.3, 0.2])
    config = models.TransformerConfig(d_token=D + 1, n_heads=3)
    best = jnp.einsum("pj,pjd,pd->p", prompts.y[..., 0], prompts.x, prompts.x_query) / N
    target = prompts.y_query[:, 0]
    factor = float(best @ target / (best @ best))
    found = of_heads(config, factor * shares, prompts)
    np.testing.assert_allclose(found["head_share"], shares, atol=1e-12)
    np.testing.assert_allclose(found["head_size"], shares, atol=1e-12)
    np.testing.assert_allclose(found["head_r2_zero"], 1.0, atol=1e-12)
    np.testing.assert_allclose(found["rescale_factor_zero"], np.mean(1 / (1 - shares)), atol=1e-12)
    np.testing.assert_allclose(found["rescaled_r2_gd_zero"], 1.0, atol=1e-12)
    losses = np.array([np.mean((factor * kept * best - target) ** 2) for kept in (1.0, *(1 - shares))])
    np.testing.assert_allclose(found["head_ratio_zero"], losses[1:] / losses[0], atol=1e-12)
    np.testing.assert_allclose(found["rescaled_ratio_zero"], 1.0, atol=1e-12)
    assert found["rescaled_loss_error"] < 1e-12
    assert found["heads_that_break_zero"] == 0
    assert found["heads_needed"] == 3
    assert found["head_cancellation"] == pytest.approx(1.0)
    # A finite sample of prompts: the part of another prompt is not quite uncorrelated.
    assert found["resampled_r2_error"] < 0.1


def test_softmax_heads_add_up_and_each_metric_is_that_of_the_worst_head(prompts):
    config = models.TransformerConfig(d_token=D + 1, n_heads=3, attention="softmax", init_scale=1.0)
    found = of_heads(config, None, prompts, seed=2)
    assert max(found["head_sum_error"], found["ablation_attribution_error"]) < 1e-12
    for kind in head_ablation.KINDS:
        np.testing.assert_allclose(found[f"ablated_ratio_{kind}"], np.max(found[f"head_ratio_{kind}"]))
        np.testing.assert_allclose(found[f"rescaled_r2_{kind}"], np.min(found[f"head_r2_{kind}"]))
    assert (np.diff(found["head_ratio_zero"]) <= 0).all()
    assert found["head_share"].sum() == pytest.approx(1.0)


def test_a_head_with_its_mean_pattern_keeps_its_mean(prompts):
    """Two opposed softmax heads: without one the step breaks, with its mean pattern half of the step is left."""
    config = models.TransformerConfig(d_token=D + 1, n_heads=2, attention="softmax")
    step = constructions.gradient_descent_weights(constructions.gradient_descent_config(D, 1, 1), D, N, [1.0])
    one, small = step["block_0"]["attention"], 1e-3
    sizes = {"W_K": (1, 1), "W_V": (1, 1), "W_Q": (small, -small), "P": (1 / small, -1 / small)}
    params = {name: jnp.concatenate([size * one[name] for size in sizes[name]]) for name in sizes}
    model = Model(config, {"block_0": {"attention": params}}, tokens.concatenated(D, 1))
    found = jax.jit(head_ablation.head_metrics)(model, prompts, prompts.y_query)
    assert found["rescale_factor_pattern"] == pytest.approx(2.0, abs=0.02)
    assert found["rescaled_r2_pattern"] > 0.999
    assert found["rescaled_r2_zero"] < 0.01
    assert found["head_cancellation"] > 100


def test_patching_a_copying_network(prompts):
    """The token of its input carries a label; without attention to labels, nothing is left."""
    model = constructions.copying_model(D, 1, N, [1.0], scale=200.0)
    found = jax.jit(lambda model: {**induction._patched(model, prompts), **induction._ablated(model, prompts)})(model)
    shares = {role: float(found[f"patch_share_{role}"]) for role in induction.ROLES}
    assert shares.pop("input") == pytest.approx(1.0, abs=1e-9)
    assert max(map(abs, shares.values())) < 1e-9
    assert found["patch_share_value"] == pytest.approx(1.0, abs=1e-9)
    assert found["patch_additivity_error"] < 1e-12
    zero = 0.5 * np.mean(np.square(prompts.y_query))
    np.testing.assert_allclose(found["loss_without_edges"], zero, rtol=1e-9)
    np.testing.assert_allclose(found["loss_without_other_edges"], found["loss_intact"], rtol=1e-9)
    step = jnp.einsum("pj,pjd,pd->p", prompts.y[..., 0], prompts.x, prompts.x_query)[:, None] / N
    np.testing.assert_allclose(found["loss_intact"], 0.5 * np.mean(np.square(step - prompts.y_query)), rtol=1e-9)


def test_every_token_has_one_role():
    roles = np.asarray(induction._roles(4, jnp.asarray(2)))
    np.testing.assert_array_equal(roles.sum(0), 1)
    assert [np.flatnonzero(role).tolist() for role in roles] == [[4], [5], [0, 2, 6], [1, 3, 7], [8]]


def test_moments_are_those_from_which_evidence_lasts(prompts):
    """One seed copies before its loss falls; the other shows it for a while only."""
    zero = float(0.5 * np.mean(np.square(prompts.y_query)))
    ones = [1.0] * 5
    table = {
        "patch_effect_input": [[1.0, 1.5, 2.5, 3.0, 4.0], [1.0, 3.0, 3.0, 1.0, 1.0]],
        "patch_effect_other_input": [ones, ones],
        "patch_share_input": [[0.0, 0.0, 0.0, 0.6, 0.9], [0.6, 0.0, 0.0, 0.0, 0.0]],
        "loss_trained": [[zero, zero, zero, zero, 0.0]] * 2,
        "loss_intact": [[zero, zero, zero, 0.9 * zero, 0.1 * zero]] * 2,
        "loss_without_uniform": [[zero] * 5, [zero, zero, zero, 0.9 * zero, 0.1 * zero]],
        "significance_uniform": [[0.0, 4.0, 4.0, 5.0, 9.0], [0.0] * 5],
        "derivative_following": [[1.0, 1.0, 1.1, 2.5, 4.0], [1.0, 1.0, 1.1, 2.5, 4.0]],
        "derivative_others": [ones, ones],
    }
    table |= {f"loss_without_{name}": [[zero] * 5] * 2 for name in induction.ABLATIONS if name != "uniform"}
    table |= {"significance_edges": [[4.0] * 5, [0.0] * 5]}
    table |= {f"patch_share_{role}": [[0.0] * 5] * 2 for role in induction.ROLES if role != "input"}
    history = {
        name: {10 * (k + 1): {seed: rows[seed][k] for seed in (0, 1)} for k in range(5)} for name, rows in table.items()
    }
    found = Records(np.full(2, True), np.full(2, False))
    with np.errstate(divide="ignore", invalid="ignore"):
        induction._moments(SimpleNamespace(prompts=prompts, history=history), found)
    nan = np.nan
    expected = {
        "patching_starts_at": [20, nan],
        "patching_clear_at": [30, nan],
        "patching_carries_at": [40, nan],
        "ablation_seen_at": [20, nan],
        "ablation_clear_at": [40, nan],
        "edges_seen_at": [10, nan],
        "patching_clear_leads_derivatives_by": [10, nan],
        "patching_carries_leads_by": [10, nan],
        "ablation_seen_leads_derivatives_by": [20, nan],
        "ablation_clear_lags_derivatives_by": [10, nan],
        "edges_seen_leads_derivatives_by": [20, nan],
    }
    metrics = found.metrics()
    for name, values in expected.items():
        per_seed = [nan if value is None else value for value in metrics[name]["per_seed"]]
        np.testing.assert_allclose(per_seed, values, err_msg=name)
