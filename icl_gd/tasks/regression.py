"""Regression on a function class: a fresh function in every prompt (Garg et al. 2208.01066)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt, Le

from icl_gd.schema import LARGEST, OneOf, check
from icl_gd.tasks.families import INPUTS, PROMPT_DISTRIBUTIONS
from icl_gd.tasks.functions import ENTRIES, FunctionClass, Signs, check_form, draw_by, of_pool, takes, variance_of
from icl_gd.types import Array, PrefixPrompt, Prompt


@dataclass(frozen=True)
class FunctionRegression:
    """Prompts of a function class, of which every prefix is a problem too.

    Attributes:
      functions: the class.
      n_context: examples before the last query; a prompt has `n_context + 1` points.
      family: how inputs and queries are drawn, in `PROMPT_DISTRIBUTIONS`.
      input_scale: factor of all inputs. Functions are those of the scaled inputs.
      label_scale: factor of all labels.
      noise_std: of the context's labels, at label scale 1; none on classes.
      renormalised: noisy labels are brought back to the variance of those without noise.
      inputs: the distribution that the family makes its inputs of, in `INPUTS`; coordinates have second moment one.
      weights: the distribution of entries of the functions' w, in `ENTRIES`: symmetric, of variance one.
      noise: the distribution of noise of labels at `noise_std=1`, in `ENTRIES`; of all noise, of "noisy" prompts too.
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
                f"noise_std={self.noise_std}: labels of signs are classes, which noise would leave; 0 is accepted"
            )
        if self.noise != "normal" and self.logistic:
            raise ValueError(f"noise={self.noise!r}: labels of signs are classes, without noise; leave it out")
        if self.weights != "normal" and not takes(of_pool(self.functions).draw, "entries"):
            raise ValueError(
                f"weights={self.weights!r}: functions={self.functions!r} draws its own, as its draw takes no entries; "
                "'normal' is accepted"
            )
        if self.inputs != "normal" and not takes(PROMPT_DISTRIBUTIONS[self.family].draw, "inputs"):
            raise ValueError(f"inputs={self.inputs!r}: family={self.family!r} draws its own; 'normal' is accepted")

    @property
    def d_input(self) -> int:
        return self.functions.d_input

    @property
    def d_output(self) -> int:
        return 1

    @property
    def logistic(self) -> bool:
        """Whether labels are classes, 1 and -1, and training is on the logistic loss."""
        return isinstance(getattr(self.functions, "functions", self.functions), Signs)

    @property
    def label_variance(self) -> float:
        """`E y_query^2` at inputs of the standard family, by which errors are divided: predicting zero has error one.

        It is the same for the other families, whose inputs are as long in the mean, where labels hang on second moments
        alone. Labels of `Quadratic`, `Polynomial` and `Chebyshev` hang on higher ones, which `half_subspace` and
        `skewed` have otherwise, as `orthogonal_query` of inputs that are not normal has.

        Raises:
          ValueError: if labels of a class that does not know it have no finite variance above zero; see `variance_of`.
        """
        return self._label_scale**2 * self._variance

    @cached_property
    def _variance(self) -> float:
        """The same at label scale one, without noise."""
        return variance_of(self.functions, float(self.input_scale), self.inputs, self.weights)

    @property
    def _label_scale(self) -> float:
        noise = self.noise_std**2 / self._variance if self.renormalised else 0.0
        return self.label_scale / (1 + noise) ** 0.5

    @property
    def in_order(self) -> bool:
        """Whether queries are the inputs to come."""
        return PROMPT_DISTRIBUTIONS[self.family].in_order

    def sample_prefixes(self, key: Array, active: Array | int | None = None) -> PrefixPrompt:
        """One prompt of `n_context + 1` points, with a query for every prefix.

        Args:
          active: only the first so many inputs are not zero (a stage of a curriculum); all when left out.
        """
        key_x, key_w, key_noise = jax.random.split(key, 3)
        more = () if self.inputs == "normal" else (INPUTS[self.inputs].draw,)
        x, x_query = PROMPT_DISTRIBUTIONS[self.family].draw(key_x, self.n_context + 1, self.d_input, *more)
        scale = self.input_scale
        if active is not None:
            scale = jnp.where(jnp.arange(self.d_input) < active, self.input_scale, 0.0)[None].astype(x.dtype)
        x, x_query = scale * x, scale * x_query
        w = draw_by(self.functions, ENTRIES[self.weights])(key_w, active)
        of = lambda x: self._label_scale * self.functions.apply(w, x)
        y, y_query = of(x), of(x_query)
        if self.noise_std > 0.0:
            y = y + self._label_scale * self.noise_std * ENTRIES[self.noise](key_noise, y.shape)
        return PrefixPrompt(x, y, x_query, y_query, w)

    def sample(self, key: Array) -> Prompt:
        """The same prompt at its full length.

        Raises:
          ValueError: if no query is orthogonal to so many examples.
        """
        if self.family == "orthogonal_query" and self.n_context >= self.d_input:
            raise ValueError(f"n_context={self.n_context} inputs of width {self.d_input} leave no orthogonal query")
        prompt = self.sample_prefixes(key)
        return Prompt(prompt.x[:-1], prompt.y[:-1], prompt.x_query[-1], prompt.y_query[-1], prompt.w)
