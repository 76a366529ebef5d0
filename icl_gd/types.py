"""The vocabulary of the package: terms, axes, conventions, and the types of prompts and predictors.

Glossary of terms:

    example         an input x_j with its label y_j
    context         the n examples of a prompt, from which a learner predicts the label of the query
    query           the input x_query whose label is predicted; its token is the last token of a prompt
    prompt          one in-context problem: a context, a query and the hidden label of the query (`Prompt`)
    prefix          the first k examples of a prompt
    learner         an algorithm that predicts from a context, such as gradient descent or least squares
    Predictor       a learner, trained or not, as a function `(x, y, x_query) -> y_hat` of one prompt
    PrefixPredictor a function that predicts the label of every x_k from the k examples before it, with k from 0
    layout          how a prompt is encoded as tokens, and where the prediction is read (`Layout`)
    slots           entries of a token: x slots for an input, y slots for a label or a prediction
    separate tokens one token for x_j and one for y_j; in other layouts, x_j and y_j share a token
    read-out        the map from the final residual of the query token to the prediction
    residual        the residual stream: the tokens before the first layer, or after any layer
    scores          attention logits, before normalisation (softmax, ...)
    pattern         attention weights, after normalisation; they multiply the values
    circuits        the weight products of a head: `W_KQ = W_K^T W_Q` (QK circuit) and `W_PV = P W_V` (OV circuit)
    form            a way to compute a prediction: the token, the query or the Gram form (see `models.predictors`)
    Gram form       the Gram (second-moment) form of a linear network: layers act on `sum_j e_j e_j^T` and the query
    own token       the one token besides the demonstrations to which a token may attend: itself in causal attention,
                    otherwise the last token of the prompt (a term of dual models)
    demonstration   a token to which another token attends, except its own token
    modification    a change of attention that the dual model suggests (see `models.modifications`)
    dual model      a linear model that computes the output of an attention head after one step of gradient descent
    GD++            gradient descent that also transforms the inputs in every step
    constructed     with weights that are built by hand to compute a known learner (see `constructions`)
    trained         with weights that are learned by an optimiser
    gauge           a change of weights that leaves the function of the layers unchanged
    sensitivity     the derivative `d y_hat / d x_query [m d]` of a prediction
    alignment       agreement of two Predictors: cosine and distance of sensitivities, distance of predictions
    population      models of equal shapes, stacked along a leading member axis and trained together
    combination     one value for each hyperparameter of a sweep
    member          one model of a population; within each combination, member i has the seed `seed + i`
    trapped seed    a member whose final loss exceeds 1.2 times a baseline: the lowest loss that any weights of one
                    layer can reach if it is known in closed form, otherwise the loss of the reference learner. For
                    function classes, a member whose final error exceeds 0.9 times the error of predicting zero. A
                    trapped seed may be on a plateau, converge slowly, overfit, or be limited by the architecture.
    free seed       a member that is not trapped; metrics and captions say "untrapped"

Glossary of axes, used in every shape annotation of the package:

    n       context examples            d   input dimension          m   output dimension
    t       tokens (n + 1 if x and y    e   token width (d + m if x and y share a token)
            share a token)              depth   layers + 1: the residual before the first layer and after each one
    layer   attention layers            head    heads of one layer   d_head  width of one head
    step    steps of a learner          iterate steps + 1: the start and the result of each step
    member  models of a population      prompt  a batch of prompts

Conventions:

* Tokens are rows: a sequence is `[t e]`. Formulas treat a token as a column: `k_j = W_K e_j`. In code,
  `keys = tokens @ W_K.T`.
* `P` is the output projection of attention, often called W_O elsewhere. The score of key token j for query token i
  is `e_j^T W_KQ e_i`. Linear attention updates token i by `sum_heads W_PV sum_j e_j (e_j^T W_KQ e_i)`.
* A linear model is `y = W x` with `W [m d]`. The in-context loss is `1/(2n) sum_i |W x_i - y_i|^2`, and one gradient
  step is `W - step_size / n * sum_i (W x_i - y_i) x_i^T`. Functions take `step_size` (eta). Only the reported
  metric `step_size_gd` is eta / n, as in von Oswald et al. `learning_rate` belongs to the optimiser in training.
* The loss of a prediction is `1/2 |y_hat - y_query|^2`, summed over output dimensions. A risk is its mean over prompts.
* Without a learned read-out, the prediction of a Transformer is *minus* the y slot of the query token. Before the
  first layer this slot contains `-W_0 x_query` (von Oswald et al. 2212.07677, Proposition 1).

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
Rates = Float[Array, " step"] | Float[np.ndarray, " step"] | Sequence[float | Float[Array, ""]]  # one rate per step
EXAMPLES_AT_ONCE = 16  # tokens that one loop iteration of `second_moment` adds, in an unrolled sum


class Prompt(NamedTuple):
    """One in-context problem: a context, a query, and the label and weights that are hidden from the learner."""

    x: Float[Array, "n d"]
    y: Float[Array, "n m"]
    x_query: Float[Array, " d"]
    y_query: Float[Array, " m"]  # noise-free
    w: Any  # weights [m d] of a linear task; for other tasks, see `icl_gd.tasks`


class PrefixPrompt(NamedTuple):
    """In-context problems of all context lengths: the context of query k is the first k examples, for k = 0, 1, ...

    In training, query k is the next input x[k], so `x_query` equals `x`.
    """

    x: Float[Array, "n d"]
    y: Float[Array, "n m"]
    x_query: Float[Array, "n d"]
    y_query: Float[Array, "n m"]  # noise-free
    w: Any  # the function that gives the labels


class Gram(NamedTuple):
    """The Gram (second-moment) form of a prompt: two arrays that determine the output of linear attention layers.

    The size of the arrays does not depend on n. `context` is the recurrent state of linear attention whose keys and
    values are the tokens themselves.

    Batch axes come last. A sum over tokens then adds vectors with one entry per prompt, and one matrix product
    applies the circuits of all members of a population to all prompts.
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
        """The Gram form of a context (the first n tokens) and a separate query token.

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

    Blocks are computed inside the loop, so the n tokens are never all in memory.

    Args:
      block: `block(start, size)` returns the `size` tokens that begin at index `start`: `[size e *batch]`.
      n: number of tokens.

    Returns:
      The sum `[e e *batch]`.
    """

    def add(total: Array, tokens: Array) -> Array:
        # The unrolled sum passes over the result once. For a reduction, XLA on CPU would store all n outer products.
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
    """The QK and OV circuits: two weight products per head, which determine the output of linear attention.

    A layer sums the updates of its heads.
    """

    W_KQ: Float[Array, "layer head e e"]  # W_K^T W_Q, the QK circuit
    W_PV: Float[Array, "layer head e e"]  # P W_V, the OV circuit


class LayerOutputs(NamedTuple):
    """Residuals, scores and patterns of all layers. Under `jax.jit`, XLA eliminates unused outputs."""

    residual: Float[Array, "depth t e"]  # residual[0]: the embedded tokens; residual[l]: the output of layer l
    scores: Float[Array, "layer head t t"]  # [query token, key token]; zero where the key is masked
    pattern: Float[Array, "layer head t t"]  # multiplies the values; equal to the scores in linear attention


Predictor = Callable[[Array, Array, Array], Array]
"""`(x [n d], y [n m], x_query [d]) -> y_hat [m]`: one prompt, no batch axis. Batch it with `jax.vmap`."""


PrefixPredictor = Callable[[Array, Array], Array]
"""`(x [n d], y [n m]) -> y_hat [n m]`: the k-th output is the prediction for `x[k]` given the first k examples.

k counts from zero, so the first prediction uses no example. One prompt, no batch axis.
"""


def batched(predictor: Predictor) -> Predictor | None:
    """The batched form of a Predictor, which is cheaper than `vmap` (see `models.predictors`); None if it has none.

    Returns:
      A function of a batch in trailing axes, `(x [n d *batch], y [n m *batch], x_query [d *batch]) -> y_hat
      [m *batch]`, or None if the Predictor has no batched form.
    """
    apply_batch = getattr(getattr(predictor, "func", None), "apply_batch", None)
    return apply_batch and partial(apply_batch, *predictor.args)  # pyright: ignore[reportFunctionMemberAccess]


class Layout(NamedTuple):
    """A token layout: a pure function that encodes a prompt as tokens, and one that reads the prediction."""

    encode: Callable[[Array, Array, Array], Array]  # (x, y, x_query) -> tokens [t e]; batch axes are last
    read_out: Callable[[Array], Array]  # residual [e] of the query token -> y_hat [m]
    d_token: int  # token width e
    has_separate_tokens: bool = False  # True: tokens alternate between x and y. False: x and y share a token
    name: str = ""  # a key of `tokens.LAYOUTS`; "" for a layout that cannot be saved with a model
    d_input: int = 0  # width d of x; 0 if unknown
    d_output: int = 0  # width m of y; 0 if unknown

    @property
    def inputs(self) -> slice | None:
        """The positions of the tokens x_1, x_2, ... and x_query if x and y have separate tokens, otherwise None."""
        return slice(0, None, 2) if self.has_separate_tokens else None
