"""Training from the weights of another model: the first step starts at them; weights that do not fit are refused."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import pytest

import icl_gd
from icl_gd import LinearRegression, TrainSettings, TransformerConfig, models, tokens
from icl_gd.training import in_context, population
from icl_gd.training.problem import learning_problem
from icl_gd.training.warm_start import start_weights
from icl_gd.trees import by_name

TASK, MODEL = LinearRegression(2, 1, 3), TransformerConfig(3, init_scale=1.0)
STEP = TrainSettings(steps=1, batch_size=4, optimizer="sgd", learning_rate=0.1, clip=None)


class StartModel:
    """Any object with `params`."""

    def __init__(self, params):
        self.params = params


def weights(seeds, config=MODEL, seed=7):
    return StartModel(in_context.initialise(config, STEP, seed, seeds).member.params)


def test_the_first_step_is_taken_from_the_given_weights():
    start = weights(2)
    trained = icl_gd.train(TASK, MODEL, STEP, seeds=2, start=start)
    draw, loss = learning_problem(TASK, MODEL, tokens.LAYOUTS["concatenated"](2, 1), STEP)
    data = population.member_specs(0, 2, STEP, {}).data

    @jax.jit
    def stepped(params, key):
        gradient = jax.grad(loss)(params, draw(jax.random.fold_in(key, 0), 0))
        return jax.tree.map(lambda leaf, leaf_gradient: leaf - 0.1 * leaf_gradient, params, gradient)

    chex.assert_trees_all_close(trained.params, jax.vmap(stepped)(start.params, data), rtol=1e-5)
    # `train` donates its buffers, so it must copy the start weights.
    chex.assert_trees_all_equal(start.params, weights(2).params)


def test_who_starts_from_what():
    """One model starts all members. A population with one model per seed starts the members of every combination."""
    two = weights(2)
    one = models.Model(MODEL, jax.tree.map(lambda leaf: leaf[0], two.params), tokens.concatenated(2, 1))
    expected_from_two = by_name(jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), two.params))
    expected_from_one = by_name(jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), one.params))
    chex.assert_trees_all_equal(start_weights(two, MODEL, members=4, seeds=2), expected_from_two)
    chex.assert_trees_all_equal(start_weights(one, MODEL, members=4, seeds=2), expected_from_one)


def test_blocks_that_are_given_stay_given():
    start, deep = weights(1, replace(MODEL, n_layers=2)), replace(MODEL, n_layers=2)
    frozen = {"block_1": jax.tree.map(lambda leaf: jnp.ones_like(leaf[0]), start.params["block_1"])}
    trained = icl_gd.train(TASK, deep, STEP, start=start, frozen=frozen)
    chex.assert_trees_all_equal(trained.member(0)["block_1"], frozen["block_1"])
    assert not jnp.array_equal(trained.params["block_0"]["attention"]["P"], start.params["block_0"]["attention"]["P"])


def test_modifications_are_those_of_the_new_population():
    """The strengths of the new config are used, not those that the start weights were trained with."""
    plain = replace(MODEL, attention="softmax", attend_to_query=True)
    old, new = (replace(plain, modification=models.Modification(damping)) for damping in (0.5, 0.25))
    trained = icl_gd.train(TASK, new, STEP, start=weights(1, old))
    damping = [leaf for name, leaf in by_name(trained.params).items() if name.endswith("query_damping")]
    chex.assert_trees_all_equal(damping, [jnp.full((1,), 0.25)])


def test_what_does_not_fit_is_refused():
    def train(start, config=MODEL, **more):
        return icl_gd.train(TASK, config, STEP, start=start, **more)

    with pytest.raises(ValueError, match="start: weights of 3 members cannot start a population of 2; give weights"):
        train(weights(3), seeds=2)
    with pytest.raises(ValueError, match=r"start: the layers differ, only the new model has block_1"):
        train(weights(1), replace(MODEL, n_layers=2))
    with pytest.raises(ValueError, match=r"start: the layers differ, only the starting model has block_1"):
        train(weights(1, replace(MODEL, n_layers=2)))
    with pytest.raises(ValueError, match=r"start: block_0.* has shape \(.*4\) in the starting weights, \(.*3\) in"):
        train(weights(1, replace(MODEL, d_token=4)))


def test_a_run_goes_on_from_the_weights_that_it_began_with(tmp_path):
    icl_gd.train(TASK, MODEL, STEP, start=weights(1), checkpoints=tmp_path)
    icl_gd.train(TASK, MODEL, STEP, start=weights(1), checkpoints=tmp_path)
    for other in (None, weights(1, seed=8)):
        with pytest.raises(ValueError, match="another population: start differ"):
            icl_gd.train(TASK, MODEL, STEP, start=other, checkpoints=tmp_path)
