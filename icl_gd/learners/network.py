"""A network with one hidden layer, trained on the context anew for every query (Garg et al. 2208.01066, section 4)."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
from annotated_types import Gt

from icl_gd.problems import on_prefixes, on_problem
from icl_gd.schema import OneOf, Seed, Size, checked
from icl_gd.types import Array, Predictor, PrefixPredictor

OPTIMIZERS = {"adam": optax.adam, "gd": optax.sgd}

Rate = Annotated[float, Gt(0)]
Optimizer = Annotated[str, OneOf(OPTIMIZERS)]


@checked
def two_layer_network(
    seed: Seed = 0, hidden: Size = 100, steps: Size = 100, learning_rate: Rate = 5e-3, optimizer: Optimizer = "adam"
) -> Predictor:
    """`y = W_2 relu(W_1 x + b_1) + b_2` after `steps` steps on the mean square error of the whole context.

    Published: Adam, 100 steps. Initial weights and biases are uniform within `1 / sqrt(fan_in)`, the same for every
    problem. Without examples it predicts zero, as published.

    Args:
      optimizer: "adam", or "gd" for plain gradient descent.

    Raises:
      ValueError: if a size is not positive, or the optimiser is unknown.
    """
    fit = _fit(seed, hidden, steps, learning_rate, optimizer)
    return on_problem(lambda x, y, x_query: fit(x, y, jnp.ones(len(x), x.dtype), x_query))


@checked
def prefix_two_layer_network(
    seed: Seed = 0, hidden: Size = 100, steps: Size = 100, learning_rate: Rate = 5e-3, optimizer: Optimizer = "adam"
) -> PrefixPredictor:
    """`two_layer_network` of every prefix: a network for each, all trained at once.

    Raises:
      ValueError: if a size is not positive, or the optimiser is unknown.
    """
    fit = _fit(seed, hidden, steps, learning_rate, optimizer)

    @on_prefixes
    def predict(x: Array, y: Array) -> Array:
        return jax.vmap(fit, in_axes=(None, None, 0, 0))(x, y, jnp.tri(len(x), k=-1, dtype=x.dtype), x)

    return predict


def _fit(seed: int, hidden: int, steps: int, learning_rate: float, optimizer: str):
    """`(x [n d], y [n m], which examples there are [n], x_query [d]) -> y_hat [m]`."""
    update = OPTIMIZERS[optimizer](learning_rate)

    def network(params: dict[str, Array], x: Array) -> Array:
        hidden = jax.nn.relu(x @ params["W_1"].T + params["b_1"][None])
        return hidden @ params["W_2"].T + params["b_2"][None]

    def fit(x: Array, y: Array, there: Array, x_query: Array) -> Array:
        d, m = x.shape[-1], y.shape[-1]
        shapes = {"W_1": (hidden, d), "b_1": (hidden,), "W_2": (m, hidden), "b_2": (m,)}
        keys = jax.random.split(jax.random.key(seed), len(shapes))
        bounds = {"W_1": d**-0.5, "b_1": d**-0.5, "W_2": hidden**-0.5, "b_2": hidden**-0.5}
        start = {
            name: jax.random.uniform(key, shape, x.dtype, -bounds[name], bounds[name])
            for key, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        count = jnp.maximum(there.sum(), 1.0)

        def loss(params: dict[str, Array]) -> Array:
            return jnp.sum(there[:, None] * (network(params, x) - y) ** 2) / (count * m)

        def step(carry: Any, _: None) -> tuple[Any, None]:
            params, state = carry
            updates, state = update.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (start, update.init(start)), None, length=steps)
        return jnp.where(there.sum() > 0, network(params, x_query[None])[0], 0.0)

    return fit
