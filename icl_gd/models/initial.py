"""How weights start: by what a matrix reads and where it writes."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from flax.linen.initializers import Initializer, normal, variance_scaling, zeros

from icl_gd.types import Array, Scalar


class Initializers(NamedTuple):
    """Of matrices `[... out in]`, and of the biases beside them."""

    inputs: Initializer  # matrices that read the residual
    outputs: Callable[[int], Initializer]  # that write to it, by how many of them do so side by side
    embed: Initializer  # what stands before the first layer and after the last
    embed_bias: Callable[[int], Initializer]  # theirs, by the matrix's fan-in; all others start at zero
    positions: Initializer


def _fan_in(variance: Scalar) -> Initializer:
    """Truncated normal of variance `variance / fan_in`, corrected for the truncation; leading axes are a batch."""

    def init(key: Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = float) -> Array:
        axes = {"in_axis": -1, "out_axis": -2, "batch_axis": tuple(range(len(shape) - 2))}
        return variance_scaling(variance, "fan_in", "truncated_normal", **axes)(key, shape, dtype)  # pyright: ignore

    return init


def _within(bound: float) -> Initializer:
    return lambda key, shape, dtype=float: jax.random.uniform(key, shape, dtype, -bound, bound)  # pyright: ignore


def von_oswald(init_scale: Scalar, n_layers: int) -> Initializers:
    """As von Oswald et al.: variance `init_scale / n_layers / fan_in` everywhere, without biases."""
    variance = init_scale / n_layers
    every = _fan_in(variance)
    return Initializers(every, lambda beside: _fan_in(variance / beside), every, lambda fan_in: zeros, every)


def gpt2(init_scale: Scalar, n_layers: int) -> Initializers:
    """As GPT-2: variance `init_scale`, which there is .0004; `init_scale / (2 n_layers)` where the residual is written.

    What stands at the ends is PyTorch's linear layer, uniform within `1 / sqrt(fan_in)`, as Garg et al. have it.
    """
    return Initializers(
        normal(init_scale**0.5),
        lambda beside: normal((init_scale / (2 * n_layers)) ** 0.5),
        lambda key, shape, dtype=float: _within(shape[-1] ** -0.5)(key, shape, dtype),
        lambda fan_in: _within(fan_in**-0.5),
        normal(init_scale**0.5),
    )


KINDS: dict[str, Callable[[Scalar, int], Initializers]] = {"von_oswald": von_oswald, "gpt2": gpt2}
