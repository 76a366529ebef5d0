"""Symmetries of an in-context learner: by how much does a Predictor violate what a learning algorithm obeys?

Least squares, for example, is linear in the labels and in the query, does not depend on the order of the context, and
commutes with rotations. Nearest neighbours are linear in the labels but not in the query. A claim "the model computes
algorithm A" is wrong if the model violates a symmetry that A has.

>>> from icl_gd import learners
>>> from icl_gd.tasks import LinearRegression
>>> found = symmetries(learners.gradient_descent([0.5]), LinearRegression(d_input=3, n_context=5), jax.random.key(0))
>>> found["rotation_invariant"].holds, found["scale_invariant"].holds
(True, False)
"""

from typing import NamedTuple

import jax
import numpy as np

from icl_gd.analysis.calls import Batch, Calls, single_predictions
from icl_gd.schema import Size, checked
from icl_gd.tasks import draw_prompts
from icl_gd.tasks.pools import Sampled
from icl_gd.types import Array, Predictor

STATEMENTS = {
    "odd_in_labels": "changes its sign with the labels",
    "additive_in_labels": "the sum of two sets of labels gives the sum of the predictions",
    "homogeneous_in_labels": "twice the labels give twice the prediction",
    "linear_in_labels": "a combination of two sets of labels gives the same combination of the predictions",
    "order_invariant": "does not depend on the order of the examples",
    "rotation_invariant": "does not depend on the coordinate system of the inputs",
    "odd_in_query": "changes its sign with the query",
    "linear_in_query": "a combination of two queries gives the same combination of the predictions",
    "scale_invariant": "does not depend on the scale of the inputs",
    "interpolating": "predicts the label of an example that is the query",
}
ROUNDING = 10.0  # a violation of at most this many times the floor is rounding


class Violation(NamedTuple):
    """The violation of one symmetry.

    Attributes:
      value: mean squared difference of the two predictions that should be equal, divided by the mean square of the
        prediction. 0 is exact; 1 or more means that they have nothing in common. For a change of sign, it is the share
        of the part that keeps its sign. For "interpolating", it is the mean squared error as a share of the labels.
      floor: the value that rounding alone gives: inputs, labels and query that are changed in their last digit.
    """

    value: float
    floor: float

    @property
    def holds(self) -> bool:
        """Whether the symmetry holds up to rounding."""
        return self.value <= ROUNDING * self.floor


def prompts_of(task: Sampled, key: Array, count: int) -> Batch:
    """Draws prompts as NumPy arrays: `x [prompt n d]`, `y [prompt n m]` and `x_query [prompt d]`.

    Args:
      task: where prompts are drawn from.
      key: random key.
      count: number of prompts.

    Returns:
      The batch, in float64.
    """
    drawn = draw_prompts(task.sample, key, count)
    x, y, x_query = (np.asarray(part, np.float64) for part in drawn[:3])
    return x, y, x_query


@checked
def symmetries(predictor: Predictor, task: Sampled, key: Array, prompts: Size = 256) -> dict[str, Violation]:
    """Measures how much a Predictor violates each of `STATEMENTS`.

    Args:
      predictor: a Predictor; a NumPy function of one prompt is accepted, too. The number of examples is never changed.
      task: where prompts are drawn from.
      key: random key.
      prompts: number of prompts. Default: 256.

    Returns:
      Violations by the name of the symmetry, in the order of `STATEMENTS`.

    Raises:
      ValueError: if the Predictor does not return m finite numbers for a prompt.
    """
    key_draw, key_other, key_change = jax.random.split(key, 3)
    batch, other = prompts_of(task, key_draw, prompts), prompts_of(task, key_other, prompts)
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key_change)).ravel().tolist())
    return violations(predictor if isinstance(predictor, Calls) else Calls(predictor), batch, other, generator)


def violations(call: Calls, prompts: Batch, other: Batch, generator: np.random.Generator) -> dict[str, Violation]:
    """As `symmetries`, on given prompts.

    Args:
      call: the Predictor for batches.
      prompts: the prompts.
      other: as many other prompts, whose labels and queries are combined with those of `prompts`.
      generator: draws orders and rotations.

    Returns:
      Violations by the name of the symmetry.
    """
    x, y, x_query = prompts
    count, n, d = x.shape
    base = single_predictions(call, prompts)
    size = max(float(np.mean(base**2)), np.finfo(float).tiny)

    def difference(left: np.ndarray, right: np.ndarray) -> float:
        return float(np.mean((left - right) ** 2) / size)

    floor = rounding_floor(call, prompts, generator)
    order = generator.permuted(np.broadcast_to(np.arange(n), (count, n)), axis=-1)[..., None]
    turn = orthogonal_matrices(generator, (count,), d)
    a, b = generator.normal(size=(2, count, 1))
    y_other, query_other = other[1], other[2]
    with_other_labels, with_other_query = call(x, y_other, x_query), call(x, y, query_other)
    repeated = generator.integers(n, size=count)
    rows = np.arange(count)
    labels = y[rows, repeated]
    values = {
        "odd_in_labels": difference(-base, call(x, -y, x_query)) / 4,
        "additive_in_labels": difference(base + with_other_labels, call(x, y + y_other, x_query)),
        "homogeneous_in_labels": difference(base, call(x, 2 * y, x_query) / 2),
        "linear_in_labels": difference(
            a * base + b * with_other_labels, call(x, a[..., None] * y + b[..., None] * y_other, x_query)
        ),
        "order_invariant": difference(
            base, call(np.take_along_axis(x, order, 1), np.take_along_axis(y, order, 1), x_query)
        ),
        "rotation_invariant": difference(
            base, call(np.einsum("pab,pnb->pna", turn, x), y, np.einsum("pab,pb->pa", turn, x_query))
        ),
        "odd_in_query": difference(-base, call(x, y, -x_query)) / 4,
        "linear_in_query": difference(a * base + b * with_other_query, call(x, y, a * x_query + b * query_other)),
        "scale_invariant": difference(base, call(2 * x, y, 2 * x_query)),
        "interpolating": float(np.mean((call(x, y, x[rows, repeated]) - labels) ** 2) / np.mean(labels**2)),
    }
    return {name: Violation(values[name], floor) for name in STATEMENTS}


def rounding_floor(call: Calls, prompts: Batch, generator: np.random.Generator) -> float:
    """The relative mean squared change of the predictions when all entries of the prompts change in the last digit.

    Args:
      call: the Predictor for batches.
      prompts: the prompts.
      generator: draws the signs of the changes.

    Returns:
      The share; at least the square of the relative precision.
    """
    single = call.is_traced is not False and not jax.config.read("jax_enable_x64")
    eps = float(np.finfo(np.float32 if single else np.float64).eps)
    changed = [part * (1 + eps * generator.choice([-1.0, 1.0], part.shape)) for part in prompts]
    base = call(*prompts)
    change = np.mean((base - call(*changed)) ** 2) / max(np.mean(base**2), np.finfo(float).tiny)
    return max(float(change), eps**2)


def orthogonal_matrices(generator: np.random.Generator, shape: tuple[int, ...], d: int) -> np.ndarray:
    """Uniformly distributed orthogonal matrices.

    Args:
      generator: the source of randomness.
      shape: the leading axes.
      d: the size of a matrix.

    Returns:
      Matrices `[*shape d d]`.
    """
    q, r = np.linalg.qr(generator.normal(size=(*shape, d, d)))
    return q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., None, :]
