"""Programs are compiled once: calls that differ only in numbers share a program; mutable objects are not cached."""

from dataclasses import dataclass, replace
from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import (
    LinearRegression,
    TrainSettings,
    TransformerConfig,
    analysis,
    learners,
    models,
    programs,
    tokens,
    train,
)
from icl_gd.lab.lifecycle.costs import Clock
from icl_gd.tasks import draw_prompts
from icl_gd.training import in_context
from icl_gd.training.problem import learning_problem

D, N = 2, 3
TASK, MODEL, LAYOUT = LinearRegression(D, 1, N), TransformerConfig(D + 1), tokens.concatenated(D, 1)
SETTINGS = TrainSettings(steps=2, batch_size=4)


def prompts(seed=0):
    return draw_prompts(LinearRegression(D, 1, N).sample, jax.random.key(seed), 4)


def trained(number):
    """Trains new, equal objects; only learning rate, steps, seed and initial scale depend on `number`."""
    settings = replace(SETTINGS, learning_rate=0.1 * number, steps=2 * number)
    model = replace(MODEL, init_scale=0.1 * number)
    return train(
        LinearRegression(D, 1, N), model, settings, seeds=2, seed=number, chunk_steps=2, parallel="none"
    ).params


def member(number):
    return models.init(MODEL, jax.random.key(number))


def risks(number):
    predictor = models.fastest_predictor(MODEL, member(number), LAYOUT)
    losses = jax.tree_util.Partial(_two_losses, predictor, learners.gradient_descent([0.1 * number]))
    return analysis.streamed_risks(losses, LinearRegression(D, 1, N).sample, jax.random.key(number), 8, chunk=4)


def _two_losses(model, learner, prompts):
    return {"model": analysis.losses(model, prompts), "learner": analysis.losses(learner, prompts)}


PREDICTORS = {
    "tokens": lambda number: models.predictor(MODEL, member(number), tokens.concatenated(D, 1)),
    "gram": lambda number: models.fastest_predictor(MODEL, member(number), tokens.concatenated(D, 1)),
    "model": lambda number: models.Model(MODEL, member(number), tokens.concatenated(D, 1)),
    "layers": lambda number: models.layerwise_predictor(MODEL, member(number), tokens.concatenated(D, 1)),
    "gradient_descent": lambda number: learners.gradient_descent([0.1 * number, 0.2]),
    "gd_plus_plus": lambda number: learners.gd_plus_plus([0.1 * number, 0.2], [0.1, 0.2 * number]),
    "ridge": lambda number: learners.ridge(0.1 * number),
    "centred": lambda number: learners.centred(learners.gradient_descent([0.1 * number])),
}
CASES = {
    "train": trained,
    "init": member,
    "risks": risks,
    "fit_step_size": lambda number: learners.fit_step_size(prompts(number)),
    **{
        f"losses-{name}": lambda n, make=make: analysis.losses(make(n), prompts(n)) for name, make in PREDICTORS.items()
    },
    "alignment": lambda n: analysis.alignment(PREDICTORS["gram"](n), PREDICTORS["ridge"](n), prompts(n)),
}


def compiled(f, *args):
    """The number of programs that a call compiled."""
    clock = Clock()
    jax.block_until_ready(f(*args))
    return clock.read()["programs"]


@pytest.mark.parametrize("name", CASES)
def test_other_numbers_run_the_same_programs(name):
    CASES[name](1)
    assert compiled(CASES[name], 2) == 0


def test_risks_are_one_program_over_all_chunks():
    """Also for plain functions, which `cached_by_value` did not return."""
    sample = chex.assert_max_traces(lambda key: TASK.sample(key), 1)
    losses = chex.assert_max_traces(lambda prompts: {"ols": analysis.losses(learners.ols, prompts)}, 1)
    for number in (1, 2):
        analysis.streamed_risks(losses, sample, jax.random.key(number), 16, chunk=4)


def test_a_sweep_is_one_program(monkeypatch):
    """One program trains all swept values, and one measures all combinations."""
    once = cache(lambda loss: chex.assert_max_traces(loss, 1))

    def problem(*args):
        draw, loss = learning_problem(*args)
        return draw, once(loss)

    monkeypatch.setattr(in_context, "learning_problem", problem)
    measure = jax.jit(chex.assert_max_traces(analysis.member_losses, 1))
    for number in (1, 2):
        settings = replace(SETTINGS, steps=4, learning_rate=(0.1 * number, 0.2))
        model = replace(MODEL, init_scale=0.1 * number)
        swept = train(LinearRegression(D, 1, N), model, settings, chunk_steps=2, parallel="none")
        for i in range(2):
            combination = swept.combination(i)
            measure(combination.predictor(combination.params), prompts())


@dataclass(frozen=True)
class WithArray:
    """A user-defined task with an array as a field."""

    scale: np.ndarray
    d_input: int = D
    d_output: int = 1

    def sample(self, key):
        prompt = TASK.sample(key)
        return prompt._replace(y=self.scale * prompt.y)


class Changing:
    """A user-defined task whose scale changes between two runs."""

    d_input, d_output, scale = D, 1, 1.0

    def sample(self, key):
        prompt = TASK.sample(key)
        return prompt._replace(y=self.scale * prompt.y)


def test_what_may_change_is_compiled_anew():
    """Each run uses the current scale of a mutable task."""
    task, actual = Changing(), {}
    for scale in (1.0, 0.0):
        task.scale = scale
        actual[scale] = train(task, MODEL, SETTINGS, parallel="none").params
    expected = {scale: train(WithArray(np.array(scale)), MODEL, SETTINGS, parallel="none").params for scale in actual}
    for scale in actual:
        chex.assert_trees_all_equal(actual[scale], expected[scale], strict=True)
    differences = jax.tree.map(lambda a, b: np.abs(a - b).max(), actual[1.0], actual[0.0])
    assert max(jax.tree.leaves(differences)) > 0


def test_prompts_of_what_may_change_are_drawn_anew():
    task, drawn = Changing(), []
    for scale in (1.0, 0.0):
        task.scale = scale
        drawn.append(np.abs(draw_prompts(task.sample, jax.random.key(0), 3).y).max())
    assert drawn[0] > 0.0 == drawn[1]


def test_values():
    values = (TASK, MODEL, LAYOUT, SETTINGS, (1, "a", None), jnp.tanh, TASK.sample)
    assert all(map(programs.is_value, values))
    not_values = WithArray(np.ones(1)), Changing(), Changing().sample, [1], {}, np.ones(1), jnp.ones(1), (1, [2])
    assert not any(map(programs.is_value, not_values))


def test_what_is_kept_is_bounded_and_can_be_dropped():
    calls = []
    make = programs.cached_by_value(lambda number: calls.append(number) or object())
    assert make(1) is make(1)
    for number in range(2, 2 + programs.CACHE_SIZE):
        make(number)
    make(1)
    assert calls.count(1) == 2
    programs.clear_caches()
    make(1)
    assert calls.count(1) == 3
    CASES["losses-ridge"](1)
    programs.clear_caches()
    assert compiled(CASES["losses-ridge"], 1) > 0
