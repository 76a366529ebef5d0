"""Law 1: layers constructed for K gradient steps make the predictions of K steps of gradient descent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import constructions, learners, models, tokens
from icl_gd.models import TransformerConfig, load_model

CASES = [  # d, n, m, k steps, kind, whether layers share weights, extra heads and extra d_head
    (1, 1, 1, 1, "plain", False, 0),
    (1, 4, 3, 2, "preconditioned", True, 2),
    (2, 8, 2, 4, "plain", True, 1),
    (3, 5, 1, 3, "preconditioned", False, 1),
    (4, 2, 3, 2, "plain", False, 2),
    (5, 3, 1, 1, "preconditioned", True, 0),
    (6, 8, 2, 3, "plain", True, 0),
    (6, 6, 3, 4, "preconditioned", False, 2),
]


def problems(rng, d, n, m, dtype, count=16):
    """Problems, W_0, a preconditioner and, by kind, the largest curvature c: step sizes below 2 / c are stable."""
    x, y, q = (rng.normal(size=(count, *shape)) for shape in ((n, d), (n, m), (d,)))
    a = rng.normal(size=(d, d))
    preconditioner = a @ a.T + 0.1 * np.eye(d)
    root = np.linalg.cholesky(preconditioner)
    largest = {
        name: max(np.linalg.eigvalsh(factor.T @ x_i.T @ x_i @ factor / n)[-1] for x_i in x)
        for name, factor in (("plain", np.eye(d)), ("preconditioned", root))
    }
    arrays = (np.asarray(v, dtype) for v in (x, y, q, rng.normal(size=(m, d)), preconditioner))
    return *arrays, largest


def check(d, n, m, k, kind, shared, extra, dtype, tolerance):
    rng = np.random.default_rng(CASES.index((d, n, m, k, kind, shared, extra)))
    x, y, q, w0, a, largest = problems(rng, d, n, m, dtype)
    fractions = np.full(k, rng.uniform(0.05, 2.0)) if shared else rng.uniform(0.05, 2.0, k)
    etas = fractions / largest[kind]
    a = a if kind == "preconditioned" else None
    config = TransformerConfig(d + m, k, n_heads=1 + extra, d_head=max(d, m) + extra, shared=shared)

    @jax.jit  # one compilation per case
    def predictions(x, y, q, w0, a):
        params = constructions.gradient_descent_weights(config, d, n, etas, w0, a)
        layout = tokens.concatenated(d, m, w0)
        forms = (
            learners.layerwise_gradient_descent(etas, w0, a),
            models.layerwise_predictor(config, params, layout),
            models.layerwise_circuit_predictor(models.circuits(config, params), layout),
        )
        return [jax.vmap(form)(x, y, q) for form in forms]

    learner, *built = map(np.asarray, predictions(x, y, q, w0, a))
    assert learner.shape == (len(x), k + 1, m)
    assert learner.dtype == dtype
    for y_hat in built:
        assert np.abs(y_hat - learner).max() / np.abs(learner).max() < tolerance
        last = learner[:, -1]
        assert np.abs(y_hat[:, -1] - last).max() / np.abs(last).max() < tolerance


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_construction_is_its_learner_in_float64(case, x64):
    check(*case, dtype=np.float64, tolerance=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_construction_is_its_learner_in_float32(case):
    check(*case, dtype=np.float32, tolerance=1e-5)


@pytest.mark.parametrize(
    ("config", "etas", "words"),
    [
        (TransformerConfig(4, 2), [1.0], "step sizes"),
        (TransformerConfig(4, 2, shared=True), [1.0, 2.0], "shared"),
        (TransformerConfig(4, 1, d_head=2), [1.0], "d_head"),
        (TransformerConfig(3, 1), [1.0], "width=3"),
    ],
)
def test_what_a_config_cannot_hold_is_refused(config, etas, words):
    with pytest.raises(ValueError, match=words):
        constructions.gradient_descent_weights(config, 3, 5, etas)


A = np.diag([1.0, 2.0, 0.5])
W0 = np.linspace(-1, 1, 6).reshape(2, 3)
MODELS = {
    "gradient_descent": (constructions.gradient_descent_model, ([0.3, 0.2],), {}, learners.gradient_descent, {}),
    "from_w0": (
        constructions.gradient_descent_model,
        ([0.3, 0.3],),
        {"shared": True, "w0": W0, "preconditioner": A},
        learners.gradient_descent,
        {"w0": W0, "preconditioner": A},
    ),
    "gd_plus_plus": (constructions.gd_plus_plus_model, ([0.3, 0.2], [0.1, 0.0]), {}, learners.gd_plus_plus, {}),
    "gd_plus_plus_shared": (
        constructions.gd_plus_plus_model,
        ([0.3, 0.3], [0.1, 0.1]),
        {"shared": True},
        learners.gd_plus_plus,
        {},
    ),
    "copying": (constructions.copying_model, ([0.3, 0.2],), {"scale": 1e3}, learners.gradient_descent, {}),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_constructed_model_is_its_learner_and_can_be_opened(name, x64, tmp_path):
    build, rates, more, learner, of_learner = MODELS[name]
    model, of_learner = build(3, 2, 6, *rates, **more), jax.tree.map(jnp.asarray, of_learner)
    x, y, q, *_ = problems(np.random.default_rng(0), 3, 6, 2, np.float64, count=4)
    y_hat, recorded, expected = jax.jit(
        lambda: (
            jax.vmap(model)(x, y, q),
            jax.vmap(lambda *prompt: model.run(*prompt, "prediction")["prediction"])(x, y, q),
            jax.vmap(learner(*rates, **of_learner))(x, y, q),
        )
    )()
    for predicted in (y_hat, recorded):
        np.testing.assert_allclose(predicted, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    assert model.config.shared == more.get("shared", False)
    if name == "from_w0":  # no layout of `tokens.LAYOUTS` has a start other than zero
        with pytest.raises(ValueError, match="the layout has the name ''"):
            model.save(tmp_path)
    else:
        model.save(tmp_path)
        assert load_model(tmp_path).config == model.config
