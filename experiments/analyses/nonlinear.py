"""A Transformer on sine waves beside gradient descent on deep features: losses, differences, functions, features."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.results import curve
from experiments.study import EVERY, Found, free_members, together
from icl_gd import analysis, learners, models
from icl_gd.tasks import SineRegression
from icl_gd.training import Population
from icl_gd.types import Array, Predictor, Prompt

LEARNER = "gd_deep_features"
LOSS = f"loss_{LEARNER}"
Params = Any


@dataclass(frozen=True)
class SineStudy:
    """Two populations on the same prompts."""

    task: SineRegression
    trained: Population
    learner: Population  # whose layers are a construction
    step_sizes: tuple[float, ...]  # of the learner
    untrained: Params  # the Transformers' parameters at step 0
    prompts: Prompt  # the batch that curves and differences are measured on
    key: Array
    n_prompts: int  # of final losses
    watch: Callable[[Params, Params], dict[str, Array]]  # `beside` of all members

    def descend(self, params: Params) -> Predictor:
        """The learner itself, with a member's features: every iterate's prediction `[iterate m]`."""
        embed = models.features(self.learner.config, params, self.task.d_output)
        return learners.layerwise_deep_gradient_descent(embed, self.step_sizes)

    def descended(self, params: Params) -> Predictor:
        layerwise = self.descend(params)
        return lambda x, y, x_query: layerwise(x, y, x_query)[-1]


def beside(
    of_transformer: Callable[[Params], Predictor], of_learner: Callable[[Params], Predictor], prompts: Prompt,
    params: Params, others: Params,
) -> dict[str, Array]:  # fmt: skip
    """Loss of one Transformer, and its alignment to one learner."""
    predictor, reference = of_transformer(params), of_learner(others)
    found = {f"{name}_{LEARNER}": value for name, value in
             analysis.alignment(predictor, reference, prompts)._asdict().items()}  # fmt: skip
    return {"loss_trained": analysis.losses(predictor, prompts).mean(), **found}


def evaluate(study: SineStudy) -> Found:
    """Everything that is recorded of a study."""
    return Found(np.ones(len(study.trained), bool), np.asarray(study.trained.diverged_at) >= 0)
