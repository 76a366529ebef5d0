"""The vocabulary that all packages share: terms, axes, conventions, and the types of prompts and predictors.

Glossary of terms:

    context         the n examples (x_j, y_j) that a learner may use
    query           the input x_query whose label is predicted; its token is the last of a prompt's tokens
    prompt          one in-context problem: a context, a query and its hidden label (`Prompt`)
    Predictor       an in-context learner: a function `(x, y, x_query) -> y_hat` of one prompt
    PrefixPredictor an in-context learner that predicts the label of each x_k from the k examples before it
    layout          how a prompt is encoded as tokens, and where the prediction is read (`Layout`)
    residual        the residual stream: the tokens before the first layer, or after any layer
    scores          attention logits, before normalisation (softmax, ...)
    pattern         attention weights, after normalisation; they multiply the values
    circuits        the weight products of a head: `W_KQ = W_K^T W_Q` (QK circuit) and `W_PV = P W_V` (OV circuit)
    Gram form       the Gram (second-moment) form of a linear network: layers act on `sum_j e_j e_j^T` and the query
    population      models of equal shapes, stacked along a leading member axis and trained together
    member          one model of a population; member i has the seed `seed + i`
    trapped seed    a member whose final loss exceeds 1.2 times a baseline: the loss of the best layer if it is known in
                    closed form, otherwise that of the reference learner. On function classes, a member whose final
                    error exceeds 0.9 times that of predicting zero. It may be on a plateau, converge slowly,
                    overfit, or be limited by the architecture. A free seed is one that is not trapped.

Glossary of axes, used in every shape annotation of the package:

    n       context examples            d   input dimension          m   output dimension
    t       tokens (n + 1 if an         e   token width (d + m if x and y share a token)
            example is one token)       depth   layers + 1: the residual before the first layer and after each one
    layer   attention layers            head    heads of one layer   d_head  width of one head
    step    steps of a learner          iterate steps + 1: the start and the result of each step
    member  models of a population      prompt  a batch of prompts

Conventions, stated here once:

* Tokens are rows: a sequence is `[t e]`. Formulas treat a token as a column: `k_j = W_K e_j`. In code,
  `keys = tokens @ W_K.T`.
* `P` is the output projection of attention, often called W_O elsewhere. The score of query token i on key token j
  is `e_j^T W_KQ e_i`. The update of token i by linear attention is
  `sum_heads W_PV sum_j e_j (e_j^T W_KQ e_i)`.
* A linear model is `y = W x` with `W [m d]`. The in-context loss is `1/(2n) sum_i |W x_i - y_i|^2`, and one gradient
  step is `W - step_size / n * sum_i (W x_i - y_i) x_i^T`. Functions take `step_size` (eta). Only the reported
  metric `step_size_gd` is eta / n, as reported by von Oswald et al.
* A risk is `1/2 |y_hat - y_query|^2`, summed over output dimensions and averaged over prompts.
* The Transformer's prediction is *minus* the y slot of the query token, which starts at `-W_0 x_query`
  (von Oswald et al. 2212.07677, Proposition 1).

The prediction of a linear network depends on the prompt only through its Gram form, for example:

    >>> tokens = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0]])  # two examples, then the query
    >>> gram = Gram.of(tokens)
    >>> gram.context.tolist(), gram.query.tolist()
    ([[10.0, 14.0], [14.0, 20.0]], [5.0, 0.0])
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Gt
from jaxtyping import Float

Array = jax.Array
Scalar = float | Float[Array, ""]  # a number, or a traced scalar such as the value of one member of a population
Positive = Annotated[Scalar, Gt(0)]
Rates = Float[Array, " step"] | Float[np.ndarray, " step"] | Sequence[float | Float[Array, ""]]  # one per step
EXAMPLES_AT_ONCE = 16  # context tokens that one iteration of a loop adds, unrolled


class Prompt(NamedTuple):
    """One in-context problem: a context of examples, a query, and what is hidden from the learner."""

    x: Float[Array, "n d"]
    y: Float[Array, "n m"]
    x_query: Float[Array, " d"]
    y_query: Float[Array, " m"]  # noise-free
    w: Any  # what made the labels: weights [m d] of a linear task; see other tasks


class PrefixPrompt(NamedTuple):
    """One problem at every context length: query k, counted from zero, follows the first k examples.

    In training, query k is the next input x[k], so `x_query` equals `x`.
    """

    x: Float[Array, "n d"]
    y: Float[Array, "n m"]
    x_query: Float[Array, "n d"]
    y_query: Float[Array, "n m"]  # noise-free
    w: Any  # the function that made the labels


class Gram(NamedTuple):
    """The Gram (second-moment) form of a prompt: all that a stack of linear self-attention layers depends on.

    Its size does not depend on n. `context` is the recurrent state of linear attention whose keys and values are the
    tokens themselves.

    Batch axes come last. A sum over tokens then adds vectors with one entry per prompt, and a circuit is applied to
    all prompts, and to all members of a population, in one matrix product.
    """

    context: Float[Array, " e e *batch"]  # sum_j e_j e_j^T over context tokens
    query: Float[Array, " e *batch"]  # the query token

    @classmethod
    def of(cls, tokens: Float[Array, "t e *batch"]) -> "Gram":
        """The Gram form of a token sequence whose last token is the query.

        Returns:
          `context [e e *batch]` and `query [e *batch]`.
        """
        return cls.of_first(len(tokens) - 1, tokens, tokens[-1])

    @classmethod
    def of_first(cls, n: int, tokens: Float[Array, "t e *batch"], query: Float[Array, " e *batch"]) -> "Gram":
        """The Gram form of the first n tokens and of a query that need not be among them.

        Args:
          n: number of context tokens.
          tokens: `[t e *batch]` with t >= n.
          query: `[e *batch]`, the query token.

        Returns:
          `context [e e *batch]` and `query [e *batch]`.
        """
        if tokens.ndim == 2:
            return cls(tokens[:n].T @ tokens[:n], query)
        return cls(second_moment(partial(jax.lax.dynamic_slice_in_dim, tokens), n), query)


def second_moment(block: Callable[[Array | int, int], Array], n: int) -> Float[Array, " e e *batch"]:
    """The unnormalised second moment `sum_j e_j e_j^T` over n tokens, computed block by block.

    Blocks are computed inside the loop, so the n tokens are never all in memory at once.

    Args:
      block: `block(start, size)` returns the tokens `[size e *batch]` from `start` on.
      n: number of tokens.

    Returns:
      The sum `[e e *batch]`.
    """

    def add(total: Array, tokens: Array) -> Array:
        # Unrolled, the sum needs one pass over the result. As a reduction on CPU, XLA would store all n outer products.
        return reduce(lambda total, token: total + token[:, None] * token[None, :], tokens, total)

    blocks, rest = divmod(n, EXAMPLES_AT_ONCE)
    first = block(0, rest)
    total = add(jnp.zeros((first.shape[1], *first.shape[1:]), first.dtype), first)
    if not blocks:
        return total

    def add_block(i: Array, total: Array) -> Array:
        return add(total, block(rest + i * EXAMPLES_AT_ONCE, EXAMPLES_AT_ONCE))

    return jax.lax.fori_loop(0, blocks, add_block, total)


class Circuits(NamedTuple):
    """The QK and OV circuits: the two weight products through which an attention layer acts.

    A layer sums the updates of its heads.
    """

    W_KQ: Float[Array, "layer head e e"]  # W_K^T W_Q, the QK circuit
    W_PV: Float[Array, "layer head e e"]  # P W_V, the OV circuit


class Activations(NamedTuple):
    """The activations of a Transformer at every layer. Under `jax.jit`, XLA eliminates unused outputs."""

    residual: Float[Array, "depth t e"]  # residual[0] are the embedded tokens, residual[l] the output of layer l
    scores: Float[Array, "layer head t t"]  # [query token, key token]; zero where the key is masked
    pattern: Float[Array, "layer head t t"]  # multiplies the values; equal to the scores in linear attention


Predictor = Callable[[Array, Array, Array], Array]
"""`(x [n d], y [n m], x_query [d]) -> y_hat [m]`: one prompt, no batch axis. Batch it with `jax.vmap`."""


PrefixPredictor = Callable[[Array, Array], Array]
"""`(x [n d], y [n m]) -> y_hat [n m]`: the k-th output is the prediction for `x[k]` given the first k examples.

k counts from zero, so the first prediction uses no example. One prompt, no batch axis.
"""


def batched(predictor: Predictor) -> Predictor | None:
    """The batched form of a Predictor, if it has one that is cheaper than `vmap` (see `models.predictors`).

    Returns:
      A function of a batch in trailing axes, `(x [n d *batch], y [n m *batch], x_query [d *batch]) -> y_hat
      [m *batch]`, or None if the Predictor has no such form.
    """
    apply_batch = getattr(getattr(predictor, "func", None), "apply_batch", None)
    return apply_batch and partial(apply_batch, *predictor.args)  # pyright: ignore[reportFunctionMemberAccess]


class Layout(NamedTuple):
    """How a prompt is encoded as tokens and how the prediction is read: two pure functions and properties of tokens."""

    encode: Callable[[Array, Array, Array], Array]  # (x, y, x_query) -> tokens [t e]; trailing batch axes are kept
    read_out: Callable[[Array], Array]  # residual of the query token [e] -> y_hat [m]
    d_token: int  # token width e
    apart: bool = False  # tokens alternate between x and y; otherwise one token holds both

    @property
    def inputs(self) -> slice | None:
        """Positions of the tokens that hold an x and no label; None if x and y share a token.

        If x and y have separate tokens, these are every x and the query.
        """
        return slice(0, None, 2) if self.apart else None
