"""The vocabulary every room of the house shares: problems, predictors, layouts, activations.

Glossary of axes, used in every shape annotation of the package:

    n       context examples            d   input dimension          m   output dimension
    t       tokens (n + 1: the context, then the query)              e   token width (d + m when concatenated)
    layer   attention layers            head  heads of one layer     d_head  width of one head
    depth   layers + 1: the residual     step    steps of a learner
            before the first, after each iterate steps + 1, the start first
    member  models of a population      prompt  a batch of problems

Conventions, stated here once:

* Tokens are rows: a sequence is `[t e]`. Weight matrices act from the left on a token seen as a column, so
  `k_j = W_K e_j`, and on rows `keys = tokens @ W_K.T`.
* Circuits are `W_KQ = W_K^T W_Q` and `W_PV = P W_V` (QK and OV elsewhere). The score of query token i on key
  token j is `e_j^T W_KQ e_i`, the update of token i is `sum_heads W_PV sum_j e_j (e_j^T W_KQ e_i)`.
* A linear model is `y = W x` with `W [m d]`. In-context loss is `1/(2n) sum_i |W x_i - y_i|^2`, one gradient
  step is `W - step_size / n * sum_i (W x_i - y_i) x_i^T`. Functions take `step_size` (eta); only the reported
  metric `step_size_gd` is eta / n, as von Oswald et al. print it.
* A risk is `1/2 |y_hat - y_query|^2`, summed over output dimensions and averaged over prompts.
* The Transformer's prediction is *minus* the y slot of the query token, which starts at `-W_0 x_query`
  (von Oswald et al. 2212.07677, Proposition 1).
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
Scalar = float | Float[Array, ""]  # a plain setting that may also be traced, as one member's of a population
Positive = Annotated[Scalar, Gt(0)]
Rates = Float[Array, " step"] | Float[np.ndarray, " step"] | Sequence[float | Float[Array, ""]]  # one of every step
EXAMPLES_AT_ONCE = 16  # of a sum over the context that is written out


class Prompt(NamedTuple):
    """One in-context problem: a context of examples, a query, and what was hidden from the learner."""

    x: Float[Array, "n d"]
    y: Float[Array, "n m"]
    x_query: Float[Array, " d"]
    y_query: Float[Array, " m"]  # noise-free
    w: Any  # what made the labels: weights [m d] of a linear task; see the task where it is another


class PrefixPrompt(NamedTuple):
    """One problem met at every length: the k-th query, from zero, comes after the first k examples.

    Where queries are the examples to come, as in training, `x_query` is `x`.
    """

    x: Float[Array, "n d"]
    y: Float[Array, "n m"]
    x_query: Float[Array, "n d"]
    y_query: Float[Array, "n m"]  # noise-free
    w: Any  # the function that made the labels


class Gram(NamedTuple):
    """All that a stack of linear self-attention layers sees of a prompt (its cost does not depend on n).

    A batch stands in trailing axes: sums over tokens then run along whole vectors of prompts, and a circuit acts on
    all prompts, and on all members of a population, in one matrix product.
    """

    context: Float[Array, " e e *batch"]  # sum_j e_j e_j^T over context tokens
    query: Float[Array, " e *batch"]  # the query token

    @classmethod
    def of(cls, tokens: Float[Array, "t e *batch"]) -> "Gram":
        """The moments of tokens whose last is the query."""
        return cls.of_first(len(tokens) - 1, tokens, tokens[-1])

    @classmethod
    def of_first(cls, n: int, tokens: Float[Array, "t e *batch"], query: Float[Array, " e *batch"]) -> "Gram":
        """The moments of the first n tokens, and a query that need not be among them."""
        block = partial(jax.lax.dynamic_slice_in_dim, tokens)
        return cls(tokens[:n].T @ tokens[:n] if tokens.ndim == 2 else second_moment(block, n), query)


def second_moment(block: Callable[[Array | int, int], Array], n: int) -> Float[Array, " e e *batch"]:
    """`sum_j e_j e_j^T` over n tokens, of which `block(start, size)` gives `[size e *batch]`.

    Blocks are asked for inside the loop, so that what tokens are made of need not be in memory for all of them.
    """

    def add(total: Array, tokens: Array) -> Array:
        # Written out, the sum is one pass over the result; as a reduction XLA holds all n products on a CPU.
        return reduce(lambda total, token: total + token[:, None] * token[None, :], tokens, total)

    blocks, rest = divmod(n, EXAMPLES_AT_ONCE)
    first = block(0, rest)
    total = add(jnp.zeros((first.shape[1], *first.shape[1:]), first.dtype), first)
    more = lambda i, total: add(total, block(rest + i * EXAMPLES_AT_ONCE, EXAMPLES_AT_ONCE))
    return jax.lax.fori_loop(0, blocks, more, total) if blocks else total


class Circuits(NamedTuple):
    """The two products of weights through which an attention layer acts. Heads are summed by the layer."""

    W_KQ: Float[Array, "layer head e e"]
    W_PV: Float[Array, "layer head e e"]


class Activations(NamedTuple):
    """Everything a Transformer computed. XLA drops what nobody reads."""

    residual: Float[Array, "depth t e"]  # residual[0] are the tokens, residual[l] is what layer l left
    scores: Float[Array, "layer head t t"]  # [query token, key token]; zero where the key is masked
    pattern: Float[Array, "layer head t t"]  # what multiplies the values; equal to the scores in linear attention


Predictor = Callable[[Array, Array, Array], Array]
"""`(x [n d], y [n m], x_query [d]) -> y_hat [m]`: one problem, no batch axis. Batch it with `jax.vmap`."""


PrefixPredictor = Callable[[Array, Array], Array]
"""`(x [n d], y [n m]) -> y_hat [n m]`: the k-th entry, from zero, is a Predictor's of `x[k]`, given the k before it."""


def batched(predictor: Predictor) -> Predictor | None:
    """A Predictor as a function of a batch in trailing axes, `x [n d *batch]`, ..., y_hat `[m *batch]`.

    None if it has no such form, which is cheaper than its `vmap`: see `models.predictors`.
    """
    many = getattr(getattr(predictor, "func", None), "many", None)
    return many and partial(many, *predictor.args)  # pyright: ignore[reportFunctionMemberAccess]


class Layout(NamedTuple):
    """How a problem becomes tokens, and how a prediction is read from them: a pair of pure functions, and a width."""

    encode: Callable[[Array, Array, Array], Array]  # (x, y, x_query) -> tokens [t e]; a batch in trailing axes stays
    read_out: Callable[[Array], Array]  # query token of a residual [e] -> y_hat [m]
    d_token: int  # e of the tokens
    apart: bool = False  # tokens hold x or y, in turn; otherwise both

    @property
    def inputs(self) -> slice | None:
        """Which tokens hold an x and no label, those of x alone and the query's; None where only the query's does."""
        return slice(0, None, 2) if self.apart else None
