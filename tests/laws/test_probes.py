"""A probe is ridge regression whose penalty other prompts choose; what a layer computes can be read off."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.linear_model
import sklearn.metrics

from icl_gd import analysis, constructions, learners, models, tokens
from icl_gd.analysis import probe, probe_controls, probe_sites, probe_targets
from icl_gd.models import Model, edits
from icl_gd.tasks import LinearRegression, draw_prompts
from icl_gd.types import Prompt

N, F, K = 91, 6, 3
KEY = jax.random.key(5)


def data(noise=0.3, seed=0):
    """Correlated features that are not centred, and noisy targets of several outputs."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(N, F)) @ rng.normal(size=(F, F)) + rng.normal(size=F)
    targets = features @ rng.normal(size=(F, K)) + rng.normal(size=K) + noise * rng.normal(size=(N, K))
    return features, targets


def parts(key=KEY, n=N):
    order = np.asarray(jax.random.permutation(key, n))
    return order[2 * (n // 3) :], order[: n // 3], order[n // 3 : 2 * (n // 3)]


def by_hand(features, targets, penalties):
    """The probe by scikit-learn, one fit per penalty."""
    fit, choose, test = parts()
    largest = np.linalg.norm(features[fit] - features[fit].mean(0), 2)
    fits = [sklearn.linear_model.Ridge(penalty * largest**2, solver="svd") for penalty in penalties]
    fits = [ridge.fit(features[fit], targets[fit]) for ridge in fits]
    errors = [((ridge.predict(features[choose]) - targets[choose]) ** 2).sum() for ridge in fits]
    best = int(np.argmin(errors))
    predicted = fits[best].predict(features[test])
    r2 = 1 - ((predicted - targets[test]) ** 2).sum() / ((targets[test] - targets[test].mean(0)) ** 2).sum()
    return r2, penalties[best], fits[best].coef_.T, fits[best].intercept_


@pytest.mark.parametrize("penalties", [(0.0,), (0.03,), (5.0,), analysis.PENALTIES])
@pytest.mark.parametrize("noise", [0.3, 30.0])
def test_a_probe_is_ridge_regression_with_the_penalty_of_least_held_out_error(x64, penalties, noise):
    features, targets = data(noise)
    fitted = probe(KEY, features, targets, penalties)
    for ours, theirs in zip(fitted, by_hand(features, targets, penalties), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(fitted(jnp.asarray(features)), features @ fitted.weights + fitted.bias[None], rtol=1e-12)
    assert fitted(jnp.ones((2, 4, F))).shape == (2, 4, K)


def test_penalties_that_prompts_choose_differ(x64):
    """The law above is one of several penalties."""
    chosen = {float(probe(KEY, *data(noise)).penalty) for noise in (0.0, 0.3, 30.0, 1000.0)}
    assert len(chosen) >= 3


def test_what_is_linear_is_read_off_and_what_is_shuffled_is_not(x64):
    features, targets = data(noise=0.0)
    assert 1 - probe(KEY, features, targets).r2 < 1e-12
    shuffled = np.random.default_rng(1).permutation(targets)
    assert probe(KEY, features, shuffled).r2 < 0.05


ROTATION = np.linalg.qr(np.random.default_rng(2).normal(size=(F, F)))[0]
CHANGES = {
    "scaled": lambda f: 1e3 * f,
    "rotated": lambda f: f @ ROTATION,
    "shifted": lambda f: f + np.arange(F)[None],
    "with a constant": lambda f: np.concatenate([f, np.full((N, 2), 7.0)], axis=1),
    "with zeros": lambda f: np.concatenate([np.zeros((N, 1)), f], axis=1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_r2_does_not_depend_on_units_and_coordinates(x64, change):
    features, targets = data()
    for penalties in ((0.0,), (0.01,), analysis.PENALTIES):
        before, after = (
            probe(KEY, features, targets, penalties),
            probe(KEY, CHANGES[change](features), targets, penalties),
        )
        np.testing.assert_allclose(after.r2, before.r2, rtol=1e-10)
        np.testing.assert_allclose(after.penalty, before.penalty)


def test_without_a_penalty_any_invertible_change_of_features_is_free(x64):
    features, targets = data()
    scaled = features * 10.0 ** np.arange(F)[None] / 1e3
    np.testing.assert_allclose(
        probe(KEY, scaled, targets, [0.0]).r2, probe(KEY, features, targets, [0.0]).r2, rtol=1e-9
    )


def test_outputs_may_be_permuted(x64):
    features, targets = data()
    before, after = probe(KEY, features, targets), probe(KEY, features, targets[:, ::-1])
    np.testing.assert_allclose(after.r2, before.r2, rtol=1e-12)
    np.testing.assert_allclose(after.weights, before.weights[:, ::-1], rtol=1e-10, atol=1e-12)


def test_features_that_repeat_have_the_weights_of_least_norm(x64):
    features, targets = data()
    twice = probe(KEY, np.concatenate([features, features], axis=1), targets, [0.0])
    once = probe(KEY, features, targets, [0.0])
    np.testing.assert_allclose(twice.r2, once.r2, rtol=1e-10)
    np.testing.assert_allclose(twice.weights, np.concatenate([once.weights, once.weights]) / 2, rtol=1e-9, atol=1e-11)


def test_features_that_say_nothing_predict_the_mean(x64):
    _, targets = data()
    fit, _, test = parts()
    fitted = probe(KEY, np.zeros((N, F)), targets)
    np.testing.assert_array_equal(fitted.weights, 0.0)
    np.testing.assert_allclose(fitted.bias, targets[fit].mean(0), rtol=1e-12)
    expected = sklearn.metrics.r2_score(
        targets[test], np.broadcast_to(targets[fit].mean(0), (len(test), K)), multioutput="variance_weighted"
    )
    np.testing.assert_allclose(fitted.r2, expected, rtol=1e-10)


def test_vmap_is_a_loop_and_jit_the_same(x64):
    both = [data(seed=seed) for seed in (0, 1)]
    features, targets = (jnp.asarray(np.stack(leaves)) for leaves in zip(*both, strict=True))
    mapped = jax.jit(jax.vmap(lambda f, t: probe(KEY, f, t)))(features, targets)
    for i, (one, target) in enumerate(both):
        for ours, alone in zip(mapped, probe(KEY, one, target), strict=True):
            np.testing.assert_allclose(ours[i], alone, rtol=1e-9, atol=1e-11)


def test_float32_is_enough_for_what_is_linear():
    features, targets = data(noise=0.0)
    assert abs(1 - probe(KEY, np.float32(features), np.float32(targets)).r2) < 1e-5


def test_under_jit_what_is_not_finite_is_nan():
    """In each of the three parts, in features and in targets; constant targets have no R^2 either."""
    features, targets = data()
    r2 = jax.jit(lambda f, t: probe(KEY, f, t).r2)
    assert np.isfinite(r2(features, targets))
    for part in parts():
        assert np.isnan(r2(bad(features, np.nan, part[0]), targets))
        assert np.isnan(r2(features, bad(targets, np.inf, part[0])))
    for constant in (1.0, 0.1):
        assert np.isnan(r2(features, np.full((N, 1), constant)))


def bad(array, value, row=2):
    array = np.array(array)
    array[row, 0] = value
    return array


FEATURES, TARGETS = data()
REFUSED = {
    "too few prompts": ((FEATURES[:23], TARGETS[:23]), "23 prompts are too few for 6 features.*give at least 24"),
    "features that are not finite": ((bad(FEATURES, np.inf), TARGETS), "features is not finite for 1 of 91"),
    "targets that are not finite": ((FEATURES, bad(TARGETS, np.nan)), "targets is not finite for 1 of 91"),
    "other prompts": ((FEATURES, TARGETS[:-1]), r"targets has shape \(90, 3\).*\[91 k\]"),
    "one number per prompt": ((FEATURES, TARGETS[:, 0]), r"give targets\[:, None\]"),
    "features of many sites": ((FEATURES[None], TARGETS), r"features have shape \(1, 91, 6\); give \[prompt f\]"),
    "constant targets": ((FEATURES, np.ones((N, 1))), "the same for all prompts"),
    "a negative penalty": ((FEATURES, TARGETS, [0.0, -1.0]), "at least 0"),
    "no penalty": ((FEATURES, TARGETS, []), "at least 0"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_probed_is_refused(what):
    args, words = REFUSED[what]
    with pytest.raises(ValueError, match=words):
        probe(KEY, *args)


def test_the_smallest_number_of_prompts_that_is_accepted_is_the_one_that_is_named():
    assert np.isfinite(probe(KEY, FEATURES[:24], TARGETS[:24]).r2)


# Targets are what learners compute.

D, M, CONTEXT = 3, 2, 7
TASK = LinearRegression(D, M, CONTEXT)
ETAS, GAMMAS = [1.5, 2.5, 1.0], [0.5, 0.3, 0.2]
MORE = {
    "ridge": learners.ridge(0.3),
    "gd": learners.layerwise_gradient_descent(ETAS),
    "gd_plus_plus": learners.layerwise_gd_plus_plus(ETAS, GAMMAS),
}


def drawn(n=120):
    return draw_prompts(TASK.sample, jax.random.key(0), n)


def test_weights_of_learners_times_the_query_are_their_predictions(x64):
    prompts = drawn()
    targets = {name: np.asarray(target) for name, target in probe_targets(prompts, MORE).items()}
    steps = [f"{name}_{i}" for name in ("gd", "gd_plus_plus") for i in (1, 2, 3)]
    names = ["xty", "ols", "ridge", *steps]
    assert set(targets) == {*names, *(f"{name}_prediction" for name in names), "w", "label"}
    for name in names:
        weights = targets[name].reshape(-1, M, D)
        predicted = np.einsum("pmd,pd->pm", weights, prompts.x_query)
        np.testing.assert_allclose(predicted, targets[f"{name}_prediction"], rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(
        np.einsum("pmd,pd->pm", targets["w"].reshape(-1, M, D), prompts.x_query), targets["label"], atol=1e-12
    )


def test_targets_are_the_closed_forms(x64):
    prompts = drawn(5)
    targets = probe_targets(prompts, MORE)
    for i, (x, y) in enumerate(zip(np.asarray(prompts.x), np.asarray(prompts.y), strict=True)):
        w1 = ETAS[0] / CONTEXT * y.T @ x
        expected = {
            "xty": y.T @ x / CONTEXT,
            "ols": (np.linalg.pinv(x) @ y).T,
            "ridge": np.linalg.solve(x.T @ x + 0.3 * np.eye(D), x.T @ y).T,
            "gd_1": w1,
            "gd_2": w1 - ETAS[1] / CONTEXT * (x @ w1.T - y).T @ x,
            "gd_plus_plus_1": w1,
        }
        # The second step of GD++ uses residual labels and transformed inputs, and so does its query.
        transform = np.eye(D) - GAMMAS[0] / CONTEXT * x.T @ x
        expected["gd_plus_plus_2"] = w1 + ETAS[1] / CONTEXT * (y - x @ w1.T).T @ (x @ transform) @ transform
        for name, weights in expected.items():
            np.testing.assert_allclose(targets[name][i], weights.ravel(), rtol=1e-11, atol=1e-13, err_msg=name)


def test_learners_without_weights_are_refused():
    prompts = drawn(5)
    for predictor in (learners.nearest_neighbours(2), learners.layerwise_gd_plus_plus(ETAS, GAMMAS, clip=0.5)):
        with pytest.raises(ValueError, match="'mine' is not linear in the query"):
            probe_targets(prompts, {"mine": predictor})
    with pytest.raises(ValueError, match="'ols', which is a target already"):
        probe_targets(prompts, {"ols": learners.least_squares})
    with pytest.raises(ValueError, match="give a batch of Prompts"):
        probe_targets(Prompt(*(leaf[0] for leaf in prompts)))


def test_what_made_the_labels_is_a_target_only_if_it_is_weights():
    prompts = drawn(5)._replace(w=jnp.ones((5, 2)))
    assert "w" not in probe_targets(prompts)
    assert probe_targets(prompts._replace(w=None)).keys() == probe_targets(prompts).keys()


# What layers of constructions compute.

LAYERS = 3
WEIGHTS = ("w", "ols", "xty", "gd_1", "gd_plus_plus_2")


def construction(name):
    """Layers that take steps, beside the name of the learner that takes the same ones."""
    config = constructions.gradient_descent_config(d_input=D, d_output=M, n_steps=LAYERS)
    if name == "gd":
        params = constructions.gradient_descent_weights(config, D, CONTEXT, ETAS)
    else:
        params = constructions.gd_plus_plus_weights(config, D, CONTEXT, ETAS, GAMMAS)
    return Model(config, params, tokens.concatenated(D, M))


@functools.cache
def r2_of(name):
    """R^2 by target `[depth position]`, before the first layer and after each one."""
    with jax.enable_x64(True):
        steps = [f"{name}_{step}_prediction" for step in range(1, LAYERS + 1)]

        @jax.jit
        def measure(model, prompts):
            targets = probe_targets(prompts, MORE)
            targets = {target: targets[target] for target in (*WEIGHTS, "label", *steps)}
            return probe_sites(KEY, model, prompts, targets, ["blocks.0.resid_pre", "resid_post"])

        return jax.tree.map(np.asarray, measure(construction(name), drawn(900)))


@pytest.mark.parametrize("name", ["gd", "gd_plus_plus"])
def test_the_query_after_layer_l_holds_the_prediction_of_iterate_l(name):
    """The y slot of the query token starts at 0 and is minus the prediction of iterate l after layer l."""
    r2 = r2_of(name)
    assert r2["label"].shape == (LAYERS + 1, CONTEXT + 1)
    for step in range(1, LAYERS + 1):
        of_step = r2[f"{name}_{step}_prediction"]
        assert 1 - of_step[step, -1] < 1e-12
        others = np.delete(of_step[:, -1], step)
        assert others.max() < 1 - 1e-4  # the residual holds this iterate alone
        # A context token holds its own example and a part of the context, and knows nothing of the query.
        assert np.abs(of_step[:, :-1]).max() < 0.1
    assert np.abs(r2["label"][0]).max() < 0.1  # without its context, no token holds the label of the query
    assert np.all(np.diff(r2["label"][:, -1]) > 0)


@pytest.mark.parametrize("name", ["gd", "gd_plus_plus"])
def test_weights_cannot_be_read_off_the_query(name):
    """The query holds W x_query, whose mean given W is zero: no linear function of it says anything of W."""
    for target in WEIGHTS:
        assert np.abs(r2_of(name)[target][:, -1]).max() < 0.1


def test_every_site_with_positions_can_be_probed(x64):
    prompts = drawn(250)
    targets = {"label": prompts.y_query}
    model = construction("gd_plus_plus")
    names = [name for name in models.sites.names(model.config) if name != "prediction"]
    r2 = jax.jit(lambda *data: probe_sites(KEY, *data, names)["label"])(model, prompts, targets)
    assert r2.shape == (len(names), CONTEXT + 1)
    some = ("blocks.1.attn.v", "blocks.0.attn.pattern", "blocks.2.attn_out")
    recorded = jax.jit(jax.vmap(lambda x, y, q: model.run(x, y, q, some)))(*prompts[:3])
    for name in some:
        values = np.asarray(recorded[name])
        values = values.swapaxes(1, 2) if name.endswith("pattern") else values
        expected = probe(KEY, values[:, 2].reshape(250, -1), prompts.y_query).r2
        np.testing.assert_allclose(r2[names.index(name), 2], expected, rtol=1e-8, atol=1e-10)
    with pytest.raises(ValueError, match="'prediction' has no positions"):
        probe_sites(KEY, model, prompts, targets, "prediction")
    with pytest.raises(ValueError, match="did you mean"):
        probe_sites(KEY, model, prompts, targets, "resid_pots")
    with pytest.raises(ValueError, match=r"label.*is the same for all prompts"):
        probe_sites(KEY, model, prompts, {"label": jnp.zeros((250, 1))})
    with pytest.raises(ValueError, match="there are no targets"):
        probe_sites(KEY, model, prompts, {})
    with pytest.raises(ValueError, match=r"'blocks.0.resid_post' is not finite for 250 of 250"):
        probe_sites(KEY, model.edit({"blocks.0.resid_post": edits.scale(jnp.nan)}), prompts, targets)


def test_edits_apply(x64):
    prompts = drawn(250)
    ablated = construction("gd").edit({"attn_out": edits.zero()})
    assert probe_sites(KEY, ablated, prompts, {"label": prompts.y_query})["label"][:, -1].max() < 0.1


def test_controls_know_less_and_members_are_a_loop(x64):
    prompts, layout = drawn(600), tokens.concatenated(D, M)
    targets = {"label": prompts.y_query, "gd_1": probe_targets(prompts, MORE)["gd_1_prediction"]}
    built = construction("gd").params
    members = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), built)
    config = construction("gd").config
    stacked = Model(config, members, layout)

    def measure(model):
        return probe_controls(KEY, model, prompts, targets)

    mapped, measure_one = analysis.over_members(measure, stacked), jax.jit(measure)
    controls = ["trained", "shuffled", "untrained", "embedding"]
    assert set(mapped) == set(controls)
    for i in range(2):
        alone = measure_one(Model(config, jax.tree.map(lambda leaf, i=i: leaf[i], members), layout))
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-6, atol=1e-8), mapped, alone)
    trained, shuffled, untrained, embedding = (mapped[name]["label"][0, :, -1] for name in controls)
    assert trained[-1] > 0.6
    assert np.abs(shuffled).max() < 0.1
    assert np.abs(untrained).max() < 0.5
    assert embedding.shape == (1,)
    assert np.abs(embedding).max() < 0.1
    split = jax.random.split(KEY, 3)[0]
    same = jax.jit(lambda model: probe_sites(split, model, prompts, targets)["gd_1"])(Model(config, built, layout))
    np.testing.assert_allclose(mapped["trained"]["gd_1"][0], same, rtol=1e-9)
