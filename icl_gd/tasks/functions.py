"""Function classes: the functions that generate labels (Garg et al. 2208.01066, sections 3 and 4, and their code).

A class draws one of its functions as a pytree, `draw(key) -> w`, and evaluates it, `apply(w, x [n d]) -> y [n 1]`. The
entries of w are drawn from one of `ENTRIES`. All of these are symmetric and have variance one:

    normal   N(0, 1).
    laplace  density exp(-sqrt(2) |w|) / sqrt(2).
    mixture  N(0.8, 0.36) or N(-0.8, 0.36) with equal probability: s (0.8 + 0.6 z) with a random sign s and z ~ N(0, 1).
    student  sqrt(3/5) t with t from Student's t-distribution with 5 degrees of freedom:
             sqrt(3) z_0 / |(z_1, ..., z_5)|.

As in the paper, errors are divided by the variance of labels, `variance_of`: then predicting zero has error one.

Example:
  >>> functions = Linear(d_input=3)
  >>> w = functions.draw(jax.random.key(0))
  >>> functions.apply(w, jnp.ones((2, 3))).shape
  (2, 1)
  >>> variance_of(functions, scale=2.0)
  12.0
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Annotated, Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Gt, Le
from jaxtyping import Float, Int

from icl_gd.programs import brief, kept
from icl_gd.schema import LARGEST, OneOf, PoolSize, Seed, Size, check, checked
from icl_gd.tasks.families import INPUTS, Draw
from icl_gd.types import Array

FUNCTION_POOL_KEY = 2**31 - 3  # folded into the key of a pool of functions
VARIANCE_KEY = 2**31 - 4  # folded into the key of Monte Carlo estimates of a variance

# Monte Carlo estimates of the variance of labels:
POINTS = 64  # inputs per function
FUNCTIONS_AT_ONCE = 1024  # functions per step
MIN_STEPS, MAX_STEPS = 4, 256
MAX_ERROR = 0.003  # stop when the standard error is at most this fraction of the estimate

Moment = Callable[[int], float]


def _mixture(key: Array, shape: tuple[int, ...]) -> Array:
    key_sign, key_z = jax.random.split(key)
    z = jax.random.normal(key_z, shape)
    return jax.random.rademacher(key_sign, shape, z.dtype) * (0.8 + 0.6 * z)


def _student(key: Array, shape: tuple[int, ...]) -> Array:
    z = jax.random.normal(key, (6, *shape))  # compiles faster than jax.random.t
    return 3**0.5 * z[0] / jnp.linalg.norm(z[1:], axis=0)


ENTRIES: dict[str, Draw] = {
    "normal": jax.random.normal,
    "laplace": INPUTS["laplace"].draw,
    "mixture": _mixture,
    "student": _student,
}


@runtime_checkable
class FunctionClass(Protocol):
    """A class of functions: `d_input`, `draw` and `apply` are required.

    Optional attributes:

      * A third argument `entries` of `draw`: `draw(key, active, entries)` draws the entries of w with
        `entries(key, shape)`. A task's `weights` may then differ from "normal".
      * `variance_at(scale)`: the variance of labels, `E f(scale x)^2`, for x from N(0, I) and normal entries. If it is
        `variance_at(scale, moment)`, it must hold for all `ENTRIES` and for all inputs that have independent
        coordinates or are uniform on a sphere, with `moment(k) = E x_i^k`.
      * Instead of `variance_at`: `variance`, its value at scale one, and `degree`, the k of `f(a x) = a^k f(x)` for
        positive a.

    If the variance of labels does not follow from these, `variance_of` estimates it by Monte Carlo.
    """

    @property
    def d_input(self) -> int:
        """Input dimension d."""
        ...

    def draw(self, key: Array, active: Array | int | None = None) -> Any:
        """Draws one function.

        Args:
          key: a JAX random key.
          active: number of leading input coordinates that are not zero (a stage of a curriculum). A class may draw
            functions that depend on these only. Default: all.

        Returns:
          The function w, a pytree of arrays.
        """
        ...

    def apply(self, w: Any, x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        """Evaluates the function w on inputs.

        Returns:
          Labels `[n 1]`.
        """
        ...


def _normal_moment(k: int) -> float:
    return INPUTS["normal"].moment(k, 1)


class _ClosedFormVariance:
    """A class whose variance of labels has a closed form at every scale, for all `INPUTS` and `ENTRIES`."""

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        """Variance of labels, `E f(scale x)^2`, where a coordinate of x has moments `E x^k = moment(k)`.

        Returns:
          The variance.
        """
        raise NotImplementedError

    @property
    def variance(self) -> float:
        """Variance of labels, `E f(x)^2`, for x from N(0, I)."""
        return self.variance_at()


@dataclass(frozen=True)
class Linear(_ClosedFormVariance):
    """Linear functions `y = w x` with `w ~ N(0, I)` `[1 d]`.

    Attributes:
      d_input: input dimension d.
    """

    d_input: Size = 20

    def __post_init__(self):
        check(self)

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        """Variance of labels: `scale^2 d E x^2`.

        Returns:
          The variance.
        """
        return scale**2 * self.d_input * moment(2)

    @property
    def degree(self) -> int:
        """Degree of homogeneity, 1."""
        return 1

    def draw(
        self, key: Array, active: Array | int | None = None, entries: Draw = jax.random.normal
    ) -> Float[Array, "1 d"]:
        """Draws weights w.

        Args:
          key: a JAX random key.
          active: not used; all weights are drawn.
          entries: `entries(key, shape)` draws the entries of w. Default: normal.

        Returns:
          Weights `[1 d]`.
        """
        return entries(key, (1, self.d_input))

    def apply(self, w: Float[Array, "1 d"], x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        """Evaluates `w x`.

        Returns:
          Labels `[n 1]`.
        """
        return x @ w.T


@dataclass(frozen=True)
class Sparse(Linear):
    """Linear functions of `non_zeros` of the inputs. Which ones is drawn uniformly for every function.

    Attributes:
      non_zeros: number of weights that are not zero.
    """

    non_zeros: Size = 3

    def __post_init__(self):
        super().__post_init__()
        if self.non_zeros > self.d_input:
            raise ValueError(f"non_zeros={self.non_zeros} must be at most d_input={self.d_input}")

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        """Variance of labels: `scale^2 non_zeros E x^2`.

        Returns:
          The variance.
        """
        return scale**2 * self.non_zeros * moment(2)

    def draw(
        self, key: Array, active: Array | int | None = None, entries: Draw = jax.random.normal
    ) -> Float[Array, "1 d"]:
        """Draws weights of which `non_zeros` are not zero.

        Args:
          key: a JAX random key.
          active: number of leading inputs among which these are chosen. Default: all.
          entries: `entries(key, shape)` draws the entries of w. Default: normal.

        Returns:
          Weights `[1 d]`.
        """
        key_w, key_which = jax.random.split(key)
        order = jax.random.uniform(key_which, (self.d_input,))
        if active is not None:
            order = jnp.where(jnp.arange(self.d_input) < active, order, 2.0)
        chosen = jnp.argsort(jnp.argsort(order)) < self.non_zeros
        return jnp.where(chosen, super().draw(key_w, entries=entries), 0.0)


@dataclass(frozen=True)
class Quadratic(Linear):
    """Quadratic functions `y = sum_i w_i x_i^2 / sqrt(3)`.

    For normal inputs, their variance equals that of linear functions, because `E x^4 = 3`.
    """

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        """Variance of labels: `scale^4 d E x^4 / 3`.

        Returns:
          The variance.
        """
        return scale**4 * self.d_input * (moment(4) / 3)

    @property
    def degree(self) -> int:
        """Degree of homogeneity, 2."""
        return 2

    def apply(self, w: Float[Array, "1 d"], x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        """Evaluates `sum_i w_i x_i^2 / sqrt(3)`.

        Returns:
          Labels `[n 1]`.
        """
        return x**2 @ w.T / 3**0.5


@dataclass(frozen=True)
class Polynomial(Linear):
    """Powers of the inputs, `y = sum_i w_i x_i^k / sqrt((2k - 1)!!)`.

    For normal inputs, their variance equals that of linear functions, because `E x^(2k) = (2k - 1)!!`.

    Attributes:
      degree: the power k.
    """

    degree: Annotated[int, Ge(1), Le(10)] = 3  # pyright: ignore[reportIncompatibleMethodOverride]

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        """Variance of labels: `scale^(2k) d E x^(2k) / (2k - 1)!!`.

        Returns:
          The variance.
        """
        k = self.degree
        return scale ** (2 * k) * self.d_input * (moment(2 * k) / _normal_moment(2 * k))

    def apply(self, w: Float[Array, "1 d"], x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        """Evaluates `sum_i w_i x_i^k / sqrt((2k - 1)!!)`.

        Returns:
          Labels `[n 1]`.
        """
        return x**self.degree @ w.T / prod(range(1, 2 * self.degree, 2)) ** 0.5


@dataclass(frozen=True)
class Affine(_ClosedFormVariance):
    """Affine functions `y = w x + b` with `w ~ N(0, I)` `[1 d]` and `b ~ N(0, 1)` `[1 1]`.

    For normal inputs, `E y^2 = d + 1`.

    Attributes:
      d_input: input dimension d.
    """

    d_input: Size = 20

    def __post_init__(self):
        check(self)

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        """Variance of labels: `scale^2 d E x^2 + 1`.

        Returns:
          The variance.
        """
        return scale**2 * self.d_input * moment(2) + 1

    def draw(
        self, key: Array, active: Array | int | None = None, entries: Draw = jax.random.normal
    ) -> dict[str, Array]:
        """Draws weights and a bias.

        Args:
          key: a JAX random key.
          active: not used; all weights are drawn.
          entries: `entries(key, shape)` draws the entries of w. Default: normal.

        Returns:
          `w` `[1 d]` and `b` `[1 1]`.
        """
        key_w, key_b = jax.random.split(key)
        return {"w": entries(key_w, (1, self.d_input)), "b": entries(key_b, (1, 1))}

    def apply(self, w: dict[str, Array], x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        """Evaluates `w x + b`.

        Returns:
          Labels `[n 1]`.
        """
        return x @ w["w"].T + w["b"]


@dataclass(frozen=True)
class Chebyshev(_ClosedFormVariance):
    """Chebyshev polynomials of the inputs, `y = sum_i w_i T_p(x_i) / sqrt(E T_p(z)^2)`, with `w ~ N(0, I)` `[1 d]`.

    The mean `E T_p(z)^2` is over z from N(0, 1). `T_p` is the Chebyshev polynomial of the first kind,
    `T_p(cos u) = cos(p u)`; for example, `T_3(x) = 4 x^3 - 3 x`. For normal inputs, the variance equals that of linear
    functions. For other inputs and scales it follows from moments up to order 2p, because `T_p^2 = (1 + T_2p) / 2`.

    Attributes:
      d_input: input dimension d.
      degree: degree p of the polynomial. Unlike `Polynomial`, it has terms below the power p.
    """

    d_input: Size = 20
    degree: Annotated[int, Ge(1), Le(10)] = 3

    def __post_init__(self):
        check(self)

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        """Variance of labels: `d E T_p(scale x)^2 / E T_p(z)^2` with z from N(0, 1).

        Returns:
          The variance.
        """
        return self.d_input * (self._mean_square(scale, moment) / self._mean_square(1.0, _normal_moment))

    def _mean_square(self, scale: float, moment: Moment) -> float:
        """`E T_p(scale x)^2` of one coordinate x."""
        coefficients = np.polynomial.chebyshev.cheb2poly([0] * (2 * self.degree) + [1])
        return (1 + sum(float(a) * scale**k * moment(k) for k, a in enumerate(coefficients))) / 2

    def draw(
        self, key: Array, active: Array | int | None = None, entries: Draw = jax.random.normal
    ) -> Float[Array, "1 d"]:
        """Draws weights w.

        Args:
          key: a JAX random key.
          active: not used; all weights are drawn.
          entries: `entries(key, shape)` draws the entries of w. Default: normal.

        Returns:
          Weights `[1 d]`.
        """
        return entries(key, (1, self.d_input))

    def apply(self, w: Float[Array, "1 d"], x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        """Evaluates the polynomial by the recurrence `T_(p+1) = 2 x T_p - T_(p-1)`.

        Returns:
          Labels `[n 1]`.
        """
        before, t = jnp.ones_like(x), x
        for _ in range(self.degree - 1):
            before, t = t, 2 * x * t - before
        return t @ w.T / self._mean_square(1.0, _normal_moment) ** 0.5


@dataclass(frozen=True)
class Signs(Linear):
    """Classification: the sign of a linear function, 1 or -1. As in the paper's code, the loss is logistic."""

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        """Variance of labels: 1 at every scale.

        Returns:
          The variance.
        """
        return 1.0

    @property
    def degree(self) -> int:
        """Degree of homogeneity, 0: labels do not depend on the scale of inputs."""
        return 0

    def apply(self, w: Float[Array, "1 d"], x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        """Evaluates the sign of `w x`.

        Returns:
          Labels `[n 1]`.
        """
        return jnp.sign(x @ w.T)


@dataclass(frozen=True)
class ReLUNetwork(_ClosedFormVariance):
    """Two-layer networks `y = sqrt(2 / hidden) w_2 relu(W_1 x)` with normal `W_1 [hidden d]` and `w_2 [1 hidden]`.

    Attributes:
      d_input: input dimension d.
      hidden: width of the hidden layer.
    """

    d_input: Size = 20
    hidden: Size = 100

    def __post_init__(self):
        check(self)

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        """Variance of labels: `scale^2 d E x^2`.

        Returns:
          The variance.
        """
        # E relu(w x)^2 = E (w x)^2 / 2, because w and -w are equally likely.
        return scale**2 * self.d_input * moment(2)

    @property
    def degree(self) -> int:
        """Degree of homogeneity, 1."""
        return 1

    def draw(
        self, key: Array, active: Array | int | None = None, entries: Draw = jax.random.normal
    ) -> dict[str, Array]:
        """Draws the weights of both layers.

        Args:
          key: a JAX random key.
          active: not used; all weights are drawn.
          entries: `entries(key, shape)` draws the entries of w. Default: normal.

        Returns:
          `W_1` `[hidden d]` and `w_2` `[1 hidden]`.
        """
        key_1, key_2 = jax.random.split(key)
        return {
            "W_1": entries(key_1, (self.hidden, self.d_input)),
            "w_2": entries(key_2, (1, self.hidden)),
        }

    def apply(self, w: dict[str, Array], x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        """Evaluates the network.

        Returns:
          Labels `[n 1]`.
        """
        return (2 / self.hidden) ** 0.5 * jax.nn.relu(x @ w["W_1"].T) @ w["w_2"].T


@dataclass(frozen=True)
class DecisionTree(_ClosedFormVariance):
    """Full binary decision trees: inner nodes test the sign of one input, leaves have labels from N(0, 1).

    The nodes are stored in one array. Node i continues at node 2i + 2 if its input is positive, and at 2i + 1 if not.

    Attributes:
      d_input: input dimension d.
      depth: number of tests from the root to a leaf.
    """

    d_input: Size = 20
    depth: Annotated[int, Ge(1), Le(20)] = 4

    def __post_init__(self):
        check(self)

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        """Variance of labels: 1 at every scale.

        Returns:
          The variance.
        """
        return 1.0

    @property
    def degree(self) -> int:
        """Degree of homogeneity, 0: labels do not depend on the scale of inputs."""
        return 0

    def draw(
        self, key: Array, active: Array | int | None = None, entries: Draw = jax.random.normal
    ) -> dict[str, Array]:
        """Draws the input that every inner node tests, and the labels of the leaves.

        Args:
          key: a JAX random key.
          active: not used; nodes test any of the inputs.
          entries: `entries(key, shape)` draws the labels. Default: normal.

        Returns:
          `input`, indices `[2^depth - 1]`, and `label` `[2^depth]`.
        """
        key_input, key_label = jax.random.split(key)
        return {
            "input": jax.random.randint(key_input, (2**self.depth - 1,), 0, self.d_input),
            "label": entries(key_label, (2**self.depth,)),
        }

    def apply(self, w: dict[str, Array], x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        """Follows every input from the root to a leaf.

        Returns:
          Labels `[n 1]`.
        """
        node: Int[Array, " n"] = jnp.zeros(len(x), int)
        for _ in range(self.depth):
            positive = jnp.take_along_axis(x, w["input"][node][:, None], axis=1)[:, 0] > 0
            node = 2 * node + 1 + positive
        return w["label"][node - (2**self.depth - 1)][:, None]


@dataclass(frozen=True)
class FunctionPool:
    """A pool of `size` functions of a class, drawn uniformly with replacement: a finite set of tasks to train on.

    Nothing is stored: a function is drawn again from its key whenever its index comes up.

    Attributes:
      functions: the class that the functions are drawn from.
      size: number of functions in the pool.
      seed: seed of the pool's functions. It does not affect which of them are drawn.
    """

    functions: FunctionClass
    size: PoolSize
    seed: Seed = 0

    def __post_init__(self):
        check(self)

    @property
    def d_input(self) -> int:
        """Input dimension d of the class."""
        return self.functions.d_input

    @property
    def variance(self) -> float:
        """Variance of labels of the whole class, for x from N(0, I)."""
        return variance_of(self.functions)

    def draw(self, key: Array, active: Array | int | None = None, entries: Draw = jax.random.normal) -> Any:
        """Draws one of the pool's functions, uniformly.

        Args:
          key: a JAX random key.
          active: number of leading input coordinates that are not zero, which is passed to the class. Default: all.
          entries: `entries(key, shape)` draws the entries of w. Default: normal.

        Returns:
          The function w of the class.
        """
        root = jax.random.fold_in(jax.random.key(self.seed), FUNCTION_POOL_KEY)
        draw = draw_by(self.functions, entries)
        return draw(jax.random.fold_in(root, jax.random.randint(key, (), 0, self.size)), active)

    def apply(self, w: Any, x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        """Evaluates the function w of the class.

        Returns:
          Labels `[n 1]`.
        """
        return self.functions.apply(w, x)


FUNCTIONS: dict[str, Callable[..., FunctionClass]] = {
    "linear": Linear,
    "sparse": Sparse,
    "quadratic": Quadratic,
    "polynomial": Polynomial,
    "affine": Affine,
    "chebyshev": Chebyshev,
    "signs": Signs,
    "relu_network": ReLUNetwork,
    "decision_tree": DecisionTree,
}
_SHIPPED = frozenset(FUNCTIONS.values())  # a test checks their form, so constructing a task does not trace them


def of_pool(functions: Any) -> Any:
    """The class that a `FunctionPool` draws its functions from; any other class is returned unchanged.

    Returns:
      A function class that is not a pool.
    """
    return of_pool(functions.functions) if isinstance(functions, FunctionPool) else functions


def takes(function: Callable, name: str) -> bool:
    """Whether a function has a parameter with this name.

    Returns:
      True if it has.
    """
    return name in inspect.signature(function).parameters


def draw_by(functions: FunctionClass, entries: Draw) -> Callable[..., Any]:
    """The `draw` method of a class, with the entries of w drawn by `entries`.

    Returns:
      A function `(key, active) -> w`.
    """
    draw: Callable[..., Any] = functions.draw
    return draw if entries is jax.random.normal else partial(draw, entries=entries)


# --- the required form of a class ---


def check_form(functions: Any) -> None:
    """Checks that an object is a `FunctionClass`, by abstract evaluation of its `draw` and `apply`.

    Raises:
      ValueError: if an attribute is missing, `draw` or `apply` fails, or `apply` returns another shape than `[n 1]`.
    """
    functions = of_pool(functions)
    if type(functions) in _SHIPPED:
        return
    if wrong := _wrong_form(functions):
        raise ValueError(f"functions={functions!r} must be {' '.join(wrong.split())}")


@kept
def _wrong_form(functions: Any) -> str:
    """How an object differs from a `FunctionClass`, to follow "must be"; an empty string if it does not."""
    missing = [name for name in ("d_input", "draw", "apply") if not hasattr(functions, name)]
    if missing:
        return f"a FunctionClass, with d_input, draw(key, active) and apply(w, x [n d]); it has no {', '.join(missing)}"
    if isinstance(functions, type):
        return f"an instance of a FunctionClass, not the class; write {functions.__name__}()"
    d = functions.d_input
    if not isinstance(d, int | np.integer) or isinstance(d, bool) or d < 1:
        return f"a FunctionClass whose d_input is a whole number of at least 1, not {d!r}"
    try:
        w = jax.eval_shape(lambda seed: functions.draw(jax.random.key(seed), None), 0)
    except Exception as error:
        return f"a FunctionClass with draw(key, active) -> w; its draw(key, None) raises {_first_line(error)}"
    for n in (1, d + 1):
        x = jax.ShapeDtypeStruct((n, d), jnp.result_type(float))
        call = f"a FunctionClass with apply(w, x [n d]) -> y [n 1]; its apply(w, x [{n} {d}])"
        try:
            y = jax.eval_shape(functions.apply, w, x)
        except Exception as error:
            return f"{call} raises {_first_line(error)}"
        shape = getattr(y, "shape", None)
        if shape != (n, 1):
            returned = f"a {type(y).__name__}" if shape is None else f"shape {shape}"
            return f"{call} returns {returned}, expected shape ({n}, 1)"
    return ""


def _first_line(error: Exception) -> str:
    line, *_ = str(error).strip().split("\n")
    return f"{type(error).__name__}: {line}"


# --- the variance of labels ---


@checked
def variance_of(
    functions: FunctionClass,
    scale: Annotated[float, Gt(0), Le(LARGEST)] = 1.0,
    inputs: Annotated[str, OneOf(INPUTS)] = "normal",
    weights: Annotated[str, OneOf(ENTRIES)] = "normal",
) -> float:
    """Variance of labels, `E f(scale x)^2`, over the functions of a class and over inputs.

    The value is that of the class (see `FunctionClass`), if it covers these inputs and weights. Otherwise it is a Monte
    Carlo estimate with a fixed key, which is cached: over 64 inputs of each of 4,096 functions, or of more functions
    (at most 262,144) until the standard error is 0.3 per cent.

    A class's `degree` is used only if it passes a test: for some functions and inputs, three times the inputs must
    give `3^degree` times the labels.

    Args:
      functions: the class. For a pool, the variance is over all functions of its class.
      scale: factor of the inputs.
      inputs: distribution of the inputs at scale one, in `INPUTS`.
      weights: distribution of the entries of w, in `ENTRIES`.

    Returns:
      The variance.

    Raises:
      ValueError: if the Monte Carlo estimate is zero or not finite.
    """
    functions = of_pool(functions)
    distribution = INPUTS[inputs]
    is_normal = distribution.is_normal and weights == "normal"
    if (variance_at := _variance_at(functions)) is not None:
        if takes(variance_at, "moment"):
            return float(variance_at(scale, moment=lambda k: distribution.moment(k, functions.d_input)))
        if is_normal:
            return float(variance_at(scale))
    elif is_normal and (variance := getattr(functions, "variance", None)) is not None:
        if scale == 1.0:
            return float(variance)
        if (degree := getattr(functions, "degree", None)) is not None and _is_homogeneous(functions):
            return float(scale ** (2 * degree) * variance)
    return _estimated_variance(functions, scale, inputs, weights)


def _variance_at(functions: Any) -> Callable[..., Any] | None:
    """The `variance_at` of a class. None if it is missing, or if a subclass of its owner changes the functions."""
    for cls in type(functions).__mro__:
        if "variance_at" in vars(cls):
            break
        if {"variance", "degree", "draw", "apply"} & vars(cls).keys():
            return None
    return getattr(functions, "variance_at", None)


@kept
def _is_homogeneous(functions: Any) -> bool:
    """Whether `f(3 x) = 3^degree f(x)` holds for 16 functions at 8 inputs each."""

    def holds(key: Array) -> Array:
        key_w, key_x = jax.random.split(key)
        w, x = functions.draw(key_w, None), jax.random.normal(key_x, (8, functions.d_input))
        expected = 3.0**functions.degree * functions.apply(w, x)
        difference = jnp.abs(functions.apply(w, 3.0 * x) - expected)
        return jnp.max(difference) <= 1e-3 * jnp.max(jnp.abs(expected))

    def all_hold(seed: Array) -> Array:
        return jnp.all(jax.lax.map(holds, jax.random.split(jax.random.key(seed), 16)))

    return bool(_evaluated_now(all_hold)(0))


@kept
def _estimated_variance(functions: Any, scale: float, inputs: str, weights: str) -> float:
    draw = draw_by(functions, ENTRIES[weights])

    def mean_square(key: Array) -> Array:
        key_w, key_x = jax.random.split(key)
        x = INPUTS[inputs].draw(key_x, (POINTS, functions.d_input))
        return jnp.mean(functions.apply(draw(key_w, None), scale * x) ** 2)

    def step(i: Array) -> Array:
        root = jax.random.fold_in(jax.random.key(0), VARIANCE_KEY)
        keys = jax.random.split(jax.random.fold_in(root, i), FUNCTIONS_AT_ONCE)
        return jax.lax.map(mean_square, keys, batch_size=POINTS)

    mean_squares, evaluate = np.zeros(0), _evaluated_now(step)
    for i in range(MAX_STEPS):
        mean_squares = np.append(mean_squares, evaluate(i))
        standard_error = mean_squares.std() / len(mean_squares) ** 0.5
        if i + 1 >= MIN_STEPS and standard_error <= MAX_ERROR * mean_squares.mean():
            break
    mean = mean_squares.mean()
    if not 0.0 < mean < np.inf:
        raise ValueError(
            f"functions={functions!r} must have labels of a finite mean square above 0; at inputs={inputs!r} and "
            f"input_scale={scale:g} it is {mean:g}"
        )
    return float(mean)


def _evaluated_now(function: Callable) -> Callable[..., np.ndarray]:
    """A function that returns NumPy values in single precision, even while JAX traces another function."""
    program = brief(function)

    def call(*args: Any) -> np.ndarray:
        with jax.ensure_compile_time_eval(), jax.enable_x64(False):
            return np.asarray(program(*args))

    return call
