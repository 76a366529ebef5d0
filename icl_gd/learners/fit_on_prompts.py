"""GD++ where it has no spectrum, so that its rates are sought on prompts themselves.

Under a clip of its activations: the published code clips them to [-10, 10] in networks of more than two layers, and
learns GD++ under that clip. Steps of the best pair without it, whose first ones make rare inputs large, are then no
longer the best. And on transformed prompts (`learners.transformed`), whose labels are no linear function of inputs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd.learners.fit import minimise_risk
from icl_gd.learners.iterative import gd_plus_plus
from icl_gd.learners.spectral import GDPlusPlusRates
from icl_gd.schema import checked
from icl_gd.types import Array, Positive, Prompt

TOLERANCE = 1e-4


class _Sample(NamedTuple):
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
    """GD++'s best pair on a sample, one for all steps or, if `free`, one per step.

    A prompt costs n times what it costs `fit_gd_plus_plus`, so that free pairs are those down from the start; the
    shared one is the best of several local minima.

    Args:
      prompts: a batch of Prompts (leading axis), on whose queries the mean square error is least.
      start: pairs from, or from around, which the search starts; the first of them if not free.
      clip: of inputs, labels and predictions, after every step; None leaves them alone.
    """
    n_steps = len(start.step_sizes)
    each = np.eye(n_steps) if free else np.ones((n_steps, 1))
    rates = np.concatenate(start) if free else np.array([start.step_sizes[0], start.gammas[0]])
    sample = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), _Sample(prompts, clip))
    maps = np.hstack([each, 0 * each]), np.hstack([0 * each, each])
    found = minimise_risk(_risk, sample, *maps, rates, spread=0.0 if free else 0.3, tolerance=TOLERANCE)
    found = found if free else np.repeat(found, n_steps)
    return GDPlusPlusRates(found[:n_steps], found[n_steps:])
