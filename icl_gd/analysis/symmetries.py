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

from typing import Any, NamedTuple

import jax
import numpy as np

from icl_gd.analysis.calls import (
    ARGUMENTS,
    Batch,
    Calls,
    Refusal,
    check_finite,
    check_predictor,
    is_real,
    single_predictions,
)
from icl_gd.schema import Size, check_function, check_value, checked, shown
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
MOST = 2**27  # numbers that are drawn at once: 1 GiB in float64


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

    Raises:
      Refusal: if the task does not draw prompts of its sizes with finite numbers, or they do not fit into memory.
    """
    check_task(task, count)
    drawn = draw_prompts(task.sample, key, count)
    x, y, x_query = (np.asarray(part, np.float64) for part in drawn[:3])
    for name, part in zip(ARGUMENTS, (x, y, x_query), strict=True):
        check_finite("task.sample(key)", part, f" in {name}")
    return x, y, x_query


def check_task(task: Sampled, count: int = 1) -> None:
    """Checks what a task draws, without drawing it.

    Args:
      task: where prompts are drawn from.
      count: number of prompts that are drawn at once.

    Raises:
      Refusal: if it draws no prompts of its sizes, or they do not fit into memory.
    """
    if isinstance(task, type) or not isinstance(task, Sampled):
        kind = f"the class {task.__name__}" if isinstance(task, type) else type(task).__name__
        raise Refusal(
            f"task is {kind}; give an object with d_input, d_output and sample(key) -> Prompt, such as "
            "LinearRegression(d_input=5)"
        )
    check_value("task.d_input", task.d_input, Size)
    check_value("task.d_output", task.d_output, Size)
    check_function("task.sample", task.sample, ("key",))
    drawn: list[Any] = []
    try:
        program = jax.make_jaxpr(lambda key: drawn.append(task.sample(key)))(jax.random.key(0))
    except jax.errors.JAXTypeError as error:
        why = str(error).partition("\n")[0].partition(":")[0]
        raise Refusal(
            f"task.sample cannot be traced by JAX ({why}); draw with jax.random and compute with jax.numpy"
        ) from error
    parts = drawn[0][:3] if isinstance(drawn[0], tuple) else ()
    shapes = [part.shape if hasattr(part, "shape") and is_real(part) else None for part in parts]
    n, d, m = (shapes[0] or (0,))[0] if shapes else 0, task.d_input, task.d_output
    if n < 1 or shapes != [(n, d), (n, m), (d,)]:
        given = [f"{name} {_described(part)}" for name, part in zip(ARGUMENTS, parts, strict=False)]
        raise Refusal(
            f"task.sample(key) returns {', '.join(given) or type(drawn[0]).__name__}; return a Prompt with x [n {d}], "
            f"y [n {m}] and x_query [{d}], as in d_input={d} and d_output={m}, and with at least one example"
        )
    largest = max([d * d, *(variable.aval.size for step in program.eqns for variable in step.outvars)])
    if count * largest > MOST:
        raise Refusal(
            f"{count} prompts with n_context={n}, d_input={d} and d_output={m} take {count * largest:.2g} numbers, but "
            f"at most {MOST:.2g} fit: give a task with smaller sizes, or fewer prompts"
        )


def _described(part: Any) -> str:
    """`[5 3]` for an array of real numbers, otherwise its type."""
    if not hasattr(part, "shape"):
        return type(part).__name__
    return f"[{' '.join(map(str, part.shape))}]" + ("" if is_real(part) else f" of {part.dtype}")


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
      ValueError: if an argument is not what it must be, or the Predictor does not return m finite numbers for a
        prompt.
    """
    if not isinstance(predictor, Calls):
        check_predictor(predictor)
    try:
        key_draw, key_other, key_change = jax.random.split(key, 3)
    except (TypeError, ValueError) as error:
        raise ValueError(f"key={shown(key)} must be one random key, such as jax.random.key(0)") from error
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

    Raises:
      Refusal: if the Predictor does not return m finite numbers for a prompt, or all labels are 0.
    """
    x, y, x_query = prompts
    if not y.any():
        raise Refusal("the labels y of all prompts are 0, so nothing can be learned from them; give another task")
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
