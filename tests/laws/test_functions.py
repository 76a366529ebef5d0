"""Function classes and prompt families: functions of their key, with the moments and the geometry they say."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest

from icl_gd import tasks
from icl_gd.tasks import FUNCTIONS, PROMPT_FAMILIES, FunctionRegression

D = 6
CLASSES = {name: make(D) for name, make in FUNCTIONS.items()} | {"pool": tasks.FunctionPool(tasks.Linear(D), 3)}
FAMILIES = {name: FunctionRegression(tasks.Linear(D), 9, name) for name in PROMPT_FAMILIES}
TASKS = (
    {name: FunctionRegression(functions, 9) for name, functions in CLASSES.items()}
    | FAMILIES
    | {"noisy": FunctionRegression(tasks.Linear(D), 9, noise_std=1.0, input_scale=2.0, label_scale=3.0)}
)


def many(sample, n):
    """From a seed to so many of what is drawn by a key, as one program."""
    return jax.jit(lambda seed: jax.vmap(sample)(jax.random.split(jax.random.key(seed), n)))


@pytest.mark.parametrize("name", TASKS)
def test_same_key_same_prompt(name):
    task = TASKS[name]
    whole = () if task.family == "orthogonal_query" else (task.sample,)  # at full length no query is orthogonal to all
    samples = lambda key: [sample(key) for sample in (task.sample_prefixes, *whole)]
    alone = jax.jit(lambda seed, i: samples(jax.random.split(jax.random.key(seed), 3)[i]))
    batches = jax.tree.map(np.asarray, many(samples, 3)(0))
    for i in range(3):
        one = alone(0, i)
        for prompts in (alone(0, i), jax.tree.map(lambda leaf, i=i: leaf[i], batches)):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, prompts)
    for batch in batches:
        assert not np.allclose(batch.x[0], batch.x[1])


@pytest.mark.parametrize("name", TASKS)
def test_a_prompt_drawn_without_jit_is_the_same(name):
    task, key = TASKS[name], jax.random.key(0)
    whole = () if task.family == "orthogonal_query" else (task.sample,)
    for sample in (task.sample_prefixes, *whole):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), sample(key), jax.jit(sample)(key))


@pytest.mark.parametrize("name", CLASSES)
def test_labels_have_the_variance_they_say(name):
    task = FunctionRegression(CLASSES[name], 0)
    y = np.asarray(many(lambda key: task.sample(key).y_query, 40_000)(1))
    squares = y[:, 0] ** 2
    spread = squares.std() / len(y) ** 0.5
    if name == "pool":  # of the functions it has, whose sizes differ
        sizes = {round(float(np.sum(one**2)), 4) for one in np.asarray(many(task.functions.draw, 60)(2))}
        assert len(sizes) == task.functions.size
        expected = np.mean(list(sizes))
    else:
        expected = task.functions.variance
    np.testing.assert_allclose(squares.mean(), expected, atol=4 * spread + 1e-6)


def test_functions_are_what_their_formulas_say():
    """Each class against its formula, one input at a time and without arrays."""
    x = np.random.default_rng(0).normal(size=(20, D))

    @jax.jit
    def of(key, x):
        functions = {name: functions.draw(key) for name, functions in CLASSES.items()}
        return {name: (w, CLASSES[name].apply(w, x)[:, 0]) for name, w in functions.items()}

    for name, (w, labels) in jax.tree.map(np.asarray, of(jax.random.key(3), x)).items():
        for one, found in zip(x, labels, strict=True):
            np.testing.assert_allclose(found, by_hand(name, w, one), rtol=1e-5, atol=1e-6, err_msg=name)


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
    linear = sum(a * b for a, b in zip(w[0], x, strict=True))
    return np.sign(linear) if name == "signs" else linear


def test_sparse_functions_have_so_many_inputs_all_of_them_active():
    functions = tasks.Sparse(D, 2)
    w = np.asarray(many(lambda key: functions.draw(key, 4)[0], 200)(4))
    np.testing.assert_array_equal((w != 0).sum(1), 2)
    np.testing.assert_array_equal(w[:, 4:], 0.0)
    np.testing.assert_allclose((w[:, :4] != 0).mean(0), 0.5, atol=0.15)


def test_a_stage_leaves_the_other_inputs_zero_and_the_last_is_the_task():
    stages = jax.jit(lambda key: [TASKS["linear"].sample_prefixes(key, active) for active in (None, 4, D)])
    whole, stage, last = jax.tree.map(np.asarray, stages(jax.random.key(5)))
    np.testing.assert_array_equal(stage.x[:, 4:], 0.0)
    np.testing.assert_array_equal(stage.x[:, :4], whole.x[:, :4])
    jax.tree.map(np.testing.assert_array_equal, last, whole)


@cache
def drawn(name):
    return jax.tree.map(np.asarray, many(FAMILIES[name].sample_prefixes, 2000)(6))


@pytest.mark.parametrize("name", PROMPT_FAMILIES)
def test_inputs_of_every_family_have_the_norm_of_the_standard(name):
    prompts = drawn(name)
    np.testing.assert_allclose(np.mean(prompts.x**2), 1.0, atol=0.03)
    if name == "orthogonal_query":
        assert np.isnan(prompts.x_query[:, D:]).all()
    np.testing.assert_allclose(np.nanmean(prompts.x_query**2), 1.0, atol=0.03)
    np.testing.assert_allclose(prompts.y_query[:, :D], prompts.x_query[:, :D] @ prompts.w.swapaxes(1, 2), atol=1e-4)
    assert np.array_equal(prompts.x, prompts.x_query) == PROMPT_FAMILIES[name].in_order


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
    several = FAMILIES["half_subspace"], FAMILIES["skewed"], replace(FAMILIES["skewed"], n_context=200_000)
    of = jax.jit(lambda key: [task.sample_prefixes(key).x for task in several])
    half, skewed, long = map(np.asarray, of(jax.random.key(7)))
    assert np.linalg.matrix_rank(half, tol=1e-9) == D // 2
    assert np.linalg.matrix_rank(skewed, tol=1e-9) == D
    found = np.linalg.eigvalsh(np.cov(long.T, bias=True))[::-1]
    expected = 1 / np.arange(1, D + 1) ** 2
    np.testing.assert_allclose(found, expected * D / expected.sum(), rtol=0.05)


def test_noise_is_on_the_context_alone_and_renormalised():
    task = FunctionRegression(tasks.Linear(D), 30, noise_std=2.0, renormalised=True, label_scale=3.0)
    prompts = jax.tree.map(np.asarray, many(task.sample_prefixes, 3000)(9))
    np.testing.assert_allclose(np.mean(prompts.y**2), 9 * D, rtol=0.05)
    np.testing.assert_allclose(np.mean((prompts.y - prompts.y_query) ** 2), 9 * 4 / (1 + 4 / D), rtol=0.05)


@pytest.mark.parametrize("name", tasks.PROMPT_SUITE)
def test_predicting_zero_has_error_one_on_all_prompts(name):
    task = tasks.PROMPT_SUITE[name](FunctionRegression(tasks.Linear(D), D - 1))
    y_query = np.asarray(many(lambda key: task.sample_prefixes(key).y_query, 4000)(11))
    errors = np.mean(y_query[..., 0] ** 2, axis=1) / task.label_variance  # of each prompt
    np.testing.assert_allclose(errors.mean(), 1.0, atol=4 * errors.std() / len(errors) ** 0.5)


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
    ],
)
def test_what_makes_no_task_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
