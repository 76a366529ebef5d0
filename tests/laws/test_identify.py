"""Algorithms get their names: planted learners, identities between algorithms, mixtures, and networks layer by layer.

Most Predictors are NumPy functions for batches, which need no compilation. `test_filters.py` shows that they are the
learners of `icl_gd.learners`; the slow tests take these. There are fewer prompts than usual.
"""

import importlib.util
import json
import sys
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_diabetes

import icl_gd
from icl_gd import constructions, identify, learners, models, tokens
from icl_gd.analysis import calls
from icl_gd.analysis.symmetries import STATEMENTS
from icl_gd.identification import Evidence, Hypothesis, Verdict, after_embedding, probe, search, subject
from icl_gd.identification.black_box import black_box, filter_values, predict_bilinear, predict_by_filter
from icl_gd.identification.families import FILTERS, Name, conjugate_gradient, finite_pool, kernels, neighbours
from icl_gd.identification.families.gd_plus_plus import gd_plus_plus
from icl_gd.identification.layerwise import layered
from icl_gd.identification.naming import ORDER, WORDS
from icl_gd.identification.probe import CEILING, Whitening
from icl_gd.identification.verdict import percent
from icl_gd.models import TransformerConfig
from icl_gd.tasks import LinearRegression
from icl_gd.tasks.tables import standardised_table

D, N = 4, 10
TASK = LinearRegression(d_input=D, n_context=N, inputs="normal", noise_std=0.3)
BY_NAME = {candidate.name: candidate for candidate in FILTERS}
POOL = np.random.default_rng(0).normal(size=(5, 1, D))


def preconditioner(trace=D):
    root = np.random.default_rng(1).normal(size=(D, D))
    a = root @ root.T + 0.5 * np.eye(D)
    return a * trace / np.trace(a)


A, MATRIX = preconditioner(), np.random.default_rng(2).normal(size=(D, D))


@pytest.fixture(autouse=True)
def _few_prompts(monkeypatch):
    monkeypatch.setattr(subject, "PROMPTS", 64)
    monkeypatch.setattr(subject, "MANY", 512)
    monkeypatch.setattr(calls, "BATCH", 1024)


class BatchCalls(calls.Calls):
    """Calls a function that takes batches itself."""

    def __call__(self, x, y, x_query):
        self.is_traced = False
        return self.predictor(x, y, x_query)


def examined(predict, task=TASK):
    """A subject for a function of batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "Calls", BatchCalls)
        return subject.Subject(predict, task, 0)


def named(predict, task=TASK):
    """The algorithms that the predictions of a function of batches do not exclude."""
    return black_box(examined(predict, task), CEILING, str)[0]


def filtering(verdict, n_steps, numbers, shared=True, a=None):
    """The prediction of a candidate for batches, with given numbers."""
    whitening = Whitening.identity(D) if a is None else Whitening.of(a)
    p = partial(filter_values, BY_NAME[Name(verdict, n_steps, shared)].p, np.array(numbers))
    return partial(predict_by_filter, p, whitening)


def filter_of(p, numbers):
    return partial(predict_by_filter, partial(filter_values, p, np.array(numbers)), Whitening.identity(D))


def mean_label(x, y, x_query):
    return y.mean(-2)


def predict_nothing(x, y, x_query):
    return np.zeros((len(x), y.shape[-1]))


def fixed_function(x, y, x_query):
    return x_query @ POOL[0].T


def slow_unless(condition, *values):
    return pytest.param(*values, marks=() if condition else pytest.mark.slow)


# --- every algorithm gets its name and its numbers ---

OWN, PLUS = [0.6, 0.35, 0.1], [0.4, 0.3, 0.06]
# (function of batches, learner, name, parameters)
PLANTED = {
    "averaging": (filtering("averaging", 0, []), learners.averaging, Name("averaging"), {}),
    "ols": (filtering("ols", 0, []), learners.ols, Name("ols"), {}),
    "ridge": (filtering("ridge", 0, [0.2]), learners.ridge(0.2 * N), Name("ridge"), {"penalty": 0.2 * N}),
    "one step": (
        filtering("gd", 1, [0.5]), learners.gradient_descent([0.5]), Name("gd", 1), {"n_steps": 1, "step_sizes": [0.5]}
    ),
    "equal steps": (
        filtering("gd", 5, [0.3]), learners.gradient_descent([0.3] * 5), Name("gd", 5),
        {"n_steps": 5, "step_sizes": [0.3] * 5},
    ),
    "own steps": (
        filtering("gd", 3, OWN, False), learners.gradient_descent(OWN), Name("gd", 3, False),
        {"n_steps": 3, "step_sizes": OWN},
    ),
    "momentum": (
        filtering("momentum", 4, [0.2, 0.5]), learners.momentum([0.2] * 4, 0.5), Name("momentum", 4),
        {"n_steps": 4, "step_sizes": [0.2] * 4, "momentum": 0.5},
    ),
    "Newton": (
        filtering("newton", 2, [0.15]), learners.newton_schulz(2, 0.15), Name("newton", 2),
        {"n_steps": 2, "scale": 0.15},
    ),
    "scaled Newton": (
        filtering("newton", 3, [], False), learners.newton_schulz(3), Name("newton", 3, False), {"n_steps": 3}
    ),
    "GD++": (
        filtering("gd_plus_plus", 3, [0.3, 0.08]), learners.gd_plus_plus([0.3] * 3, [0.08] * 3),
        Name("gd_plus_plus", 3), {"n_steps": 3, "step_sizes": [0.3] * 3, "gammas": [0.08, 0.08, 0.0]},
    ),
    "GD++, own rates": (
        filtering("gd_plus_plus", 2, PLUS, False), learners.gd_plus_plus(PLUS[:2], [PLUS[2], 0.0]),
        Name("gd_plus_plus", 2, False), {"n_steps": 2, "step_sizes": PLUS[:2], "gammas": [PLUS[2], 0.0]},
    ),
    "preconditioned": (
        filtering("gd", 3, OWN, False, A), learners.gradient_descent(OWN, preconditioner=A),
        Name("preconditioned_gd", 3, False), {"n_steps": 3, "step_sizes": OWN, "preconditioner": A},
    ),
    "any matrix": (
        partial(predict_bilinear, MATRIX), None, Name("preconditioned_gd", 1),
        {"n_steps": 1, "step_sizes": [np.linalg.norm(MATRIX) / D**0.5],
         "preconditioner": MATRIX * D**0.5 / np.linalg.norm(MATRIX)},
    ),
    "conjugate gradients": (
        partial(conjugate_gradient.conjugate_gradient, 2), learners.conjugate_gradient(2),
        Name("conjugate_gradient", 2), {"n_steps": 2},
    ),
    "Lasso": (None, learners.lasso(0.1), Name("lasso"), {"alpha": 0.1}),
    "finite pool": (
        partial(finite_pool.posterior_mean, 0.6, POOL), learners.bayes_pool(POOL, 0.6), Name("bayes_pool"),
        {"members": 5, "noise_std": 0.6},
    ),
    "neighbours": (
        partial(neighbours.nearest_neighbours, 3), learners.nearest_neighbours(3), Name("nearest_neighbours", 3),
        {"neighbours": 3},
    ),
    "Gaussian kernel": (
        partial(kernels.gaussian, 1.2), learners.kernel_regression(1.2), Name("kernel_regression"),
        {"kernel": "gaussian", "bandwidth": 1.2},
    ),
    "softmax": (
        partial(kernels.softmax, 1.2), learners.kernel_regression(1.2, "softmax"), Name("kernel_regression"),
        {"kernel": "softmax", "bandwidth": 1.2},
    ),
    "kernel ridge": (
        partial(kernels.ridge, 1.5, 0.1), learners.kernel_ridge(0.1, bandwidth=1.5), Name("kernel_ridge"),
        {"kernel": "gaussian", "bandwidth": 1.5, "penalty": 0.1},
    ),
}  # fmt: skip
REPEATED = {  # slow cases that are like other ones
    "equal steps", "scaled Newton", "GD++, own rates", "preconditioned by a multiple of the identity", "momentum zero",
    "GD++ with gammas zero", "an idle step", "one step", "own steps", "conjugate gradients",
    "momentum", "Newton", "ridge and steps",
}  # fmt: skip
BATCHED = [name for name, (predict, *_) in PLANTED.items() if predict is not None]
COMPILED = [name for name, (_, learner, *_) in PLANTED.items() if learner is not None]


def agree(found, expected):
    """Whether parameters are the expected ones to 1e-3."""
    for key, value in expected.items():
        if isinstance(value, str | int):
            assert found[key] == value
        else:
            np.testing.assert_allclose(found[key], value, rtol=1e-3, atol=1e-3, err_msg=key)


def test_every_algorithm_is_planted():
    assert {name.verdict for *_, name, _ in PLANTED.values()} == set(ORDER) - {"zero", "none"}


@pytest.mark.parametrize("words", [slow_unless(words not in REPEATED, words) for words in BATCHED])
def test_an_algorithm_gets_its_name_and_its_numbers(words):
    """Only an equal function with more numbers is left beside it, and every interval contains the number."""
    predict, _, name, parameters = PLANTED[words]
    answers = named(predict)
    assert answers[0].name == name
    assert [answer.name for answer in answers[1:]] == [Name("gd", 4, False)] * (words == "momentum")
    agree(answers[0].parameters, parameters)
    for key, intervals in answers[0].intervals.items():
        low, high = np.array(intervals).T
        assert np.all(low - 1e-6 <= parameters[key])
        assert np.all(high + 1e-6 >= parameters[key])
        assert np.all(high - low < 1e-3)
    json.dumps(answers[0].parameters)
    json.dumps(answers[0].intervals)


@pytest.mark.slow
@pytest.mark.parametrize("words", COMPILED)
def test_a_learner_in_single_precision_gets_its_name(words):
    _, learner, name, parameters = PLANTED[words]
    verdict = identify(learner, TASK)
    assert verdict.verdict == name.verdict
    agree(verdict.parameters, parameters)
    assert len(verdict.not_excluded) == 1 + (words == "momentum")
    assert verdict.unexplained["in_distribution"] < 1e-7


@pytest.mark.slow
@pytest.mark.parametrize(("d_input", "n_context", "d_output"), [(5, 12, 2), (6, 8, 1), (6, 4, 1)])
@pytest.mark.parametrize("words", ["own steps", "ridge", "ols", "GD++", "neighbours", "conjugate gradients"])
def test_a_learner_gets_its_name_for_other_shapes(d_input, n_context, d_output, words):
    task = LinearRegression(d_input=d_input, n_context=n_context, d_output=d_output, inputs="normal")
    assert identify(PLANTED[words][1], task).verdict == PLANTED[words][2].verdict


# --- identities: equal functions have one name ---

ROOT = 0.5 * (2.5 + (2.5**2 - 4) ** 0.5)  # momentum .5 with steps e: roots of (1 - e1 z)(1 - e2 z), e1 + e2 = 2.5 e
IDENTITIES = {
    "one step of size 1 is averaging": (
        filtering("gd", 1, [1.0]), learners.gradient_descent([1.0]), Name("averaging"), {}
    ),
    "one step of GD++ is gradient descent": (
        filter_of(partial(gd_plus_plus, 1), [0.4]), learners.gd_plus_plus([0.4], [0.3]), Name("gd", 1),
        {"n_steps": 1, "step_sizes": [0.4]},
    ),
    "preconditioned by the identity": (
        filtering("gd", 2, [0.5, 0.2], False, np.eye(D)),
        learners.gradient_descent([0.5, 0.2], preconditioner=np.eye(D)), Name("gd", 2, False),
        {"step_sizes": [0.5, 0.2]},
    ),
    "preconditioned by a multiple of the identity": (
        filtering("gd", 2, [0.5, 0.2], False, 2 * np.eye(D)),
        learners.gradient_descent([0.5, 0.2], preconditioner=2 * np.eye(D)), Name("gd", 2, False),
        {"step_sizes": [1.0, 0.4]},
    ),
    "Newton from a multiple of the identity": (
        filtering("gd", 8, [0.25]), learners.newton_schulz(3, 0.25, "identity"), Name("gd", 8),
        {"n_steps": 8, "step_sizes": [0.25] * 8},
    ),
    "two steps with momentum": (
        filtering("gd", 2, [0.3 * ROOT, 0.3 / ROOT], False), learners.momentum([0.3, 0.3], 0.5), Name("gd", 2, False),
        {"n_steps": 2, "step_sizes": [0.3 * ROOT, 0.3 / ROOT]},
    ),
    "momentum zero": (
        filtering("momentum", 3, [0.3, 0.0]), learners.momentum([0.3] * 3, 0.0), Name("gd", 3),
        {"step_sizes": [0.3] * 3},
    ),
    "GD++ with gammas zero": (
        filtering("gd_plus_plus", 2, [0.5, 0.2, 0.0], False), learners.gd_plus_plus([0.5, 0.2], [0.0, 0.3]),
        Name("gd", 2, False), {"step_sizes": [0.5, 0.2]},
    ),
    "an idle step": (
        filtering("gd", 3, [0.5, 0.0, 0.2], False), learners.gradient_descent([0.5, 0.0, 0.2]), Name("gd", 2, False),
        {"step_sizes": [0.5, 0.2]},
    ),
    "as many conjugate gradients as inputs": (
        partial(conjugate_gradient.conjugate_gradient, D), learners.conjugate_gradient(D), Name("ols"), {}
    ),
    "a small penalty": (filtering("ridge", 0, [1e-8]), learners.ridge(1e-7), Name("ols"), {}),
    "the nearest neighbour": (
        partial(neighbours.nearest_neighbours, 1), learners.nearest_neighbours(1), Name("nearest_neighbours", 1),
        {"neighbours": 1},
    ),
    "a narrow kernel": (
        partial(kernels.gaussian, 1e-3), learners.kernel_regression(1e-3), Name("nearest_neighbours", 1),
        {"neighbours": 1},
    ),
    "the mean label": (
        mean_label, mean_label, Name("nearest_neighbours", N), {"neighbours": N}
    ),
    "a fixed linear function": (
        fixed_function, learners.bayes_pool(POOL[:1], 0.5), Name("bayes_pool"), {"members": 1}
    ),
}  # fmt: skip


@pytest.mark.parametrize("words", [slow_unless(words not in REPEATED, words) for words in IDENTITIES])
def test_equal_functions_have_one_name(words):
    predict, _, name, parameters = IDENTITIES[words]
    answers = named(predict)
    assert answers[0].name == name
    agree(answers[0].parameters, parameters)


@pytest.mark.slow
@pytest.mark.parametrize("words", IDENTITIES)
def test_equal_learners_have_one_name(words):
    _, learner, name, parameters = IDENTITIES[words]
    verdict = identify(learner, TASK)
    assert verdict.verdict == name.verdict
    agree(verdict.parameters, parameters)


def test_gd_plus_plus_with_real_roots_is_gradient_descent_with_more_numbers():
    """Two equal steps are four own steps 1 / roots if the polynomial 1 - z p(z) has real roots; fewer numbers win."""
    eta, gamma = 0.5, 0.05
    z = np.polynomial.Polynomial([0, 1])
    roots = ((1 - eta * z) * (1 - eta * z * (1 - gamma * z) ** 2)).roots()
    assert np.abs(roots.imag).max() < 1e-9
    steps = np.sort(1 / roots.real)[::-1]
    own, other = filtering("gd", 4, steps, False), filtering("gd_plus_plus", 2, [eta, gamma])
    x, y, x_query = examined(other).prompts
    np.testing.assert_allclose(own(x, y, x_query), other(x, y, x_query), rtol=1e-9, atol=1e-12)
    answers = named(own)
    assert answers[0].name == Name("gd_plus_plus", 2)
    assert {answer.name for answer in answers} <= {Name("gd_plus_plus", 2), Name("gd", 4, False)}
    agree(answers[0].parameters, {"step_sizes": [eta] * 2, "gammas": [gamma, 0.0]})


# --- what is no algorithm ---


def mixture(share, first, second):
    def predict(x, y, x_query):
        return share * first(x, y, x_query) + (1 - share) * second(x, y, x_query)

    return predict


def permuted(predict):
    order = np.random.default_rng(3).permutation(N)
    return lambda x, y, x_query: predict(x, y[:, order], x_query)


def cubic(predict):
    return lambda x, y, x_query: predict(x + 0.3 * x**3, y, x_query + 0.3 * x_query**3)


def batched(words):
    return PLANTED[words][0]


CONTROLS = {
    "ridge and steps": mixture(0.5, batched("ridge"), batched("own steps")),
    "neighbours and averaging": mixture(0.4, batched("neighbours"), batched("averaging")),
    "preconditioned steps and conjugate gradients": mixture(
        0.6, batched("preconditioned"), batched("conjugate gradients")
    ),
    "permuted labels": permuted(batched("own steps")),
    "cubic features": cubic(batched("own steps")),
}


@pytest.mark.parametrize("words", [slow_unless(words not in REPEATED, words) for words in CONTROLS])
def test_what_is_no_algorithm_gets_no_name(words):
    assert named(CONTROLS[words]) == []


def test_an_algorithm_must_explain_fresh_prompts():
    """A response that is a thousandth larger leaves a millionth, which is more than rounding; noise may leave it."""
    subject_of_ols, predict = examined(batched("ols")), batched("ols")
    for factor, noise, is_explained in ((1.0, 0.0, True), (1.001, 0.0, False), (1.001, 1e-6, True), (1.1, 1e-6, False)):
        answer = subject.Answer(Name("ols"), {}, mixture(factor, predict, predict_nothing), {}, noise)
        assert subject_of_ols.explains(answer) == is_explained


# --- noise ---


def noisy(predict, size):
    """Adds noise to the predictions: a function of the prompt that has no symmetry, of a share `size` of them."""

    def wrapped(x, y, x_query):
        y_hat = predict(x, y, x_query)
        phase = 37.0 * x[:, 0, :1] + 23.0 * y[:, 0, :1] + 11.0 * x_query[:, :1]
        return y_hat + np.sqrt(2 * size) * np.abs(y_hat) * np.sin(phase)

    return wrapped


@pytest.mark.parametrize(
    "words", [slow_unless(words == "preconditioned", words) for words in ("ridge", "own steps", "preconditioned")]
)
def test_intervals_contain_the_planted_numbers(words):
    """The noise is a hundredth of a percent of the response. Intervals are neither empty nor wide."""
    predict, _, name, parameters = PLANTED[words]
    answers = [answer for answer in named(noisy(predict, 1e-4)) if answer.name == name]
    assert answers
    key = "penalty" if words == "ridge" else "step_sizes"
    for (low, high), number in zip(
        np.reshape(answers[0].intervals[key], (-1, 2)), np.ravel(parameters[key]), strict=True
    ):
        margin = high - low  # one more width: a 95 % interval misses one number in twenty
        assert low - margin <= number <= high + margin
        assert 1e-6 < high - low < 0.5 * number


# --- layer by layer ---

STEPS = [0.5, 0.2, 0.35, 0.6, 0.15, 0.45, 0.3, 0.25]
GAMMAS = [0.05, 0.08, 0.03, 0.06, 0.04, 0.07, 0.05, 0.06]
DEEPEST = 8
LAYOUT = tokens.concatenated(D, 1)


def padded(params):
    """Layers of zeros after the last one, which change nothing: all depths share one program."""
    zero = jax.tree.map(jnp.zeros_like, params["block_0"])
    return {f"block_{i}": params.get(f"block_{i}", zero) for i in range(DEEPEST)}


def construction(kind, k):
    """The predictions after every layer of a constructed Transformer."""
    config = TransformerConfig(d_token=D + 1, n_layers=k)
    if kind == "gd_plus_plus":
        params = constructions.gd_plus_plus_weights(config, D, N, STEPS[:k], GAMMAS[:k])
    else:
        a = A if kind == "preconditioned_gd" else None
        params = constructions.gradient_descent_weights(config, D, N, STEPS[:k], preconditioner=a)
    config = TransformerConfig(d_token=D + 1, n_layers=DEEPEST)
    return models.layerwise_predictor(config, padded(params), LAYOUT)


def read_layers(layerwise):
    by_layer = calls.Calls(layerwise)

    def last(x, y, x_query):
        return by_layer(x, y, x_query)[:, -1]

    return layered(examined(last), by_layer, CEILING)


@pytest.mark.parametrize(
    ("kind", "k"),
    [
        slow_unless((kind, k) in {("gd", 1), ("gd_plus_plus", 3), ("preconditioned_gd", 2)}, kind, k)
        for kind in ("gd", "gd_plus_plus", "preconditioned_gd")
        for k in range(1, DEEPEST + 1)
    ],
)
def test_layers_are_read_as_the_steps_that_they_take(kind, k):
    (answer,) = read_layers(construction(kind, k))
    expected = "gd" if kind == "gd_plus_plus" and k == 1 else kind
    assert (answer.name.verdict, answer.name.n_steps) == (expected, k)
    parameters = {"n_steps": k, "step_sizes": STEPS[:k]}
    if expected == "gd_plus_plus":
        parameters["gammas"] = [*GAMMAS[: k - 1], 0.0]
    elif expected == "preconditioned_gd":
        parameters["preconditioner"] = A
    agree(answer.parameters, parameters)
    json.dumps(answer.parameters)


def with_bias(layerwise, x, y, x_query):
    return layerwise(x, y, x_query) + 0.1 * x_query[0]


def with_swapped_layers(layerwise, x, y, x_query):
    y_hat = layerwise(x, y, x_query)
    return y_hat.at[1].set(y_hat[2]).at[2].set(y_hat[1])


@pytest.mark.parametrize("change", [with_bias, slow_unless(False, with_swapped_layers)], ids=["bias", "swapped"])
def test_layers_that_are_no_steps_are_not_read(change):
    """A network that does not start at zero, and one whose second layer undoes a part of the first."""
    assert read_layers(jax.tree_util.Partial(change, construction("gd", 4))) == []


@pytest.fixture(scope="module")
def plants():
    path = Path(__file__).parents[2] / "benchmarks" / "plants.py"
    spec = importlib.util.spec_from_file_location("plants", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["plants"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["plants"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_noisy_weights_are_read_as_what_they_were(seed, plants, monkeypatch):
    """Relative noise of 1 % in every matrix, after a change of gauge, on as many prompts as usual."""
    monkeypatch.setattr(subject, "PROMPTS", probe.PROMPTS)
    plant = plants.transformer(np.random.default_rng([seed, 22]), 0.01, smallest=4)
    verdict = identify(plant.predictor, plant.task, layerwise=plant.layerwise)
    assert (verdict.verdict, verdict.parameters["n_steps"]) == plant.truth[:2]
    assert verdict.reading == "layer by layer"
    np.testing.assert_allclose(verdict.parameters["step_sizes"], plant.details["steps"], rtol=0.1)


def accepted(name, numbers, worst, is_tight=False):
    return search.Accepted(BY_NAME[name], np.array(numbers), worst, is_tight)


@pytest.mark.parametrize(
    ("general", "numbers", "worst", "expected"),
    [
        (Name("gd", 3, False), [0.5, 0.4, 0.3], 0.3, ["general", "special"]),
        (Name("gd", 3, False), [0.5, 0.4, 0.3], 0.5, ["special"]),
        (Name("gd_plus_plus", 3), [0.4, 0.2], 0.3, ["general", "special"]),
        (Name("gd_plus_plus", 3), [0.4, 0.2], 0.5, ["special"]),
        (Name("gd_plus_plus", 3), [0.4, 1e-3], 0.01, ["special"]),  # so small a gamma is noise of weights
        (Name("gd_plus_plus", 3, False), [0.4, 0.4, 0.4, 1e-3, 0.2], 0.3, ["general", "special"]),
        (Name("gd_plus_plus", 3, False), [0.4, 0.4, 0.4, 1e-3, 1e-3], 0.01, ["special"]),
    ],
)
@pytest.mark.parametrize("is_tight", [True, False])
def test_an_algorithm_is_preferred_to_its_special_case_if_it_explains_much_more(
    general, numbers, worst, expected, is_tight
):
    """Here noise has a share of 1e-3, and three equal steps explain the response up to their limit."""
    seen = probe.probe(
        noisy(batched("equal steps"), 1e-3), examined(batched("equal steps")).prompts, np.random.default_rng(0)
    )
    both = accepted(Name("gd", 3), [0.4], 1.0), accepted(general, numbers, worst, is_tight)
    found = search.best_first({one.candidate.name: one for one in both}, seen, False)
    assert ["general" if one.candidate.name == general else "special" for one in found] == expected


# --- models with an embedding ---

EMBEDDED = TransformerConfig(d_token=D + 1, d_embed=D + 3, input_mlp_width=6)


def embedded_steps(step=0.3):
    """A model with a random embedding and a layer that takes one gradient step on its features."""
    params = models.init(EMBEDDED, jax.random.key(0))
    params |= constructions.gradient_descent_weights(EMBEDDED, D + 2, N, [step])
    return models.Model(EMBEDDED, params, tokens.concatenated(D, 1))


def test_layers_after_an_embedding_are_those_of_the_model(x64):
    """The model adds the embedded zero of the query's label slot to the prediction; attention does not see it here."""
    model, key = embedded_steps(), jax.random.key(1)
    layers, task = after_embedding(model, TASK)
    prompt, features = TASK.sample(key), task.sample(key)
    start = models.features(model.config, model.params, 1)(prompt.x_query, jnp.zeros(1))[1]
    expected = model(prompt.x, prompt.y, prompt.x_query) + start
    np.testing.assert_allclose(layers(features.x, features.y, features.x_query), expected, rtol=1e-12)
    assert (task.d_input, task.d_output, task.n_context) == (D + 2, 1, N)


def test_a_step_on_features_gets_its_name_on_features():
    verdict = identify(*after_embedding(embedded_steps(), TASK))
    assert (verdict.verdict, verdict.reading) == ("gd", "layer by layer")
    np.testing.assert_allclose(verdict.parameters["step_sizes"], [0.3], rtol=1e-3)
    assert {row.rung for row in verdict.evidence} == {"behaviour", "sensitivity", "weights", "cause"}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"d_embed": None, "input_mlp_width": None}, "has no embedding"),
        ({"n_positions": N + 1}, "no features and targets"),
        ({}, "has edits"),
    ],
)
def test_layers_without_features_are_refused(config, says):
    config = replace(EMBEDDED, **config)
    model = models.Model(config, models.init(config, jax.random.key(0)), tokens.concatenated(D, 1))
    if says == "has edits":
        model = model.edit({"attn_out": lambda value: 0 * value})
    with pytest.raises(ValueError, match=says):
        after_embedding(model, TASK)


# --- verdicts ---

CONTRACT = {
    "verdict", "name", "parameters", "intervals", "not_excluded", "unexplained", "symmetries", "evidence", "controls",
    "seconds",
}  # fmt: skip


def check_contract(verdict):
    record = verdict.as_dict()
    assert set(record) == CONTRACT | {"sentence"} | {field.name for field in fields(Verdict)}
    assert json.loads(json.dumps(record, allow_nan=False)) == json.loads(json.dumps(record))
    assert set(record["unexplained"]) == {"in_distribution", "shifted", "noise_floor"}
    assert list(record["symmetries"]) == list(STATEMENTS)
    for hypothesis in (*record["not_excluded"], *record["black_box"]):
        assert {"verdict", "parameters", "unexplained"} <= set(hypothesis)
    for row in record["evidence"]:
        assert set(row) == {"rung", "name", "says", "value", "threshold", "supports"}
        assert row["rung"] in ("behaviour", "sensitivity", "weights", "cause")
    if verdict.verdict == "none":
        assert record["not_excluded"] == []
    else:
        first = record["not_excluded"][0]
        assert (first["verdict"], first["parameters"]) == (record["verdict"], record["parameters"])
    assert WORDS[verdict.verdict].rstrip("s") in record["name"]
    return record


def test_a_verdict_is_a_json_object_with_the_keys_of_the_contract():
    config = TransformerConfig(d_token=D + 1, n_layers=2)
    model = models.Model(
        config, constructions.gradient_descent_weights(config, D, N, [0.5, 0.2]), tokens.concatenated(D, 1)
    )
    verdict = identify(model, TASK, seed=1)
    record = check_contract(verdict)
    assert record["verdict"] == "gd"
    assert record["name"] == "gradient descent, 2 steps"
    assert record["reading"] == "layer by layer"
    assert record["sentence"].startswith("The predictor uses gradient descent, 2 steps, to within")
    agree(record["parameters"], {"n_steps": 2, "step_sizes": [0.5, 0.2]})
    assert record["symmetries"]["rotation_invariant"] < 1e-10 < record["symmetries"]["scale_invariant"]
    assert record["controls"]["permuted labels"] > 0.5
    assert record["seconds"] > 0


def test_zero_and_none_are_verdicts():
    zero = identify(learners.predict_zero, TASK)
    check_contract(zero)
    assert zero.verdict == "zero"

    def squared(x, y, x_query):
        return (y.T @ x @ x_query / len(x)) ** 2

    none = identify(squared, TASK)
    record = check_contract(none)
    assert (none.verdict, record["parameters"]) == ("none", {})
    assert record["sentence"].startswith("None of the known algorithms explains the predictions")


@pytest.mark.slow
@pytest.mark.parametrize("words", COMPILED)
def test_every_verdict_has_the_keys_of_the_contract(words):
    check_contract(identify(PLANTED[words][1], TASK))


@pytest.mark.slow
def test_a_numpy_function_is_named(monkeypatch):
    monkeypatch.setattr(subject, "MANY", 64)

    def averaging(x, y, x_query):
        return np.linalg.solve(np.eye(N), y).T @ x @ x_query / N  # cannot be traced

    verdict = identify(averaging, TASK)
    assert verdict.verdict == "averaging"


def test_the_same_seed_gives_the_same_verdict():
    first, second = (named(batched("finite pool"))[0].parameters for _ in range(2))
    assert first == second


def test_sentences_can_be_read():
    one = Hypothesis("gd", {"n_steps": 1, "step_sizes": [6.0]}, 9e-4)
    two = Hypothesis("ridge", {"penalty": 1.0}, 1e-3)
    shares = {"in_distribution": 9e-4, "shifted": 1e-3, "noise_floor": 1e-4}
    verdict = Verdict("gd", one.parameters, not_excluded=[one], unexplained=shares)
    assert verdict.sentence == "The predictor computes gradient descent, 1 step, to within 3 %."
    both = Verdict("gd", one.parameters, not_excluded=[one, two], unexplained=shares)
    assert both.sentence.endswith("to within 3 %. 1 other algorithm is not excluded.")
    three = Verdict("gd", one.parameters, not_excluded=[one, two, two], unexplained=shares)
    assert three.sentence.endswith("2 other algorithms are not excluded.")
    assert Verdict("none", nearest=two).sentence == (
        "None of the known algorithms explains the predictions; nearest is ridge regression, to within 3 %."
    )
    cause = Evidence("cause", "kept_worst_layer", "a layer can be replaced by a step", 0.99, 0.9, True)
    against = Evidence("behaviour", "not_excluded", "algorithms that are not excluded", 2.0, 1.0, False)
    for rows, verb in (([cause], "uses"), ([cause, against], "computes"), ([], "computes")):
        answer = Verdict("gd", one.parameters, not_excluded=[one], unexplained=shares, evidence=rows)
        assert answer.sentence.startswith(f"The predictor {verb} gradient descent, 1 step")
    for shift, ending in ((0.04, "3 %, and to within 20 % under distribution shift."), (np.inf, "3 %, but not under")):
        answer = Verdict("gd", one.parameters, not_excluded=[one], unexplained={**shares, "shifted": shift})
        assert f"to within {ending}" in answer.sentence
    assert Verdict("zero").sentence.endswith("its predictions are less than 0.01 % of the labels.")


@pytest.mark.parametrize(
    ("share", "words"), [(0.0, "rounding"), (-1e-9, "rounding"), (9e-4, "3 %"), (1e-6, "0.1 %"), (0.04, "20 %")]
)
def test_a_share_of_squares_is_a_difference_in_percent(share, words):
    assert percent(share) == words


def test_what_cannot_be_examined_is_refused():
    def layerwise(x, y, x_query):
        return jnp.stack([learners.averaging(x, y, x_query)] * 2)

    def divided(x, y, x_query):
        return learners.averaging(x, y, x_query) / 0.0

    for predictor, expected in ((layerwise, r"return y_hat \[m\] with m=1"), (divided, "return finite numbers")):
        with pytest.raises(ValueError, match=expected):
            identify(predictor, TASK)
    for arguments in ({"ceiling": 0.0}, {"ceiling": 1.0}, {"seed": -1}, {"progress": lambda: 0}):
        (name,) = arguments
        with pytest.raises(ValueError, match=f"^{name}(=| cannot be called)"):
            identify(learners.averaging, TASK, **arguments)


def two_steps(x, y, x_query):
    return jnp.stack([0 * y[0], learners.averaging(x, y, x_query), learners.gradient_descent([0.5])(x, y, x_query)])


@pytest.mark.parametrize(
    ("layerwise", "expected"),
    [
        (two_steps, "differs from that of the predictor by 0.5 times its size; give the layers of this predictor"),
        (learners.averaging, r"layerwise returns an array of shape \(1,\); return \[depth m\] with m=1"),
        (lambda x, y, x_query: two_steps(x, y, x_query)[1:2], r"array of shape \(1, 1\).* at least two"),
        (lambda x, y, x_query: two_steps(x, y, x_query)[None], r"array of shape \(1, 3, 1\); return \[depth m\]"),
        (lambda x, y, x_query: two_steps(x, y, x_query) / 0.0, "layerwise returns -?(inf|nan) for a prompt"),
        (lambda x, y: y, r"^layerwise cannot be called with \(x, y, x_query\): too many positional arguments; give"),
    ],
)
def test_layers_that_are_not_those_of_the_predictor_are_refused(layerwise, expected):
    """Otherwise the verdict would be about the layers, and wrong for the predictor."""
    with pytest.raises(ValueError, match=expected):
        identify(learners.averaging, TASK, layerwise=layerwise)


# --- real data ---


@pytest.mark.parametrize(
    "words", [slow_unless(words in ("ols", "one step"), words) for words in ("ols", "one step", "own steps", "ridge")]
)
def test_a_learner_gets_its_name_on_rows_of_a_table(words):
    """Prompts are rows of the diabetes data, whose inputs are correlated and whose labels are not linear."""
    x, y = load_diabetes(return_X_y=True)
    table = standardised_table(x, y[:, None], n_context=20)
    _, learner, name, parameters = PLANTED[words]
    verdict = identify(learner, table)
    assert verdict.verdict == name.verdict
    agree(verdict.parameters, parameters)
    assert verdict.unexplained["in_distribution"] < 1e-7


def test_the_function_is_exported():
    assert icl_gd.identify is identify
    assert icl_gd.identification.identify is identify
    assert issubclass(icl_gd.Verdict, Verdict)
