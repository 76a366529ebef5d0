"""The names of algorithms: keys, words, and the order in which equal algorithms are named.

>>> sentence("gd", {"n_steps": 2, "step_sizes": [1.0, 1.0]})
'gradient descent, 2 steps'
"""

from collections.abc import Mapping
from typing import Any

WORDS = {
    "zero": "zero",
    "averaging": "averaging",
    "ols": "least squares",
    "ridge": "ridge regression",
    "gd": "gradient descent",
    "newton": "Newton's method",
    "conjugate_gradient": "conjugate gradients",
    "momentum": "gradient descent with momentum",
    "gd_plus_plus": "GD++",
    "preconditioned_gd": "preconditioned gradient descent",
    "lasso": "the Lasso",
    "bayes_pool": "the Bayes predictor of a finite pool",
    "nearest_neighbours": "nearest neighbours",
    "kernel_regression": "kernel regression",
    "kernel_ridge": "kernel ridge regression",
    "none": "none of the known algorithms",
}
ORDER = tuple(WORDS)  # of the names of equal algorithms


def sentence(verdict: str, parameters: Mapping[str, Any]) -> str:
    """An algorithm in words, with its number of steps.

    Returns:
      For example "gradient descent, 1 step".
    """
    words = WORDS[verdict]
    if verdict == "nearest_neighbours":
        return f"{parameters['neighbours']} nearest neighbour{'s' * (parameters['neighbours'] > 1)}"
    if verdict == "kernel_regression":
        return f"kernel regression ({parameters['kernel']})"
    if n_steps := parameters.get("n_steps", 0):
        return f"{words}, {n_steps} step{'s' * (n_steps > 1)}"
    return words
