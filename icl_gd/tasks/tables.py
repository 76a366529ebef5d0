"""Prompts from a table of real data.

Example:
  >>> rng = np.random.default_rng(0)
  >>> table = standardised_table(rng.normal(size=(20, 3)), rng.normal(size=(20, 1)), n_context=4)
  >>> prompt = table.sample(jax.random.key(0))
  >>> prompt.x.shape, prompt.y.shape, prompt.x_query.shape
  ((4, 3), (4, 1), (3,))
"""

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
    """A task whose prompts are n + 1 rows of a table, drawn without replacement; one of the rows is the query.

    The `w` of every prompt are the least-squares weights of the whole table. These weights did not generate the labels:
    context labels and `y_query` scatter around `w x`.

    Attributes:
      x: inputs of the table `[row d]`.
      y: labels of the table `[row m]`.
      n_context: examples per prompt.
    """

    x: np.ndarray
    y: np.ndarray
    n_context: Size = 10

    def __post_init__(self):
        check(self)
        if len(self.x) != len(self.y):
            raise ValueError(f"x has {len(self.x)} rows, y has {len(self.y)}; they must have the same number of rows")
        if self.n_context >= len(self.x):
            raise ValueError(
                f"n_context={self.n_context} must be at most {len(self.x) - 1}: a prompt takes n_context + 1 of the "
                f"table's {len(self.x)} rows"
            )

    @property
    def d_input(self) -> int:
        """Input dimension d."""
        return self.x.shape[1]

    @property
    def d_output(self) -> int:
        """Output dimension m."""
        return self.y.shape[1]

    @property
    def w(self) -> Float[np.ndarray, "m d"]:
        """Least-squares weights `[m d]` of the whole table."""
        return np.linalg.lstsq(self.x, self.y)[0].T

    def sample(self, key: Array) -> Prompt:
        """Draws one prompt.

        Returns:
          A Prompt; its `w` are the least-squares weights of the whole table.
        """
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
    """A `Table` whose columns are shifted to mean zero and scaled to given standard deviations.

    Args:
      x: inputs `[row d]`.
      y: labels `[row m]`.
      n_context: examples per prompt.
      input_std: standard deviation of every column of x.
      label_std: standard deviation of every column of y.

    Returns:
      The standardised table.

    Raises:
      ValueError: if a column is constant.
    """

    def scaled(name: str, values: np.ndarray, std: float) -> np.ndarray:
        spread = values.std(axis=0)
        if not np.all(spread > 0):
            raise ValueError(
                f"column {int(np.argmin(spread))} of {name} is constant and cannot be standardised; remove the column"
            )
        return std * (values - values.mean(axis=0)) / spread

    return Table(scaled("x", x, input_std), scaled("y", y, label_std), n_context)
