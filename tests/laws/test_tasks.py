"""Law 3: a task is a function of its key, and its moments are what it says."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd.tasks import FAMILIES, SHIFTS, LinearRegression, change_family

COVARIANCE = ((1.0, 0.4), (0.4, 0.5))
TASKS = {name: LinearRegression(2, 2, 3, inputs=name, noise_std=0.3) for name in FAMILIES}
TASKS |= {
    f"{name}_covariance": LinearRegression(2, 1, 3, name, covariance=COVARIANCE) for name in ("uniform", "normal")
}


@pytest.mark.parametrize("name", TASKS)
def test_same_key_same_prompt(name):
    task, keys = TASKS[name], jax.random.split(jax.random.key(0), 3)
    sample, batch = jax.jit(task.sample), jax.jit(jax.vmap(task.sample))(keys)
    for i, key in enumerate(keys):
        for one, again, batched in zip(sample(key), sample(key), batch, strict=True):
            np.testing.assert_array_equal(one, again)
            np.testing.assert_allclose(one, batched[i], atol=1e-6)
    for eager, jitted in zip(task.sample(keys[0]), sample(keys[0]), strict=True):
        np.testing.assert_allclose(eager, jitted, atol=1e-6)
    for first, second in zip(*(jax.tree.map(lambda leaf, i=i: leaf[i], batch) for i in (0, 1)), strict=True):
        assert not np.any(first == second)


@pytest.mark.parametrize("name", TASKS)
def test_moments_and_labels(name, x64):
    task = TASKS[name]
    apart = jax.jit(jax.vmap(task.sample))(jax.random.split(jax.random.key(1), 20_000))
    together = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), task.sample(jax.random.key(2), (20_000,)))
    for prompts in (apart, together):
        check_moments_and_labels(name, task, prompts)


def check_moments_and_labels(name, task, prompts):
    x = np.concatenate([np.asarray(prompts.x).reshape(-1, 2), np.asarray(prompts.x_query)])
    if name == "exponential":  # not centred: the documented second moment is that of a coordinate
        np.testing.assert_allclose(np.mean(x**2, 0), np.diag(task.second_moment), rtol=0.05)
    else:
        np.testing.assert_allclose(x.T @ x / len(x), task.second_moment, atol=0.02 * np.trace(task.second_moment))
    if task.covariance is None:
        np.testing.assert_allclose(np.mean(x**4), task.fourth_moment, rtol=0.1)
    clean = jnp.einsum("bnd,bmd->bnm", prompts.x, prompts.w)
    np.testing.assert_allclose(np.std(prompts.y - clean), task.noise_std, atol=0.01)
    np.testing.assert_allclose(prompts.y_query, jnp.einsum("bd,bmd->bm", prompts.x_query, prompts.w), atol=1e-12)
    np.testing.assert_allclose(np.std(prompts.w), task.weight_scale, rtol=0.02)
    drawn = np.stack([prompts.x_query[:, 0], prompts.x[:, 0, 0], prompts.w[:, 0, 0], (prompts.y - clean)[:, 0, 0]])
    correlations = np.corrcoef(drawn if task.noise_std else drawn[:3])  # each from a key of its own
    np.testing.assert_allclose(correlations, np.eye(len(correlations)), atol=5 / len(prompts.x) ** 0.5)


def test_prompts_of_a_batch_differ():
    x = np.asarray(LinearRegression(2, 1, 3).sample(jax.random.key(0), (4,)).x)
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
    """Means and covariances of all entries, of their products with y_query, and the spread of the determinant agree."""
    task, n = DIRECT[name], 60_000

    def statistics(direct, seed):
        (context, query), y_query = task.sample_moments(jax.random.key(seed), n, direct)
        flat = np.asarray(jnp.concatenate([context.reshape(-1, n), query, y_query]))
        top = np.linalg.eigvalsh(np.moveaxis(np.asarray(context), -1, 0))[:, -1]
        y_hat = np.asarray(jnp.einsum("ibn,bn->in", context[-task.d_output :], query))  # a gradient step's prediction
        return np.stack([*flat, *(flat[0] * flat), *(y_hat * np.asarray(y_query)), *y_hat**2, top, np.log1p(top)])

    ours, theirs = statistics(True, 0), statistics(False, 1)
    error = np.sqrt((ours.var(1) + theirs.var(1)) / n)
    assert np.all(np.abs(ours.mean(1) - theirs.mean(1)) < 5 * error + 1e-12)
    deviation = np.abs(np.log((ours.std(1) + 1e-9) / (theirs.std(1) + 1e-9)))
    kurtosis = np.mean((theirs - theirs.mean(1, keepdims=True)) ** 4, 1) / np.maximum(theirs.var(1), 1e-12) ** 2
    assert np.all(deviation < 5 * np.sqrt(kurtosis / (2 * n)) + 1e-6)


@pytest.mark.parametrize("k", [0, 2, 5])
def test_corrupted_labels(k, x64):
    """As many as asked for, all of an example's or none, any example's, by N(0, 1); the rest is as without them."""
    clean = LinearRegression(2, 2, 5, weight_scale=3.0)
    task = replace(clean, corrupted_labels=k)
    key, n = jax.random.key(4), 4000
    whole, before = task.sample(key, (n,)), clean.sample(key, (n,))
    for name in ("x", "x_query", "y_query", "w"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(before, name))
    replaced = np.asarray(whole.y != before.y)
    np.testing.assert_array_equal(replaced.sum(0), np.full((2, n), k))
    np.testing.assert_array_equal(replaced[:, 0], replaced[:, 1])
    np.testing.assert_allclose(replaced.mean((1, 2)), k / 5, atol=5 * (0.25 / n) ** 0.5)
    if k:
        noise = np.asarray(whole.y)[replaced]
        np.testing.assert_allclose([noise.mean(), noise.std()], [0, 1], atol=5 / len(noise) ** 0.5)
    (context, _), y_query = task.sample_moments(key, n)
    tokens = jnp.concatenate([whole.x, whole.y], axis=1)
    np.testing.assert_allclose(context, jnp.einsum("nab,ncb->acb", tokens, tokens), atol=1e-12)
    np.testing.assert_array_equal(y_query, whole.y_query)
    traced = jax.jit(lambda k: replace(clean, corrupted_labels=k).sample(key))(jnp.asarray(float(k)))
    np.testing.assert_allclose(traced.y, task.sample(key).y, atol=1e-12)


def test_longer_contexts_continue_shorter_ones():
    short, long = (LinearRegression(3, 1, n).sample(jax.random.key(2)) for n in (4, 9))
    np.testing.assert_array_equal(short.x, long.x[:4])
    np.testing.assert_allclose(short.y, long.y[:4], atol=1e-6)
    np.testing.assert_array_equal(short.x_query, long.x_query)


def test_shifts_do_what_they_say():
    task, key = LinearRegression(3, 1, 4), jax.random.key(3)
    before = task.sample(key)
    scaled = SHIFTS["input_scale"].apply(task, 1.5).sample(key)
    np.testing.assert_allclose(scaled.x, 1.5 * before.x, rtol=1e-6)
    np.testing.assert_allclose(scaled.y_query, 1.5 * before.y_query, rtol=1e-5)
    heavier = SHIFTS["weight_scale"].apply(task, 2.0).sample(key)
    np.testing.assert_allclose(heavier.y, 2 * before.y, rtol=1e-5)
    np.testing.assert_array_equal(heavier.x, before.x)
    for family in FAMILIES:
        moved = change_family(task, family)
        np.testing.assert_allclose(np.trace(moved.second_moment), np.trace(task.second_moment), rtol=1e-12)
        assert (moved.inputs, moved.weight_scale, moved.n_context) == (family, 1.0, 4)
    assert [SHIFTS["context_length"].apply(task, factor).n_context for factor in (0.1, 0.5, 2.0)] == [1, 2, 8]
    assert SHIFTS["corrupted_labels"].apply(task, 2).corrupted_labels == 2
    skewed = LinearRegression(2, 1, 3, covariance=COVARIANCE, input_scale=2.0)
    np.testing.assert_array_equal(change_family(skewed, "normal").second_moment, skewed.second_moment)


def test_bad_tasks_are_refused():
    with pytest.raises(ValueError, match="family"):
        LinearRegression(inputs="cauchy")
    with pytest.raises(ValueError, match="directly for normal"):
        LinearRegression(inputs="uniform").sample_moments(jax.random.key(0), 3, direct=True)
    with pytest.raises(ValueError, match="corrupted_labels=6 must be from 0 to n_context=5"):
        LinearRegression(n_context=5, corrupted_labels=6)
    with pytest.raises(ValueError, match="corrupted_labels=1: moments"):
        LinearRegression(inputs="normal", corrupted_labels=1).sample_moments(jax.random.key(0), 3, direct=True)
    with pytest.raises(ValueError, match="covariance"):
        LinearRegression(d_input=3, covariance=COVARIANCE)
