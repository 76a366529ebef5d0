"""Function classes: the functions that generate labels (Garg et al. 2208.01066, sections 3 and 4, and their code).

A function class has two methods: `draw(key) -> w` draws the parameters w of a function, a pytree, and
`apply(w, x [n d]) -> y [n 1]` evaluates this function. The entries of w are drawn from one of the distributions in
`ENTRIES`, which are symmetric and have variance one:

    normal   N(0, 1).
    laplace  density exp(-sqrt(2) |w|) / sqrt(2).
    mixture  N(0.8, 0.36) or N(-0.8, 0.36) with equal probability: s (0.8 + 0.6 z) with a random sign s and z ~ N(0, 1).
    student  sqrt(3/5) t with t from Student's t-distribution with 5 degrees of freedom, drawn as
             sqrt(3) z_0 / |(z_1, ..., z_5)| with z_i ~ N(0, 1).

As in the paper, reported errors are divided by the label variance, so that predicting zero has error one.
`variance_of` computes the label variance.

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

from icl_gd.programs import cached_by_value, quick_jit
from icl_gd.schema import LARGEST, OneOf, PoolSize, Seed, Size, check, checked
from icl_gd.tasks.families import INPUTS, Draw
from icl_gd.types import Array

FUNCTION_POOL_KEY = 2**31 - 3  # folded into `jax.random.key(seed)` of a `FunctionPool`
VARIANCE_KEY = 2**31 - 4  # folded into the key of Monte Carlo estimates of the label variance

# Monte Carlo estimates of the label variance:
POINTS = 64  # inputs per function
FUNCTIONS_AT_ONCE = 1024  # functions per step of the estimate
MIN_STEPS, MAX_STEPS = 4, 256
MAX_ERROR = 0.003  # stop when the standard error is at most this fraction of the estimate

Moment = Callable[[int], float]  # k -> E x_i^k, the moment of one input coordinate


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
    """The protocol of a function class: `d_input`, `draw` and `apply` are required.

    Optional members:

      * A third argument `entries` of `draw`: the entries of w are then drawn by `entries(key, shape)`. Without this
        argument, the `weights` of a task must be "normal".
      * `variance_at(scale)`: the label variance `E f(scale x)^2` for x from N(0, I) and normal entries of w. If the
        method has a second argument `moment`, its result must be exact for all `ENTRIES`, and for all inputs that have
        independent coordinates or are uniform on a sphere. `moment(k)` is `E x_i^k`.
      * Instead of `variance_at`: `variance`, the label variance at scale one, and `degree`, the k for which
        `f(a x) = a^k f(x)` for all positive a.

    If these members do not determine the label variance, `variance_of` estimates it by Monte Carlo.
    """

    @property
    def d_input(self) -> int:
        """Input dimension d."""
        ...

    def draw(self, key: Array, active: Array | int | None = None) -> Any:
        """Draws one function.

        Args:
          key: a JAX random key.
          active: number of active input coordinates, the first ones; the others are zero (in a curriculum). A class
            may draw functions that depend only on the active coordinates. Default: None, all are active.

        Returns:
          The parameters w of the function, a pytree of arrays.
        """
        ...

    def apply(self, w: Any, x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        """Evaluates the function with parameters w.

        Returns:
          Labels `[n 1]`.
        """
        ...


def _normal_moment(k: int) -> float:
    return INPUTS["normal"].moment(k, 1)


class _ClosedFormVariance:
    """A function class whose label variance has a closed form, for every input scale and all `INPUTS` and `ENTRIES`."""

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        """Label variance `E f(scale x)^2`, where every coordinate x_i has the moments `E x_i^k = moment(k)`.

        Returns:
          The variance.
        """
        raise NotImplementedError

    @property
    def variance(self) -> float:
        """Label variance `E f(x)^2` for x from N(0, I)."""
        return self.variance_at()


@dataclass(frozen=True)
class Linear(_ClosedFormVariance):
    """Linear functions `y = w x`. By default, the entries of w `[1 d]` are from N(0, 1).

    Attributes:
      d_input: input dimension d.
    """

    d_input: Size = 20

    def __post_init__(self):
        check(self)

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        """Label variance: `scale^2 d E x_i^2`.

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
    """Linear functions that depend on `non_zeros` input coordinates, chosen uniformly for every function.

    Attributes:
      non_zeros: number of weights that are not zero.
    """

    non_zeros: Size = 3

    def __post_init__(self):
        super().__post_init__()
        if self.non_zeros > self.d_input:
            raise ValueError(f"non_zeros={self.non_zeros} must be at most d_input={self.d_input}")

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        """Label variance: `scale^2 non_zeros E x_i^2`.

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
          active: only the first `active` weights can be non-zero. Default: None, all can.
          entries: `entries(key, shape)` draws the entries of w. Default: normal.

        Returns:
          Weights `[1 d]`.
        """
        key_w, key_which = jax.random.split(key)
        order = jax.random.uniform(key_which, (self.d_input,))
        if active is not None:
            order = jnp.where(jnp.arange(self.d_input) < active, order, 2.0)  # larger than all uniform draws
        rank = jnp.argsort(jnp.argsort(order))
        return jnp.where(rank < self.non_zeros, super().draw(key_w, entries=entries), 0.0)


@dataclass(frozen=True)
class Quadratic(Linear):
    """Quadratic functions `y = sum_i w_i x_i^2 / sqrt(3)`.

    For normal inputs, the label variance equals that of linear functions, because `E x_i^4 = 3`.
    """

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        """Label variance: `scale^4 d E x_i^4 / 3`.

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

    For normal inputs, the label variance equals that of linear functions, because `E x_i^(2k) = (2k - 1)!!`.

    Attributes:
      degree: the power k.
    """

    degree: Annotated[int, Ge(1), Le(10)] = 3  # pyright: ignore[reportIncompatibleMethodOverride]

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        """Label variance: `scale^(2k) d E x_i^(2k) / (2k - 1)!!`.

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
    """Affine functions `y = w x + b`. By default, the entries of w `[1 d]` and b `[1 1]` are from N(0, 1).

    For normal inputs, `E y^2 = d + 1`.

    Attributes:
      d_input: input dimension d.
    """

    d_input: Size = 20

    def __post_init__(self):
        check(self)

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        """Label variance: `scale^2 d E x_i^2 + 1`.

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
    """Chebyshev polynomials of the inputs, `y = sum_i w_i T_p(x_i) / sqrt(E T_p(z)^2)` with z from N(0, 1).

    `T_p` is the Chebyshev polynomial of the first kind, `T_p(cos u) = cos(p u)`; for example, `T_3(x) = 4 x^3 - 3 x`.
    By default, the entries of w `[1 d]` are from N(0, 1). For normal inputs, the label variance equals that of linear
    functions. For other inputs and scales, it follows from moments up to order 2p, because `T_p^2 = (1 + T_2p) / 2`.

    Attributes:
      d_input: input dimension d.
      degree: degree p of the polynomial. Unlike in `Polynomial`, terms of lower degree occur too.
    """

    d_input: Size = 20
    degree: Annotated[int, Ge(1), Le(10)] = 3

    def __post_init__(self):
        check(self)

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        """Label variance: `d E T_p(scale x_i)^2 / E T_p(z)^2` with z from N(0, 1).

        Returns:
          The variance.
        """
        return self.d_input * (self._mean_square(scale, moment) / self._mean_square(1.0, _normal_moment))

    def _mean_square(self, scale: float, moment: Moment) -> float:
        """`E T_p(scale x_i)^2`, computed as `(1 + E T_2p(scale x_i)) / 2`."""
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
        previous, current = jnp.ones_like(x), x  # T_0 and T_1
        for _ in range(self.degree - 1):
            previous, current = current, 2 * x * current - previous
        return current @ w.T / self._mean_square(1.0, _normal_moment) ** 0.5


@dataclass(frozen=True)
class Signs(Linear):
    """Classes 1 and -1, the sign of a linear function. As in the paper's code, the training loss is logistic."""

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        """Label variance: 1 at every scale.

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
    """Two-layer networks `y = sqrt(2 / hidden) w_2 relu(W_1 x)`.

    By default, the entries of `W_1 [hidden d]` and `w_2 [1 hidden]` are from N(0, 1).

    Attributes:
      d_input: input dimension d.
      hidden: width of the hidden layer.
    """

    d_input: Size = 20
    hidden: Size = 100

    def __post_init__(self):
        check(self)

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        """Label variance: `scale^2 d E x_i^2`.

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
    """Full binary decision trees: an inner node tests the sign of one input coordinate, a leaf has a label.

    By default, the labels of the leaves are from N(0, 1). The root is node 0. Node i is followed by node 2i + 2 if
    the tested coordinate is positive, otherwise by node 2i + 1.

    Attributes:
      d_input: input dimension d.
      depth: number of tests from the root to a leaf.
    """

    d_input: Size = 20
    depth: Annotated[int, Ge(1), Le(20)] = 4

    def __post_init__(self):
        check(self)

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        """Label variance: 1 at every scale.

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
        """Draws the input coordinate that every inner node tests, and the label of every leaf.

        Args:
          key: a JAX random key.
          active: not used; a node can test any input coordinate.
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
        """Evaluates the tree: follows every input from the root to a leaf and returns the labels of these leaves.

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
    """A finite pool of `size` functions of a class, from which functions are drawn uniformly with replacement.

    No function is stored: function i is recomputed from its key whenever index i is drawn.

    Attributes:
      functions: the class from which the functions of the pool are drawn.
      size: number of functions in the pool.
      seed: seed from which the functions of the pool are drawn. It does not affect the order in which prompts use them.
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
        """Label variance over all functions of the class, not only those of the pool, for x from N(0, I)."""
        return variance_of(self.functions)

    def draw(self, key: Array, active: Array | int | None = None, entries: Draw = jax.random.normal) -> Any:
        """Draws one of the pool's functions, uniformly.

        Args:
          key: a JAX random key.
          active: number of active input coordinates, passed to the `draw` of the class. Default: None, all are active.
          entries: `entries(key, shape)` draws the entries of w. Default: normal.

        Returns:
          The parameters w of the function.
        """
        root = jax.random.fold_in(jax.random.key(self.seed), FUNCTION_POOL_KEY)
        draw = draw_by(self.functions, entries)
        return draw(jax.random.fold_in(root, jax.random.randint(key, (), 0, self.size)), active)

    def apply(self, w: Any, x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        """Evaluates the function with parameters w.

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
_SHIPPED = frozenset(FUNCTIONS.values())  # these classes are checked by a test, so `check_form` skips them


def base_functions(functions: Any) -> Any:
    """The class from which the functions of a `FunctionPool` are drawn; any other class is returned unchanged.

    Returns:
      A function class that is not a pool.
    """
    return base_functions(functions.functions) if isinstance(functions, FunctionPool) else functions


def takes(function: Callable, name: str) -> bool:
    """Whether a function has a parameter with this name.

    Returns:
      True if the parameter exists.
    """
    return name in inspect.signature(function).parameters


def draw_by(functions: FunctionClass, entries: Draw) -> Callable[..., Any]:
    """The `draw` method of a class, with the entries of w drawn by `entries`.

    Returns:
      A function `(key, active) -> w`.
    """
    draw: Callable[..., Any] = functions.draw
    return draw if entries is jax.random.normal else partial(draw, entries=entries)


# --- checks that an object is a FunctionClass ---


def check_form(functions: Any) -> None:
    """Checks that an object is a `FunctionClass`, by abstract evaluation of its `draw` and `apply`.

    Raises:
      ValueError: if an attribute is missing, if `draw` or `apply` raises an exception, or if the result of `apply` does
        not have shape `[n 1]`.
    """
    functions = base_functions(functions)
    if type(functions) in _SHIPPED:
        return
    if requirement := _wrong_form(functions):
        raise ValueError(f"functions={functions!r} must be {' '.join(requirement.split())}")


@cached_by_value
def _wrong_form(functions: Any) -> str:
    """The end of the error message "functions=... must be ..."; an empty string if the object is a `FunctionClass`."""
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


# --- the label variance ---


@checked
def variance_of(
    functions: FunctionClass,
    scale: Annotated[float, Gt(0), Le(LARGEST)] = 1.0,
    inputs: Annotated[str, OneOf(INPUTS)] = "normal",
    weights: Annotated[str, OneOf(ENTRIES)] = "normal",
) -> float:
    """Label variance `E f(scale x)^2`, over the functions f of a class and over inputs x.

    If the class defines the label variance for these inputs and weights (see `FunctionClass`), this value is returned.
    Otherwise the result is a Monte Carlo estimate with a fixed key, and is cached. The estimate uses 64 inputs for each
    of at least 4,096 functions. Functions are added, up to 262,144, until the standard error is at most 0.3 per cent of
    the estimate.

    The `degree` of a class is used only if `f(3 x) = 3^degree f(x)` holds for a sample of functions and inputs.

    Args:
      functions: the class. For a pool, the variance is over all functions of its class.
      scale: factor of the inputs.
      inputs: distribution of the inputs at scale one, a key of `INPUTS`.
      weights: distribution of the entries of w, a key of `ENTRIES`.

    Returns:
      The variance.

    Raises:
      ValueError: if the Monte Carlo estimate is zero or not finite.
    """
    functions = base_functions(functions)
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
    """The `variance_at` of a class, or None if the class has none.

    None also if a subclass inherits `variance_at`, but overrides `draw`, `apply`, `variance` or `degree`.
    """
    for cls in type(functions).__mro__:
        if "variance_at" in vars(cls):
            break
        if {"variance", "degree", "draw", "apply"} & vars(cls).keys():
            return None
    return getattr(functions, "variance_at", None)


@cached_by_value
def _is_homogeneous(functions: Any) -> bool:
    """Whether `f(3 x) = 3^degree f(x)` holds for 16 functions at 8 inputs each, up to 0.1 per cent."""

    def holds(key: Array) -> Array:
        key_w, key_x = jax.random.split(key)
        w, x = functions.draw(key_w, None), jax.random.normal(key_x, (8, functions.d_input))
        expected = 3.0**functions.degree * functions.apply(w, x)
        difference = jnp.abs(functions.apply(w, 3.0 * x) - expected)
        return jnp.max(difference) <= 1e-3 * jnp.max(jnp.abs(expected))

    def all_hold(seed: Array) -> Array:
        return jnp.all(jax.lax.map(holds, jax.random.split(jax.random.key(seed), 16)))

    return bool(_evaluated_now(all_hold)(0))


@cached_by_value
def _estimated_variance(functions: Any, scale: float, inputs: str, weights: str) -> float:
    """The Monte Carlo estimate of `variance_of`."""
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
            f"functions={functions!r} must have labels whose mean square is finite and above 0; with "
            f"inputs={inputs!r} and input_scale={scale:g} the mean square is {mean:g}"
        )
    return float(mean)


def _evaluated_now(function: Callable) -> Callable[..., np.ndarray]:
    """Wraps a function so that it is evaluated immediately, in single precision, even while JAX traces another one.

    The wrapped function returns NumPy arrays.
    """
    program = quick_jit(function)

    def call(*args: Any) -> np.ndarray:
        with jax.ensure_compile_time_eval(), jax.enable_x64(False):
            return np.asarray(program(*args))

    return call
