"""GD++: gradient descent that also transforms the inputs in every step, from two steps on.

The last gamma has no effect on the prediction, so one step of GD++ is one step of gradient descent.

>>> p, _ = equal_gd_plus_plus(2, np.array([0.5, 0.0]), np.array([1.0]))  # gamma = 0: two equal steps
>>> p.tolist()
[0.75]
"""

from functools import partial

import numpy as np

from icl_gd.identification.families.base import Candidate, Fitted, Name, Parameters
from icl_gd.identification.families.gradient_descent import fewer_steps
from icl_gd.identification.fitting import Rows, Values

MOST_STEPS = 8
RANDOM_STARTS = 6  # of a fit with steps of their own, around equal steps
MOST_OWN_STEPS = 4  # with more numbers, GD++ fits any smooth filter


def gd_plus_plus(n_steps: int, numbers: np.ndarray, eigenvalues: np.ndarray) -> Values:
    """K steps of GD++. The numbers are K step sizes and K - 1 gammas; the last gamma has no effect.

    A step acts on every eigenvalue l, moment c and query q by `p <- p + eta c q`, `c <- (1 - gamma l) (1 - eta l) c`,
    `q <- (1 - gamma l) q` and `l <- (1 - gamma l)^2 l`.

    Args:
      n_steps: number K of steps.
      numbers: K step sizes and K - 1 gammas.
      eigenvalues: where p is evaluated, of any shape.

    Returns:
      p at the eigenvalues, and its derivatives with respect to the numbers `[number ...]`.
    """
    steps, gammas = numbers[:n_steps], numbers[n_steps:]
    shape = eigenvalues.shape
    p, product, level = np.zeros(shape), np.ones(shape), eigenvalues.copy()  # product = c q
    dp, d_product, d_level = np.zeros((3, len(numbers), *shape))
    for k, step in enumerate(steps):
        dp += step * d_product
        dp[k] += product
        p += step * product
        if k == n_steps - 1:
            break
        gamma = gammas[k]
        shrink, keep = 1.0 - gamma * level, 1.0 - step * level
        d_shrink, d_keep = -gamma * d_level, -step * d_level
        d_shrink[n_steps + k] -= level
        d_keep[k] -= level
        squared = shrink**2
        d_product = squared * keep * d_product + product * (2 * shrink * keep * d_shrink + squared * d_keep)
        product = product * squared * keep
        d_level = squared * d_level + 2 * shrink * level * d_shrink
        level = squared * level
    return p, dp


def equal_gd_plus_plus(n_steps: int, numbers: np.ndarray, eigenvalues: np.ndarray) -> Values:
    """GD++ with the same pair of rates in every step, with the recursion of `gd_plus_plus`.

    Args:
      n_steps: number K of steps.
      numbers: the step size and gamma.
      eigenvalues: where p is evaluated, of any shape.

    Returns:
      p at the eigenvalues, and its derivatives with respect to the numbers `[number ...]`.
    """
    step, gamma = numbers
    shape = eigenvalues.shape
    p, product, level = np.zeros(shape), np.ones(shape), eigenvalues
    dp, d_product, d_level = np.zeros((3, 2, *shape))
    for k in range(n_steps):
        dp += step * d_product
        dp[0] += product
        p = p + step * product
        if k == n_steps - 1:
            break
        shrink, keep = 1.0 - gamma * level, 1.0 - step * level
        squared, factor = shrink**2, shrink**2 * keep
        slope = -(2 * gamma * shrink * keep + squared * step)  # of the factor, in the eigenvalue
        d_factor = slope * d_level
        d_factor[0] -= squared * level
        d_factor[1] -= 2 * shrink * keep * level
        d_product = factor * d_product + product * d_factor
        product = product * factor
        d_level = (squared - 2 * gamma * shrink * level) * d_level
        d_level[1] -= 2 * shrink * level**2
        level = squared * level
    return p, dp


def _equal_starts(n_steps: int, rows: Rows, found: Fitted) -> list[np.ndarray]:
    step = max(rows.slope, 1e-6) / n_steps
    starts = [np.array([step, size / rows.top]) for size in (0.05, 0.15, 0.3, 0.5, 0.8)]
    if (fewer := found.get(Name("gd_plus_plus", n_steps - 1))) is not None:
        starts.append(fewer * [(n_steps - 1) / n_steps, 0.8])
    return starts


def _own_starts(n_steps: int, rows: Rows, found: Fitted) -> list[np.ndarray]:
    """The equal steps, and one step fewer with a small step inserted at every place."""
    starts, k = [], n_steps
    if (equal := found.get(Name("gd_plus_plus", k))) is not None:
        starts.append(np.repeat(equal, [k, k - 1]))
        generator = np.random.default_rng(0)
        starts += [starts[0] * generator.uniform(0.5, 1.5, 2 * k - 1) for _ in range(RANDOM_STARTS)]
    fewer = found.get(Name("gd_plus_plus", k - 1, False) if k > 2 else Name("gd", 1))
    if fewer is not None:
        steps, gammas = fewer[: k - 1], fewer[k - 1 :]
        small = 0.1 * np.abs(steps).mean()
        for place in range(k):
            for gamma in (0.0, 0.3 / rows.top):
                at = min(place, k - 2)
                starts.append(np.concatenate([np.insert(steps, place, small), np.insert(gammas, at, gamma)]))
    return starts


def _equal_is_valid(numbers: np.ndarray) -> bool:
    return bool(numbers[0] > 0)


def _own_is_valid(numbers: np.ndarray) -> bool:
    return bool(np.all(numbers[: (len(numbers) + 1) // 2] > 0))


def _equal(n_steps: int, numbers: np.ndarray, n: int) -> Parameters:
    step, gamma = map(float, numbers)
    return {"n_steps": n_steps, "step_sizes": [step] * n_steps, "gammas": [gamma] * (n_steps - 1) + [0.0]}


def _own(numbers: np.ndarray, n: int) -> Parameters:
    k = (len(numbers) + 1) // 2
    return {"n_steps": k, "step_sizes": numbers[:k].tolist(), "gammas": [*numbers[k:].tolist(), 0.0]}


def _special(n_steps: int) -> frozenset[Name]:
    own = {Name("gd_plus_plus", k, False) for k in range(2, n_steps)}
    equal = {Name("gd_plus_plus", k) for k in range(2, n_steps + 1)}
    return frozenset({*own, *equal, *fewer_steps(n_steps), Name("gd", n_steps, False)} - {Name("gd", 1, False)})


CANDIDATES = (
    *(
        Candidate(
            Name("gd_plus_plus", k), 2, partial(equal_gd_plus_plus, k), partial(_equal_starts, k), partial(_equal, k),
            frozenset({Name("gd", k)}), _equal_is_valid,
        )
        for k in range(2, MOST_STEPS + 1)
    ),
    *(
        Candidate(
            Name("gd_plus_plus", k, False), 2 * k - 1, partial(gd_plus_plus, k), partial(_own_starts, k), _own,
            _special(k), _own_is_valid,
        )
        for k in range(2, MOST_OWN_STEPS + 1)
    ),
)  # fmt: skip
