"""Initialisation of weights, by what a matrix reads and where it writes.

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
    """Initializers of matrices `[... out in]` and of the biases at both ends of the network. Other biases are zero.

    Attributes:
      inputs: of matrices that read the residual.
      outputs: of matrices that write to the residual, by the number of them whose outputs are summed (the heads).
      embed: of the embedding before the first layer and of the read-out after the last.
      embed_bias: of the biases of embedding and read-out, by the fan-in of their matrix.
      positions: of the learned positions.
    """

    inputs: Initializer
    outputs: Callable[[int], Initializer]
    embed: Initializer
    embed_bias: Callable[[int], Initializer]
    positions: Initializer


def _fan_in(variance: Scalar) -> Initializer:
    """Truncated normal of variance `variance / fan_in`, corrected for the truncation; leading axes are a batch."""

    def init(key: Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = float) -> Array:
        axes = {"in_axis": -1, "out_axis": -2, "batch_axis": tuple(range(len(shape) - 2))}
        return variance_scaling(variance, "fan_in", "truncated_normal", **axes)(key, shape, dtype)  # pyright: ignore

    return init


def _uniform_fan_in(fan_in: int | None = None) -> Initializer:
    """Uniform in `[-1 / sqrt(fan_in), 1 / sqrt(fan_in)]`; by default the fan-in is that of the matrix itself."""

    def init(key: Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = float) -> Array:
        bound = (shape[-1] if fan_in is None else fan_in) ** -0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init  # pyright: ignore[reportReturnType]


def von_oswald(init_scale: Scalar, n_layers: int) -> Initializers:
    """Truncated normal of variance `init_scale / n_layers / fan_in` for every matrix; biases are zero.

    Returns:
      The initializers. The fan-in of a matrix that writes to the residual counts all heads.

    Source: the published code of von Oswald et al. (2212.07677).
    """
    variance = init_scale / n_layers

    def outputs(n_summed: int) -> Initializer:
        return _fan_in(variance / n_summed)

    def embed_bias(fan_in: int) -> Initializer:
        return zeros

    every = _fan_in(variance)
    return Initializers(every, outputs, every, embed_bias, every)


def gpt2(init_scale: Scalar, n_layers: int) -> Initializers:
    """Normal of variance `init_scale`, and of `init_scale / (2 n_layers)` where a matrix writes to the residual.

    GPT-2 has `init_scale` 0.0004. Embedding and read-out are PyTorch linear layers in the code of Garg et al.
    (2208.01066): matrix and bias are uniform within `1 / sqrt(fan_in)`.

    Returns:
      The initializers.
    """

    def outputs(n_summed: int) -> Initializer:
        return normal((init_scale / (2 * n_layers)) ** 0.5)

    every = normal(init_scale**0.5)
    return Initializers(every, outputs, _uniform_fan_in(), _uniform_fan_in, every)


KINDS: dict[str, Callable[[Scalar, int], Initializers]] = {"von_oswald": von_oswald, "gpt2": gpt2}
