"""Programs are compiled once: what differs in numbers alone runs what is there, and what may change is not kept."""

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
    """Another learning rate, seed and initial scale, of equal but not the same objects."""
    settings = replace(SETTINGS, learning_rate=0.1 * number, steps=2 * number)
    model = replace(MODEL, init_scale=0.1 * number)
    return train(
        LinearRegression(D, 1, N), model, settings, seeds=2, seed=number, chunk_steps=2, parallel="none"
    ).params


def member(number):
    return models.init(MODEL, jax.random.key(number))


def risks(number):
    predictor = models.fastest_predictor(MODEL, member(number), LAYOUT)
    losses = jax.tree_util.Partial(_one, predictor, learners.gradient_descent([0.1 * number]))
    return analysis.streamed_risks(losses, LinearRegression(D, 1, N).sample, jax.random.key(number), 8, chunk=4)


def _one(ours, theirs, prompts):
    return {"ours": analysis.losses(ours, prompts), "theirs": analysis.losses(theirs, prompts)}


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
    **{f"losses-{name}": lambda n, of=of: analysis.losses(of(n), prompts(n)) for name, of in PREDICTORS.items()},
    "alignment": lambda n: analysis.alignment(PREDICTORS["gram"](n), PREDICTORS["ridge"](n), prompts(n)),
}


def compiled(f, *args):
    """How many programs a call compiled."""
    clock = Clock()
    jax.block_until_ready(f(*args))
    return clock.read()["programs"]


@pytest.mark.parametrize("name", CASES)
def test_other_numbers_run_the_same_programs(name):
    CASES[name](1)
    assert compiled(CASES[name], 2) == 0


def test_risks_are_one_program_over_all_chunks():
    """Of plain functions too, which no kept function has made."""
    sample = chex.assert_max_traces(lambda key: TASK.sample(key), 1)
    losses = chex.assert_max_traces(lambda prompts: {"ols": analysis.losses(learners.ols, prompts)}, 1)
    for number in (1, 2):
        analysis.streamed_risks(losses, sample, jax.random.key(number), 16, chunk=4)


def test_a_sweep_is_one_program(monkeypatch):
    """Its training, whatever values are swept over, and what is measured of its combinations."""
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
class Held:
    """A task of a user's, with an array."""

    scale: np.ndarray
    d_input: int = D
    d_output: int = 1

    def sample(self, key):
        prompt = TASK.sample(key)
        return prompt._replace(y=self.scale * prompt.y)


class Changing:
    """A task of a user's that is changed between two runs."""

    d_input, d_output, scale = D, 1, 1.0

    def sample(self, key):
        prompt = TASK.sample(key)
        return prompt._replace(y=self.scale * prompt.y)


def test_what_may_change_is_compiled_anew():
    task, losses = Changing(), {}
    for task.scale in (1.0, 0.0):
        losses[task.scale] = train(task, MODEL, SETTINGS, parallel="none").params
    held = {scale: train(Held(np.array(scale)), MODEL, SETTINGS, parallel="none").params for scale in losses}
    for scale in losses:
        chex.assert_trees_all_equal(losses[scale], held[scale], strict=True)
    apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), losses[1.0], losses[0.0])
    assert max(jax.tree.leaves(apart)) > 0


def test_prompts_of_what_may_change_are_drawn_anew():
    task, drawn = Changing(), []
    for task.scale in (1.0, 0.0):
        drawn.append(np.abs(draw_prompts(task.sample, jax.random.key(0), 3).y).max())
    assert drawn[0] > 0.0 == drawn[1]


def test_values():
    kept = (TASK, MODEL, LAYOUT, SETTINGS, (1, "a", None), jnp.tanh, TASK.sample)
    assert all(map(programs.is_value, kept))
    others = Held(np.ones(1)), Changing(), Changing().sample, [1], {}, np.ones(1), jnp.ones(1), (1, [2])
    assert not any(map(programs.is_value, others))


def test_what_is_kept_is_bounded_and_can_be_dropped():
    made = []
    make = programs.kept(lambda number: made.append(number) or object())
    assert make(1) is make(1)
    for number in range(2, 2 + programs.KEPT):
        make(number)
    make(1)
    assert made.count(1) == 2
    programs.forget()
    make(1)
    assert made.count(1) == 3
    CASES["losses-ridge"](1)
    programs.forget()
    assert compiled(CASES["losses-ridge"], 1) > 0
