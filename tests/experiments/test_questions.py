"""Law 8: of a population that is what it is compared with every question says so, and of an untrained one none does.

Each question declares its evidence, and metrics that are zero whatever the weights (`lab.evaluation.question`).
"""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import LinearRegression, TrainSettings, constructions, learners, models, tokens
from icl_gd.lab.evaluation import study as studies
from icl_gd.lab.evaluation.analyses import ANALYSES, watched
from icl_gd.lab.evaluation.references import references
from icl_gd.training import Population, initialise

MEMBERS, PROMPTS, N_PROMPTS = 2, 128, 512
TASK = LinearRegression(10, 1, 12)  # of as many inputs as the table of real data has
GAUSSIAN = LinearRegression(3, 1, 6, inputs="normal", noise_std=0.1)
SMALL = LinearRegression(3, 1, 8)
# What the population of each question is; those that are left out ask for no algorithm that can be built.
KINDS = {
    "alignment": "one_layer", "weights": "one_layer", "interpolation": "one_layer", "shifts": "one_layer",
    "rollout": "one_layer", "table": "one_layer", "layer_map": "deep", "curvature": "deep", "tails": "deep",
    "by_steps": "deep", "optimum": "gaussian", "copying": "copying",
}  # fmt: skip
WITHOUT = {"standardised_tokens", "softmax", "pool"}


def built_of(kind):
    """The task, what it is compared with, the layout, and the config and parameters of one member that is it."""
    key = jax.random.key(1)
    task = {"one_layer": TASK, "gaussian": GAUSSIAN, "deep": SMALL, "copying": SMALL}[kind]
    d, n, layout = task.d_input, task.n_context, tokens.concatenated(task.d_input, 1)
    config = constructions.gradient_descent_config(d, 1, 3 if kind == "deep" else 1)
    if kind == "copying":
        config, layout = constructions.copying_config(d, 1, 10), tokens.interleaved(d, 1, 10, own_slots=True)
    main = "gd_plus_plus" if kind == "deep" else "gd"
    reference = references(task, config, key, 2048, main, 1 if kind == "copying" else None, published_steps=2)
    params = reference.params
    if kind == "gaussian":
        exact = learners.gaussian_optimum_matrix(task.second_moment, n, studies.noise_to_weight(task))
        params = constructions.gradient_descent_weights(config, d, n, [1.0], preconditioner=exact)
    if kind == "copying":
        params = constructions.copying_weights(config, d, n, [reference.step_size], tokens.shift(10, 1), 96.0)
    return task, reference, layout, config, params


@functools.cache
def study_of(kind, is_built, analyses):
    task, reference, layout, config, params = built_of(kind)
    every = jax.tree.map(lambda leaf: jnp.stack([leaf] * MEMBERS), params)
    start = replace(config, init_scale=0.02 if kind == "copying" else 0.002)
    untrained = initialise(start, TrainSettings(), 0, MEMBERS).member.params
    members = np.full(MEMBERS, -1), np.zeros(MEMBERS)
    trained = Population(config, layout, every if is_built else untrained, *members)
    prompts = jax.vmap(task.sample)(jax.random.split(jax.random.key(2), PROMPTS))
    predictor_of = lambda params: models.fastest_predictor(config, params, layout)
    watch = studies.watcher(predictor_of, reference, prompts, watched(analyses, config, layout, prompts))
    return studies.Study(
        task, trained, reference, prompts, watch, jax.random.key(3), N_PROMPTS, untrained, analyses, suite_values=3
    )


@functools.cache
def found_of(name, is_built):
    study = study_of(KINDS[name], is_built, (name,))
    found = studies.evaluate(study)
    ANALYSES[name].measure(study, found)
    return found


CASES = [(name, evidence) for name in KINDS for evidence in ANALYSES[name].evidence]


def test_every_question_says_what_it_tells():
    assert set(KINDS) | WITHOUT == set(ANALYSES)
    assert all(ANALYSES[name].evidence or ANALYSES[name].identities for name in KINDS)
    assert not any(ANALYSES[name].evidence for name in WITHOUT)


@pytest.mark.parametrize(("name", "evidence"), CASES, ids=[f"{name}-{of.metric}" for name, of in CASES])
def test_the_built_is_told_from_the_untrained(name, evidence):
    built, untrained = (found_of(name, is_built).measured[evidence.metric].values for is_built in (True, False))
    assert len(built) == len(untrained) == MEMBERS
    assert all(map(evidence.holds, built)), built
    assert not any(map(evidence.holds, untrained)), untrained


def test_the_built_rescaled_to_another_length_is_gradient_descent():
    """Layers sum over the context, gradient descent takes its mean: rescaled, they are one at every length."""
    curves = found_of("shifts", True).curves
    ours, theirs = (curves[f"loss_by_context_length_{name}"]["mean"] for name in ("rescaled", "gd"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert not np.allclose(curves["loss_by_context_length_trained"]["mean"], theirs, rtol=1e-2)


@pytest.mark.parametrize("is_built", [True, False], ids=["built", "untrained"])
@pytest.mark.parametrize("name", [name for name in KINDS if ANALYSES[name].identities])
def test_identities_are_zero_whatever_the_weights(name, is_built):
    for metric, most in ANALYSES[name].identities.items():
        assert np.max(found_of(name, is_built).measured[metric].values) <= most, metric
