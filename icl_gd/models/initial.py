"""Initialisers of weights. They depend on whether a matrix reads the residual or writes to it.

>>> initializers = gpt2(init_scale=4e-4, n_layers=2)
>>> initializers.inputs(jax.random.key(0), (8, 4)).shape  # matrices are [out in]
(8, 4)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
from flax.linen.initializers import Initializer, normal, variance_scaling, zeros

from icl_gd.types import Array, Scalar


class Initializers(NamedTuple):
    """Initialisers of matrices `[... out in]`, and of the biases of embedding and read-out. Other biases are zero.

    Attributes:
      inputs: for matrices that read the residual.
      outputs: for matrices that write to the residual: maps the number of matrices whose outputs are summed (one per
        head) to their initialiser.
      embed: for the matrices of the embedding and of the learned read-out.
      embed_bias: maps the fan-in of such a matrix to the initialiser of its bias.
      positions: for the learned positions.
    """

    inputs: Initializer
    outputs: Callable[[int], Initializer]
    embed: Initializer
    embed_bias: Callable[[int], Initializer]
    positions: Initializer


def _fan_in(variance: Scalar) -> Initializer:
    """Truncated normal whose variance after truncation is `variance / fan_in`. Axes before `[out in]` are a batch."""

    def init(key: Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = float) -> Array:
        axes = {"in_axis": -1, "out_axis": -2, "batch_axis": tuple(range(len(shape) - 2))}
        return variance_scaling(variance, "fan_in", "truncated_normal", **axes)(key, shape, dtype)  # pyright: ignore

    return init


def _uniform_fan_in(fan_in: int | None = None) -> Initializer:
    """Uniform in `[-1 / sqrt(fan_in), 1 / sqrt(fan_in)]`. Default: the fan-in of the matrix that is drawn."""

    def init(key: Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = float) -> Array:
        bound = (shape[-1] if fan_in is None else fan_in) ** -0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init  # pyright: ignore[reportReturnType]


def von_oswald(init_scale: Scalar, n_layers: int) -> Initializers:
    """Truncated normal with variance `init_scale / n_layers / fan_in` for every matrix; biases are zero.

    Returns:
      The initialisers. The fan-in of a matrix that writes to the residual is summed over heads.

    Source: the published code of von Oswald et al. (2212.07677).
    """
    variance = init_scale / n_layers

    def outputs(n_summed: int) -> Initializer:
        return _fan_in(variance / n_summed)

    def embed_bias(fan_in: int) -> Initializer:
        return zeros

    default = _fan_in(variance)
    return Initializers(default, outputs, default, embed_bias, default)


def gpt2(init_scale: Scalar, n_layers: int) -> Initializers:
    """Normal with variance `init_scale`; for matrices that write to the residual, `init_scale / (2 n_layers)`.

    GPT-2 has `init_scale` 0.0004. The matrices and biases of embedding and read-out are uniform in
    `[-1 / sqrt(fan_in), 1 / sqrt(fan_in)]`, the default of PyTorch linear layers, which Garg et al. (2208.01066) use.

    Returns:
      The initialisers.
    """

    def outputs(n_summed: int) -> Initializer:
        return normal((init_scale / (2 * n_layers)) ** 0.5)

    default = normal(init_scale**0.5)
    return Initializers(default, outputs, _uniform_fan_in(), _uniform_fan_in, default)


KINDS: dict[str, Callable[[Scalar, int], Initializers]] = {"von_oswald": von_oswald, "gpt2": gpt2}
