"""The dual model with its weights written out: random features for the exponential kernel, and steps by gradients.

Positive random features phi of Choromanski et al. (2009.14794) have `E phi(a)^T phi(b) = exp(a^T b)`, with an error
that falls as one over the root of their number.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from icl_gd.dual.kernel import Dual
from icl_gd.schema import Size, checked
from icl_gd.types import Array, Positive

FeatureMap = Callable[[Array], Array]  # [... d_head] -> [... m]


def identity(z: Array) -> Array:
    """The feature map of linear attention."""
    return z


@checked
def positive_features(key: Array, d: Size, m: Size, hyperbolic: bool = False, orthogonal: bool = False) -> FeatureMap:
    """m features of vectors `[... d]`, for the kernel `exp(a^T b)`.

    With directions w of independent standard normal entries, `exp(w^T z - |z|^2/2) / sqrt(m)`: by the moment generating
    function `E exp(w^T (a + b)) = exp(|a + b|^2/2)`. Directions keep that law one by one when they are `orthogonal`, d
    at a time, of lengths drawn as before.

    Args:
      hyperbolic: half as many directions, each with its opposite.

    Raises:
      ValueError: of m=0, or of hyperbolic features whose number is odd.
    """
    if hyperbolic and m % 2:
        raise ValueError(f"m={m}: the number of hyperbolic features must be even")
    n = m // 2 if hyperbolic else m
    key_directions, key_lengths = jax.random.split(key)
    if orthogonal:
        blocks = -(-n // d)
        normal = jax.random.normal(key_directions, (blocks, d, d))
        turn, upper = jnp.linalg.qr(normal)
        turn = turn * jnp.sign(jnp.diagonal(upper, axis1=1, axis2=2))[:, None]  # or rotations would not be uniform
        lengths = jnp.linalg.norm(jax.random.normal(key_lengths, (n, d)), axis=1)
        directions = turn.swapaxes(1, 2).reshape(blocks * d, d)[:n] * lengths[:, None]
    else:
        directions = jax.random.normal(key_directions, (n, d))

    def features(z: Float[Array, "*any d"]) -> Float[Array, "*any m"]:
        along = z @ directions.T
        along = jnp.concatenate([along, -along], axis=-1) if hyperbolic else along
        return jnp.exp(along - 0.5 * jnp.sum(z**2, axis=-1, keepdims=True)) / m**0.5

    return features


def start(dual: Dual, features: FeatureMap) -> Float[Array, "d_head m"]:
    """W_0, of the tokens that are no demonstrations."""
    others = (dual.is_read & ~dual.is_demonstration).astype(dual.values.dtype)
    return jnp.einsum("t,tv,tm->vm", others, dual.values, features(dual.keys)) / divisor(dual, features)


@checked
def loss(dual: Dual, features: FeatureMap, weights: Float[Array, "d_head m"], step_size: Positive = 1.0) -> Array:
    """The dual model's loss, `-1/(step_size D) sum_i v_i^T W phi(k_i) + alpha/(2 step_size) |W|^2`."""
    per_pair = jnp.einsum("tv,vm,tm->t", dual.values, weights, features(dual.keys))
    pairs = jnp.sum(jnp.where(dual.is_demonstration, per_pair, 0.0)) / divisor(dual, features)
    return (0.5 * dual.alpha * jnp.sum(weights**2) - pairs) / step_size


@checked
def step(dual: Dual, features: FeatureMap, step_size: Positive = 1.0) -> Float[Array, "d_head m"]:
    """W_1: the weights after one step of gradient descent on the loss."""
    weights = start(dual, features)
    return weights - step_size * jax.grad(loss, argnums=2)(dual, features, weights, step_size)


def pattern(dual: Dual, features: FeatureMap) -> Float[Array, " t"]:
    """How much of each token's value the query gets, `phi(k_j)^T phi(q) / D`, without alpha."""
    reach = features(dual.keys) @ features(dual.query)
    return jnp.where(dual.is_read, reach, 0.0) / divisor(dual, features)


def divisor(dual: Dual, features: FeatureMap) -> Float[Array, ""]:
    """D, of features: what makes the pattern of softmax sum to one."""
    if dual.kernel == "linear":
        return jnp.ones((), dual.keys.dtype)
    return jnp.sum(jnp.where(dual.is_read, features(dual.keys) @ features(dual.query), 0.0))
