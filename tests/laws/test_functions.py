"""Function classes and prompt distributions: equal keys give equal prompts; moments and geometry are as documented."""

from dataclasses import dataclass, replace
from functools import cache
from math import gamma, pi
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import programs, tasks
from icl_gd.tasks import FUNCTIONS, PROMPT_DISTRIBUTIONS, FunctionRegression, families
from icl_gd.tasks.families import CORRELATION, INPUTS
from icl_gd.tasks.functions import ENTRIES, FUNCTION_POOL_KEY, Affine, Chebyshev, Polynomial, _wrong_form, variance_of
from icl_gd.types import PrefixPrompt

D = 6
CLASSES = {name: make(D) for name, make in FUNCTIONS.items()} | {"pool": tasks.FunctionPool(tasks.Linear(D), 3)}
FAMILIES = {name: FunctionRegression(tasks.Linear(D), 9, name) for name in PROMPT_DISTRIBUTIONS}
TASKS = (
    {name: FunctionRegression(functions, 9) for name, functions in CLASSES.items()}
    | FAMILIES
    | {
        "noisy": FunctionRegression(tasks.Linear(D), 9, noise_std=1.0, input_scale=2.0, label_scale=3.0),
        "ar1": FunctionRegression(CLASSES["pool"], 9, inputs="ar1", weights="laplace"),
        "others": FunctionRegression(
            Affine(D), 9, "random_quadrants", 1.0, 1.0, 1.0, inputs="exponential", weights="student", noise="mixture"
        ),
    }
)


def sampler(sample, n):
    """A compiled function of a seed, which draws n samples, one per key."""
    return jax.jit(lambda seed: jax.vmap(sample)(jax.random.split(jax.random.key(seed), n)))


def sampling(name):
    """The functions of a key that sample prompts of a task."""
    # With n_context >= d_input, no query is orthogonal to all inputs.
    task = TASKS[name]
    return (task.sample_prefixes, *(() if task.family == "orthogonal_query" else (task.sample,)))


@cache
def alone_and_batched(name):
    """A compiled function `(seed, i)`: prompts of the i-th of three keys, and the prompts of all three."""

    def samples(key):
        return [sample(key) for sample in sampling(name)]

    def both(seed, i):
        keys = jax.random.split(jax.random.key(seed), 3)
        return samples(keys[i]), jax.vmap(samples)(keys)

    return jax.jit(both)


@pytest.mark.parametrize("name", TASKS)
def test_same_key_same_prompt(name):
    run = alone_and_batched(name)
    for i in range(3):
        single, batches = jax.tree.map(np.asarray, run(0, i))
        again, _ = run(0, i)
        for prompts in (again, jax.tree.map(lambda leaf, i=i: leaf[i], batches)):
            chex.assert_trees_all_close(single, prompts, rtol=1e-7, atol=1e-5)
        for batch in batches:
            assert not np.allclose(batch.x[0], batch.x[1])


@pytest.mark.parametrize("name", TASKS)
def test_a_prompt_drawn_without_jit_is_the_same(name):
    jitted, _ = alone_and_batched(name)(0, 0)
    key = jax.random.split(jax.random.key(0), 3)[0]
    for sample, prompt in zip(sampling(name), jitted, strict=True):
        chex.assert_trees_all_close(sample(key), prompt, rtol=1e-7, atol=1e-5)


@pytest.mark.parametrize("name", CLASSES)
def test_labels_have_the_variance_they_say(name):
    task = FunctionRegression(CLASSES[name], 0)
    y = np.asarray(sampler(lambda key: task.sample(key).y_query, 40_000)(1))
    squares = y[:, 0] ** 2
    stderr = squares.std() / len(y) ** 0.5
    if name == "pool":  # the mean over the functions of the pool, whose norms differ
        squared_norms = {round(float(np.sum(w**2)), 4) for w in np.asarray(sampler(task.functions.draw, 60)(2))}
        assert len(squared_norms) == task.functions.size
        expected = np.mean(list(squared_norms))
    else:
        expected = task.functions.variance
    np.testing.assert_allclose(squares.mean(), expected, atol=4 * stderr + 1e-6)


def test_functions_are_what_their_formulas_say():
    """Each class equals its formula, which `by_hand` computes for one input at a time."""
    x = np.random.default_rng(0).normal(size=(20, D))

    @jax.jit
    def run(key, x):
        functions = {name: functions.draw(key) for name, functions in CLASSES.items()}
        return {name: (w, CLASSES[name].apply(w, x)[:, 0]) for name, w in functions.items()}

    for name, (w, labels) in jax.tree.map(np.asarray, run(jax.random.key(3), x)).items():
        for x_i, label in zip(x, labels, strict=True):
            np.testing.assert_allclose(label, by_hand(name, w, x_i), rtol=1e-5, atol=1e-6, err_msg=name)


def by_hand(name, w, x):
    if name == "relu_network":
        hidden = [max(float(row @ x), 0.0) for row in w["W_1"]]
        return np.sqrt(2 / len(hidden)) * sum(a * b for a, b in zip(w["w_2"][0], hidden, strict=True))
    if name == "decision_tree":
        path = ""
        for depth in range(4):
            node = 2**depth - 1 + (int(path, 2) if path else 0)
            path += "1" if x[w["input"][node]] > 0 else "0"
        return w["label"][int(path, 2)]
    if name == "quadratic":
        return sum(a * b**2 for a, b in zip(w[0], x, strict=True)) / np.sqrt(3)
    if name == "polynomial":
        return sum(a * b**3 for a, b in zip(w[0], x, strict=True)) / np.sqrt(15)  # E x^6
    if name == "chebyshev":  # E (4 x^3 - 3 x)^2 = 16 * 15 - 24 * 3 + 9
        return sum(a * (4 * b**3 - 3 * b) for a, b in zip(w[0], x, strict=True)) / np.sqrt(177)
    if name == "affine":
        return sum(a * b for a, b in zip(w["w"][0], x, strict=True)) + w["b"][0, 0]
    linear = sum(a * b for a, b in zip(w[0], x, strict=True))
    return np.sign(linear) if name == "signs" else linear


def test_sparse_functions_have_so_many_inputs_all_of_them_active():
    functions = tasks.Sparse(D, 2)
    w = np.asarray(sampler(lambda key: functions.draw(key, 4)[0], 200)(4))
    np.testing.assert_array_equal((w != 0).sum(1), 2)
    np.testing.assert_array_equal(w[:, 4:], 0.0)
    np.testing.assert_allclose((w[:, :4] != 0).mean(0), 0.5, atol=0.15)


def test_a_pool_has_functions_of_the_entries_asked_for():
    @jax.jit
    def drawn(key):
        root = jax.random.fold_in(jax.random.key(7), FUNCTION_POOL_KEY)
        pool_weights = jax.vmap(lambda i: ENTRIES["laplace"](jax.random.fold_in(root, i), (1, D)))(jnp.arange(3))
        pool = FunctionRegression(tasks.FunctionPool(tasks.Linear(D), 3, 7), 0, weights="laplace")
        return pool_weights, jax.vmap(lambda key: pool.sample(key).w)(jax.random.split(key, 30))

    pool_weights, drawn_weights = map(np.asarray, drawn(jax.random.key(18)))
    indices = [
        np.flatnonzero([np.allclose(w, pool_w, rtol=1e-5) for pool_w in pool_weights]).item() for w in drawn_weights
    ]
    assert set(indices) == {0, 1, 2}


def test_a_stage_leaves_the_other_inputs_zero_and_the_last_is_the_task():
    stages = jax.jit(lambda key: [TASKS["linear"].sample_prefixes(key, active) for active in (None, 4, D)])
    whole, stage, last = jax.tree.map(np.asarray, stages(jax.random.key(5)))
    np.testing.assert_array_equal(stage.x[:, 4:], 0.0)
    np.testing.assert_array_equal(stage.x[:, :4], whole.x[:, :4])
    chex.assert_trees_all_equal(last, whole, strict=True)


@cache
def drawn(name):
    return jax.tree.map(np.asarray, sampler(FAMILIES[name].sample_prefixes, 2000)(6))


@pytest.mark.parametrize("name", PROMPT_DISTRIBUTIONS)
def test_inputs_of_every_family_have_the_norm_of_the_standard(name):
    prompts = drawn(name)
    np.testing.assert_allclose(np.mean(prompts.x**2), 1.0, atol=0.03)
    if name == "orthogonal_query":
        assert np.isnan(prompts.x_query[:, D:]).all()
    np.testing.assert_allclose(np.nanmean(prompts.x_query**2), 1.0, atol=0.03)
    np.testing.assert_allclose(prompts.y_query[:, :D], prompts.x_query[:, :D] @ prompts.w.swapaxes(1, 2), atol=1e-4)
    assert np.array_equal(prompts.x, prompts.x_query) == PROMPT_DISTRIBUTIONS[name].in_order


def test_queries_stand_where_their_family_says():
    x = (quadrant := drawn("random_quadrants")).x
    assert np.all(np.sign(x) == np.sign(x[:, :1]))
    assert 0.4 < np.mean(np.sign(quadrant.x_query) == np.sign(x)) < 0.6
    opposite = drawn("opposite_quadrants")
    assert np.all(np.sign(opposite.x_query) == -np.sign(opposite.x[:, :1]))
    orthogonal = drawn("orthogonal_query")
    repeated = drawn("repeated_query")
    for k in range(1, D):
        overlap = np.einsum("pid,pd->pi", orthogonal.x[:, :k], orthogonal.x_query[:, k])
        assert np.abs(overlap).max() < 1e-3
        norms = [np.linalg.norm(v, axis=-1) for v in (orthogonal.x[:, k], orthogonal.x_query[:, k])]
        np.testing.assert_allclose(*norms, rtol=1e-4)
        same = np.all(repeated.x[:, :k] == repeated.x_query[:, k : k + 1], axis=-1)
        np.testing.assert_array_equal(same.sum(1), 1)
        np.testing.assert_allclose(same.mean(0), 1 / k, atol=0.06)


def test_transformed_inputs_have_their_spectrum(x64):
    three_tasks = FAMILIES["half_subspace"], FAMILIES["skewed"], replace(FAMILIES["skewed"], n_context=200_000)
    draw = jax.jit(lambda key: [task.sample_prefixes(key).x for task in three_tasks])
    half, skewed, long = map(np.asarray, draw(jax.random.key(7)))
    assert np.linalg.matrix_rank(half, tol=1e-9) == D // 2
    assert np.linalg.matrix_rank(skewed, tol=1e-9) == D
    eigenvalues = np.linalg.eigvalsh(np.cov(long.T, bias=True))[::-1]
    expected = 1 / np.arange(1, D + 1) ** 2
    np.testing.assert_allclose(eigenvalues, expected * D / expected.sum(), rtol=0.05)


def test_noise_is_on_the_context_alone_and_renormalised():
    task = FunctionRegression(tasks.Linear(D), 30, noise_std=2.0, renormalised=True, label_scale=3.0)
    prompts = jax.tree.map(np.asarray, sampler(task.sample_prefixes, 3000)(9))
    np.testing.assert_allclose(np.mean(prompts.y**2), 9 * D, rtol=0.05)
    np.testing.assert_allclose(np.mean((prompts.y - prompts.y_query) ** 2), 9 * 4 / (1 + 4 / D), rtol=0.05)


@pytest.mark.parametrize("name", tasks.EVAL_SUITE)
def test_predicting_zero_has_error_one_on_all_prompts(name):
    task = tasks.EVAL_SUITE[name](FunctionRegression(tasks.Linear(D), D - 1))
    y_query = np.asarray(sampler(lambda key: task.sample_prefixes(key).y_query, 4000)(11))
    errors = np.mean(y_query[..., 0] ** 2, axis=1) / task.label_variance  # [prompt]
    np.testing.assert_allclose(errors.mean(), 1.0, atol=4 * errors.std() / len(errors) ** 0.5)


# --- distributions of inputs, weights and noise ---

ABS = {  # E |w|
    "normal": (2 / pi) ** 0.5,
    "laplace": 0.5**0.5,
    "mixture": 0.6 * (2 / pi) ** 0.5 * np.exp(-(0.8**2) / (2 * 0.6**2)) + 0.8 * (1 - 2 * 0.0912112),  # P(z > 4/3)
    "student": (3 / 5) ** 0.5 * 2 * 5**0.5 * gamma(3) / (pi**0.5 * 4 * gamma(5 / 2)),
}


def close(samples, expected, **more):
    """Asserts that means over the first axis are within five standard errors of `expected`."""
    stderr = samples.std(0) / len(samples) ** 0.5
    np.testing.assert_array_less(np.abs(samples.mean(0) - expected), 5 * stderr + 1e-6, **more)


def test_entries_and_noise_are_symmetric_with_variance_one():
    draw = jax.jit(lambda key: {name: draw(key, (100_000, 1)) for name, draw in ENTRIES.items()})
    for name, w in jax.tree.map(np.asarray, draw(jax.random.key(12))).items():
        w = w.astype(float)
        close(np.hstack([w, w**2, np.abs(w), w > 0]), [0.0, 1.0, ABS[name], 0.5], err_msg=name)
    assert set(ENTRIES) == set(ABS)


@cache
def inputs():
    """Inputs from every distribution, `[function n d]`: 6000 contexts, one per function."""

    def draw(key):
        return {name: distribution.draw(key, (8, D)) for name, distribution in INPUTS.items()}

    return jax.tree.map(lambda x: np.asarray(x, float), sampler(draw, 6000)(13))


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_have_the_moments_they_say(name):
    x, distribution = inputs()[name], INPUTS[name]
    for k in range(1, 7):
        close((x**k).mean((1, 2)), distribution.moment(k, D), err_msg=f"{name} {k}")
    assert distribution.moment(0, D) == distribution.moment(2, D) == 1.0
    second_moment = np.einsum("pni,pnj->pij", x, x) / x.shape[1]
    mean = distribution.moment(1, D)
    close(second_moment, np.where(np.eye(D), 1.0, mean**2), err_msg=name)
    correlation = np.einsum("pni,pni->p", x[:, 1:], x[:, :-1]) / (D * (x.shape[1] - 1))
    close(correlation, CORRELATION if name == "ar1" else mean**2, err_msg=name)
    if name == "sphere":
        np.testing.assert_allclose((x**2).sum(-1), D, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_variances_are_those_of_labels_at_every_scale_of_all_inputs_and_entries(name):
    functions, scales = CLASSES[name], np.array([1.0, 3.0])
    words = "normal", "laplace", "mixture"

    @jax.jit
    def mean_squares(x, scales):
        keys = jax.random.split(jax.random.key(14), x.shape[1])
        w = [jax.vmap(lambda key, draw=ENTRIES[word]: functions.draw(key, None, draw))(keys) for word in words]

        def mean_square(w, x):
            return jnp.mean(functions.apply(w, x) ** 2)

        by_scale = jax.vmap(jax.vmap(jax.vmap(mean_square), (None, 0)), (None, 0))  # [scale inputs function]
        return jnp.stack([by_scale(of_entries, scales[:, None, None, None, None] * x[None]) for of_entries in w])

    actual = np.asarray(mean_squares(np.stack([inputs()[kind] for kind in INPUTS]).astype(np.float32), scales), float)
    for i, weights in enumerate(words):
        for j, scale in enumerate(scales):
            for k, kind in enumerate(INPUTS):
                expected = variance_of(functions, float(scale), kind, weights)
                close(actual[i, j, k], expected, err_msg=f"{weights} {scale} {kind}")
    assert variance_of(functions) == functions.variance


def test_variances_by_hand():
    assert variance_of(tasks.Linear(4), 3.0, "exponential") == 36.0
    assert variance_of(Affine(3), 3.0) == 28.0
    np.testing.assert_allclose(variance_of(tasks.Quadratic(4), 3.0, "uniform"), 81 * 4 * (9 / 5) / 3)
    np.testing.assert_allclose(variance_of(Polynomial(4, 2), 1.0, "sphere"), 4 * (4**2 * 3 / (4 * 6)) / 3)
    np.testing.assert_allclose(variance_of(Polynomial(4, 3), 1.0, "laplace"), 4 * (720 / 8) / 15)
    np.testing.assert_allclose(variance_of(Chebyshev(4, 2), 3.0), 4 * (4 * 81 * 3 - 4 * 9 + 1) / (12 - 4 + 1))
    x, mass = np.polynomial.hermite_e.hermegauss(40)
    for degree in range(1, 11):
        half, whole = (mass @ np.polynomial.Chebyshev.basis(degree)(scale * x) ** 2 for scale in (0.5, 1.0))
        np.testing.assert_allclose(variance_of(Chebyshev(4, degree), 0.5), 4 * half / whole, rtol=1e-6)


@pytest.mark.parametrize("name", ["exponential", "sphere"])
def test_families_transform_the_inputs_of_a_distribution(name):
    tasks_by_family = {
        family: FunctionRegression(tasks.Linear(D), 9, family, inputs=name) for family in PROMPT_DISTRIBUTIONS
    }

    def inputs_and_queries(key):
        prompts = {family: task.sample_prefixes(key) for family, task in tasks_by_family.items()}
        return {family: (prompt.x, prompt.x_query) for family, prompt in prompts.items()}

    draw = sampler(inputs_and_queries, 1000)
    drawn = jax.tree.map(np.asarray, draw(15))
    for family, (x, x_query) in drawn.items():
        np.testing.assert_allclose(np.mean(x**2), 1.0, atol=0.05, err_msg=family)
        np.testing.assert_allclose(np.nanmean(x_query**2), 1.0, atol=0.05, err_msg=family)
    for family in ("random_quadrants", "opposite_quadrants"):
        assert np.all(np.sign(drawn[family][0]) == np.sign(drawn[family][0][:, :1]))
    if name == "exponential":
        assert np.all(drawn["random_quadrants"][1] >= 0)  # queries are not reflected
        np.testing.assert_allclose(np.mean(drawn["random_quadrants"][0]), 0.0, atol=0.05)
    else:
        np.testing.assert_allclose((drawn["repeated_query"][1] ** 2).sum(-1), D, rtol=1e-4)


def test_a_task_draws_what_its_words_say():
    """Prompts equal their formula for the same keys, with the arguments inputs, weights and noise and without them."""
    task = FunctionRegression(
        Affine(D), 9, noise_std=0.5, input_scale=3.0, inputs="uniform", weights="laplace", noise="student"
    )

    @jax.jit
    def both(key):
        keys = jax.random.split(key, 3)
        x = 3.0 * INPUTS["uniform"].draw(keys[0], (10, D))
        w = Affine(D).draw(keys[1], None, ENTRIES["laplace"])
        y = x @ w["w"].T + w["b"]
        plain_x, plain_w = jax.random.normal(keys[0], (10, D)), jax.random.normal(keys[1], (1, D))
        plain_y = plain_x @ plain_w.T
        return [
            (task.sample_prefixes(key), PrefixPrompt(x, y + 0.5 * ENTRIES["student"](keys[2], y.shape), x, y, w)),
            (TASKS["linear"].sample_prefixes(key), PrefixPrompt(plain_x, plain_y, plain_x, plain_y, plain_w)),
            (
                replace(TASKS["linear"], noise_std=0.5).sample_prefixes(key)[1],
                plain_y + 0.5 * jax.random.normal(keys[2], plain_y.shape),
            ),
        ]

    for actual, expected in both(jax.random.key(16)):
        chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-5)


BEFORE = {  # x[2, 3] and the first three labels for key 5, from a version without inputs, weights and noise
    "linear": [0.4840049, -2.097413, 1.184338, 3.472363],
    "sparse": [0.4840049, 0.2418117, 2.393204, -1.205472],
    "quadratic": [0.4840049, -1.812362, -4.430628, -2.293719],
    "polynomial": [0.4840049, -0.59751, -0.6136438, 1.199528],
    "signs": [0.4840049, -1, 1, 1],
    "relu_network": [0.4840049, -3.043454, -4.736762, 0.8032057],
    "decision_tree": [0.4840049, 0.4782063, -2.170853, -0.4397622],
    "pool": [0.4840049, 2.031666, -4.98566, -1.731489],
    "random_quadrants": [1.650966, 4.566606, -0.8880925, -0.1936009],
    "opposite_quadrants": [1.650966, 4.566606, -0.8880925, -0.1936009],
    "orthogonal_query": [0.4840049, -2.097413, 1.184338, 3.472363],
    "repeated_query": [-1.650966, 5.915523, -0.821506, 2.561144],
    "half_subspace": [-0.1885903, 7.722171, -0.9814949, 3.767977],
    "skewed": [-0.5922664, 8.334176, -2.267189, 5.074956],
    "noisy": [0.9680099, -7.455289, 9.211218, 18.39202],
}


def test_what_was_drawn_before_there_were_words_is_drawn_now():
    draw = jax.jit(
        lambda key: {name: (x[2, 3], y[:3, 0]) for name in BEFORE for x, y, *_ in [TASKS[name].sample_prefixes(key)]}
    )
    for name, (x, y) in draw(jax.random.key(5)).items():
        np.testing.assert_allclose([x, *y], BEFORE[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("renormalised", [False, True])
def test_errors_are_divided_by_the_variance_at_this_scale_and_these_inputs(renormalised):
    task = FunctionRegression(
        Affine(D), 9, "standard", 3.0, 2.0, 4.0, renormalised, "exponential", weights="laplace", noise="laplace"
    )
    prompts = jax.tree.map(lambda leaf: np.asarray(leaf, float), sampler(task.sample_prefixes, 4000)(17))
    variance, noise = 9 * D + 1, 16
    factor = 4 * variance / (variance + noise) if renormalised else 4
    np.testing.assert_allclose(task.label_variance, factor * variance)
    close((prompts.y_query**2).mean((1, 2)), factor * variance)
    close((prompts.y**2).mean((1, 2)), factor * (variance + noise))


# --- user-defined classes ---


@dataclass(frozen=True)
class Own:
    """y = w x, or y = w x + b if `constant` is True."""

    d_input: int = 3
    constant: bool = False
    variance: float = 3.0
    degree: int = 1

    def draw(self, key, active=None):
        return jax.random.normal(key, (1, self.d_input + self.constant))

    def apply(self, w, x):
        y = x @ w[:, : self.d_input].T
        return y + w[:, self.d_input :] if self.constant else y


@pytest.mark.slow
def test_a_degree_is_believed_of_what_is_homogeneous_and_of_nothing_else():
    """`degree` is used only if the functions are homogeneous; otherwise the variance is estimated."""
    assert FunctionRegression(Own(), 2, input_scale=3.0).label_variance == 9 * 3.0
    affine = FunctionRegression(Own(constant=True, variance=4.0), 2, input_scale=3.0)
    actual = jax.jit(lambda x: x * affine.label_variance)(1.0)  # also while a program is traced
    np.testing.assert_allclose(actual, 28.0, rtol=0.012)
    programs.clear_caches()
    with jax.enable_x64(True):  # estimated again, from the same samples
        assert replace(affine, n_context=3).label_variance == affine.label_variance
    assert FunctionRegression(tasks.FunctionPool(affine.functions, 3), 2, input_scale=3.0).label_variance == (
        affine.label_variance
    )
    assert replace(affine, input_scale=1.0).label_variance == 4.0


@pytest.mark.slow
def test_a_class_may_leave_its_variance_out_or_say_it_at_every_scale():
    minimal = SimpleNamespace(d_input=3, draw=Own(constant=True).draw, apply=Own(constant=True).apply)
    np.testing.assert_allclose(FunctionRegression(minimal, 2, inputs="exponential").label_variance, 4.0, rtol=0.012)
    with_variance = SimpleNamespace(**vars(minimal), variance_at=lambda scale: 9.5 * scale)
    assert FunctionRegression(with_variance, 2, input_scale=2.0).label_variance == 19.0
    # `variance_at(scale)` is for normal inputs. For others the variance is estimated.
    np.testing.assert_allclose(variance_of(with_variance, 1.0, "laplace"), 4.0, rtol=0.012)
    with_variance.variance_at = lambda scale, moment: scale * moment(4)
    assert FunctionRegression(with_variance, 2, input_scale=2.0, inputs="laplace").label_variance == 12.0
    zero = SimpleNamespace(d_input=2, draw=lambda key, active: key, apply=lambda w, x: 0 * x[:, :1])
    with pytest.raises(ValueError, match=r"above 0; with inputs='normal' and input_scale=1 the mean square is 0$"):
        _ = FunctionRegression(zero).label_variance


def test_a_class_that_extends_another_has_its_own_variance():
    @dataclass(frozen=True)
    class Twice(tasks.Linear):
        variance = 4.0 * D  # pyright: ignore

        def apply(self, w, x):
            return 2 * x @ w.T

    assert FunctionRegression(Twice(D), 2, input_scale=3.0).label_variance == 9 * 4.0 * D

    @dataclass(frozen=True)
    class Fifth(Polynomial):
        degree: int = 5

    assert variance_of(Fifth(D), 2.0) == 2.0**10 * D


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_that_ships_has_the_form(name):
    assert _wrong_form(getattr(CLASSES[name], "functions", CLASSES[name])) == ""


def of_form(**changes):
    """A call that makes a task of a function class with other attributes; None removes an attribute."""
    attributes = {"d_input": 3, "draw": Own().draw, "apply": Own().apply, **changes}
    return lambda: FunctionRegression(
        SimpleNamespace(**{name: value for name, value in attributes.items() if value is not None})
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: tasks.Sparse(3, 4), "non_zeros=4 must be at most d_input=3"),
        (lambda: tasks.DecisionTree(depth=0), "depth=0"),
        (lambda: tasks.ReLUNetwork(hidden=0), "hidden=0"),
        (lambda: tasks.FunctionPool(tasks.Linear(2), 0), "size=0"),
        (lambda: FunctionRegression(tasks.Linear(2), family="north"), "skewed"),
        (lambda: FunctionRegression(tasks.Linear(2), -1), "n_context=-1"),
        (lambda: tasks.Linear(0), "d_input=0"),
        (lambda: tasks.Sparse(-1), "d_input=-1"),
        (lambda: tasks.ReLUNetwork(0), "d_input=0"),
        (lambda: tasks.DecisionTree(0), "d_input=0"),
        (lambda: FunctionRegression(tasks.Linear(2), noise_std=-1.0), r"noise_std=-1\.0"),
        (lambda: FunctionRegression(tasks.Signs(2), noise_std=1.0), "noise_std=1.0: labels of signs"),
        (lambda: FunctionRegression(tasks.Linear(2), 2, "orthogonal_query").sample(jax.random.key(0)), "n_context=2"),
        (lambda: FunctionRegression(tasks.Linear(2), inputs="spher"), r"inputs='spher' must be .* did you mean sphere"),
        (lambda: FunctionRegression(tasks.Linear(2), weights="sparse"), "weights='sparse' must be one of normal, "),
        (lambda: FunctionRegression(tasks.Signs(2), noise="student"), "noise='student': labels of signs .* leave it"),
        (
            lambda: FunctionRegression(tasks.FunctionPool(Own(), 2), weights="laplace"),
            "has no argument entries; set weights='normal'",
        ),
        (lambda: Affine(0), "d_input=0"),
        (lambda: Chebyshev(2, 11), "degree=11 must be a whole number of at least 1 and at most 10"),
        (lambda: variance_of(tasks.Linear(2), -1.0), "scale=-1.0 must be a number above 0"),
        (
            lambda: FunctionRegression(tasks.Linear),
            "must be an instance of a FunctionClass, not the class; write Linear",
        ),
        (of_form(apply=None), r"must be a FunctionClass, with d_input, .*; it has no apply$"),
        (of_form(d_input="3"), r"must be .* d_input is a whole number of at least 1, not '3'$"),
        (of_form(draw=lambda key: key), r"draw\(key, None\) raises TypeError: .* 2 were given$"),
        (of_form(apply=lambda w, x: x @ w), r"apply\(w, x \[1 3\]\) raises TypeError: [^\n]*$"),
        (of_form(apply=lambda w, x: (x @ w.T)[:, 0]), r"x \[1 3\]\) returns shape \(1,\), expected shape \(1, 1\)$"),
        (of_form(apply=lambda w, x: x[:1] @ w.T), r"x \[4 3\]\) returns shape \(1, 1\), expected shape \(4, 1\)$"),
        (of_form(apply=lambda w, x: [x @ w.T]), r"returns a list, expected shape \(1, 1\)$"),
    ],
)
def test_what_makes_no_task_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_family_that_takes_no_inputs_has_its_own(monkeypatch):
    north = families.PromptDistribution(lambda key, n, d: 2 * (jnp.ones((n, d)),), True)
    monkeypatch.setitem(PROMPT_DISTRIBUTIONS, "north", north)
    assert np.all(FunctionRegression(tasks.Linear(2), 3, "north").sample_prefixes(jax.random.key(0)).x == 1.0)
    with pytest.raises(ValueError, match="inputs='laplace': the draw of family='north' has no argument inputs; set"):
        FunctionRegression(tasks.Linear(2), 3, "north", inputs="laplace")
