"""Law 3: equal keys give equal prompts, and the moments of a task are as documented."""

from dataclasses import replace
from functools import partial

import chex
import jax
import numpy as np
import pytest

from icl_gd.tasks import INPUT_DISTRIBUTIONS, SHIFTS, LinearRegression, change_family

COVARIANCE = ((1.0, 0.4), (0.4, 0.5))
TASKS = {name: LinearRegression(2, 2, 3, inputs=name, noise_std=0.3) for name in INPUT_DISTRIBUTIONS}
TASKS |= {
    f"{name}_covariance": LinearRegression(2, 1, 3, name, covariance=COVARIANCE) for name in ("uniform", "normal")
}


@partial(jax.jit, static_argnums=(0, 1))
def drawn(task, count, seed):
    """`count` prompts, one per key."""
    return jax.vmap(task.sample)(jax.random.split(jax.random.key(seed), count))


@pytest.mark.parametrize("name", TASKS)
def test_same_key_same_prompt(name):
    task = TASKS[name]
    sample = jax.jit(lambda seed, i: task.sample(jax.random.split(jax.random.key(seed), 3)[i]))
    batch = jax.tree.map(np.asarray, drawn(task, 3, 0))
    for i in range(3):
        one = sample(0, i)
        chex.assert_trees_all_equal(one, sample(0, i), strict=True)
        chex.assert_trees_all_close(one, jax.tree.map(lambda leaf, i=i: leaf[i], batch), rtol=1e-7, atol=1e-6)
    for leaf in batch:
        assert not np.any(leaf[0] == leaf[1])


@pytest.mark.parametrize("name", TASKS)
def test_a_prompt_drawn_without_jit_is_the_same(name):
    task, key = TASKS[name], jax.random.key(0)
    chex.assert_trees_all_close(task.sample(key), jax.jit(task.sample)(key), rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_moments_and_labels(name, x64):
    task = TASKS[name]
    one_per_key = drawn(task, 20_000, 1)
    one_batch = jax.jit(lambda seed: task.sample(jax.random.key(seed), (20_000,)))(2)
    check_moments_and_labels(name, task, jax.tree.map(np.asarray, one_per_key))
    check_moments_and_labels(name, task, jax.tree.map(lambda leaf: np.moveaxis(np.asarray(leaf), -1, 0), one_batch))


def check_moments_and_labels(name, task, prompts):
    x = np.concatenate([prompts.x.reshape(-1, 2), prompts.x_query])
    if name == "exponential":  # not centred: `second_moment` is that of one coordinate
        np.testing.assert_allclose(np.mean(x**2, 0), np.diag(task.second_moment), rtol=0.05)
    else:
        np.testing.assert_allclose(x.T @ x / len(x), task.second_moment, atol=0.02 * np.trace(task.second_moment))
    if task.covariance is None:
        np.testing.assert_allclose(np.mean(x**4), task.fourth_moment, rtol=0.1)
    clean = np.einsum("bnd,bmd->bnm", prompts.x, prompts.w)
    np.testing.assert_allclose(np.std(prompts.y - clean), task.noise_std, atol=0.01)
    np.testing.assert_allclose(prompts.y_query, np.einsum("bd,bmd->bm", prompts.x_query, prompts.w), atol=1e-12)
    np.testing.assert_allclose(np.std(prompts.w), task.weight_scale, rtol=0.02)
    parts = np.stack([prompts.x_query[:, 0], prompts.x[:, 0, 0], prompts.w[:, 0, 0], (prompts.y - clean)[:, 0, 0]])
    correlations = np.corrcoef(parts if task.noise_std else parts[:3])  # drawn from separate keys
    np.testing.assert_allclose(correlations, np.eye(len(correlations)), atol=5 / len(prompts.x) ** 0.5)


def test_prompts_of_a_batch_differ():
    x = np.asarray(jax.jit(lambda seed: LinearRegression(2, 1, 3).sample(jax.random.key(seed), (4,)).x)(0))
    assert len(np.unique(x)) == x.size == 3 * 2 * 4


DIRECT = {
    "plain": LinearRegression(2, 1, 5, "normal", input_scale=0.7),
    "covariance": LinearRegression(2, 2, 5, "normal", covariance=COVARIANCE),
    "noise": LinearRegression(2, 1, 5, "normal", noise_std=0.6, weight_scale=1.3),
    "fewer_examples": LinearRegression(3, 1, 2, "normal"),
    "fewer_noisy": LinearRegression(2, 1, 2, "normal", noise_std=0.6),
    "one": LinearRegression(1, 1, 1, "normal", noise_std=0.3),
}


@pytest.mark.parametrize("name", DIRECT)
def test_moments_drawn_directly_have_the_law_of_contexts(name, x64):
    """Means and standard deviations agree for entries, products of entries, a gradient step, the largest eigenvalue."""
    task, n = DIRECT[name], 60_000

    def statistics(direct, seed):
        sample = jax.jit(lambda seed: task.sample_gram(jax.random.key(seed), n, direct))
        (context, query), y_query = jax.tree.map(np.asarray, sample(seed))
        flat = np.concatenate([context.reshape(-1, n), query, y_query])
        top = np.linalg.eigvalsh(np.moveaxis(context, -1, 0))[:, -1]
        y_hat = np.einsum("ibn,bn->in", context[-task.d_output :], query)  # a gradient step's prediction
        return np.stack([*flat, *(flat[0] * flat), *(y_hat * y_query), *y_hat**2, top, np.log1p(top)])

    drawn_directly, from_prompts = statistics(True, 0), statistics(False, 1)
    error = np.sqrt((drawn_directly.var(1) + from_prompts.var(1)) / n)
    assert np.all(np.abs(drawn_directly.mean(1) - from_prompts.mean(1)) < 5 * error + 1e-12)
    deviation = np.abs(np.log((drawn_directly.std(1) + 1e-9) / (from_prompts.std(1) + 1e-9)))
    kurtosis = (
        np.mean((from_prompts - from_prompts.mean(1, keepdims=True)) ** 4, 1)
        / np.maximum(from_prompts.var(1), 1e-12) ** 2
    )
    assert np.all(deviation < 5 * np.sqrt(kurtosis / (2 * n)) + 1e-6)


@pytest.mark.parametrize("k", [0, 2, 5])
def test_corrupted_labels(k, x64):
    """Exactly k examples, chosen at random, have all labels replaced by N(0, 1); everything else is unchanged."""
    clean = LinearRegression(2, 2, 5, weight_scale=3.0)
    task, n = replace(clean, corrupted_labels=k), 4000

    @jax.jit
    def run(seed, traced_k):
        key = jax.random.key(seed)
        traced = replace(clean, corrupted_labels=traced_k).sample(key)
        prompts = task.sample(key, (n,)), clean.sample(key, (n,))
        return *prompts, task.sample_gram(key, n), traced.y, task.sample(key).y

    corrupted, uncorrupted, ((context, _), y_query), traced, single = jax.tree.map(np.asarray, run(4, float(k)))
    for name in ("x", "x_query", "y_query", "w"):
        np.testing.assert_array_equal(getattr(corrupted, name), getattr(uncorrupted, name))
    replaced = corrupted.y != uncorrupted.y
    np.testing.assert_array_equal(replaced.sum(0), np.full((2, n), k))
    np.testing.assert_array_equal(replaced[:, 0], replaced[:, 1])
    np.testing.assert_allclose(replaced.mean((1, 2)), k / 5, atol=5 * (0.25 / n) ** 0.5)
    if k:
        noise = corrupted.y[replaced]
        np.testing.assert_allclose([noise.mean(), noise.std()], [0, 1], atol=5 / len(noise) ** 0.5)
    tokens = np.concatenate([corrupted.x, corrupted.y], axis=1)
    np.testing.assert_allclose(context, np.einsum("nab,ncb->acb", tokens, tokens), atol=1e-12)
    np.testing.assert_array_equal(y_query, corrupted.y_query)
    np.testing.assert_allclose(traced, single, atol=1e-12)


def test_longer_contexts_continue_shorter_ones():
    draw = jax.jit(lambda key: [LinearRegression(3, 1, n).sample(key) for n in (4, 9)])
    short, long = jax.tree.map(np.asarray, draw(jax.random.key(2)))
    np.testing.assert_array_equal(short.x, long.x[:4])
    np.testing.assert_allclose(short.y, long.y[:4], atol=1e-6)
    np.testing.assert_array_equal(short.x_query, long.x_query)


def test_shifts_do_what_they_say():
    task = LinearRegression(3, 1, 4)
    shifted = task, SHIFTS["input_scale"].apply(task, 1.5), SHIFTS["weight_scale"].apply(task, 2.0)
    draw = jax.jit(lambda key: [each.sample(key) for each in shifted])
    before, with_larger_inputs, with_larger_weights = jax.tree.map(np.asarray, draw(jax.random.key(3)))
    np.testing.assert_allclose(with_larger_inputs.x, 1.5 * before.x, rtol=1e-6)
    np.testing.assert_allclose(with_larger_inputs.y_query, 1.5 * before.y_query, rtol=1e-5)
    np.testing.assert_allclose(with_larger_weights.y, 2 * before.y, rtol=1e-5)
    np.testing.assert_array_equal(with_larger_weights.x, before.x)
    for family in INPUT_DISTRIBUTIONS:
        changed = change_family(task, family)
        np.testing.assert_allclose(np.trace(changed.second_moment), np.trace(task.second_moment), rtol=1e-12)
        assert (changed.inputs, changed.weight_scale, changed.n_context) == (family, 1.0, 4)
    assert [SHIFTS["context_length"].apply(task, factor).n_context for factor in (0.1, 0.5, 2.0)] == [1, 2, 8]
    assert SHIFTS["corrupted_labels"].apply(task, 2).corrupted_labels == 2
    skewed = LinearRegression(2, 1, 3, covariance=COVARIANCE, input_scale=2.0)
    np.testing.assert_array_equal(change_family(skewed, "normal").second_moment, skewed.second_moment)


def test_bad_tasks_are_refused():
    with pytest.raises(ValueError, match="inputs='cauchy' must be one of uniform"):
        LinearRegression(inputs="cauchy")
    with pytest.raises(ValueError, match="inputs='uniform': direct=True needs inputs='normal'"):
        LinearRegression(inputs="uniform").sample_gram(jax.random.key(0), 3, direct=True)
    with pytest.raises(ValueError, match="corrupted_labels=6 must be at most n_context=5"):
        LinearRegression(n_context=5, corrupted_labels=6)
    with pytest.raises(ValueError, match="corrupted_labels=1: direct=True needs corrupted_labels=0"):
        LinearRegression(inputs="normal", corrupted_labels=1).sample_gram(jax.random.key(0), 3, direct=True)
    with pytest.raises(ValueError, match="covariance"):
        LinearRegression(d_input=3, covariance=COVARIANCE)
