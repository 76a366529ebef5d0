"""Fits the rates of GD++ by minimising the empirical risk on sampled prompts.

Use this module if the spectral formula (`learners.spectral`) does not apply:

* Clipped activations. For networks of more than two layers, the published code of von Oswald et al. clips activations
  to [-10, 10], and fits GD++ with the same clip. The rates that are optimal without a clip make rare inputs large in
  the first steps. The clip cuts these inputs off, so other rates are optimal.
* Transformed prompts (`learners.transformed`), in which labels are not a linear function of the inputs.

With one step and no clip, the fitted step size is the closed form `fit_step_size`:

    >>> from icl_gd.learners import fit_step_size
    >>> x, ones = jnp.array([[[1.0], [2.0]], [[1.0], [-1.0]]]), jnp.ones((2, 1))
    >>> prompts = Prompt(x=x, y=3 * x, x_query=ones, y_query=3 * ones, w=None)
    >>> fitted = fit_gd_plus_plus_on(prompts, start=GDPlusPlusRates(np.array([0.3]), np.array([0.1])), free=True)
    >>> np.allclose(fitted.step_sizes, fit_step_size(prompts), rtol=1e-3)
    True
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd.learners.fit import minimise_risk, to_pairs
from icl_gd.learners.iterative import gd_plus_plus
from icl_gd.learners.spectral import GDPlusPlusRates
from icl_gd.schema import checked
from icl_gd.types import Array, Positive, Prompt

TOLERANCE = 1e-4  # for the gradient of the log risk; larger than in `fit`, because a clipped risk is not smooth


class _Sample(NamedTuple):
    """The `data` argument of `minimise_risk`."""

    prompts: Prompt
    clip: float | Array | None


def _risk(sample: _Sample, rates: Array) -> Array:
    prompts, clip = sample
    y_hat = jax.vmap(gd_plus_plus(*rates, clip=clip))(prompts.x, prompts.y, prompts.x_query)
    return 0.5 * jnp.mean(jnp.sum((y_hat - prompts.y_query) ** 2, axis=-1))


@checked
def fit_gd_plus_plus_on(
    prompts: Prompt, start: GDPlusPlusRates, clip: Positive | None = None, free: bool = False
) -> GDPlusPlusRates:
    """Fits the rates of GD++ (step size and gamma) by minimising the mean squared error on the given prompts' queries.

    A prompt costs n times as much as in `fit_gd_plus_plus`. The search for one pair of rates per step therefore starts
    from `start` only, and returns the local minimum that it reaches. Shared rates are the best of several local minima.

    Args:
      prompts: a batch of Prompts (leading axis).
      start: start values, one pair per step; the number of pairs is the number of steps. The search for shared rates
        starts around the first pair.
      clip: inputs, labels and predictions are clipped to [-clip, clip] after every step. Default: no clip.
      free: fit one pair of rates per step. Default: one pair shared by all steps.

    Returns:
      The fitted rates, one pair per step, not divided by n.

    Raises:
      ValueError: if the clip is not positive.
    """
    n_steps = len(start.step_sizes)
    rates = np.concatenate(start) if free else np.array([start.step_sizes[0], start.gammas[0]])
    sample = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), _Sample(prompts, clip))
    spread = 0.0 if free else 0.3
    fitted = minimise_risk(_risk, sample, *to_pairs(n_steps, free), rates, spread, TOLERANCE)
    if not free:
        fitted = np.repeat(fitted, n_steps)
    return GDPlusPlusRates(fitted[:n_steps], fitted[n_steps:])
