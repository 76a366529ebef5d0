"""Law 1 after an embedding: constructed layers run gradient descent on a linear head over trained features."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import icl_gd
from icl_gd import TrainSettings, TransformerConfig, constructions, learners, models, tokens
from icl_gd.tasks import LinearRegression, SineRegression
from icl_gd.training import population
from icl_gd.training.in_context import initialise
from icl_gd.training.microbatch import microbatched
from icl_gd.training.problem import learning_problem

N = 5
SIZES = {  # d_input, d_output, steps, d_embed, input_mlp_width
    "published": (1, 1, 1, 40, 160),
    "steps": (2, 1, 3, 6, 8),
    "outputs": (2, 2, 2, 7, 5),
    "embedding": (3, 1, 2, 6, None),
    "perceptron": (3, 2, 2, None, 9),
}


def network(name, seed=0):
    d, m, steps, d_embed, input_mlp_width = SIZES[name]
    config = TransformerConfig(d + m, steps, d_embed=d_embed, input_mlp_width=input_mlp_width)
    rng = np.random.default_rng(seed)

    def draw(leaf):
        return rng.normal(size=leaf.shape) / leaf.shape[-1] ** 0.5

    params = jax.tree.map(draw, models.shapes(config))
    etas = rng.uniform(0.1, 1.0, steps)
    x, y, q = (rng.normal(size=shape) for shape in ((N, d), (N, m), (d,)))
    return config, params, etas, (x, y, q)


@pytest.mark.parametrize("name", SIZES)
def test_construction_is_its_learner(name, x64):
    config, params, etas, (x, y, q) = network(name)
    d, m = q.shape[0], y.shape[1]

    @jax.jit
    def forms(params, x, y, q):
        params = {**params, **constructions.gradient_descent_weights(config, config.width - m, N, etas)}
        embed = models.features(config, params, m)
        return (
            learners.layerwise_deep_gradient_descent(embed, etas)(x, y, q),
            models.layerwise_predictor(config, params, tokens.concatenated(d, m))(x, y, q),
            learners.deep_gradient_descent(embed, etas)(x, y, q),
        )

    learner, built, last = map(np.asarray, forms(params, x, y, q))
    assert learner.shape == (config.n_layers + 1, m)
    assert np.abs(learner[-1] - learner[0]).max() > 1e-3
    assert np.abs(built - learner).max() / np.abs(learner).max() < 1e-12
    np.testing.assert_array_equal(last, learner[-1])


def test_features_that_see_no_labels_make_it_descent_on_the_head(x64):
    """y_hat = f_0(x) + W phi(x) with W_{k+1} = W_k - eta_k grad L(W_k), where L is the in-context loss.

    Scaling phi by s and eta by 1/s^2 does not change the prediction.
    """
    rng = np.random.default_rng(1)
    a, b, etas = rng.normal(size=(4, 2)), rng.normal(size=(2, 2)), [0.3, 0.7]
    x, y, q = (rng.normal(size=shape) for shape in ((N, 2), (N, 2), (2,)))

    @jax.jit
    def run(a, b, x, y, q):
        phi, start = lambda x: jnp.tanh(a @ x), lambda x: jnp.sin(b @ x)

        def predict(w, x):
            return start(x) + w @ phi(x)

        def loss(w):
            return sum(jnp.sum((predict(w, x[i]) - y[i]) ** 2) for i in range(N)) / (2 * N)

        w = [jnp.zeros((2, 4))]
        for eta in etas:
            w.append(w[-1] - eta * jax.grad(loss)(w[-1]))

        def learned(scale):
            return learners.layerwise_deep_gradient_descent(
                lambda x, y: (scale * phi(x), y - start(x)), [eta / scale**2 for eta in etas]
            )(x, y, q)

        return jnp.stack([predict(head, q) for head in w]), learned(1.0), learned(3.0)

    expected, actual, rescaled = run(a, b, x, y, q)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
    np.testing.assert_allclose(rescaled, expected, rtol=1e-12)


def test_every_layer_is_a_preconditioned_step_on_features_of_its_own(x64):
    config = TransformerConfig(3, d_embed=6, input_mlp_width=8)
    rng = np.random.default_rng(4)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), models.shapes(config))
    *_, (x, y, q) = network("steps")

    @jax.jit
    def run(params, x, y, q):
        layout = tokens.concatenated(2, 1)
        embedded = models.embed(config, params, layout.encode(x, y, q))
        circuits = models.circuits(config, params)
        context, query = embedded[:-1], embedded[-1]
        targets = -(context @ circuits.W_PV[0, 0, -1])[:, None]
        w = learners.gradient_descent_iterates(context, targets, [float(N)], preconditioner=circuits.W_KQ[0, 0])[-1]
        return w @ query, query[-1:], models.predictor(config, params, layout)(x, y, q)

    step, query, expected = map(np.asarray, run(params, x, y, q))
    assert np.abs(step).max() > 1e-3
    np.testing.assert_allclose(step - query, expected, rtol=1e-10)


TASK = SineRegression(3)
MODEL = TransformerConfig(2, d_embed=4, input_mlp_width=6, init_scale=1.0)
SETTINGS = TrainSettings(steps=4, batch_size=12, learning_rate=1e-2, clip=1.0)


@functools.cache
def built(step_size=0.5, config=MODEL, d=3):
    """The frozen weights: one gradient step on features."""
    return constructions.gradient_descent_weights(config, d, 3, [step_size])


def learn(checkpoints, frozen):
    return icl_gd.train(TASK, MODEL, SETTINGS, seeds=2, chunk_steps=2, checkpoints=checkpoints, frozen=frozen)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A population of two, trained with the frozen layer, and the directory of its checkpoints."""
    directory = tmp_path_factory.mktemp("learned")
    with jax.numpy_rank_promotion("raise"):
        return learn(directory, built()), directory


def test_what_is_given_is_not_trained_and_the_rest_is(learned):
    """The frozen block keeps its weights, and the embedding is trained."""
    trained, directory = learned
    first, second = trained.member(0), trained.member(1)
    chex.assert_trees_all_equal(first["block_0"], second["block_0"], built()["block_0"], strict=True)
    chex.assert_trees_all_equal_shapes(first["embedding"], models.shapes(MODEL)["embedding"])
    leaf_pairs = zip(*(jax.tree.leaves(member["embedding"]) for member in (first, second)), strict=True)
    assert all(np.all(leaf != other) for leaf, other in leaf_pairs)
    chex.assert_trees_all_equal(icl_gd.load(directory).params, trained.params, strict=True)
    with pytest.raises(ValueError, match="frozen differ"):
        learn(directory, built(0.6))
    with pytest.raises(ValueError, match="frozen differ"):
        learn(directory, None)


def test_a_step_beside_what_is_given_is_one_of_the_rest_alone(learned):
    """Training equals that of the embedding alone: the clip ignores gradients of frozen weights."""
    draw, loss = learning_problem(TASK, MODEL, tokens.concatenated(1, 1), SETTINGS)
    members = population.member_specs(0, 1, SETTINGS, {"init_scale": 1.0})

    def first_member(tree):
        return jax.tree.map(lambda leaf: np.asarray(leaf)[0], tree)

    optimiser = SETTINGS.transformation(first_member(members.rates))

    @jax.jit
    def step(params, state, key, number):
        batch = draw(jax.random.fold_in(key, number), number)
        gradient = jax.grad(lambda embedding: loss({"embedding": embedding, **built()}, batch))(params)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    member = initialise(MODEL, SETTINGS, 0, 1).member
    params = first_member(member.params["embedding"])
    state = optimiser.init(params)
    for number in range(SETTINGS.steps):
        params, state = step(params, state, members.data[0], number)
    trained, _ = learned
    chex.assert_trees_all_close(first_member(trained.params["embedding"]), params, rtol=1e-7, atol=4e-6)


@pytest.mark.parametrize(
    ("frozen", "settings", "words"),
    [
        (lambda: {"block_1": built()["block_0"]}, SETTINGS, "block_1"),
        (lambda: built(0.5, TransformerConfig(5), 4), SETTINGS, "shapes"),
        (built, TrainSettings(weight_decay=0.1), "weight_decay"),
    ],
)
def test_what_cannot_be_given_is_refused(frozen, settings, words):
    with pytest.raises(ValueError, match=words):
        icl_gd.train(TASK, MODEL, settings, frozen=frozen())


@pytest.mark.parametrize("prompts", [12, 13])
@pytest.mark.parametrize("block", [1, 4, 5, 12, 100])
def test_a_loss_in_blocks_is_the_loss(block, prompts, x64):
    task = LinearRegression(3, 1, 4)
    w, sizes = np.random.default_rng(0).normal(size=(2, 1, 3)), []

    def loss(params, batch):
        return jnp.mean((jnp.einsum("md,db->mb", params["w"], batch.x_query) - batch.y_query) ** 2)

    def loss_that_records_sizes(params, batch):
        sizes.append(batch.x.shape[-1])
        return loss(params, batch)

    @jax.jit
    def run(params):
        batch, first = task.sample(jax.random.key(0), (prompts,)), {"w": params["w"][0]}
        blocked = microbatched(loss_that_records_sizes, block)
        results = [jax.vmap(jax.value_and_grad(function), (0, None))(params, batch) for function in (blocked, loss)]
        return results, (blocked(first, batch), loss(first, batch))

    (actual, expected), single = run({"w": w})
    assert min(block, prompts) / 2 <= max(sizes) <= block
    chex.assert_trees_all_close(actual, expected, rtol=1e-12)
    np.testing.assert_allclose(*single, rtol=1e-12)
