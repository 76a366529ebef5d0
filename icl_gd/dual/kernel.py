"""The dual model of an attention head, in the kernel: no feature map is ever formed (Ren & Liu 2310.13220, section 3).

Claim. A head reads demonstrations and other tokens, with keys k_j and values v_j, and is asked by a query q. Let phi be
a feature map of its kernel, phi(a)^T phi(b) = K(a, b), and D what the pattern divides by. The dual model is linear,
f(z) = W phi(z). It starts at the tokens that are no demonstrations, W_0 = 1/D sum_other v_j phi(k_j)^T, its training
pairs are (k_i, v_i) of the demonstrations, and its loss is

    L(W) = -1/(step_size D) sum_i v_i^T W phi(k_i) + alpha/(2 step_size) |W|^2

One step of gradient descent with `step_size` from W_0 gives a model whose output at q is what the head computes:
without alpha its plain output, with alpha one in which tokens that are no demonstrations count 1 - alpha.

Proof. The gradient at W_0 is -1/(step_size D) sum_i v_i phi(k_i)^T + alpha/step_size W_0, so that W_1 = (1 - alpha) W_0
+ 1/D sum_i v_i phi(k_i)^T, and W_1 phi(q) = sum_j c_j v_j K(k_j, q)/D with c = 1 for demonstrations and 1 - alpha for
others. For softmax, K(a, b) = exp(a^T b) of keys and queries over d_head^(1/4), and D = sum_j K(k_j, q): these are its
weights. For linear attention K(a, b) = a^T b and D = 1. QED

The first term is linear in W: its gradient is the same everywhere, and N steps on one demonstration each arrive where
one step on all of them does. Alpha is met once, with the first.

Caveats, which `docs/dual_model.md` discusses: D depends on the query, so every query has a dual model of its own;
without alpha the loss has no minimum; and no label is compared with a prediction, so that this is not the gradient
descent on least squares of `learners.gradient_descent`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from icl_gd.types import Array

# From inner products and a logarithm of what divides them: the kernel over that divisor.
KERNELS: dict[str, Callable[[Array, Array], Array]] = {
    "softmax": lambda inner, log_divisor: jnp.exp(inner - log_divisor),
    "linear": lambda inner, log_divisor: inner,
}


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["keys", "values", "query", "is_demonstration", "is_read", "alpha"],
    meta_fields=["kernel"],
)
@dataclass(frozen=True)
class Dual:
    """The dual model of one head, for one query.

    Attributes:
      keys, values: of all tokens; values are in the head, before what writes them. With softmax, keys and query are
        those of the head over the fourth root of its width, which matters to who builds a dual model by hand.
      is_demonstration: which tokens are training pairs; others that are read make the start.
      alpha: of the regulariser.
      kernel: "softmax" or "linear".
    """

    keys: Float[Array, "t d_head"]
    values: Float[Array, "t d_head"]
    query: Float[Array, " d_head"]
    is_demonstration: Bool[Array, " t"]
    is_read: Bool[Array, " t"]
    alpha: Float[Array, ""]
    kernel: str = "softmax"


class Trajectory(NamedTuple):
    """A dual model on its way: before any step, and after a step on each token in turn. The last is the layer's.

    A token that is no demonstration takes no step: it leaves everything as it was.
    """

    prediction: Float[Array, "iterate d_head"]  # at the query
    loss: Float[Array, " iterate"]  # with a step size of one
    norm: Float[Array, " iterate"]  # |W|, of all its entries


def attention_weights(dual: Dual) -> Float[Array, " t"]:
    """`K(k_j, q)/D`: how much of each token's value the query gets, without alpha."""
    inner = dual.keys @ dual.query
    if dual.kernel == "linear":
        return jnp.where(dual.is_read, inner, 0.0)
    of_read = jax.nn.softmax(jnp.where(dual.is_read, inner, jnp.finfo(inner.dtype).min))
    return jnp.where(dual.is_read, of_read, 0.0)  # where nothing is read, nothing


def coefficients(dual: Dual) -> Float[Array, "iterate t"]:
    """Of every iterate W = 1/D sum_j c_j v_j phi(k_j)^T the coefficients c: of those that are read, zero or one, or
    1 - alpha."""
    t = len(dual.keys)
    others = dual.is_read & ~dual.is_demonstration
    met = jnp.tri(t + 1, t, -1, dtype=bool) & dual.is_demonstration[None]  # after so many steps
    begun = jnp.any(met, axis=1) | ((jnp.arange(t + 1) == t) & ~jnp.any(dual.is_demonstration))
    start = jnp.where(others[None], 1.0 - dual.alpha * begun[:, None], 0.0)
    return jnp.where(met, 1.0, start).astype(dual.values.dtype)


def trajectory(dual: Dual) -> Trajectory:
    """Steps on one demonstration at a time, in the order of tokens.

    Loss and norm grow like the exponential of the squared length of keys: beyond float32's range, from lengths of about
    nine on, they are inf or nan there, and predictions are not.
    """
    c = coefficients(dual)
    gram = KERNELS[dual.kernel](dual.keys @ dual.keys.T, 2 * log_divisor(dual)) * (dual.values @ dual.values.T)
    gram = jnp.where(dual.is_read[None] & dual.is_read[:, None], gram, 0.0)
    square = jnp.einsum("si,ij,sj->s", c, gram, c)
    loss = -jnp.einsum("i,ij,sj->s", dual.is_demonstration.astype(c.dtype), gram, c) + 0.5 * dual.alpha * square
    return Trajectory(c @ (attention_weights(dual)[:, None] * dual.values), loss, jnp.sqrt(jnp.maximum(square, 0.0)))


def prediction(dual: Dual) -> Float[Array, " d_head"]:
    """What the dual model says at the query after one step on all demonstrations."""
    alone = jnp.where(dual.is_read & ~dual.is_demonstration, 1.0 - dual.alpha, 1.0)
    return (alone * attention_weights(dual)) @ dual.values


def log_divisor(dual: Dual) -> Float[Array, ""]:
    """log D."""
    if dual.kernel == "linear":
        return jnp.zeros((), dual.keys.dtype)
    return jax.nn.logsumexp(jnp.where(dual.is_read, dual.keys @ dual.query, -jnp.inf))


def mean_loss(dual: Dual, keys: Float[Array, "i d_head"], values: Float[Array, "i d_head"]) -> Float[Array, ""]:
    """The dual model's loss after its step, without alpha, on any demonstrations: the mean `-v_i^T W phi(k_i)`.

    On its own it is `step_size D / N` times the loss above: what is compared between contexts of different lengths.
    """
    c = coefficients(dual)[-1]
    reach = KERNELS[dual.kernel](keys @ dual.keys.T, log_divisor(dual))
    reach = jnp.where(dual.is_read[None], reach, 0.0) * c[None]
    return -jnp.mean(jnp.sum((values @ dual.values.T) * reach, axis=1))


def self_influence(dual: Dual) -> Float[Array, " t"]:
    """What each demonstration adds to minus its own loss in `mean_loss`, by having been a training pair:
    `|v_i|^2 K(k_i, k_i)/D`."""
    inner = jnp.sum(dual.keys**2, axis=1)
    own = KERNELS[dual.kernel](inner, log_divisor(dual)) * jnp.sum(dual.values**2, axis=1)
    return jnp.where(dual.is_demonstration, own, 0.0)
