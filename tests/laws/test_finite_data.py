"""Finite data: pools of prompts that are used repeatedly, and prompts cut from a table."""

import jax
import numpy as np
import pytest

from icl_gd.models import TransformerConfig
from icl_gd.tasks import FinitePool, LinearRegression, Table, standardised_table
from icl_gd.training import TrainSettings, train

TASK = LinearRegression(3, 2, 4)


def sampler(sample):
    """A compiled function of a seed and a count, which draws `count` samples, one per key."""

    def drawn(seed, count):
        return jax.vmap(sample)(jax.random.split(jax.random.key(seed), count))

    return jax.jit(drawn, static_argnums=1)


def test_a_pool_has_its_prompts_and_no_others():
    pool = FinitePool(TASK, 5, seed=3)
    drawn = jax.tree.map(np.asarray, sampler(pool.sample)(1, 2000))

    @jax.jit
    def prompts_of():
        larger = FinitePool(TASK, 50, seed=3).prompt(4).x
        return [pool.prompt(i) for i in range(5)], [FinitePool(TASK, 5, seed=4).prompt(i).x for i in range(5)], larger

    pool_prompts, other_seed, larger = jax.tree.map(np.asarray, prompts_of())
    x, counts = drawn.x, [np.sum(np.all(drawn.x == prompt.x, axis=(1, 2))) for prompt in pool_prompts]
    assert sum(counts) == 2000
    np.testing.assert_allclose(counts, 400, atol=5 * 400**0.5)
    for i, prompt in enumerate(pool_prompts):
        position = int(np.flatnonzero(np.all(x == prompt.x, axis=(1, 2)))[0])
        for expected, actual in zip(prompt, (leaf[position] for leaf in drawn), strict=True):
            np.testing.assert_allclose(expected, actual, atol=1e-6)
        assert not np.any(prompt.x == other_seed[i])
    np.testing.assert_array_equal(larger, pool_prompts[4].x)  # a larger pool contains the prompts of a smaller one
    with pytest.raises(ValueError, match="size=0"):
        FinitePool(TASK, 0)


def test_training_on_a_pool_of_one_is_training_on_its_prompt():
    """All batches from a pool of one are equal, so the loss falls steadily; with a pool of 50 it fluctuates."""
    settings = TrainSettings(steps=3, batch_size=4, clip=1.0, share_batches=True)
    config = TransformerConfig(5, init_scale=1.0)
    losses = {}
    for size in (1, 50):
        losses[size] = []
        train(
            FinitePool(TASK, size), config, settings, chunk_steps=1, on_chunk=lambda *a, s=size: losses[s].append(a[2])
        )
    first, second, third = (float(np.asarray(loss)[0, 0]) for loss in losses[1])
    assert first > second > third
    assert abs(first - third) < 0.1 * first  # the loss of another prompt would differ more
    assert np.ptp(losses[50]) > 0.1 * np.mean(losses[50])


def table(n_context=4):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 3)) * np.array([1.0, 5.0, 0.1]) + 2.0
    return Table(x, x @ rng.normal(size=(3, 2)) + rng.normal(size=(12, 2)), n_context)


def test_prompts_of_a_table_are_rows_without_repetition(x64):
    cut = table()
    prompts = jax.tree.map(np.asarray, sampler(cut.sample)(0, 500))
    inputs = np.concatenate([prompts.x, prompts.x_query[:, None]], axis=1)
    labels = np.concatenate([prompts.y, prompts.y_query[:, None]], axis=1)
    rows = np.argmin(np.abs(inputs[:, :, None, 0] - cut.x[None, None, :, 0]), axis=-1)
    np.testing.assert_array_equal(inputs, cut.x[rows])
    np.testing.assert_array_equal(labels, cut.y[rows])
    assert all(len(set(row_numbers)) == 5 for row_numbers in rows)
    assert set(rows[:, -1]) == set(range(12))  # every row occurs as a query
    np.testing.assert_allclose(cut.x.T @ (cut.x @ prompts.w[0].T - cut.y), 0, atol=1e-9)
    assert (cut.d_input, cut.d_output) == (3, 2)


def test_standardised_columns():
    plain = table()
    cut = standardised_table(plain.x, plain.y, 4, 0.3, 2.0)
    for values, std in ((cut.x, 0.3), (cut.y, 2.0)):
        np.testing.assert_allclose(values.mean(0), 0, atol=1e-12)
        np.testing.assert_allclose(values.std(0), std)
    with pytest.raises(ValueError, match="column 1 of x is constant"):
        standardised_table(plain.x * np.array([1.0, 0.0, 1.0]), plain.y)


def test_bad_tables_are_refused():
    cut = table()
    with pytest.raises(ValueError, match="12 rows, y has 11"):
        Table(cut.x, cut.y[1:])
    with pytest.raises(ValueError, match="n_context=12"):
        table(12)


def test_the_sample_of_a_table_is_one_program():
    """jit and vmap draw the same rows."""
    cut = table()
    alone = jax.jit(lambda seed, i: cut.sample(jax.random.split(jax.random.key(seed), 3)[i]).x)
    together = np.asarray(sampler(cut.sample)(2, 3).x)
    for i in range(3):
        np.testing.assert_allclose(alone(2, i), together[i], rtol=1e-6)
    assert not np.array_equal(together[0], together[1])
