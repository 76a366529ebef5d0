"""The dual model of an attention head, evaluated through its kernel (Ren & Liu 2310.13220, section 3).

No feature map is computed; every quantity is a sum of kernel values.

Claim. An attention head has a query q, and keys k_j and values v_j of the tokens to which q attends. Some of these
tokens are demonstrations. Let K be the head's kernel, let phi be a feature map with phi(a)^T phi(b) = K(a, b), and let
D be the normaliser of the attention weights. The dual model is linear, f(z) = W phi(z). Its training pairs are the
(k_i, v_i) of the demonstrations. Its initial weights are W_0 = 1/D sum_other v_j phi(k_j)^T, a sum over the other
tokens. Its loss is

    L(W) = -1/(step_size D) sum_i v_i^T W phi(k_i) + alpha/(2 step_size) |W|^2

One step of gradient descent from W_0 with this `step_size` gives a model whose output at q is the output of the head.
With alpha = 0 this is the unmodified head. With alpha > 0 it is a head in which the attention weights of the other
tokens are multiplied by 1 - alpha.

Proof. The gradient at W_0 is -1/(step_size D) sum_i v_i phi(k_i)^T + alpha/step_size W_0. Hence W_1 = (1 - alpha) W_0
+ 1/D sum_i v_i phi(k_i)^T, and W_1 phi(q) = sum_j c_j v_j K(k_j, q)/D with c_j = 1 for demonstrations and
c_j = 1 - alpha for the other tokens. For softmax, K(a, b) = exp(a^T b) with keys and queries divided by d_head^(1/4),
and D = sum_j K(k_j, q), so K(k_j, q)/D are the attention weights of the head. For linear attention, K(a, b) = a^T b and
D = 1, so K(k_j, q) are its attention weights. QED

The first term of the loss is linear in W, so its gradient does not depend on W. N steps on one demonstration each
therefore give the same weights as one step on all N, if the regulariser is applied in the first step only.

Limits (discussed in `docs/dual_model.md`):

* D depends on the query, so every query has its own dual model.
* For alpha = 0, the loss has no minimum.
* The loss does not compare predictions with labels. The step is not the least-squares step of
  `learners.gradient_descent`.

    >>> keys, values, query = jnp.eye(3), jnp.eye(3), jnp.array([2.0, 3.0, 4.0])
    >>> is_demonstration, is_attended = jnp.array([True, True, False]), jnp.array([True, True, True])
    >>> dual = Dual(keys, values, query, is_demonstration, is_attended, alpha=jnp.zeros(()), kernel="linear")
    >>> jax.jit(prediction)(dual).tolist()
    [2.0, 3.0, 4.0]
    >>> # The third token gives the initial weights; each of the first two adds one step.
    >>> jax.jit(trajectory)(dual).prediction.tolist()
    [[0.0, 0.0, 4.0], [2.0, 0.0, 4.0], [2.0, 3.0, 4.0], [2.0, 3.0, 4.0]]
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from icl_gd.types import Array

# Functions of inner products and the log of a divisor that return kernel values divided by the divisor.
KERNELS: dict[str, Callable[[Array, Array], Array]] = {
    "softmax": lambda inner, log_divisor: jnp.exp(inner - log_divisor),
    "linear": lambda inner, log_divisor: inner,
}


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["keys", "values", "query", "is_demonstration", "is_attended", "alpha"],
    meta_fields=["kernel"],
)
@dataclass(frozen=True)
class Dual:
    """The dual model of one head for one query.

    Attributes:
      keys, values: keys and values of all tokens; the values are not yet multiplied by the head's output weights `P`.
      query: the query. If you construct a `Dual` yourself, divide keys and query of a softmax head by the fourth root
        of d_head; `dual_of` already does so.
      is_demonstration: True for demonstrations, the training pairs. The query must attend to every demonstration.
      is_attended: True for tokens to which the query attends. Attended tokens that are not demonstrations determine the
        initial weights.
      alpha: strength of the regulariser.
      kernel: "softmax" or "linear".
    """

    keys: Float[Array, "t d_head"]
    values: Float[Array, "t d_head"]
    query: Float[Array, " d_head"]
    is_demonstration: Bool[Array, " t"]
    is_attended: Bool[Array, " t"]
    alpha: Float[Array, ""]
    kernel: str = "softmax"


class Trajectory(NamedTuple):
    """The dual model before training and after each token, in order; its last prediction is the output of the head.

    There is no step for a token that is not a demonstration: the next iterate equals the previous one.

    Attributes:
      prediction: the output at the query.
      loss: the loss with `step_size=1`, including the regulariser.
      norm: the Frobenius norm |W| of the weights.
    """

    prediction: Float[Array, "iterate d_head"]
    loss: Float[Array, " iterate"]
    norm: Float[Array, " iterate"]


def attention_weights(dual: Dual) -> Float[Array, " t"]:
    """The head's attention weights for alpha = 0: `K(k_j, q)/D` for every token j.

    Returns:
      The weights `[t]`; zero for tokens to which the query does not attend.
    """
    inner = dual.keys @ dual.query
    if dual.kernel == "linear":
        return jnp.where(dual.is_attended, inner, 0.0)
    weights = jax.nn.softmax(jnp.where(dual.is_attended, inner, jnp.finfo(inner.dtype).min))
    return jnp.where(dual.is_attended, weights, 0.0)  # needed if no token is attended: softmax is then uniform


def coefficients(dual: Dual) -> Float[Array, "iterate t"]:
    """Coefficients c of every iterate `W = 1/D sum_j c_j v_j phi(k_j)^T` of the trajectory.

    Returns:
      The coefficients `[iterate t]`. For demonstrations, they are 0 before and 1 after the step on this demonstration.
      For other tokens to which the query attends, they are 1 before and 1 - alpha after the first step. For all
      remaining tokens they are 0.
    """
    t = len(dual.keys)
    others = dual.is_attended & ~dual.is_demonstration
    processed = jnp.tri(t + 1, t, -1, dtype=bool) & dual.is_demonstration[None]  # [iterate t]
    # If there are no demonstrations, only the regulariser acts, in the last iterate.
    last_without_demonstrations = (jnp.arange(t + 1) == t) & ~jnp.any(dual.is_demonstration)
    stepped = jnp.any(processed, axis=1) | last_without_demonstrations
    start = jnp.where(others[None], 1.0 - dual.alpha * stepped[:, None], 0.0)
    return jnp.where(processed, 1.0, start).astype(dual.values.dtype)


def trajectory(dual: Dual) -> Trajectory:
    """Trains the dual model on one demonstration at a time, in the order of the tokens.

    For softmax, loss and norm grow like the exponential of the squared norm of the keys. In float32, they become inf or
    nan for keys of norm about nine or more; predictions stay finite.

    Returns:
      The trajectory, with `t + 1` iterates.
    """
    c = coefficients(dual)
    gram = KERNELS[dual.kernel](dual.keys @ dual.keys.T, 2 * log_divisor(dual)) * (dual.values @ dual.values.T)
    gram = jnp.where(dual.is_attended[None] & dual.is_attended[:, None], gram, 0.0)
    square = jnp.einsum("si,ij,sj->s", c, gram, c)  # |W|^2
    loss = -jnp.einsum("i,ij,sj->s", dual.is_demonstration.astype(c.dtype), gram, c) + 0.5 * dual.alpha * square
    return Trajectory(c @ (attention_weights(dual)[:, None] * dual.values), loss, jnp.sqrt(jnp.maximum(square, 0.0)))


def prediction(dual: Dual) -> Float[Array, " d_head"]:
    """Output of the dual model at the query after one step on all demonstrations: the output of the head.

    Returns:
      The output `[d_head]`, before it is multiplied by the head's output weights `P`.
    """
    c = jnp.where(dual.is_attended & ~dual.is_demonstration, 1.0 - dual.alpha, 1.0)
    return (c * attention_weights(dual)) @ dual.values


def log_divisor(dual: Dual) -> Float[Array, ""]:
    """Logarithm of the normaliser D of the attention weights.

    Returns:
      log D, a scalar; zero for linear attention, where D = 1.
    """
    if dual.kernel == "linear":
        return jnp.zeros((), dual.keys.dtype)
    return jax.nn.logsumexp(jnp.where(dual.is_attended, dual.keys @ dual.query, -jnp.inf))


def mean_loss(dual: Dual, keys: Float[Array, "i d_head"], values: Float[Array, "i d_head"]) -> Float[Array, ""]:
    """Mean of `-v_i^T W phi(k_i)` over the given demonstrations, where W are the weights after the step.

    On the N demonstrations of the dual model itself, this is `step_size D / N` times the first term of the loss L.
    Unlike L, it can be compared between contexts of different lengths.

    Args:
      dual: the dual model.
      keys, values: the demonstrations on which the loss is evaluated, scaled as those of `dual`.

    Returns:
      The mean loss, a scalar.
    """
    c = coefficients(dual)[-1]
    kernel = KERNELS[dual.kernel](keys @ dual.keys.T, log_divisor(dual))
    kernel = jnp.where(dual.is_attended[None], kernel, 0.0) * c[None]
    return -jnp.mean(jnp.sum((values @ dual.values.T) * kernel, axis=1))


def self_influence(dual: Dual) -> Float[Array, " t"]:
    """The amount by which training on a demonstration reduces the loss of this demonstration: `|v_i|^2 K(k_i, k_i)/D`.

    Returns:
      The reductions `[t]` of the terms of `mean_loss`; zero for tokens that are not demonstrations.
    """
    inner = jnp.sum(dual.keys**2, axis=1)
    reduction = KERNELS[dual.kernel](inner, log_divisor(dual)) * jnp.sum(dual.values**2, axis=1)
    return jnp.where(dual.is_demonstration, reduction, 0.0)
