"""Law 8: every analysis recognises a population that equals its reference, and does not recognise an untrained one.

An analysis declares evidence: metrics with bounds that hold for such a population only. It may also declare identities:
metrics that are zero for any weights (`lab.config.questions`). Some analyses only record two curves for comparison;
these pairs are listed here (`PAIRS`). `WITHOUT` gives the reasons for analyses without any such test.
"""

import copy
import functools
import pkgutil
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import constructions, learners, models, tokens
from icl_gd.lab import (
    DeepFeatures,
    Elementwise,
    Eval,
    Evidence,
    Experiment,
    GradientDescent,
    Learners,
    Network,
    OneStep,
    Regression,
    Sine,
    pipeline,
)
from icl_gd.lab.config.questions import find, shipped
from icl_gd.lab.evaluation import references
from icl_gd.lab.evaluation.analyses.identify import log_spaced
from icl_gd.lab.evaluation.analyses.tails import tails_of
from icl_gd.lab.evaluation.measured import CURVES, Evaluation, Setting, held_out_key, noise_to_weight
from icl_gd.tasks import draw_prompts
from icl_gd.training import Population, initialise

MEMBERS = 2
EVAL = Eval(prompts=512, curve_prompts=128, suite_values=3)
SMALL, STEP = {"d_input": 3, "n_context": 8}, 2.0
POSITIONS = 10  # width of the positional encodings of separate tokens
SHARP, FLAT = 96.0, 0.01  # scales of scores: large enough to copy, and small enough for softmax to be nearly linear
LEARNER = "gd_deep_features"


def constructed(setting, beside):
    return beside.params


def steps(setting, step_size, **more):
    """Weights with which the population's network takes one step of gradient descent."""
    task = setting.task
    return constructions.gradient_descent_weights(setting.network, task.d_input, task.n_context, [step_size], **more)


def preconditioned(setting, beside):
    task = setting.task
    exact = learners.gaussian_optimum_matrix(task.second_moment, task.n_context, noise_to_weight(task))
    return steps(setting, 1.0, preconditioner=exact)


def copying(setting, beside):
    """Weights that copy, then take a gradient step. They need a layout in which labels have separate slots; no config
    uses it, so the layout of the setting is replaced."""
    task, config = setting.task, constructions.copying_config(setting.task.d_input, 1, POSITIONS)
    layout = tokens.interleaved(task.d_input, 1, POSITIONS, own_slots=True)
    vars(setting.experiment).update(network=config, layout=layout)
    step = tokens.shift(POSITIONS, 1)
    return constructions.copying_weights(config, task.d_input, task.n_context, [beside.step_size], step, SHARP)


def behind_layer_norm(setting, beside):
    """A gradient step on standardised tokens. The inputs are so large that the epsilon of LayerNorm is negligible."""
    of_layer = steps(setting, float(learners.fit_step_size(learners.standardise(setting.prompts))))["block_0"]
    width = setting.network.width
    return {"block_0": {**of_layer, "norm": {"scale": jnp.ones(width), "bias": jnp.zeros(width)}}}


def opposed_heads(setting, beside):
    """Two softmax heads with opposite scores and outputs. For small scores, the sum of their outputs is linear."""
    step_size = float(learners.fit_step_size(learners.centre(setting.prompts)))
    one = constructions.gradient_descent_weights(
        replace(setting.network, n_heads=1), setting.task.d_input, setting.task.n_context, [step_size]
    )["block_0"]["attention"]
    scale = {
        "W_K": 1.0,
        "W_V": 1.0,
        "W_Q": FLAT * setting.network.head_width**0.5,
        "P": setting.task.n_context / (2 * FLAT),
    }
    signs = {"W_K": 1.0, "W_V": 1.0, "W_Q": -1.0, "P": -1.0}
    both = {name: scale[name] * jnp.concatenate([leaf, signs[name] * leaf]) for name, leaf in one.items()}
    return {"block_0": {"attention": both}}


class Kind(NamedTuple):
    """A population that equals its reference.

    Attributes:
      experiment: an experiment with such a population, and its analyses.
      build: function from the setting and the prepared reference to parameters, of one member or `[member ...]` of all.
      records: evidence that the reference records. None: there is none, because the population is better than it.
      init_scale: initial scale of the untrained population.
    """

    experiment: Experiment
    build: Callable[[Any, Any], Any]
    records: tuple[Evidence, ...] | None = None
    init_scale: float = 0.002


def beside(task, reference, analyses=(), model=None):
    model = model or Network()
    return Experiment(task=task, model=model, reference=reference, analyses=analyses, seeds=MEMBERS, eval=EVAL)


def same(metric):
    """Evidence that a ratio is one."""
    return Evidence(metric, at_least=0.9999, at_most=1.0001)


KINDS = {
    "one_layer": Kind(
        beside(
            Regression(10, 1, 12, pool=64),  # 10 inputs, like the table of real data
            GradientDescent(),
            ("alignment", "weights", "interpolation", "shifts", "rollout", "table", "pool", "identify"),
        ),
        constructed,
        (same("loss_ratio_gd"),),
    ),
    "gaussian": Kind(
        beside(Regression(3, 1, 6, inputs="normal", noise_std=0.1), GradientDescent(), ("optimum",)), preconditioned
    ),
    "deep": Kind(
        beside(
            Regression(**SMALL),
            GradientDescent(learner="gd_plus_plus", published_steps=2),
            ("layer_map", "curvature", "tails", "by_steps", "update_paths"),
            Network(n_layers=3),
        ),
        constructed,
        (same("loss_ratio_gd_plus_plus"),),
    ),
    "copying": Kind(
        beside(
            Regression(**SMALL),
            GradientDescent(steps=1),
            ("copying", "induction"),
            Network(layout="interleaved", n_layers=2, attention=("softmax", "linear")),
        ),
        copying,
        init_scale=0.02,
    ),
    "normed": Kind(
        beside(
            Regression(10, 1, 12, input_scale=1e3),
            GradientDescent(),
            ("standardised_tokens",),
            Network(layer_norm=True, shared=True),
        ),
        behind_layer_norm,
    ),
    "heads": Kind(
        beside(
            Regression(10, 1, 12),
            GradientDescent(),
            ("softmax", "head_ablation"),
            Network(attention="softmax", n_heads=2),
        ),
        opposed_heads,
    ),
    "one_step": Kind(
        beside(Elementwise(**SMALL), OneStep(), ("dual",)),
        lambda setting, beside: steps(setting, beside.step_size),
        (same("loss_ratio_gd"),),
    ),
    "sine": Kind(
        beside(
            Sine(n_context=5),
            DeepFeatures(),
            ("differences", "features", "functions"),
            Network(d_embed=8, input_mlp_width=16, init_scale=1.0),
        ),
        lambda setting, beside: beside.learner.params,
        (
            same(f"loss_ratio_{LEARNER}"),
            Evidence(f"sensitivity_cosine_{LEARNER}", at_least=0.9999),
            Evidence(f"sensitivity_difference_{LEARNER}", at_most=1e-4),
            Evidence(f"prediction_difference_{LEARNER}", at_most=1e-4),
        ),
        init_scale=1.0,
    ),
    "learners": Kind(
        beside(Regression(**SMALL), Learners({"step": learners.gradient_descent([STEP])})),
        lambda setting, beside: steps(setting, STEP),
        (
            same("loss_ratio_step"),
            Evidence("sensitivity_cosine_step", at_least=0.9999),
            Evidence("sensitivity_difference_step", at_most=1e-4),
            Evidence("prediction_difference_step", at_most=1e-4),
        ),
    ),
}
KIND_OF = {name: kind for kind, its in KINDS.items() for name in its.experiment.analysis_names}
# Two records of an analysis that are equal if, and only if, the population equals its reference.
PAIRS = {
    "shifts": lambda found: [found.curves[f"loss_by_context_length_{of}"]["mean"] for of in ("rescaled", "gd")],
    "pool": lambda found: [found.measured[f"loss_{of}_on_pool"].values for of in ("trained", "gd")],
    "features": lambda found: [found.measured[f"waves_in_features_{of}"].values for of in ("trained", LEARNER)],
    "functions": lambda found: [[drawn[of] for drawn in found.arrays["functions"]] for of in ("trained", LEARNER)],
}
# Analyses without evidence, and the reasons.
WITHOUT = {
    "random_features": "tells what draws cost that stand in place of a kernel: slopes of means over them, the same of "
    "any weights, and known in the limit of many features alone",
    "generalisation_gap": "tells how a difference falls with the number of demonstrations: a slope of means over "
    "prompts, the same of any weights, and known in the limit of many alone",
    "predicted_functions": "asks about least squares at every length, which no Transformer here is built to be",
}
REFERENCES_WITHOUT = {
    "prefix_learners": "learners answer at every length, and no Transformer here is built to be one of them; of a "
    "function in its place the errors are those of the learner (test_function_classes)"
}


@functools.cache
def prepared(kind):
    """The setting, the prepared reference, and the parameters `[member ...]` of a population that equals it."""
    experiment, build = KINDS[kind].experiment, KINDS[kind].build

    def untrained(task, network, settings, watch, name="", frozen=None):
        params = initialise(network, settings, experiment.seed, MEMBERS, frozen).member.params
        return Population(network, experiment.layout, params, *never_diverged())

    def sample(of):
        return draw_prompts(experiment.eval_task.sample, held_out_key(experiment.seed, of), EVAL.curve_prompts)

    setting = Setting(experiment, sample(CURVES), [{}], untrained, lambda name: {})
    beside = experiment.reference.prepare(setting)
    built = build(setting, beside)
    one = jax.tree.map(jnp.shape, models.shapes(setting.network))
    if jax.tree.map(jnp.shape, built) == one:
        built = jax.tree.map(lambda leaf: jnp.stack([leaf] * MEMBERS), built)
    return setting, beside, built


def never_diverged():
    return np.full(MEMBERS, -1), np.zeros(MEMBERS)


@functools.cache
def evaluated(kind, is_built):
    """The evaluation that analyses receive, and the records of the reference."""
    setting, beside, built = prepared(kind)
    network, settings = setting.network, setting.experiment.settings
    start = replace(network, init_scale=KINDS[kind].init_scale)
    # Other seeds than those of the reference learners.
    untrained = initialise(start, settings, MEMBERS, MEMBERS).member.params
    trained = Population(network, setting.layout, built if is_built else untrained, *never_diverged())
    study = Evaluation(
        **vars(setting),
        trained=trained,
        untrained=untrained,
        reference=beside,
        history={},
        watch=pipeline._watch(setting, beside.watch),
    )
    return study, beside.evaluate(study)


@functools.cache
def found_of(name, is_built):
    """The records of the reference, with those that an analysis adds."""
    study, found = evaluated(KIND_OF[name], is_built)
    found = copy.deepcopy(found)
    find(name).measure(study, found)
    return found


CASES = [(name, evidence) for name in KIND_OF for evidence in find(name).evidence]
OF_REFERENCES = [(kind, evidence) for kind, its in KINDS.items() for evidence in its.records or ()]


def test_of_every_analysis_it_is_said_what_it_tells_or_why_not():
    assert sorted([*KIND_OF, *WITHOUT]) == list(shipped())
    for name in shipped():
        declares = find(name).evidence or find(name).identities or name in PAIRS
        assert bool(declares) != bool(WITHOUT.get(name)), name


def test_of_every_reference_it_is_said_what_it_tells_or_why_not():
    modules = [module.name for module in pkgutil.iter_modules(references.__path__)]
    ship = [name for name in modules if name != "pictures_of_training"]
    told = {KINDS[kind].experiment.reference.name for kind, _ in OF_REFERENCES}
    assert sorted([*told, *REFERENCES_WITHOUT]) == sorted(ship)


def told_apart(evidence, built, untrained):
    built, untrained = (found.measured[evidence.metric].values for found in (built, untrained))
    assert len(built) == len(untrained) == MEMBERS
    assert all(map(evidence.holds, built)), built
    assert not any(map(evidence.holds, untrained)), untrained


@pytest.mark.parametrize(("name", "evidence"), CASES, ids=[f"{name}-{of.metric}" for name, of in CASES])
@pytest.mark.slow
def test_the_built_is_told_from_the_untrained(name, evidence):
    told_apart(evidence, *(found_of(name, is_built) for is_built in (True, False)))


@pytest.mark.parametrize(("kind", "evidence"), OF_REFERENCES, ids=[f"{of}-{its.metric}" for of, its in OF_REFERENCES])
@pytest.mark.slow
def test_a_reference_tells_the_built_from_the_untrained(kind, evidence):
    told_apart(evidence, *(evaluated(kind, is_built)[1] for is_built in (True, False)))


@pytest.mark.parametrize("kind", [kind for kind, its in KINDS.items() if its.records and kind != "sine"])
@pytest.mark.slow
def test_the_built_is_free_and_the_untrained_is_trapped(kind):
    """Sine waves are left out: the learner that defines trapped seeds is not trained here either."""
    assert evaluated(kind, True)[1].is_free.all()
    assert not evaluated(kind, False)[1].is_free.any()


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.slow
def test_two_records_are_one_of_the_built_alone(name):
    for is_built in (True, False):
        ours, theirs = map(np.asarray, PAIRS[name](found_of(name, is_built)))
        apart = np.abs(ours - theirs).max() / np.abs(theirs).max()
        assert (apart < 1e-4) if is_built else (apart > 0.1), (is_built, apart)


def test_steps_of_training_are_chosen_on_a_logarithmic_axis():
    assert log_spaced([0, 1, 2, 4, 8, 16, 100, 200, 300]) == [0, 1, 2, 4, 8, 16, 100, 200, 300]
    assert log_spaced(range(0, 1000, 100)) == [0, 100, 200, 300, 600, 900]
    assert log_spaced([5]) == [5]
    assert log_spaced([]) == []


@pytest.mark.slow
def test_layers_that_sum_are_gradient_descent_at_the_length_of_training_alone():
    """Gradient descent takes a mean over the context, the constructed layers a sum; they differ at other lengths."""
    curves = found_of("shifts", True).curves
    ours, theirs = (curves[f"loss_by_context_length_{name}"]["mean"] for name in ("trained", "gd"))
    assert not np.allclose(ours, theirs, rtol=1e-2)


def test_a_prompt_diverges_beyond_a_hundred_times_the_mean_loss_of_zero():
    tails = tails_of({"zero": np.array([0.5, 1.5]), "gd": np.array([[1.0, 99.0, 101.0, np.inf, np.nan]])})
    assert list(tails) == ["gd"]
    np.testing.assert_allclose(tails["gd"].diverging, [0.6])
    np.testing.assert_allclose(tails["gd"].bounded_mean, [50.0])
    np.testing.assert_allclose(tails["gd"].median, [101.0])


@pytest.mark.slow
def test_medians_and_shares_of_a_roll_out_bear_prompts_that_diverge():
    """Layers and gradient steps whose step size is too large for many prompts."""
    study, found = evaluated("one_layer", True)
    # The step is a product of four matrices, so it becomes 1.8 times as large.
    longer = jax.tree.map(lambda leaf: leaf * 1.8**0.25, study.trained.params)
    study = replace(
        study,
        trained=replace(study.trained, params=longer),
        reference=SimpleNamespace(step_size=1.8 * study.reference.step_size),
    )
    found = copy.deepcopy(found)
    find("rollout").measure(study, found)

    def value(name):
        return found.measured[f"rollout_{name}"].values

    assert not (value("loss_final") < 1e3).any()
    assert 0.01 < value("diverging_share_gd") < 0.5
    np.testing.assert_allclose(value("diverging_share"), value("diverging_share_gd"))
    np.testing.assert_allclose(value("diverging_excess"), 0.0, atol=1e-12)
    np.testing.assert_allclose(value("median_ratio"), 1.0, atol=1e-3)

    def medians(name):
        return np.asarray(found.curves[f"loss_median_by_iteration_{name}"]["mean"])

    np.testing.assert_allclose(value("median_final"), medians("trained")[-1], rtol=1e-6)
    np.testing.assert_allclose(value("median_fall"), medians("trained")[-1] / medians("trained_undamped")[1], rtol=1e-6)


@pytest.mark.parametrize("is_built", [True, False], ids=["built", "untrained"])
@pytest.mark.parametrize("name", [name for name in KIND_OF if find(name).identities])
@pytest.mark.slow
def test_identities_are_zero_whatever_the_weights(name, is_built):
    for metric, most in find(name).identities.items():
        assert np.max(found_of(name, is_built).measured[metric].values) <= most, metric


@pytest.mark.parametrize(
    "kind", [kind for kind, its in KINDS.items() if its.experiment.reference.name == "gradient_descent"]
)
@pytest.mark.slow
def test_the_construction_is_its_learner(kind):
    assert evaluated(kind, True)[1].measured["construction_error"].values < 1e-4
