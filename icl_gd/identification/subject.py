"""A Predictor that is examined: its batched calls, the prompts, and its rounding errors.

>>> from icl_gd import learners
>>> from icl_gd.tasks import LinearRegression
>>> subject = Subject(learners.averaging, LinearRegression(d_input=3, n_context=5), seed=0)
>>> subject.n, subject.d, subject.m, subject.is_zero
(5, 3, 1, False)
"""

from dataclasses import dataclass
from functools import cache, partial

import jax
import numpy as np

from icl_gd.analysis.calls import Batch, Calls, single_predictions
from icl_gd.analysis.symmetries import prompts_of, rounding_floor
from icl_gd.identification.families import Name
from icl_gd.identification.families.base import Parameters
from icl_gd.identification.naming import sentence
from icl_gd.identification.probe import PROMPTS, Call
from icl_gd.identification.samples import unexplained
from icl_gd.identification.search import FLOOR
from icl_gd.identification.verdict import NOTHING
from icl_gd.tasks.pools import Sampled
from icl_gd.types import Predictor

FRESH = 5.0  # an algorithm is excluded if it leaves more than this many times the noise of fresh prompts
EXACT = 1e-7  # largest unexplained share of an algorithm that is no filter
ROUNDING = 10.0  # accepted rounding errors, in times of the effect of a last digit
MANY = 2048  # prompts for the matrix of preconditioned gradient descent: the most that are drawn at once


@dataclass(frozen=True)
class Answer:
    """One algorithm that is not excluded.

    Attributes:
      name: its canonical name.
      parameters: its numbers by name.
      predict: the algorithm for batches.
      intervals: 95 % intervals of its numbers.
      noise: the part of the response, as a share, that breaks the symmetries of the algorithm.
    """

    name: Name
    parameters: Parameters
    predict: Call
    intervals: Parameters
    noise: float

    @property
    def words(self) -> str:
        """The algorithm in words."""
        return sentence(self.name.verdict, self.parameters)


class Subject:
    """A Predictor with the prompts on which it is examined."""

    def __init__(self, predictor: Predictor, task: Sampled, seed: int):
        """Draws the prompts, and checks the predictions for them."""
        self.call = Calls(predictor)
        key, key_many = jax.random.split(jax.random.key(seed))
        drawn = prompts_of(task, key, 4 * PROMPTS)
        self.prompts, self.other = _part(drawn, 0, PROMPTS), _part(drawn, PROMPTS, 2 * PROMPTS)
        self.fresh = _part(drawn, 2 * PROMPTS, 4 * PROMPTS)
        self.many = cache(partial(prompts_of, task, key_many, MANY))  # drawn when it is needed
        self.generator = np.random.default_rng([seed, 1])
        self.n, self.d = self.prompts[0].shape[1:]
        self.m = self.prompts[1].shape[-1]
        self.response = single_predictions(self.call, self.fresh)
        last_digit = rounding_floor(self.call, self.prompts, self.generator)
        self.floor = FLOOR + ROUNDING * last_digit

    def fewer(self) -> Batch:
        """Prompts for fits that are not linear.

        Returns:
          A quarter of `many`.
        """
        return _part(self.many(), 0, MANY // 4)

    @property
    def is_zero(self) -> bool:
        """Whether the predictions are zero."""
        return bool(np.mean(self.response**2) <= NOTHING * np.mean(self.fresh[1] ** 2))

    def explains(self, answer: Answer) -> bool:
        """Whether an algorithm explains fresh prompts, too.

        Filters that agree on the prompts of the fit may differ on the next, if they diverge there.

        Returns:
          True if it does.
        """
        return unexplained(self.fresh, self.response, answer.predict) <= FRESH * answer.noise + EXACT


def _part(prompts: Batch, start: int, stop: int) -> Batch:
    x, y, x_query = prompts
    return x[start:stop], y[start:stop], x_query[start:stop]
