"""Learners on contexts with their mean removed."""

from icl_gd.types import Array, Predictor, Prompt


def centred(learner: Predictor) -> Predictor:
    """The learner on `x - mean x`, `y - mean y` of the context; the query is left as it is.

    Gradient descent then takes `step_size / n sum_i (y_i - mean y) (x_i - mean x)^T`: what softmax heads, whose
    patterns sum to one, can take to first order (`analysis.softmax`).
    """
    return lambda x, y, x_query: learner(_without_mean(x), _without_mean(y), x_query)


def centre(prompts: Prompt) -> Prompt:
    """A batch of prompts (leading axis) with the means of their contexts removed."""
    return prompts._replace(x=_without_mean(prompts.x, 1), y=_without_mean(prompts.y, 1))


def _without_mean(examples: Array, axis: int = 0) -> Array:
    return examples - examples.mean(axis, keepdims=True)
