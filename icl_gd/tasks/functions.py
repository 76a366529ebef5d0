"""Function classes: what labels are made by (Garg et al. 2208.01066, sections 3 and 4, and their code).

A class draws one of its functions, `draw(key) -> w`, any pytree, and applies it, `apply(w, x [n d]) -> y [n 1]`.
Entries of w are standard normal, or from another of `ENTRIES`, all of them symmetric and of variance one:

    normal   N(0, 1).
    laplace  density exp(-sqrt(2) |w|) / sqrt(2).
    mixture  of N(0.8, 0.36) and N(-0.8, 0.36), each as likely: s (0.8 + 0.6 z) with a random sign s and z ~ N(0, 1).
    student  sqrt(3/5) t, with t from Student's distribution of 5 degrees of freedom: sqrt(3) z_0 / |(z_1, ..., z_5)|.

Errors are divided by the variance of labels, `variance_of`, as in the paper: with it predicting zero has error one.
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

FUNCTION_POOL_KEY = 2**31 - 3  # folded into the key of a pool
VARIANCE_KEY = 2**31 - 4  # folded into the key that variances are drawn by
# Of a variance that is drawn: inputs of every function, functions of a step, the fewest and the most steps, and the
# standard error, over the variance, at which no more are drawn.
POINTS, FUNCTIONS_AT_ONCE, FEWEST, MOST, ERROR = 64, 1024, 4, 256, 0.003
Moment = Callable[[int], float]


def _mixture(key: Array, shape: tuple[int, ...]) -> Array:
    key_sign, key_z = jax.random.split(key)
    z = jax.random.normal(key_z, shape)
    return jax.random.rademacher(key_sign, shape, z.dtype) * (0.8 + 0.6 * z)


def _student(key: Array, shape: tuple[int, ...]) -> Array:
    z = jax.random.normal(key, (6, *shape))  # which compiles sooner than jax.random.t
    return 3**0.5 * z[0] / jnp.linalg.norm(z[1:], axis=0)


ENTRIES: dict[str, Draw] = {
    "normal": jax.random.normal,
    "laplace": INPUTS["laplace"].draw,
    "mixture": _mixture,
    "student": _student,
}


@runtime_checkable
class FunctionClass(Protocol):
    """See above. While only the first `active` inputs are not zero, a class may draw functions of these alone.

    A class may have more than this:

      * `draw(key, active, entries)` draws entries of w by `entries(key, shape)`, so that `weights` of a task may be
        another word than normal;
      * `variance_at(scale)` is the variance of labels, `E f(scale x)^2`, at x from N(0, I) and normal entries;
        `variance_at(scale, moment)` at inputs that have independent coordinates or are uniform on a sphere, with
        `moment(k) = E x_i^k`, and at all `ENTRIES`;
      * or else `variance`, the same at scale one, and `degree`, where `f(a x) = a^degree f(x)` for positive a.

    What is not known by these is found by drawing, see `variance_of`.
    """

    @property
    def d_input(self) -> int: ...
    def draw(self, key: Array, active: Array | int | None = None) -> Any: ...
    def apply(self, w: Any, x: Float[Array, "n d"]) -> Float[Array, "n 1"]: ...


def _normal_moment(k: int) -> float:
    return INPUTS["normal"].moment(k, 1)


class _Known:
    """A class whose variance is known at every scale, for all inputs and entries."""

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        """`E f(scale x)^2`, where a coordinate of x has `E x^k = moment(k)`."""
        raise NotImplementedError

    @property
    def variance(self) -> float:
        """`E f(x)^2` at x from N(0, I)."""
        return self.variance_at()


@dataclass(frozen=True)
class Linear(_Known):
    """`y = w x` with `w ~ N(0, I)` `[1 d]`."""

    d_input: Size = 20

    def __post_init__(self):
        check(self)

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        return scale**2 * self.d_input * moment(2)

    @property
    def degree(self) -> int:
        return 1

    def draw(
        self, key: Array, active: Array | int | None = None, entries: Draw = jax.random.normal
    ) -> Float[Array, "1 d"]:
        return entries(key, (1, self.d_input))

    def apply(self, w: Float[Array, "1 d"], x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        return x @ w.T


@dataclass(frozen=True)
class Sparse(Linear):
    """Linear functions of `non_zeros` of the inputs, chosen from those that are active."""

    non_zeros: Size = 3

    def __post_init__(self):
        super().__post_init__()
        if self.non_zeros > self.d_input:
            raise ValueError(f"non_zeros={self.non_zeros} must be at most d_input={self.d_input}")

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        return scale**2 * self.non_zeros * moment(2)

    def draw(
        self, key: Array, active: Array | int | None = None, entries: Draw = jax.random.normal
    ) -> Float[Array, "1 d"]:
        key_w, key_which = jax.random.split(key)
        order = jax.random.uniform(key_which, (self.d_input,))
        if active is not None:
            order = jnp.where(jnp.arange(self.d_input) < active, order, 2.0)
        chosen = jnp.argsort(jnp.argsort(order)) < self.non_zeros
        return jnp.where(chosen, super().draw(key_w, entries=entries), 0.0)


@dataclass(frozen=True)
class Quadratic(Linear):
    """`y = sum_i w_i x_i^2 / sqrt(3)`, whose variance at normal inputs is that of linear functions: `E x^4 = 3`."""

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        return scale**4 * self.d_input * (moment(4) / 3)

    @property
    def degree(self) -> int:
        return 2

    def apply(self, w: Float[Array, "1 d"], x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        return x**2 @ w.T / 3**0.5


@dataclass(frozen=True)
class Polynomial(Linear):
    """`y = sum_i w_i x_i^k / sqrt((2k - 1)!!)` of degree k.

    At normal inputs its variance is that of linear functions: there `E x^2k = (2k - 1)!!`.

    Attributes:
      degree: the power k.
    """

    degree: Annotated[int, Ge(1), Le(10)] = 3  # pyright: ignore[reportIncompatibleMethodOverride] - of the class here

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        k = self.degree
        return scale ** (2 * k) * self.d_input * (moment(2 * k) / _normal_moment(2 * k))

    def apply(self, w: Float[Array, "1 d"], x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        return x**self.degree @ w.T / prod(range(1, 2 * self.degree, 2)) ** 0.5


@dataclass(frozen=True)
class Affine(_Known):
    """`y = w x + b` with `w ~ N(0, I)` `[1 d]` and `b ~ N(0, 1)` `[1 1]`: `E y^2 = d + 1` at normal inputs."""

    d_input: Size = 20

    def __post_init__(self):
        check(self)

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        return scale**2 * self.d_input * moment(2) + 1

    def draw(
        self, key: Array, active: Array | int | None = None, entries: Draw = jax.random.normal
    ) -> dict[str, Array]:
        key_w, key_b = jax.random.split(key)
        return {"w": entries(key_w, (1, self.d_input)), "b": entries(key_b, (1, 1))}

    def apply(self, w: dict[str, Array], x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        return x @ w["w"].T + w["b"]


@dataclass(frozen=True)
class Chebyshev(_Known):
    """`y = sum_i w_i T_p(x_i) / sqrt(E T_p(x)^2)` with `w ~ N(0, I)` `[1 d]`, and the mean over x from N(0, 1).

    `T_p` is Chebyshev's polynomial of the first kind, `T_p(cos u) = cos(p u)`, as `T_3(x) = 4 x^3 - 3 x`. At normal
    inputs the variance is that of linear functions, as of `Polynomial`. `T_p^2 = (1 + T_2p) / 2`, so at other inputs
    and scales it follows from moments up to the order 2 p.

    Attributes:
      degree: of the polynomial, p. It has lower terms beside the power p.
    """

    d_input: Size = 20
    degree: Annotated[int, Ge(1), Le(10)] = 3

    def __post_init__(self):
        check(self)

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        return self.d_input * (self._mean_square(scale, moment) / self._mean_square(1.0, _normal_moment))

    def _mean_square(self, scale: float, moment: Moment) -> float:
        """`E T_p(scale x)^2` over one coordinate."""
        coefficients = np.polynomial.chebyshev.cheb2poly([0] * (2 * self.degree) + [1])
        return (1 + sum(float(a) * scale**k * moment(k) for k, a in enumerate(coefficients))) / 2

    def draw(
        self, key: Array, active: Array | int | None = None, entries: Draw = jax.random.normal
    ) -> Float[Array, "1 d"]:
        return entries(key, (1, self.d_input))

    def apply(self, w: Float[Array, "1 d"], x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        before, t = jnp.ones_like(x), x
        for _ in range(self.degree - 1):
            before, t = t, 2 * x * t - before
        return t @ w.T / self._mean_square(1.0, _normal_moment) ** 0.5


@dataclass(frozen=True)
class Signs(Linear):
    """Classification: the sign of a linear function, 1 or -1. Trained on the logistic loss, as published."""

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        return 1.0

    @property
    def degree(self) -> int:
        return 0

    def apply(self, w: Float[Array, "1 d"], x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        return jnp.sign(x @ w.T)


@dataclass(frozen=True)
class ReLUNetwork(_Known):
    """`y = sqrt(2 / hidden) w_2 relu(W_1 x)` with standard normal `W_1 [hidden d]` and `w_2 [1 hidden]`."""

    d_input: Size = 20
    hidden: Size = 100

    def __post_init__(self):
        check(self)

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        return scale**2 * self.d_input * moment(2)  # E relu(w x)^2 = E (w x)^2 / 2: w is as likely as -w

    @property
    def degree(self) -> int:
        return 1

    def draw(
        self, key: Array, active: Array | int | None = None, entries: Draw = jax.random.normal
    ) -> dict[str, Array]:
        key_1, key_2 = jax.random.split(key)
        return {
            "W_1": entries(key_1, (self.hidden, self.d_input)),
            "w_2": entries(key_2, (1, self.hidden)),
        }

    def apply(self, w: dict[str, Array], x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        return (2 / self.hidden) ** 0.5 * jax.nn.relu(x @ w["W_1"].T) @ w["w_2"].T


@dataclass(frozen=True)
class DecisionTree(_Known):
    """A full binary tree: each inner node asks whether one input is positive, each leaf has a label from N(0, 1).

    Nodes stand in one array: the children of i are 2i + 1, if the input is not positive, and 2i + 2.
    """

    d_input: Size = 20
    depth: Annotated[int, Ge(1), Le(20)] = 4

    def __post_init__(self):
        check(self)

    def variance_at(self, scale: float = 1.0, moment: Moment = _normal_moment) -> float:
        return 1.0

    @property
    def degree(self) -> int:
        return 0

    def draw(
        self, key: Array, active: Array | int | None = None, entries: Draw = jax.random.normal
    ) -> dict[str, Array]:
        key_input, key_label = jax.random.split(key)
        return {
            "input": jax.random.randint(key_input, (2**self.depth - 1,), 0, self.d_input),
            "label": entries(key_label, (2**self.depth,)),
        }

    def apply(self, w: dict[str, Array], x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        node: Int[Array, " n"] = jnp.zeros(len(x), int)
        for _ in range(self.depth):
            positive = jnp.take_along_axis(x, w["input"][node][:, None], axis=1)[:, 0] > 0
            node = 2 * node + 1 + positive
        return w["label"][node - (2**self.depth - 1)][:, None]


@dataclass(frozen=True)
class FunctionPool:
    """Functions drawn uniformly, with replacement, from `size` of a class: a finite set of tasks to train on.

    Nothing is stored: the function of an index is drawn again from its key whenever the index comes up.
    """

    functions: FunctionClass
    size: PoolSize
    seed: Seed = 0

    def __post_init__(self):
        check(self)

    @property
    def d_input(self) -> int:
        return self.functions.d_input

    @property
    def variance(self) -> float:
        """That of the class, at x from N(0, I)."""
        return variance_of(self.functions)

    def draw(self, key: Array, active: Array | int | None = None, entries: Draw = jax.random.normal) -> Any:
        root = jax.random.fold_in(jax.random.key(self.seed), FUNCTION_POOL_KEY)
        draw = draw_by(self.functions, entries)
        return draw(jax.random.fold_in(root, jax.random.randint(key, (), 0, self.size)), active)

    def apply(self, w: Any, x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
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
_SHIPPED = frozenset(FUNCTIONS.values())  # a law holds their form, so that a task of them is made without JAX


def of_pool(functions: Any) -> Any:
    """The class that a pool has its functions of; another class as it is."""
    return of_pool(functions.functions) if isinstance(functions, FunctionPool) else functions


def takes(function: Callable, name: str) -> bool:
    """Whether a function has an argument of this name."""
    return name in inspect.signature(function).parameters


def draw_by(functions: FunctionClass, entries: Draw) -> Callable[..., Any]:
    """The `draw` of a class, with entries of w from a distribution."""
    draw: Callable[..., Any] = functions.draw
    return draw if entries is jax.random.normal else partial(draw, entries=entries)


# --- what a class must be ---


def check_form(functions: Any) -> None:
    """Whether a class draws and applies functions as `FunctionClass` says, by shapes alone: nothing is computed.

    Raises:
      ValueError: if it does not; says what is wrong and what is needed.
    """
    functions = of_pool(functions)
    if type(functions) not in _SHIPPED and (wrong := _wrong_form(functions)):
        raise ValueError(f"functions={functions!r} must be {' '.join(wrong.split())}")


@kept
def _wrong_form(functions: Any) -> str:
    needed = ("d_input", "draw", "apply")
    if missing := [name for name in needed if not hasattr(functions, name)]:
        return f"a FunctionClass, with d_input, draw(key, active) and apply(w, x [n d]); it has no {', '.join(missing)}"
    if isinstance(functions, type):
        return f"a FunctionClass; this is the Python class, give one of it, as {functions.__name__}()"
    d = functions.d_input
    if not isinstance(d, int | np.integer) or isinstance(d, bool) or d < 1:
        return f"a FunctionClass whose d_input is a whole number of at least 1, not {d!r}"
    try:
        w = jax.eval_shape(lambda seed: functions.draw(jax.random.key(seed), None), 0)
    except Exception as error:
        return f"a FunctionClass with draw(key, active) -> w; its draw(key, None) ends with {_first_line(error)}"
    for n in (1, d + 1):
        x = jax.ShapeDtypeStruct((n, d), jnp.result_type(float))
        asked = f"a FunctionClass with apply(w, x [n d]) -> y [n 1]; its apply(w, x [{n} {d}])"
        try:
            y = jax.eval_shape(functions.apply, w, x)
        except Exception as error:
            return f"{asked} ends with {_first_line(error)}"
        if getattr(y, "shape", None) != (n, 1):
            shape = f"has shape {y.shape}" if hasattr(y, "shape") else f"is a {type(y).__name__}"
            return f"{asked} {shape}, where ({n}, 1) is needed"
    return ""


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


# --- the variance of labels ---


@checked
def variance_of(
    functions: FunctionClass,
    scale: Annotated[float, Gt(0), Le(LARGEST)] = 1.0,
    inputs: Annotated[str, OneOf(INPUTS)] = "normal",
    weights: Annotated[str, OneOf(ENTRIES)] = "normal",
) -> float:
    """`E f(scale x)^2`, the variance of labels, over functions of a class and inputs from one of `INPUTS`.

    It is what the class says (see `FunctionClass`), if it says it of these inputs and weights. Otherwise it is a mean
    over what is drawn with a fixed key, and kept: over 64 inputs of each of 4,096 functions, and of more until its
    standard error is 0.3 per cent, of 262,144 at most. A `degree` is believed if, for some functions and inputs,
    three times the inputs give `3^degree` times the labels.

    Args:
      functions: the class; of a pool it is the variance over all functions of its class.
      scale: factor of the inputs.
      inputs: the distribution of inputs, at scale one.
      weights: the distribution of entries of w, in `ENTRIES`.

    Raises:
      ValueError: if labels that were drawn have no mean square that is finite and above zero.
    """
    functions = of_pool(functions)
    its = INPUTS[inputs]
    is_normal = its.is_normal and weights == "normal"
    if (variance_at := _variance_at(functions)) is not None:
        if takes(variance_at, "moment"):
            return float(variance_at(scale, moment=lambda k: its.moment(k, functions.d_input)))
        if is_normal:
            return float(variance_at(scale))
    elif is_normal and (variance := getattr(functions, "variance", None)) is not None:
        if scale == 1.0:
            return float(variance)
        if (degree := getattr(functions, "degree", None)) is not None and _is_homogeneous(functions):
            return float(scale ** (2 * degree) * variance)
    return _drawn_variance(functions, scale, inputs, weights)


def _variance_at(functions: Any) -> Callable[..., Any] | None:
    """The method of a class, unless a class that extends the one it is of draws, applies or states otherwise."""
    for of in type(functions).__mro__:
        if "variance_at" in vars(of):
            break
        if {"variance", "degree", "draw", "apply"} & vars(of).keys():
            return None
    return getattr(functions, "variance_at", None)


@kept
def _is_homogeneous(functions: Any) -> bool:
    def holds(key: Array) -> Array:
        key_w, key_x = jax.random.split(key)
        w, x = functions.draw(key_w, None), jax.random.normal(key_x, (8, functions.d_input))
        expected = 3.0**functions.degree * functions.apply(w, x)
        apart = jnp.abs(functions.apply(w, 3.0 * x) - expected)
        return jnp.max(apart) <= 1e-3 * jnp.max(jnp.abs(expected))

    return bool(_now(lambda seed: jnp.all(jax.lax.map(holds, jax.random.split(jax.random.key(seed), 16))))(0))


@kept
def _drawn_variance(functions: Any, scale: float, inputs: str, weights: str) -> float:
    draw = draw_by(functions, ENTRIES[weights])

    def mean_square(key: Array) -> Array:
        key_w, key_x = jax.random.split(key)
        x = INPUTS[inputs].draw(key_x, (POINTS, functions.d_input))
        return jnp.mean(functions.apply(draw(key_w, None), scale * x) ** 2)

    def step(i: Array) -> Array:
        root = jax.random.fold_in(jax.random.key(0), VARIANCE_KEY)
        keys = jax.random.split(jax.random.fold_in(root, i), FUNCTIONS_AT_ONCE)
        return jax.lax.map(mean_square, keys, batch_size=POINTS)

    found, steps = np.zeros(0), _now(step)
    for i in range(MOST):
        found = np.append(found, steps(i))
        if i + 1 >= FEWEST and found.std() / len(found) ** 0.5 <= ERROR * found.mean():
            break
    if not 0.0 < (mean := found.mean()) < np.inf:
        raise ValueError(
            f"functions={functions!r} must have labels of a finite mean square above 0; at inputs={inputs!r} and "
            f"input_scale={scale:g} it is {mean:g}"
        )
    return float(mean)


def _now(function: Callable) -> Callable[..., np.ndarray]:
    """A function that gives values, the same in single and double precision, even while others are traced."""
    program = brief(function)

    def call(*args: Any) -> np.ndarray:
        with jax.ensure_compile_time_eval(), jax.enable_x64(False):
            return np.asarray(program(*args))

    return call
