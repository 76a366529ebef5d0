"""Law 1 behind an embedding: built layers are gradient descent on the head of deep features; and how it is learned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import icl_gd
from icl_gd import TrainSettings, TransformerConfig, constructions, learners, models, tokens
from icl_gd.tasks import LinearRegression, SineRegression
from icl_gd.training.blocks import in_blocks
from icl_gd.training.problem import learning_problem

N = 5
SIZES = {  # d_input, d_output, steps, d_embed, mlp_width
    "published": (1, 1, 1, 40, 160),
    "steps": (2, 1, 3, 6, 8),
    "outputs": (2, 2, 2, 7, 5),
    "embedding": (3, 1, 2, 6, None),
    "perceptron": (3, 2, 2, None, 9),
}


def network(name, seed=0):
    d, m, steps, d_embed, mlp_width = SIZES[name]
    config = TransformerConfig(d + m, steps, d_embed=d_embed, mlp_width=mlp_width)
    rng = np.random.default_rng(seed)
    draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / leaf.shape[-1] ** 0.5)
    params = jax.tree.map(draw, models.init(config, jax.random.key(0)))
    etas = rng.uniform(0.1, 1.0, steps)
    blocks = constructions.gradient_descent_weights(config, config.width - m, N, etas)
    x, y, q = (jnp.asarray(rng.normal(size=shape)) for shape in ((N, d), (N, m), (d,)))
    return config, {**params, **blocks}, etas, (x, y, q)


@pytest.mark.parametrize("name", SIZES)
def test_construction_is_its_learner(name, x64):
    config, params, etas, (x, y, q) = network(name)
    d, m = q.shape[0], y.shape[1]
    embed = models.features(config, params, m)
    learner = learners.layerwise_deep_gradient_descent(embed, etas)(x, y, q)
    built = models.layerwise_predictor(config, params, tokens.concatenated(d, m))(x, y, q)
    assert learner.shape == (config.n_layers + 1, m)
    assert np.abs(learner[-1] - learner[0]).max() > 1e-3
    assert np.abs(built - learner).max() / np.abs(learner).max() < 1e-12
    np.testing.assert_array_equal(learners.deep_gradient_descent(embed, etas)(x, y, q), learner[-1])


def test_features_that_see_no_labels_make_it_descent_on_the_head(x64):
    """y_hat = f_0(x) + W phi(x), W_{k+1} = W_k - eta_k grad of the in-context loss, by differentiation."""
    rng = np.random.default_rng(1)
    a, b = jnp.asarray(rng.normal(size=(4, 2))), jnp.asarray(rng.normal(size=(2, 2)))
    phi, start, etas = lambda x: jnp.tanh(a @ x), lambda x: jnp.sin(b @ x), [0.3, 0.7]
    x, y, q = (jnp.asarray(rng.normal(size=shape)) for shape in ((N, 2), (N, 2), (2,)))
    out = lambda w, x: start(x) + w @ phi(x)
    loss = lambda w: sum(jnp.sum((out(w, x[i]) - y[i]) ** 2) for i in range(N)) / (2 * N)
    w = [jnp.zeros((2, 4))]
    for eta in etas:
        w.append(w[-1] - eta * jax.grad(loss)(w[-1]))
    expected = jnp.stack([out(head, q) for head in w])
    embed = lambda x, y: (phi(x), y - start(x))
    np.testing.assert_allclose(learners.layerwise_deep_gradient_descent(embed, etas)(x, y, q), expected, rtol=1e-12)
    scaled = lambda x, y: (3.0 * phi(x), y - start(x))
    gauge = learners.layerwise_deep_gradient_descent(scaled, [eta / 9 for eta in etas])(x, y, q)
    np.testing.assert_allclose(gauge, expected, rtol=1e-12)


def test_every_layer_is_a_preconditioned_step_on_features_of_its_own(x64):
    config = TransformerConfig(3, d_embed=6, mlp_width=8, init_scale=30.0)
    params = models.init(config, jax.random.key(4))
    *_, (x, y, q) = network("steps")
    tokens_of = tokens.concatenated(2, 1)
    embedded = models.embed(config, params, tokens_of.encode(x, y, q))
    circuits = models.circuits(config, params)
    context, query = embedded[:-1], embedded[-1]
    targets = -(context @ circuits.W_PV[0, 0, -1])[:, None]
    w = learners.gradient_descent_iterates(context, targets, [float(N)], preconditioner=circuits.W_KQ[0, 0])[-1]
    expected = models.predictor(config, params, tokens_of)(x, y, q)
    assert np.abs(w @ query) > 1e-3
    np.testing.assert_allclose(w @ query - query[-1:], expected, rtol=1e-10)


TASK = SineRegression(3)
MODEL = TransformerConfig(2, d_embed=4, mlp_width=6, init_scale=1.0)
SETTINGS = TrainSettings(steps=4, batch_size=12, learning_rate=1e-2, clip=1.0)
GIVEN = constructions.gradient_descent_weights(MODEL, 3, 3, [0.5])


def learn(**changes):
    return icl_gd.train(TASK, MODEL, SETTINGS, **{"seeds": 2, "chunk_steps": 2, "given": GIVEN, **changes})


def test_what_is_given_is_not_trained_and_the_rest_is(tmp_path):
    trained = learn(checkpoints=tmp_path)
    jax.tree.map(lambda ours, given: np.testing.assert_array_equal(ours, jnp.stack([given] * 2)),
                 trained.params["block_0"], GIVEN["block_0"])  # fmt: skip
    start = models.init(MODEL, jax.random.key(0))["embedding"]
    assert all(np.all(leaf[0] != leaf[1]) for leaf in jax.tree.leaves(trained.params["embedding"]))
    assert {name: leaf.shape for name, leaf in start.items()} == {
        name: leaf.shape[1:] for name, leaf in trained.params["embedding"].items()
    }
    for ours, theirs in zip(
        jax.tree.leaves(icl_gd.load(tmp_path).params), jax.tree.leaves(trained.params), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="given differ"):
        learn(checkpoints=tmp_path, given=constructions.gradient_descent_weights(MODEL, 3, 3, [0.6]))
    with pytest.raises(ValueError, match="given differ"):
        learn(checkpoints=tmp_path, given=None)


def test_a_step_beside_what_is_given_is_one_of_the_rest_alone():
    """Also of the clip: gradients of what is given do not count in the norm."""
    embedding = learn(seeds=1, chunk_steps=1).params["embedding"]
    draw, loss = learning_problem(TASK, MODEL, tokens.concatenated(1, 1), SETTINGS)
    import optax

    from icl_gd.training import population
    from icl_gd.training.in_context import initialise

    members = population.members_of(0, 1, SETTINGS, {"init_scale": 1.0})
    rates = jax.tree.map(lambda leaf: leaf[0], members.rates)
    params = jax.tree.map(lambda leaf: leaf[0], initialise(MODEL, SETTINGS, 0, 1).member.params["embedding"])
    optimiser = SETTINGS.optimizer(rates)
    state = optimiser.init(params)
    alone = jax.jit(jax.grad(lambda embedding, batch: loss({"embedding": embedding, **GIVEN}, batch)))
    for step in range(SETTINGS.steps):
        gradient = alone(params, draw(jax.random.fold_in(members.data[0], step), step))
        updates, state = optimiser.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours[0], theirs, atol=4e-6), embedding, params)


@pytest.mark.parametrize(
    ("given", "settings", "words"),
    [
        ({"block_1": GIVEN["block_0"]}, SETTINGS, "block_1"),
        (constructions.gradient_descent_weights(TransformerConfig(5), 4, 3, [0.5]), SETTINGS, "shapes"),
        (GIVEN, TrainSettings(weight_decay=0.1), "weight_decay"),
    ],
)
def test_what_cannot_be_given_is_refused(given, settings, words):
    with pytest.raises(ValueError, match=words):
        icl_gd.train(TASK, MODEL, settings, given=given)


@pytest.mark.parametrize("at_once", [1, 4, 5, 12, 100])
def test_a_loss_in_blocks_is_the_loss(at_once, x64):
    task = LinearRegression(3, 1, 4)
    batch = task.sample(jax.random.key(0), (12,))
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(2, 1, 3)))}
    sizes = []

    def loss(params, batch):
        sizes.append(batch.x.shape[-1])
        return jnp.mean((jnp.einsum("md,db->mb", params["w"], batch.x_query) - batch.y_query) ** 2)

    both = jax.vmap(jax.value_and_grad(in_blocks(loss, at_once)), (0, None))(params, batch)
    assert max(sizes) <= at_once
    expected = jax.vmap(jax.value_and_grad(loss), (0, None))(params, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), both, expected)
    one = jax.tree.map(lambda leaf: leaf[0], params)
    np.testing.assert_allclose(in_blocks(loss, at_once)(one, batch), loss(one, batch), rtol=1e-12)
