"""Prompts cut from a table of real data."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Gt
from jaxtyping import Float

from icl_gd.schema import Size, check, checked
from icl_gd.types import Array, Prompt


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of a table as prompts: n + 1 of them, drawn without replacement, of which one is the query.

    Attributes:
      x, y: the table's inputs `[row d]` and labels `[row m]`.
      n_context: examples of a prompt.

    A prompt's `w` are the least-squares weights of the whole table, the same for every prompt: no weights made the
    labels, so they are not `w x` but scatter around it, that of the query too.
    """

    x: np.ndarray
    y: np.ndarray
    n_context: Size = 10

    def __post_init__(self):
        check(self)
        if len(self.x) != len(self.y):
            raise ValueError(f"x has {len(self.x)} rows, y has {len(self.y)}")
        if self.n_context >= len(self.x):
            raise ValueError(
                f"n_context={self.n_context}: a table of {len(self.x)} rows has prompts of 1 to "
                f"{len(self.x) - 1} examples"
            )

    @property
    def d_input(self) -> int:
        return self.x.shape[1]

    @property
    def d_output(self) -> int:
        return self.y.shape[1]

    @property
    def w(self) -> Float[np.ndarray, "m d"]:
        """Least-squares weights of the whole table."""
        return np.linalg.lstsq(self.x, self.y)[0].T

    def sample(self, key: Array) -> Prompt:
        """One prompt."""
        rows = jax.random.choice(key, len(self.x), (self.n_context + 1,), replace=False)
        x, y = jnp.asarray(self.x)[rows], jnp.asarray(self.y)[rows]
        return Prompt(x[1:], y[1:], x[0], y[0], jnp.asarray(self.w))


@checked
def standardised_table(
    x: Float[np.ndarray, "row d"],
    y: Float[np.ndarray, "row m"],
    n_context: Size = 10,
    input_std: Annotated[float, Gt(0)] = 1.0,
    label_std: Annotated[float, Gt(0)] = 1.0,
) -> Table:
    """A table whose columns have mean zero and these standard deviations.

    Raises:
      ValueError: if a column is constant.
    """

    def scaled(name: str, values: np.ndarray, std: float) -> np.ndarray:
        spread = values.std(axis=0)
        if not np.all(spread > 0):
            raise ValueError(f"column {int(np.argmin(spread))} of {name} is constant: it has no scale to standardise")
        return std * (values - values.mean(axis=0)) / spread

    return Table(scaled("x", x, input_std), scaled("y", y, label_std), n_context)
