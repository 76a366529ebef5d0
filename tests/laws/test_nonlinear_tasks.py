"""Law 3 for nonlinear tasks: equal keys give equal prompts, and moments are as documented."""

import chex
import jax
import numpy as np
import pytest

from icl_gd.tasks import ELEMENTWISE, ElementwiseRegression, SineRegression
from icl_gd.types import Prompt

TASKS = {"free": SineRegression(4), "faithful": SineRegression(4, faithful=True)}
ELEMENTWISE_TASKS = {name: ElementwiseRegression(name, 3, 2, 4) for name in ELEMENTWISE}


def drawn(task, count, seed):
    """`count` prompts, one per key."""
    sample = jax.jit(lambda seed: jax.vmap(task.sample)(jax.random.split(jax.random.key(seed), count)))
    return jax.tree.map(np.asarray, sample(seed))


@pytest.mark.parametrize("name", [*TASKS, *ELEMENTWISE_TASKS])
def test_same_key_same_prompt(name):
    task = (TASKS | ELEMENTWISE_TASKS)[name]
    sample = jax.jit(lambda seed, i: task.sample(jax.random.split(jax.random.key(seed), 3)[i]))
    batch = drawn(task, 3, 0)
    for i in range(3):
        for leaf, same, batch_leaf in zip(sample(0, i), sample(0, i), batch, strict=True):
            np.testing.assert_array_equal(leaf, same)
            np.testing.assert_allclose(leaf, batch_leaf[i], atol=1e-6)
    assert not np.any(batch.x[0] == batch.x[1])


@pytest.mark.parametrize("name", [*TASKS, *ELEMENTWISE_TASKS])
def test_a_prompt_drawn_without_jit_is_the_same(name):
    task, key = (TASKS | ELEMENTWISE_TASKS)[name], jax.random.key(0)
    for eager, jitted in zip(task.sample(key), jax.jit(task.sample)(key), strict=True):
        np.testing.assert_allclose(eager, jitted, atol=1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_moments_and_labels(name, x64):
    task, n = TASKS[name], 100_000
    p = drawn(task, n, 1)
    amplitude, phase = p.w[:, 0].T
    assert np.all((np.abs(p.x) <= 5) & (amplitude >= 0.1)[:, None, None] & (amplitude <= 0.5)[:, None, None])
    assert 0 <= phase.min() < 0.01
    assert np.pi - 0.01 < phase.max() <= np.pi
    np.testing.assert_allclose(p.y[..., 0], amplitude[:, None] * np.sin(p.x[..., 0] + phase[:, None]), atol=1e-12)
    np.testing.assert_allclose(p.y_query[:, 0], amplitude * np.sin(p.x_query[:, 0] + phase), atol=1e-12)
    y = p.y_query[:, 0]
    for power, exact in zip((1, 2), task.label_moments, strict=True):
        assert abs((y**power).mean() - exact) < 4 * (y**power).std() / n**0.5
    parts = np.stack([p.x_query[:, 0], p.x[:, 0, 0], amplitude, phase])
    expected = np.eye(4)
    if task.faithful:
        expected[2, 3] = expected[3, 2] = 1.0
        np.testing.assert_allclose((amplitude - 0.1) / 0.4, phase / np.pi, atol=1e-6)
    np.testing.assert_allclose(np.corrcoef(parts), expected, atol=5 / n**0.5)


def test_the_two_families_differ_in_their_second_moment():
    """Second moments differ by less than the sampling error of `test_moments_and_labels`; this test is exact."""
    free, faithful = (TASKS[name].label_moments for name in ("free", "faithful"))
    assert free == pytest.approx((0.6 / np.pi * np.sin(5.0) / 5, 0.31 / 6))
    assert faithful[1] - free[1] == pytest.approx(-0.04 / np.pi**2 * np.sin(10.0) / 10)


@pytest.mark.parametrize("of_length", [SineRegression, lambda n: ElementwiseRegression("exponential", 3, 2, n)])
def test_longer_contexts_continue_shorter_ones(of_length):
    both = jax.jit(lambda key: [of_length(n).sample(key) for n in (4, 9)])
    short, long = jax.tree.map(np.asarray, both(jax.random.key(2)))
    np.testing.assert_array_equal(short.w, long.w)
    np.testing.assert_array_equal(short.x_query, long.x_query)
    np.testing.assert_array_equal(short.x, long.x[:4])
    np.testing.assert_allclose(short.y, long.y[:4], atol=1e-6)


def test_it_is_linear_in_two_waves(x64):
    """y = (a cos p) sin x + (a sin p) cos x, so least squares on sin x and cos x is exact from two examples on."""
    p = jax.tree.map(np.asarray, jax.jit(SineRegression(2).sample)(jax.random.key(3)))

    def waves(x):
        return np.concatenate([np.sin(x), np.cos(x)], -1)

    w, *_ = np.linalg.lstsq(waves(p.x), p.y)
    np.testing.assert_allclose(w.T @ waves(p.x_query), p.y_query, atol=1e-8)


@pytest.mark.parametrize("name", ELEMENTWISE_TASKS)
def test_functions_of_each_input_have_labels_of_variance_one(name, x64):
    p = drawn(ELEMENTWISE_TASKS[name], 50_000, 2)
    formula = {"linear": p.x, "trigonometric": np.sin(np.pi * p.x), "exponential": np.exp(p.x)}[name]
    np.testing.assert_allclose(p.y, np.einsum("bnd,bmd->bnm", formula, p.w), rtol=1e-10, atol=1e-12)
    square = p.y_query**2
    assert abs(square.mean() - 1.0) < 4 * square.mean(1).std() / len(square) ** 0.5
    assert np.abs(p.x).max() <= 1.0


@pytest.mark.parametrize("name", ELEMENTWISE_TASKS)
def test_prefixes_of_each_ask_for_the_input_to_come(name, x64):
    """Query k is x[k]. A curriculum stage is the same prompt with its last input coordinates set to 0."""
    task = ELEMENTWISE_TASKS[name]

    @jax.jit
    def run(key):
        stage = task.sample_prefixes(key, 2)
        return task.sample(key), task.sample_prefixes(key), stage, ELEMENTWISE[name][0](stage.x)

    prompt, (x, y, x_query, y_query, w), stage, features = jax.tree.map(np.asarray, run(jax.random.key(5)))
    np.testing.assert_array_equal(x, x_query)
    np.testing.assert_array_equal(y, y_query)
    chex.assert_trees_all_equal(prompt, Prompt(x[:-1], y[:-1], x[-1], y[-1], w), strict=True)
    np.testing.assert_array_equal(stage.x, np.where(np.arange(3) < 2, x, 0.0))
    np.testing.assert_allclose(stage.y, features @ w.T, rtol=1e-12)


def test_a_function_that_is_unknown_is_named():
    with pytest.raises(ValueError, match="function='cubic' must be one of linear"):
        ElementwiseRegression("cubic")
