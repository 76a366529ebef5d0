"""A network with one hidden layer, trained from scratch on every context (Garg et al. 2208.01066, section 4).

Here the network learns y = |x|:

    >>> x = jnp.linspace(-1.0, 1.0, 9)[:, None]
    >>> predict = jax.jit(two_layer_network(hidden=16, steps=100, learning_rate=0.1, optimizer="gd"))
    >>> abs(predict(x, jnp.abs(x), jnp.array([0.5])).item() - 0.5) < 0.1
    True
"""

from collections.abc import Callable
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
    """Trains the network `W_2 relu(W_1 x + b_1) + b_2` on the mean squared error over the context.

    The default optimiser and number of steps are those of Garg et al. Initial weights and biases are uniform in
    `[-1, 1] / sqrt(fan_in)`, and the same for every problem. Without examples the prediction is zero, as in the paper.

    Args:
      seed: random seed of the initial weights.
      hidden: width of the hidden layer.
      steps: number of training steps.
      learning_rate: learning rate of the optimiser.
      optimizer: "adam", or "gd" for plain gradient descent. Default: "adam".

    Returns:
      A Predictor with y_hat `[m]`.

    Raises:
      ValueError: if a size or the learning rate is not positive, or the optimiser is unknown.
    """
    fit_and_predict = _fit_and_predict(seed, hidden, steps, learning_rate, optimizer)

    @on_problem
    def predict(x: Array, y: Array, x_query: Array) -> Array:
        return fit_and_predict(x, y, jnp.ones(len(x), x.dtype), x_query)

    return predict


@checked
def prefix_two_layer_network(
    seed: Seed = 0, hidden: Size = 100, steps: Size = 100, learning_rate: Rate = 5e-3, optimizer: Optimizer = "adam"
) -> PrefixPredictor:
    """`two_layer_network` for every prefix: one network per prefix, all trained in parallel.

    Args:
      seed: random seed of the initial weights.
      hidden: width of the hidden layer.
      steps: number of training steps.
      learning_rate: learning rate of the optimiser.
      optimizer: "adam", or "gd" for plain gradient descent. Default: "adam".

    Returns:
      A PrefixPredictor with y_hat `[n m]`.

    Raises:
      ValueError: if a size or the learning rate is not positive, or the optimiser is unknown.
    """
    fit_and_predict = _fit_and_predict(seed, hidden, steps, learning_rate, optimizer)

    @on_prefixes
    def predict(x: Array, y: Array) -> Array:
        prefixes = jnp.tri(len(x), k=-1, dtype=x.dtype)
        return jax.vmap(fit_and_predict, in_axes=(None, None, 0, 0))(x, y, prefixes, x)

    return predict


def _fit_and_predict(
    seed: int, hidden: int, steps: int, learning_rate: float, optimizer: str
) -> Callable[[Array, Array, Array, Array], Array]:
    """A function `(x [n d], y [n m], mask [n], x_query [d]) -> y_hat [m]` that trains on the unmasked examples."""
    transform = OPTIMIZERS[optimizer](learning_rate)

    def network(params: dict[str, Array], x: Array) -> Array:
        activations = jax.nn.relu(x @ params["W_1"].T + params["b_1"][None])
        return activations @ params["W_2"].T + params["b_2"][None]

    def fit_and_predict(x: Array, y: Array, mask: Array, x_query: Array) -> Array:
        d, m = x.shape[-1], y.shape[-1]
        shapes = {"W_1": (hidden, d), "b_1": (hidden,), "W_2": (m, hidden), "b_2": (m,)}
        keys = dict(zip(shapes, jax.random.split(jax.random.key(seed), len(shapes)), strict=True))
        bounds = {"W_1": d**-0.5, "b_1": d**-0.5, "W_2": hidden**-0.5, "b_2": hidden**-0.5}
        start = {
            name: jax.random.uniform(keys[name], shape, x.dtype, -bounds[name], bounds[name])
            for name, shape in shapes.items()
        }
        count = jnp.maximum(mask.sum(), 1.0)

        def loss(params: dict[str, Array]) -> Array:
            return jnp.sum(mask[:, None] * (network(params, x) - y) ** 2) / (count * m)

        def step(carry: Any, _: None) -> tuple[Any, None]:
            params, state = carry
            updates, state = transform.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (start, transform.init(start)), None, length=steps)
        return jnp.where(mask.sum() > 0, network(params, x_query[None])[0], 0.0)

    return fit_and_predict
