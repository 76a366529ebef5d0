"""The dual model with explicit weights: it uses a feature map, such as random features, and `jax.grad` of the loss.

The positive random features phi of Choromanski et al. (2009.14794) satisfy `E phi(a)^T phi(b) = exp(a^T b)`, the kernel
of softmax attention. Their error decreases as one over the square root of the number of features. With 4096 features:

    >>> def ratio(key, a, b):
    ...     phi = positive_features(key, d=2, m=4096)
    ...     return phi(a) @ phi(b) / jnp.exp(a @ b)
    >>> ratio_at = jax.jit(ratio)(jax.random.key(0), jnp.array([0.3, -0.2]), jnp.array([-0.4, 0.1]))
    >>> bool(abs(ratio_at - 1) < 0.02)
    True
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
    """The feature map of linear attention, which returns its input.

    Returns:
      `z`.
    """
    return z


@checked
def positive_features(key: Array, d: Size, m: Size, hyperbolic: bool = False, orthogonal: bool = False) -> FeatureMap:
    """Draws m positive random features for the kernel `exp(a^T b)`.

    A feature is `exp(w^T z - |z|^2/2) / sqrt(m)`, where the direction w has independent standard normal entries. The
    moment generating function gives `E exp(w^T (a + b)) = exp(|a + b|^2/2)`, so the expected inner product of two
    feature vectors is the kernel.

    Source: Choromanski et al. (2009.14794), section 2.3 (positive features) and 2.4 (orthogonal directions).

    Args:
      key: a JAX random key.
      d: length of the vectors.
      m: number of features.
      hyperbolic: draw m/2 directions w, and use each w together with -w. Default: False.
      orthogonal: make the directions orthogonal in groups of d. Each direction keeps its standard normal distribution.
        Default: False, independent directions.

    Returns:
      The feature map `[... d] -> [... m]`.

    Raises:
      ValueError: if m is not positive, or is odd with `hyperbolic=True`.
    """
    if hyperbolic and m % 2:
        raise ValueError(f"m={m}: the number of hyperbolic features must be even; use m={m + 1}")
    n = m // 2 if hyperbolic else m
    key_directions, key_lengths = jax.random.split(key)
    if orthogonal:
        blocks = -(-n // d)
        normal = jax.random.normal(key_directions, (blocks, d, d))
        q, r = jnp.linalg.qr(normal)
        q = q * jnp.sign(jnp.diagonal(r, axis1=1, axis2=2))[:, None]  # makes the distribution of q uniform
        lengths = jnp.linalg.norm(jax.random.normal(key_lengths, (n, d)), axis=1)
        directions = q.swapaxes(1, 2).reshape(blocks * d, d)[:n] * lengths[:, None]
    else:
        directions = jax.random.normal(key_directions, (n, d))

    def features(z: Float[Array, "*any d"]) -> Float[Array, "*any m"]:
        projections = z @ directions.T
        if hyperbolic:
            projections = jnp.concatenate([projections, -projections], axis=-1)
        return jnp.exp(projections - 0.5 * jnp.sum(z**2, axis=-1, keepdims=True)) / m**0.5

    return features


def start(dual: Dual, features: FeatureMap) -> Float[Array, "d_head m"]:
    """Initial weights W_0 of the dual model, from the attended tokens that are not demonstrations.

    Returns:
      The weights `[d_head m]`.
    """
    others = (dual.is_attended & ~dual.is_demonstration).astype(dual.values.dtype)
    return jnp.einsum("t,tv,tm->vm", others, dual.values, features(dual.keys)) / divisor(dual, features)


@checked
def loss(dual: Dual, features: FeatureMap, weights: Float[Array, "d_head m"], step_size: Positive = 1.0) -> Array:
    """The loss of the dual model, `-1/(step_size D) sum_i v_i^T W phi(k_i) + alpha/(2 step_size) |W|^2`.

    Source: Ren & Liu (2310.13220), section 3. `dual.kernel` defines the symbols and has the proof.

    Args:
      dual: the dual model.
      features: a feature map of the dual model's kernel.
      weights: the weights W at which the loss is evaluated.
      step_size: the step size by which the loss is divided. Default: 1.

    Returns:
      The loss, a scalar.

    Raises:
      ValueError: if `step_size` is not positive.
    """
    per_pair = jnp.einsum("tv,vm,tm->t", dual.values, weights, features(dual.keys))
    pairs = jnp.sum(jnp.where(dual.is_demonstration, per_pair, 0.0)) / divisor(dual, features)
    return (0.5 * dual.alpha * jnp.sum(weights**2) - pairs) / step_size


@checked
def step(dual: Dual, features: FeatureMap, step_size: Positive = 1.0) -> Float[Array, "d_head m"]:
    """Weights W_1 after one step of gradient descent on the loss, from the initial weights W_0.

    Args:
      dual: the dual model.
      features: a feature map of the dual model's kernel.
      step_size: step size in the loss and in the step; the two cancel up to rounding. Default: 1.

    Returns:
      The weights `[d_head m]`. `W_1 @ features(dual.query)` is the output of the head, up to the error of the features.

    Raises:
      ValueError: if `step_size` is not positive.
    """
    weights = start(dual, features)
    return weights - step_size * jax.grad(loss, argnums=2)(dual, features, weights, step_size)


def pattern(dual: Dual, features: FeatureMap) -> Float[Array, " t"]:
    """Attention weights of the query, computed from features for alpha = 0: `phi(k_j)^T phi(q) / D` for every token j.

    Returns:
      The weights `[t]`; zero for tokens to which the query does not attend.
    """
    kernel = features(dual.keys) @ features(dual.query)
    return jnp.where(dual.is_attended, kernel, 0.0) / divisor(dual, features)


def divisor(dual: Dual, features: FeatureMap) -> Float[Array, ""]:
    """The normaliser D, computed from features; dividing by D makes the attention weights of softmax sum to one.

    Returns:
      D, a scalar; one for linear attention.
    """
    if dual.kernel == "linear":
        return jnp.ones((), dual.keys.dtype)
    return jnp.sum(jnp.where(dual.is_attended, features(dual.keys) @ features(dual.query), 0.0))
