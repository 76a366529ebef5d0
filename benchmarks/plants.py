"""The law of the planted zoo: random in-context learners whose algorithm is known, and controls that have none.

`transformer`, `bare` and `control` draw one member each from a random generator. The law was fixed before the
thresholds of `icl_gd.identification` were.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from icl_gd import constructions, learners, models, tokens
from icl_gd.models import TransformerConfig
from icl_gd.programs import as_partial
from icl_gd.tasks import draw_prompts
from icl_gd.types import Predictor, Prompt

SHAPES = (  # d, n, m
    (2, 8, 1), (3, 12, 2), (4, 10, 1), (4, 40, 2), (5, 5, 1), (5, 20, 1), (6, 12, 2), (6, 30, 1), (8, 16, 1),
    (8, 40, 1), (10, 10, 1), (10, 20, 2), (12, 40, 1),
)  # fmt: skip
LAYERS = (2, 8)  # a construction with fewer layers is padded by layers of zeros, which change nothing
MOST_STEPS = 8
MOST_FREE_GD_PLUS_PLUS = 4
MOST_CONJUGATE = 4  # steps; with more, rounding in float32 makes them another algorithm
CONDITION = 3.0  # largest condition number of a change of gauge


class Truth(NamedTuple):
    """What was planted, by its canonical name."""

    verdict: str
    n_steps: int
    shared: bool


@dataclass(frozen=True)
class Plant:
    kind: str
    truth: Truth | None
    task: Any
    predictor: Predictor
    clean: Predictor | None = None  # without noise
    layerwise: Predictor | None = None
    noise: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Task:
    """Linear regression with any covariance of the inputs. Tasks of equal sizes share their compiled programs.

    Attributes:
      d_input, d_output, n_context: sizes d, m and n of a prompt.
      root: square root of the covariance of the inputs.
      noise_std: standard deviation of the label noise.
      is_uniform: whether the inputs are uniform instead of normal, before they are multiplied by the root.
    """

    d_input: int
    d_output: int
    n_context: int
    root: np.ndarray
    noise_std: float
    is_uniform: bool

    @property
    def sample(self) -> Partial:
        """`key -> Prompt`, with the numbers of the task as leaves."""
        shape = jnp.zeros((self.n_context, self.d_output))
        return Partial(_sample, jnp.asarray(self.root), self.noise_std, self.is_uniform, shape)


def _sample(root: Any, noise_std: Any, is_uniform: Any, shape: Any, key: Any) -> Prompt:
    (n, m), d = shape.shape, len(root)
    key_x, key_w, key_noise = jax.random.split(key, 3)
    uniform = jax.random.uniform(key_x, (n + 1, d), minval=-1.0, maxval=1.0) * 3**0.5
    x = jnp.where(is_uniform, uniform, jax.random.normal(key_x, (n + 1, d))) @ root
    w = jax.random.normal(key_w, (m, d))
    y = x @ w.T
    return Prompt(x[:-1], y[:-1] + noise_std * jax.random.normal(key_noise, (n, m)), x[-1], y[-1], w)


def draw_task(rng: np.random.Generator, smallest: int = 2) -> Task:
    """A task with at least `smallest` inputs, isotropic or not, with or without label noise."""
    d, n, m = SHAPES[rng.choice([i for i, shape in enumerate(SHAPES) if shape[0] >= smallest])]
    kind = rng.choice(["normal", "uniform", "anisotropic"])
    noise = float(rng.choice([0.0, 0.1, 0.5]))
    root = np.eye(d)
    if kind == "anisotropic":
        values = np.exp(rng.normal(0, 0.5, d))
        basis = orthogonal(rng, d)
        root = basis * np.sqrt(values / values.mean()) @ basis.T
    scale = 1 / 3**0.5 if kind == "uniform" else 1.0  # uniform inputs are in [-1, 1], as in the trained models
    return Task(d, m, n, scale * root, noise, bool(kind == "uniform"))


def orthogonal(rng: np.random.Generator, d: int) -> np.ndarray:
    q, r = np.linalg.qr(rng.normal(size=(d, d)))
    return q * np.sign(np.diag(r))


def largest_eigenvalue(task: Task, a: np.ndarray | None = None) -> float:
    """The .95 quantile over contexts of the largest eigenvalue of S (of A^{1/2} S A^{1/2})."""
    x = np.asarray(draw_prompts(task.sample, jax.random.key(0), 256).x, float)
    s = np.einsum("pna,pnb->pab", x, x) / x.shape[1]
    if a is not None:
        values, vectors = np.linalg.eigh(a)
        root = vectors * np.sqrt(values) @ vectors.T
        s = root @ s @ root
    return float(np.quantile(np.linalg.eigvalsh(s)[:, -1], 0.95))


def rates(rng: np.random.Generator, n_steps: int, shared: bool, top: float) -> list[float]:
    if shared:
        return [float(rng.uniform(0.4, 1.8)) / top] * n_steps
    while True:
        steps = rng.uniform(0.4, 1.8, n_steps)
        if steps.max() >= 1.3 * steps.min():
            return [float(step) / top for step in steps]


def gammas(rng: np.random.Generator, n_steps: int, shared: bool, top: float) -> list[float]:
    drawn = rng.uniform(0.15, 0.6, 1 if shared else n_steps) / top
    return [float(gamma) for gamma in np.resize(drawn, n_steps)]


def preconditioner(rng: np.random.Generator, d: int) -> np.ndarray:
    basis = orthogonal(rng, d)
    values = np.exp(rng.uniform(-1, 1, d))
    a = basis * (values / values.mean()) @ basis.T
    return (a + a.T) / 2


def conditioned(rng: np.random.Generator, d: int) -> np.ndarray:
    """A random matrix with a condition number of at most `CONDITION`."""
    values = np.exp(rng.uniform(0, np.log(CONDITION), d))
    return orthogonal(rng, d) * values @ orthogonal(rng, d)


def scrambled(rng: np.random.Generator, params: Any, noise: float) -> tuple[Any, Any]:
    """The same function with random gauge, two heads and exchanged scales: (without, with) noise of the weights."""
    clean, noisy = {}, {}
    for name, block in params.items():
        layer = {key: np.asarray(value, float)[0] for key, value in block["attention"].items()}
        width = len(layer["W_K"])
        part = rng.uniform(0.3, 0.7)
        heads = {key: [] for key in layer}
        for share in (part, 1 - part):
            g, h = conditioned(rng, width), conditioned(rng, width)
            scale, exchange = np.exp(rng.uniform(-1, 1, 2))
            heads["W_K"].append(exchange * scale * g @ layer["W_K"])
            heads["W_Q"].append(np.linalg.inv(g).T @ layer["W_Q"] / scale)
            heads["W_V"].append(h @ layer["W_V"])
            heads["P"].append(share / exchange * layer["P"] @ np.linalg.inv(h))
        stacked = {key: np.stack(value) for key, value in heads.items()}
        noisy[name] = {
            "attention": {
                key: value + noise * np.sqrt(np.mean(value**2)) * rng.normal(size=value.shape)
                for key, value in stacked.items()
            }
        }
        clean[name] = {"attention": stacked}
    return tuple(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree) for tree in (clean, noisy))


def padded(params: Any, layers: int) -> Any:
    zero = jax.tree.map(jnp.zeros_like, params["block_0"])
    return {f"block_{i}": params.get(f"block_{i}", zero) for i in range(layers)}


def transformer(rng: np.random.Generator, noise: float, smallest: int = 2, deep: bool = False) -> Plant:
    """A constructed Transformer that computes GD, GD++ or preconditioned GD, with noisy weights."""
    kind = str(rng.choice(["gd", "gd_plus_plus", "preconditioned_gd"], p=[8 / 18, 5 / 18, 5 / 18]))
    task = draw_task(rng, smallest)
    d, n, m = task.d_input, task.n_context, task.d_output
    shared = bool(rng.random() < 0.5)
    most = MOST_STEPS if shared or kind != "gd_plus_plus" or deep else MOST_FREE_GD_PLUS_PLUS
    n_steps = int(rng.integers(1, most + 1))
    shared = shared or n_steps == 1
    a = preconditioner(rng, d) if kind == "preconditioned_gd" else None
    top = largest_eigenvalue(task, a)
    steps = rates(rng, n_steps, shared, top)
    other = gammas(rng, n_steps, shared, top) if kind == "gd_plus_plus" else [0.0] * n_steps
    config = TransformerConfig(d_token=d + m, n_layers=n_steps)
    if kind == "gd_plus_plus":
        params = constructions.gd_plus_plus_weights(config, d, n, steps, other)
    else:
        params = constructions.gradient_descent_weights(config, d, n, steps, preconditioner=a)
    clean, noisy = scrambled(rng, params, noise)
    layers = min(size for size in LAYERS if size >= n_steps)
    config = TransformerConfig(d_token=d + m, n_layers=layers, n_heads=2, d_head=d + m)
    layout = tokens.concatenated(d, m)
    own, without = (models.fastest_predictor(config, padded(part, layers), layout) for part in (noisy, clean))
    layerwise = models.layerwise_predictor(config, padded(noisy, layers), layout)
    truth = Truth("gd" if kind == "gd_plus_plus" and n_steps == 1 else kind, n_steps, shared)
    details = {"steps": steps, "gammas": other}
    return Plant(f"transformer:{kind}", truth, task, own, without, layerwise, noise, details)


BARE = (
    "gd", "gd_plus_plus", "preconditioned_gd", "momentum", "newton", "conjugate_gradient", "ridge", "ols", "lasso",
    "bayes_pool", "nearest_neighbours", "gaussian", "softmax", "kernel_ridge", "mean", "averaging", "zero",
)  # fmt: skip


def bare(rng: np.random.Generator, kind: str, smallest: int = 4) -> Plant:
    """A learner itself, without noise."""
    task = draw_task(rng, smallest)
    d, n, m = task.d_input, task.n_context, task.d_output
    top = largest_eigenvalue(task)
    shared = bool(rng.random() < 0.5)
    k = int(rng.integers(1, MOST_STEPS + 1))
    truth = Truth(kind, 0, True)
    details: dict[str, Any] = {}
    if kind == "gd":
        shared = shared or k == 1
        details = {"step_sizes": rates(rng, k, shared, top)}
        predictor, truth = learners.gradient_descent(zeros(details["step_sizes"])), Truth("gd", k, shared)
    elif kind == "gd_plus_plus":
        k = k if shared else 1 + (k - 1) % MOST_FREE_GD_PLUS_PLUS
        shared = shared or k == 1
        details = {"step_sizes": rates(rng, k, shared, top), "gammas": gammas(rng, k, shared, top)}
        predictor = learners.gd_plus_plus(zeros(details["step_sizes"]), zeros(details["gammas"]))
        truth = Truth("gd" if k == 1 else "gd_plus_plus", k, shared)
    elif kind == "preconditioned_gd":
        a = preconditioner(rng, d)
        shared = shared or k == 1
        details = {"step_sizes": rates(rng, k, shared, largest_eigenvalue(task, a))}
        predictor = learners.gradient_descent(zeros(details["step_sizes"]), preconditioner=jnp.asarray(a, jnp.float32))
        truth = Truth(kind, k, shared)
    elif kind == "momentum":
        k = int(rng.integers(3, MOST_STEPS + 1))
        details = {"step_size": float(rng.uniform(0.4, 1.5)) / top, "momentum": float(rng.uniform(0.2, 0.8))}
        predictor = learners.momentum(jnp.full(k, details["step_size"]), jnp.float32(details["momentum"]))
        truth = Truth(kind, k, True)
    elif kind == "newton":
        k = int(rng.integers(1, 5))
        details = {"scale": float(rng.uniform(0.4, 1.8)) / top**2}
        predictor, truth = learners.newton_schulz(k, jnp.float32(details["scale"])), Truth(kind, k, True)
    elif kind == "conjugate_gradient":
        k = int(rng.integers(1, min(d, n, MOST_CONJUGATE + 1)))
        predictor, truth = learners.conjugate_gradient(k), Truth(kind, k, True)
    elif kind == "ridge":
        details = {"penalty": float(np.exp(rng.uniform(np.log(0.02), np.log(1.0)))) * n * top}
        predictor = learners.ridge(jnp.float32(details["penalty"]))
    elif kind == "ols":
        predictor = learners.ols
    elif kind == "lasso":
        details = {"alpha": float(rng.uniform(0.02, 0.3))}
        predictor = learners.lasso(details["alpha"])
    elif kind == "bayes_pool":
        size = int(rng.integers(2, 33))
        details = {"members": size, "noise_std": float(rng.uniform(0.3, 2.0))}
        pool = jnp.asarray(rng.normal(size=(size, m, d)), jnp.float32)
        predictor = learners.bayes_pool(pool, jnp.float32(details["noise_std"]))
    elif kind == "nearest_neighbours":
        k = int(rng.integers(1, n))
        predictor, truth = learners.nearest_neighbours(k), Truth(kind, k, True)
    elif kind == "mean":
        predictor, truth = learners.nearest_neighbours(n), Truth("nearest_neighbours", n, True)
    elif kind in ("gaussian", "softmax"):
        width = float(rng.uniform(0.3, 1.0)) * np.sqrt(d) * (1.0 if kind == "gaussian" else 0.7)
        predictor, truth = (
            learners.kernel_regression(jnp.float32(width), kernel=kind),
            Truth("kernel_regression", 0, True),
        )
        details = {"bandwidth": width}
    elif kind == "kernel_ridge":
        details = {"bandwidth": float(rng.uniform(0.7, 2.0)) * np.sqrt(d), "penalty": float(np.exp(rng.uniform(-4, 0)))}
        predictor = learners.kernel_ridge(
            jnp.float32(details["penalty"]), kernel="gaussian", bandwidth=jnp.float32(details["bandwidth"])
        )
    elif kind == "averaging":
        predictor = learners.averaging
    else:
        predictor = learners.predict_zero
    return Plant(f"bare:{kind}", truth, task, predictor, predictor, None, 0.0, details)


def zeros(rates: list[float]) -> jnp.ndarray:
    """Rates of `MOST_STEPS` steps, of which the last ones are zero and change nothing: so all K share one program."""
    return jnp.asarray([*rates, *[0.0] * (MOST_STEPS - len(rates))], jnp.float32)


CONTROLS = ("mixture", "random weights", "half-trained", "shuffled labels", "perceptron", "cubic features", "softmax")
PARTNERS = (
    ("ridge", "gd"), ("ols", "gd"), ("preconditioned_gd", "conjugate_gradient"), ("gd_plus_plus", "ridge"),
    ("nearest_neighbours", "gd"), ("lasso", "gd"), ("gaussian", "ridge"), ("momentum", "ols"), ("newton", "ridge"),
    ("softmax", "ols"), ("bayes_pool", "ridge"), ("preconditioned_gd", "ols"),
)  # fmt: skip


def control(rng: np.random.Generator, kind: str) -> Plant:
    """An in-context predictor that computes none of the known algorithms."""
    if kind == "mixture":
        first, second = PARTNERS[rng.integers(len(PARTNERS))]
        seed = int(rng.integers(2**31))
        one = bare(np.random.default_rng(seed), first)
        two = bare(np.random.default_rng(seed), second)  # the same seed draws the same task
        predictor = Partial(
            _mixture, jnp.float32(rng.uniform(0.3, 0.7)), as_partial(one.predictor), as_partial(two.predictor)
        )
        return Plant(f"mixture:{first}+{second}", None, one.task, predictor)
    task = draw_task(rng, 4)
    d, n, m = task.d_input, task.n_context, task.d_output
    if kind in ("random weights", "softmax"):
        layers = int(rng.choice([1, 2, 4]))
        attention = "softmax" if kind == "softmax" else "linear"
        config = TransformerConfig(d_token=d + m, n_layers=layers, n_heads=2, attention=attention, init_scale=1.0)
        params = models.init(config, jax.random.key(int(rng.integers(2**31))))
        predictor = models.fastest_predictor(config, params, tokens.concatenated(d, m))
        x, y, x_query, _, _ = draw_prompts(task.sample, jax.random.key(0), 64)
        while attention == "linear":  # deep linear attention diverges with large weights
            response = jax.vmap(predictor)(x, y, x_query)
            if jnp.isfinite(response).all() and jnp.mean(response**2) < jnp.mean(y**2):
                break
            predictor = Partial(predictor.func, jax.tree.map(lambda leaf: 0.8 * leaf, predictor.args[0]))
        return Plant(kind, None, task, predictor)
    if kind == "half-trained":
        plant = transformer(rng, 0.0, 4)
        alpha = float(rng.uniform(0.2, 0.7))
        part = plant.predictor
        params = jax.tree.map(
            lambda leaf: (
                alpha * leaf
                + (1 - alpha) * jnp.sqrt(jnp.mean(leaf**2)) * jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)
            ),
            part.args[0],
        )
        return Plant(kind, None, plant.task, Partial(part.func, params), details={"alpha": alpha})
    if kind == "shuffled labels":
        one = bare(rng, str(rng.choice(["gd", "ridge", "gd_plus_plus", "ols"])))
        order = np.arange(one.task.n_context)
        while np.all(order == np.arange(len(order))):
            order = rng.permutation(len(order))
        return Plant(kind, None, one.task, Partial(_shuffled, jnp.asarray(order), as_partial(one.predictor)))
    if kind == "perceptron":
        size, width = n * (d + m) + d, 32
        weights = [
            jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]), jnp.float32)
            for shape in ((size, width), (width, width), (width, m))
        ]
        return Plant(kind, None, task, Partial(_perceptron, weights))
    one = bare(rng, "gd")
    return Plant(kind, None, one.task, Partial(_cubic, jnp.float32(rng.uniform(0.2, 1.0)), as_partial(one.predictor)))


def _mixture(share: Any, first: Any, second: Any, x: Any, y: Any, x_query: Any) -> Any:
    return share * first(x, y, x_query) + (1 - share) * second(x, y, x_query)


def _shuffled(order: Any, learner: Any, x: Any, y: Any, x_query: Any) -> Any:
    return learner(x, y[order], x_query)


def _perceptron(weights: Any, x: Any, y: Any, x_query: Any) -> Any:
    hidden = jnp.concatenate([x.ravel(), y.ravel(), x_query])
    for matrix in weights[:-1]:
        hidden = jnp.tanh(hidden @ matrix)
    return hidden @ weights[-1]


def _cubic(factor: Any, learner: Any, x: Any, y: Any, x_query: Any) -> Any:
    return learner(x + factor * x**3, y, x_query + factor * x_query**3)
