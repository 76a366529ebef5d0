"""A layer that uses an algorithm can be replaced by that of the construction; a layer that does not, cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import constructions, models, tokens
from icl_gd.identification import cause
from icl_gd.identification.families import Name
from icl_gd.identification.subject import Answer
from icl_gd.models import Model, TransformerConfig
from icl_gd.tasks import LinearRegression, draw_prompts

D, N = 3, 6
TASK = LinearRegression(d_input=D, n_context=N, inputs="normal")
STEPS, GAMMAS = [0.3, 0.2], [0.1, 0.0]
MATRIX = np.diag([1.5, 1.0, 0.5])
BUILT = {
    "one step": ("gd", STEPS[:1], {}),
    "two steps": ("gd", STEPS, {}),
    "preconditioned steps": ("preconditioned_gd", STEPS, {"preconditioner": MATRIX}),
    "GD++": ("gd_plus_plus", STEPS, {"gammas": GAMMAS}),
}


def answer_of(words):
    verdict, steps, more = BUILT[words]
    parameters = {"n_steps": len(steps), "step_sizes": steps, **more}
    return Answer(Name(verdict, len(steps)), parameters, min, {}, 0.0)


def scrambled(words):
    """The construction with another gauge in every layer, and its single head cut into two."""
    answer = answer_of(words)
    config = TransformerConfig(d_token=D + 1, n_layers=len(BUILT[words][1]))
    model = cause.construction(Model(config, {}, tokens.concatenated(D, 1)), answer, N)
    rng = np.random.default_rng(0)
    params = {}
    for name, block in model.params.items():
        heads = {key: [] for key in block["attention"]}
        for share in (0.3, 0.7):
            g, h = rng.normal(size=(2, D + 1, D + 1))
            layer = {key: np.asarray(value, float)[0] for key, value in block["attention"].items()}
            heads["W_K"].append(g @ layer["W_K"])
            heads["W_Q"].append(np.linalg.inv(g).T @ layer["W_Q"])
            heads["W_V"].append(h @ layer["W_V"])
            heads["P"].append(share * layer["P"] @ np.linalg.inv(h))
        params[name] = {"attention": {key: jnp.asarray(np.stack(value)) for key, value in heads.items()}}
    config = TransformerConfig(d_token=D + 1, n_layers=len(params), n_heads=2, d_head=D + 1)
    return Model(config, params, model.layout), answer


def rows_of(model, answer):
    return {row.name: row for row in cause.opened(model, answer, TASK, jax.random.key(0), N)}


@pytest.fixture(autouse=True)
def few_prompts(monkeypatch):
    monkeypatch.setattr(cause, "PROMPTS", 64)


@pytest.mark.parametrize("words", BUILT)
def test_a_construction_in_another_gauge_is_the_construction(words, x64):
    model, answer = scrambled(words)
    rows = rows_of(model, answer)
    assert all(row.supports for row in rows.values())
    for name, row in rows.items():
        if name.startswith("kept"):
            assert abs(row.value - 1) < 1e-10, name
        elif not name.startswith("control"):
            assert row.value < 1e-10, name
    assert abs(rows["control_kept"].value - 1) > 0.01
    if len(BUILT[words][1]) > 1:
        assert rows["control_exchange_unexplained"].value > 1e-3


def test_another_algorithm_is_not_supported(x64):
    """Gradient descent with the opposite transformation of inputs is not the GD++ that is asked for."""
    model, answer = scrambled("GD++")
    other = Answer(answer.name, {**answer.parameters, "gammas": [-0.3, 0.0]}, min, {}, 0.0)
    rows = rows_of(model, other)
    assert not rows["kept_worst_layer"].supports or not rows["exchange_unexplained"].supports
    assert rows["weight_distance"].value > 0.5


def random_model(heads=2, layers=2):
    config = TransformerConfig(d_token=D + 1, n_layers=layers, n_heads=heads, init_scale=0.3)
    return Model(config, models.init(config, jax.random.key(3)), tokens.concatenated(D, 1))


def test_layer_functions_give_the_predictions_of_the_model(x64):
    model, prompts = random_model(), draw_prompts(TASK.sample, jax.random.key(1), 8)
    own = cause.layer_functions(model.circuits)
    opened = cause.Opened(own, own, own, prompts, D, True)
    expected = jax.vmap(model)(prompts.x, prompts.y, prompts.x_query)
    np.testing.assert_allclose(opened.predict(own), expected, rtol=1e-10)
    np.testing.assert_allclose(own, own.swapaxes(2, 3))


@pytest.mark.parametrize("layers", [1, 2])
def test_an_entry_of_a_layer_counts_if_the_prediction_depends_on_it(layers, x64):
    """`layer_distances` leaves out the entries that no prediction depends on, and no others."""
    e, d = 3, 2
    functions = jnp.asarray(np.random.default_rng(0).normal(size=(layers, e, e, e, e)))
    tokens_of = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4, e)))
    queries = tokens_of[:, 0].at[:, d:].set(0.0)
    grams = jnp.einsum("pna,pnb->pab", tokens_of, tokens_of)
    slopes = jax.jacobian(lambda own: cause.predictions(own, grams, queries, layers)[:, d:])(functions)
    matters = np.abs(slopes).max((0, 1)) > 1e-12
    for entry in np.ndindex(functions.shape):
        changed = functions.at[entry].add(1.0)
        assert (cause.layer_distances(changed, functions, d)[entry[0]] > 0) == matters[entry], entry


def test_contexts_are_exchanged_before_the_layer_that_is_named(x64):
    """The same, by hand: the context tokens after the first layer are those of another prompt."""
    model, prompts = random_model(), draw_prompts(TASK.sample, jax.random.key(1), 4)
    own = cause.layer_functions(model.circuits)
    opened = cause.Opened(own, own, own, prompts, D, True)
    w_kq, w_pv = model.circuits

    def layer(i, residuals):
        gram = residuals[:-1].T @ residuals[:-1]
        return residuals + sum(residuals @ (w_pv[i, h] @ gram @ w_kq[i, h]).T for h in range(w_kq.shape[1]))

    after_first = [layer(0, model.layout.encode(*(leaf[i] for leaf in prompts[:3]))) for i in range(4)]
    expected = []
    for i, own_tokens in enumerate(after_first):
        exchanged = jnp.concatenate([after_first[i - 1][:-1], own_tokens[-1:]])
        expected.append(-layer(1, exchanged)[-1, D:])
    np.testing.assert_allclose(opened.predict(own, exchanged=1), expected, rtol=1e-10)
    assert opened.exchange_unexplained(own) < 1e-20


def test_what_the_algorithm_does_not_need_is_found(x64):
    """Weights outside of the blocks of gradient descent are no part of it, and those inside are all of it."""
    mask = cause.needed(D + 1, D, False)
    model, _ = scrambled("two steps")
    functions = np.asarray(cause.layer_functions(model.circuits))
    np.testing.assert_allclose(functions * mask, functions, atol=1e-10)
    assert np.all(mask <= cause.needed(D + 1, D, True))
    plus, _ = scrambled("GD++")
    functions = np.asarray(cause.layer_functions(plus.circuits))
    assert np.abs(functions * (1 - mask)).max() > 1e-3
    np.testing.assert_allclose(functions * cause.needed(D + 1, D, True), functions, atol=1e-10)


@pytest.mark.parametrize(
    "change", [{"attention": "softmax"}, {"clip": 1.0}, {"attend_to_query": True}, {"n_layers": 3}, {"d_head": 2}]
)
def test_a_model_of_another_form_is_not_opened(change):
    config = TransformerConfig(**{"d_token": D + 1, "n_layers": 2, **change})
    model = Model(config, models.init(config, jax.random.key(0)), tokens.concatenated(D, 1))
    assert rows_of(model, answer_of("two steps")) == {}


def test_predictions_alone_are_not_opened():
    model = constructions.gradient_descent_model(D, 1, N, STEPS)
    assert rows_of(model, answer_of("two steps"))
    assert rows_of(model.predictor, answer_of("two steps")) == {}
