"""Causal, GPT-2-like Transformers: a token attends to itself and earlier tokens, and each prefix has a prediction."""

from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import icl_gd
from icl_gd import models, tokens
from icl_gd.models import TransformerConfig
from icl_gd.tasks import FinitePrefixPool, FunctionRegression, Linear, Signs, Sparse
from icl_gd.training import Curriculum, Ramp, TrainSettings, in_context, mesh, population
from icl_gd.training.problem import learning_problem

D, N = 3, 6
GPT2 = TransformerConfig(
    D,
    2,
    2,
    d_head=4,
    attention="softmax",
    init="gpt2",
    init_scale=0.05,
    causal=True,
    pre_norm=True,
    biases=True,
    d_embed=8,
    block_mlp_width=12,
    n_positions=2 * N,
    d_read_out=1,
)
CAUSAL = {
    "gpt2": GPT2,
    "shared": replace(GPT2, shared=True),
    "linear": replace(GPT2, attention="linear", pre_norm=False),
    "mixed": replace(GPT2, attention=("mixed", "linear")),
    "relu": replace(GPT2, attention="relu"),
    "bare": TransformerConfig(D, 2, init_scale=1.0, causal=True),
    "clipped": replace(GPT2, clip=0.5),
    "normed_once": replace(GPT2, pre_norm=False, layer_norm=True, d_read_out=None, biases=False),
}
LAYOUT = tokens.alternating(D, 1)
TASK = FunctionRegression(Linear(D), N - 1)
REPEATED = replace(TASK, family="repeated_query")


def params_of(config, seed=0):
    """Random parameters, including biases and norms."""
    rng = np.random.default_rng(seed)

    def initial_value(path):
        return 1.0 if path[-1].key == "scale" else 0.0

    def draw(path, leaf):
        return jnp.asarray(initial_value(path) + 0.3 * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, models.shapes(config))


def examples(seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N, D)), rng.normal(size=(N, 1))


# Every case compiles a predictor for each of the prefixes. `test_sites` compares prefixes with plain NumPy.
SLOW = ("shared", "linear", "mixed", "clipped")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CAUSAL]
)
def test_every_prefix_is_the_predictor(name, x64):
    config = CAUSAL[name]

    @jax.jit
    def both(x, y):
        params = params_of(config)
        predict = models.predictor(config, params, LAYOUT)
        actual = models.prefix_predictor(config, params, LAYOUT)(x, y)
        return actual, jnp.stack([predict(x[:k], y[:k], x[k]) for k in range(N)])

    actual, expected = map(np.asarray, both(*examples()))
    assert len(actual) == N
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)
    assert np.ptp(actual) > 1e-3


@pytest.mark.parametrize("name", CAUSAL)
def test_no_token_reads_what_comes_after_it(name, x64):
    config, (x, y) = CAUSAL[name], examples()
    other = x.copy()
    other[3] += 1.0

    @jax.jit
    def run_on(x, y):
        return models.apply(config, params_of(config), LAYOUT.encode(x[:-1], y[:-1], x[-1]))

    run, changed = (jax.tree.map(np.asarray, run_on(x, y)) for x in (x, other))
    after = ~np.tri(2 * N - 1, dtype=bool)
    for weights in (run.scores, run.pattern):
        np.testing.assert_array_equal(weights[..., after], 0.0)
    self_weights = run.scores if name == "relu" else run.pattern  # the ReLU pattern is zero for negative scores
    assert np.all(np.diagonal(self_weights, axis1=-2, axis2=-1) != 0)
    if config.attention == "softmax":
        np.testing.assert_allclose(run.pattern.sum(-1), 1.0, rtol=1e-12)
    np.testing.assert_array_equal(changed.residual[:, :6], run.residual[:, :6])
    assert np.all(np.any(changed.residual[:, 6] != run.residual[:, 6], axis=-1))


def test_layers_are_read_out_and_the_last_is_the_prediction(x64):
    x, y = examples()

    @jax.jit
    def both(*problem):
        params = params_of(GPT2)
        return [
            make_predictor(GPT2, params, LAYOUT)(*problem)
            for make_predictor in (models.layerwise_predictor, models.predictor)
        ]

    by_layer, last = map(np.asarray, both(x[:-1], y[:-1], x[-1]))
    assert by_layer.shape == (3, 1)
    np.testing.assert_allclose(by_layer[-1], last, rtol=1e-10)


def test_half_precision_is_near_and_its_predictions_are_float32():
    half, (x, y) = replace(GPT2, dtype="bfloat16"), map(np.float32, examples())

    @partial(jax.jit, compiler_options={"xla_allow_excess_precision": False})
    def compute(x, y):
        params = params_of(GPT2)
        rounded, exact = (models.prefix_predictor(config, params, LAYOUT)(x, y) for config in (half, GPT2))
        run = models.apply(half, params, LAYOUT.encode(x[:-1], y[:-1], x[-1]))
        is_attended = jnp.tri(2 * N - 1, dtype=bool)[None, None]
        softmax = jax.nn.softmax(
            jnp.where(is_attended, run.scores.astype(jnp.float32) / GPT2.head_width**0.5, -jnp.inf)
        )
        return rounded, exact, run, softmax.astype(jnp.bfloat16)

    rounded, exact, run, softmax = jax.tree.map(np.asarray, compute(x, y))
    assert rounded.dtype == jnp.float32
    assert run.residual.dtype == jnp.bfloat16
    np.testing.assert_array_equal(run.pattern, softmax)  # softmax is computed in float32, then rounded
    np.testing.assert_allclose(rounded, exact, atol=0.05 * float(np.abs(exact).max()))
    assert np.any(rounded != exact)


def test_initial_weights_are_gpt2s():
    """Standard deviations of all kinds of weights, in a network wide enough to distinguish them."""
    e, layers = 64, 3
    config = replace(GPT2, n_layers=layers, d_embed=e, d_head=32, block_mlp_width=4 * e, init_scale=4e-4, d_token=D)
    params = jax.tree.map(np.asarray, jax.jit(lambda seed: models.init(config, jax.random.key(seed)))(3))
    block = params["block_1"]
    for leaf in (*(block["attention"][f"W_{name}"] for name in "KQV"), block["mlp"]["W_1"], params["positions"]):
        np.testing.assert_allclose(leaf.std(), 0.02, rtol=0.05)
    for leaf in (block["attention"]["P"], block["mlp"]["W_2"]):
        np.testing.assert_allclose(leaf.std(), 0.02 / (2 * layers) ** 0.5, rtol=0.05)
    for leaf, fan_in in (
        (params["embedding"]["W_E"], D),
        (params["embedding"]["b_E"], D),
        (params["unembed"]["W_U"], e),
    ):
        assert 0.8 * fan_in**-0.5 < np.abs(leaf).max() <= fan_in**-0.5
    for leaf in (block["attention"]["b_P"], block["attention"]["b_K"], block["mlp"]["b_1"], block["norm"]["bias"]):
        np.testing.assert_array_equal(leaf, 0.0)


def test_the_loss_is_that_of_every_prefix(x64):
    settings = TrainSettings(1, 5)
    draw, loss = learning_problem(TASK, GPT2, LAYOUT, settings)

    @jax.jit
    def both(key):
        params = params_of(GPT2)
        prompts = jax.vmap(TASK.sample_prefixes)(jax.random.split(key, 5))
        predict = models.predictor(GPT2, params, LAYOUT)

        def error(x, y, k):
            return (predict(x[:k], y[:k], x[k]) - y[k]) ** 2

        errors = [jax.vmap(partial(error, k=k))(prompts.x, prompts.y) for k in range(N)]
        return loss(params, draw(key, 0)), errors

    actual, errors = both(jax.random.key(4))
    np.testing.assert_allclose(actual, 0.5 * np.mean(errors), rtol=1e-10)


def test_classes_are_learned_by_the_logistic_loss(x64):
    task = FunctionRegression(Signs(D), N - 1)
    draw, loss = learning_problem(task, GPT2, LAYOUT, TrainSettings(1, 5))

    @jax.jit
    def run(key):
        params, (x, y, weight) = params_of(GPT2), draw(key, 0)
        y_hat = jax.vmap(models.prefix_predictor(GPT2, params, LAYOUT), -1, -1)(x, y)
        return loss(params, (x, y, weight)), y, y_hat

    actual, y, y_hat = map(np.asarray, run(jax.random.key(5)))
    probability = 1 / (1 + np.exp(-y_hat))
    entropy = -np.where(y > 0, np.log(probability), np.log(1 - probability))
    np.testing.assert_allclose(actual, entropy.mean(), rtol=1e-10)


def test_a_curriculum_trains_on_its_stage(x64):
    ramps, config = Curriculum(Ramp(1, 3, 1, 10), Ramp(2, 6, 2, 5)), CAUSAL["bare"]
    draw, loss = learning_problem(TASK, config, LAYOUT, TrainSettings(1, 5, curriculum=ramps))
    steps = {0: (1, 2), 4: (1, 2), 5: (1, 4), 10: (2, 6), 29: (3, 6)}

    @jax.jit
    def run(key, step_numbers):
        params, batches = params_of(config), jax.vmap(partial(draw, key))(step_numbers)
        expected = []
        for i, (_, points) in enumerate(steps.values()):
            short = learning_problem(replace(TASK, n_context=points - 1), config, LAYOUT, TrainSettings(1, 5))[1]
            x, y = batches[0][i, :points], batches[1][i, :points]
            expected.append(short(params, (x, y, jnp.full((points, 5), 1 / points))))
        at_the_end = [ramps.inputs.at(ramps.inputs.steps + offset) for offset in (-1, 0)]
        return batches[0], jax.lax.map(partial(loss, params), batches), expected, at_the_end

    batch_x, actual, expected, at_the_end = jax.tree.map(np.asarray, run(jax.random.key(6), np.array([*steps])))
    for x, (inputs, _) in zip(batch_x, steps.values(), strict=True):
        assert np.all(x[:, inputs:] == 0)
        assert np.all(x[:, :inputs] != 0)
    np.testing.assert_allclose(actual, expected, rtol=1e-10)
    assert (ramps.inputs.steps, ramps.points.steps) == (20, 10)
    assert at_the_end[0] < at_the_end[1] == 3


def test_a_curriculum_is_the_task_in_the_end_and_compiles_once():
    """One program trains all stages; after the last stage, batches are those of the task."""
    ramps, config = Curriculum(Ramp(2, 3, 1, 4), Ramp(2, 6, 2, 4)), CAUSAL["bare"]
    task, settings = FunctionRegression(Sparse(D, 1), N - 1), TrainSettings(16, 4, clip=1.0)
    staged = replace(settings, curriculum=ramps)
    draw, loss = learning_problem(task, config, LAYOUT, staged)
    loss = chex.assert_max_traces(loss, 1)
    chunk = population.make_chunk(draw, loss, staged, mesh.Placement())
    members = population.member_specs(0, 2, staged, {})
    population.run_chunks(chunk, in_context.initialise(config, staged, 0, 2), members, 16, 4)
    draw_from_task = learning_problem(task, config, LAYOUT, settings)[0]
    key, end = jax.random.key(8), max(ramps.inputs.steps, ramps.points.steps)
    batches_at = jax.jit(lambda key, step: (draw(key, step), draw_from_task(key, step)))
    chex.assert_trees_all_equal(*batches_at(key, end), strict=True)
    staged_batch, task_batch = batches_at(key, end - 1)
    assert not np.array_equal(staged_batch[2], task_batch[2])


@pytest.mark.slow
def test_training_learns_linear_functions_in_context():
    """A short run predicts much better than zero at the last point, but not at the first, which has no examples."""
    task = FunctionRegression(Linear(1), 7)
    config = replace(GPT2, d_token=1, d_embed=32, d_head=16, block_mlp_width=128, n_positions=16, init_scale=4e-4)
    settings = TrainSettings(800, 64, learning_rate=3e-3, clip=1.0, beta2=0.999)
    trained = icl_gd.train(task, config, settings, layout="alternating", parallel="none")

    @jax.jit
    def squares(key):
        prompts = jax.vmap(task.sample_prefixes)(jax.random.split(key, 500))
        y_hat = jax.vmap(trained.prefix_predictor(trained.member(0)))(prompts.x, prompts.y)
        return (y_hat - prompts.y_query) ** 2

    errors = np.mean(squares(jax.random.key(9)), axis=(0, 2))
    assert errors[-1] < 0.2 < 0.8 < errors[0]


def test_a_pool_of_prompts_has_so_many():
    pool = FinitePrefixPool(TASK, 3)

    @jax.jit
    def drawn(key):
        prompts = jax.vmap(pool.sample_prefixes)(jax.random.split(key, 50))
        return prompts.x, [pool.sample(each).x for each in jax.random.split(key, 5)]

    x, alone = jax.tree.map(np.asarray, drawn(jax.random.key(7)))
    assert len(np.unique(x[:, 0, 0])) == 3
    assert pool.n_context == N - 1
    np.testing.assert_array_equal(alone, x[:5, :-1])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: models.prefix_predictor(replace(GPT2, causal=False), {}, LAYOUT), "causal=False"),
        *(
            (lambda task=task: learning_problem(task, GPT2, LAYOUT, TrainSettings()), "in_order=False")
            for task in (REPEATED, FinitePrefixPool(REPEATED, 3))
        ),
        (lambda: models.prefix_predictor(GPT2, {}, tokens.concatenated(D, 1)), "x and y share a token"),
        (
            lambda: learning_problem(
                TASK, replace(GPT2, causal=False), LAYOUT, TrainSettings(curriculum=Curriculum(Ramp(1, 1), Ramp(1, 1)))
            ),
            "curriculum",
        ),
        (
            lambda: jax.eval_shape(lambda: models.apply(GPT2, params_of(GPT2), jnp.zeros((2 * N + 1, D)))),
            f"n_positions={2 * N}",
        ),
        (lambda: replace(GPT2, init="zeros"), "von_oswald, gpt2"),
        (lambda: replace(GPT2, dtype="float8"), "bfloat16"),
        (lambda: replace(GPT2, layer_norm=True), "only one of them"),
        (lambda: Ramp(0, 3), "start=0"),
        (lambda: Ramp(3, 2), "end=2 must be at least start=3"),
    ],
)
def test_what_does_not_fit_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
