"""Regression on a function class: every prompt has a new function (Garg et al. 2208.01066).

Example:
  >>> from icl_gd.tasks import Linear
  >>> task = FunctionRegression(Linear(d_input=2), n_context=3)
  >>> prompt = task.sample_prefixes(jax.random.key(0))
  >>> prompt.x.shape, prompt.y.shape, prompt.x_query.shape
  ((4, 2), (4, 1), (4, 2))
  >>> task.label_variance
  2.0
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt, Le

from icl_gd.schema import LARGEST, OneOf, check
from icl_gd.tasks.families import INPUTS, PROMPT_DISTRIBUTIONS
from icl_gd.tasks.functions import (
    ENTRIES,
    FunctionClass,
    Signs,
    base_functions,
    check_form,
    draw_by,
    takes,
    variance_of,
)
from icl_gd.types import Array, PrefixPrompt, Prompt


@dataclass(frozen=True)
class FunctionRegression:
    """A task with labels from a function class and a query after every prefix.

    Attributes:
      functions: the function class.
      n_context: number of examples before the last query. A prompt has `n_context + 1` points.
      family: the prompt distribution, which draws inputs and queries; a key of `PROMPT_DISTRIBUTIONS`.
      input_scale: factor of all inputs. Labels are computed from the scaled inputs.
      label_scale: factor of all labels, noise included.
      noise_std: standard deviation of the noise on context labels, at label scale 1. Must be 0 for `Signs`.
      renormalised: divide all labels by a constant, so that noisy context labels have the variance that labels have at
        `noise_std=0`.
      inputs: distribution of the inputs before `family` transforms them, a key of `INPUTS`. Coordinates have second
        moment one.
      weights: distribution of the entries of a function's w, a key of `ENTRIES`: symmetric, with variance one.
      noise: distribution of the label noise at `noise_std=1`, a key of `ENTRIES`. The "noisy" entry of `EVAL_SUITE`
        uses the same distribution.
    """

    functions: FunctionClass
    n_context: Annotated[int, Ge(0)] = 40
    family: Annotated[str, OneOf(PROMPT_DISTRIBUTIONS)] = "standard"
    input_scale: Annotated[float, Gt(0), Le(LARGEST)] = 1.0
    label_scale: Annotated[float, Gt(0), Le(LARGEST)] = 1.0
    noise_std: Annotated[float, Ge(0), Le(LARGEST)] = 0.0
    renormalised: bool = False
    inputs: Annotated[str, OneOf(INPUTS)] = "normal"
    weights: Annotated[str, OneOf(ENTRIES)] = "normal"
    noise: Annotated[str, OneOf(ENTRIES)] = "normal"

    def __post_init__(self):
        check_form(self.functions)
        check(self)
        if self.noise_std > 0.0 and self.logistic:
            raise ValueError(
                f"noise_std={self.noise_std}: labels of signs are the classes 1 and -1, without noise; set noise_std=0"
            )
        if self.noise != "normal" and self.logistic:
            raise ValueError(
                f"noise={self.noise!r}: labels of signs are the classes 1 and -1, without noise; leave it out"
            )
        if self.weights != "normal" and not takes(base_functions(self.functions).draw, "entries"):
            raise ValueError(
                f"weights={self.weights!r}: the draw of functions={self.functions!r} has no argument entries; "
                "set weights='normal'"
            )
        if self.inputs != "normal" and not takes(PROMPT_DISTRIBUTIONS[self.family].draw, "inputs"):
            raise ValueError(
                f"inputs={self.inputs!r}: the draw of family={self.family!r} has no argument inputs; "
                "set inputs='normal'"
            )

    @property
    def d_input(self) -> int:
        """Input dimension d."""
        return self.functions.d_input

    @property
    def d_output(self) -> int:
        """Output dimension, 1."""
        return 1

    @property
    def logistic(self) -> bool:
        """Whether labels are the classes 1 and -1, and the training loss is logistic."""
        return isinstance(getattr(self.functions, "functions", self.functions), Signs)

    @property
    def label_variance(self) -> float:
        """`E y_query^2` for the "standard" prompt distribution.

        Reported errors are divided by this variance, so that predicting zero has error one.

        All prompt distributions have the same `E |x|^2`. A label variance that depends only on second moments is
        therefore the same for all of them. The label variances of `Quadratic`, `Polynomial` and `Chebyshev` depend on
        higher moments, which differ for "half_subspace" and "skewed", and for "orthogonal_query" if inputs are not
        normal.

        Raises:
          ValueError: if the variance is estimated (see `variance_of`) and the estimate is zero or not finite.
        """
        return self._label_scale**2 * self._variance

    @cached_property
    def _variance(self) -> float:
        """Label variance at label scale one, without noise."""
        return variance_of(self.functions, float(self.input_scale), self.inputs, self.weights)

    @property
    def _label_scale(self) -> float:
        """The factor of all labels: `label_scale`, which `renormalised` divides by a constant.

        The constant is the factor by which noise increases the standard deviation of context labels.
        """
        noise = self.noise_std**2 / self._variance if self.renormalised else 0.0
        return self.label_scale / (1 + noise) ** 0.5

    @property
    def in_order(self) -> bool:
        """Whether query k, counted from zero, is the next input `x[k]`."""
        return PROMPT_DISTRIBUTIONS[self.family].in_order

    def sample_prefixes(self, key: Array, active: Array | int | None = None) -> PrefixPrompt:
        """Draws one prompt of `n_context + 1` points, with a query after every prefix.

        Args:
          key: a JAX random key.
          active: number of active input coordinates, the first ones; the others are set to zero (in a curriculum).
            Default: None, all are active.

        Returns:
          A PrefixPrompt with noisy labels `y` and noise-free `y_query`; its `w` are the parameters of the function.
        """
        key_x, key_w, key_noise = jax.random.split(key, 3)
        inputs = () if self.inputs == "normal" else (INPUTS[self.inputs].draw,)
        x, x_query = PROMPT_DISTRIBUTIONS[self.family].draw(key_x, self.n_context + 1, self.d_input, *inputs)
        scale = self.input_scale
        if active is not None:
            scale = jnp.where(jnp.arange(self.d_input) < active, self.input_scale, 0.0)[None].astype(x.dtype)
        x, x_query = scale * x, scale * x_query
        w = draw_by(self.functions, ENTRIES[self.weights])(key_w, active)
        y = self._label_scale * self.functions.apply(w, x)
        y_query = self._label_scale * self.functions.apply(w, x_query)
        if self.noise_std > 0.0:
            y = y + self._label_scale * self.noise_std * ENTRIES[self.noise](key_noise, y.shape)
        return PrefixPrompt(x, y, x_query, y_query, w)

    def sample(self, key: Array) -> Prompt:
        """Draws the prompt of `sample_prefixes` with its last query only.

        Returns:
          A Prompt of `n_context` examples.

        Raises:
          ValueError: for `family="orthogonal_query"` if `n_context >= d_input`: no such query exists.
        """
        if self.family == "orthogonal_query" and self.n_context >= self.d_input:
            raise ValueError(
                f"n_context={self.n_context}: family='orthogonal_query' needs fewer examples than "
                f"d_input={self.d_input} for its last query; use sample_prefixes or a shorter context"
            )
        prompt = self.sample_prefixes(key)
        return Prompt(prompt.x[:-1], prompt.y[:-1], prompt.x_query[-1], prompt.y_query[-1], prompt.w)
