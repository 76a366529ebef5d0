"""Function classes: what labels are made by (Garg et al. 2208.01066, sections 3 and 4, and their code).

A class draws one of its functions, `draw(key) -> w`, any pytree, and applies it, `apply(w, x [n d]) -> y [n 1]`. Its
`variance` is `E y^2` at inputs from N(0, I), by which the paper divides errors: with it predicting zero has error one.
`f(a x) = a^degree f(x)` for positive a.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le
from jaxtyping import Float, Int

from icl_gd.schema import PoolSize, Seed, Size, check
from icl_gd.types import Array

FUNCTION_POOL_KEY = 2**31 - 3  # folded into the key of a pool


@runtime_checkable
class FunctionClass(Protocol):
    """See above. While only the first `active` inputs are not zero, a class may draw functions of these alone."""

    @property
    def d_input(self) -> int: ...
    @property
    def variance(self) -> float: ...
    @property
    def degree(self) -> int: ...
    def draw(self, key: Array, active: Array | int | None = None) -> Any: ...
    def apply(self, w: Any, x: Float[Array, "n d"]) -> Float[Array, "n 1"]: ...


@dataclass(frozen=True)
class Linear:
    """`y = w x` with `w ~ N(0, I)` `[1 d]`."""

    d_input: Size = 20

    def __post_init__(self):
        check(self)

    @property
    def variance(self) -> float:
        return float(self.d_input)

    @property
    def degree(self) -> int:
        return 1

    def draw(self, key: Array, active: Array | int | None = None) -> Float[Array, "1 d"]:
        return jax.random.normal(key, (1, self.d_input))

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

    @property
    def variance(self) -> float:
        return float(self.non_zeros)

    def draw(self, key: Array, active: Array | int | None = None) -> Float[Array, "1 d"]:
        key_w, key_which = jax.random.split(key)
        order = jax.random.uniform(key_which, (self.d_input,))
        if active is not None:
            order = jnp.where(jnp.arange(self.d_input) < active, order, 2.0)
        chosen = jnp.argsort(jnp.argsort(order)) < self.non_zeros
        return jnp.where(chosen, super().draw(key_w), 0.0)


@dataclass(frozen=True)
class Quadratic(Linear):
    """`y = sum_i w_i x_i^2 / sqrt(3)`, whose variance is that of linear functions: `E x^4 = 3`."""

    @property
    def degree(self) -> int:
        return 2

    def apply(self, w: Float[Array, "1 d"], x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        return x**2 @ w.T / 3**0.5


@dataclass(frozen=True)
class Polynomial(Linear):
    """`y = sum_i w_i x_i^k / sqrt(E x^2k)` of degree k, whose variance is that of linear functions.

    For normal inputs `E x^2k = (2k - 1)!!`.

    Attributes:
      degree: the power k.
    """

    degree: Annotated[int, Ge(1), Le(10)] = 3  # pyright: ignore[reportIncompatibleMethodOverride] - of the class here

    def apply(self, w: Float[Array, "1 d"], x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        return x**self.degree @ w.T / prod(range(1, 2 * self.degree, 2)) ** 0.5


@dataclass(frozen=True)
class Signs(Linear):
    """Classification: the sign of a linear function, 1 or -1. Trained on the logistic loss, as published."""

    @property
    def variance(self) -> float:
        return 1.0

    @property
    def degree(self) -> int:
        return 0

    def apply(self, w: Float[Array, "1 d"], x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        return jnp.sign(x @ w.T)


@dataclass(frozen=True)
class ReLUNetwork:
    """`y = sqrt(2 / hidden) w_2 relu(W_1 x)` with standard normal `W_1 [hidden d]` and `w_2 [1 hidden]`."""

    d_input: Size = 20
    hidden: Size = 100

    def __post_init__(self):
        check(self)

    @property
    def variance(self) -> float:
        return float(self.d_input)  # E relu(w x)^2 = d / 2, of each hidden unit

    @property
    def degree(self) -> int:
        return 1

    def draw(self, key: Array, active: Array | int | None = None) -> dict[str, Array]:
        key_1, key_2 = jax.random.split(key)
        return {
            "W_1": jax.random.normal(key_1, (self.hidden, self.d_input)),
            "w_2": jax.random.normal(key_2, (1, self.hidden)),
        }

    def apply(self, w: dict[str, Array], x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        return (2 / self.hidden) ** 0.5 * jax.nn.relu(x @ w["W_1"].T) @ w["w_2"].T


@dataclass(frozen=True)
class DecisionTree:
    """A full binary tree: each inner node asks whether one input is positive, each leaf has a label from N(0, 1).

    Nodes stand in one array: the children of i are 2i + 1, if the input is not positive, and 2i + 2.
    """

    d_input: Size = 20
    depth: Annotated[int, Ge(1), Le(20)] = 4

    def __post_init__(self):
        check(self)

    @property
    def variance(self) -> float:
        return 1.0

    @property
    def degree(self) -> int:
        return 0

    def draw(self, key: Array, active: Array | int | None = None) -> dict[str, Array]:
        key_input, key_label = jax.random.split(key)
        return {
            "input": jax.random.randint(key_input, (2**self.depth - 1,), 0, self.d_input),
            "label": jax.random.normal(key_label, (2**self.depth,)),
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
        return self.functions.variance

    @property
    def degree(self) -> int:
        return self.functions.degree

    def draw(self, key: Array, active: Array | int | None = None) -> Any:
        root = jax.random.fold_in(jax.random.key(self.seed), FUNCTION_POOL_KEY)
        return self.functions.draw(jax.random.fold_in(root, jax.random.randint(key, (), 0, self.size)), active)

    def apply(self, w: Any, x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
        return self.functions.apply(w, x)


FUNCTIONS: dict[str, Callable[..., FunctionClass]] = {
    "linear": Linear,
    "sparse": Sparse,
    "quadratic": Quadratic,
    "polynomial": Polynomial,
    "signs": Signs,
    "relu_network": ReLUNetwork,
    "decision_tree": DecisionTree,
}
