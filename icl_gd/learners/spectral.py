"""The risk of gradient descent and GD++ from the eigenvalues of the context covariance, and rates that minimise it.

Derivation. Let S = (1/n) sum_i x_i x_i^T, and let the labels be y_i = W x_i. After any number of steps of GD++, the
input x has become a(S) x, and the residual label of x_i is W r(S) x_i, with polynomials a and r. For an eigenvalue
lambda of S, a step updates a = a(lambda) and r = r(lambda) as follows. Here x and y are transformed inputs and residual
labels before the step:

* The gradient step replaces the label y of x by y - eta/n sum_i y_i x_i^T x. This gives r <- r (1 - eta a^2 lambda).
  The prediction changes by the same amount with the opposite sign.
* The transformation replaces x by (I - gamma/n sum_i x_i x_i^T) x. This gives a <- a (1 - gamma a^2 lambda).

The prediction is W (I - r(S)) x_query = (1/n) sum_i y_i x_i^T q(S) x_query, where q is defined by 1 - r = lambda q. Now
let the entries of W be independent with variance psi^2, let the label noise have variance sigma^2, and let the query be
independent of the context, with second moment Lambda. The risk of one output is

    psi^2 / 2  E sum_k [ r(lambda_k)^2 + (sigma^2/psi^2) / n * lambda_k q(lambda_k)^2 ]  v_k^T Lambda v_k

with a sum over the eigenpairs (lambda_k, v_k) of S. E is the expectation over contexts, computed as a mean over sampled
prompts. The expectations over weights, noise and queries are exact. A step updates 2 d numbers per prompt. With
gamma = 0, GD++ is gradient descent.

The fitted step sizes minimise the risk:

    >>> x = np.random.default_rng(0).normal(size=(50, 8, 2))
    >>> spectrum = Spectrum.of(x, second_moment=np.eye(2))
    >>> step_sizes = fit_step_sizes(spectrum, n_steps=2)
    >>> bool(spectral_risk(spectrum, step_sizes) < spectral_risk(spectrum, 0.9 * step_sizes))
    True
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from icl_gd.learners.fit import minimise_risk, to_pairs
from icl_gd.schema import Size, checked
from icl_gd.types import Array, Rates


class Spectrum(NamedTuple):
    """Eigenvalues of the context covariances: a sufficient statistic for the risk of gradient descent and GD++."""

    eigenvalues: Float[np.ndarray, "prompt d"] | Float[Array, "prompt d"]  # lambda_k
    weights: Float[np.ndarray, "prompt d"] | Float[Array, "prompt d"]  # v_k^T Lambda v_k
    noise: float | Array  # sigma^2 / psi^2 / n

    @classmethod
    def of(
        cls,
        x: Float[Array, "prompt n d"] | Float[np.ndarray, "prompt n d"],
        second_moment: Float[np.ndarray, "d d"],
        noise_to_weight: float = 0.0,
    ) -> "Spectrum":
        """The spectrum of a batch of contexts, computed in float64.

        Args:
          x: inputs of the contexts `[prompt n d]`.
          second_moment: second moment Lambda `[d d]` of the queries.
          noise_to_weight: sigma^2 / psi^2. Default: noise-free labels.

        Returns:
          A Spectrum with NumPy arrays `[prompt d]`.
        """
        x64 = np.asarray(x, np.float64)
        eigenvalues, vectors = np.linalg.eigh(x64.swapaxes(1, 2) @ x64 / x.shape[1])
        weights = np.einsum("pik,ij,pjk->pk", vectors, second_moment, vectors, optimize=True)
        return cls(eigenvalues, weights, noise_to_weight / x.shape[1])


class GDPlusPlusRates(NamedTuple):
    """The two rates of every step of GD++, not divided by n. The last gamma does not affect the prediction."""

    step_sizes: Float[np.ndarray | Array, " step"]
    gammas: Float[np.ndarray | Array, " step"]


def residual_factors(
    step_sizes: Rates, gammas: Rates, eigenvalues: Float[Array, " *any"]
) -> Float[Array, " iterate *any"]:
    """The polynomial r after every step: the factor by which the error along an eigenvector of S has been multiplied.

    Args:
      step_sizes, gammas: eta and gamma of every step, not divided by n.
      eigenvalues: eigenvalues of S, of any shape `[*any]`.

    Returns:
      r `[iterate *any]`; the first iterate, before any step, is one.
    """
    return jnp.stack([1.0 - eigenvalues * q for _, q in _polynomials(step_sizes, gammas, eigenvalues)])


def input_factors(
    step_sizes: Rates, gammas: Rates, eigenvalues: Float[Array, " *any"]
) -> Float[Array, " iterate *any"]:
    """The polynomial a after every step: the factor by which GD++ has multiplied inputs along an eigenvector of S.

    The covariance of the transformed inputs has the eigenvalues a^2 lambda.

    Args:
      step_sizes, gammas: eta and gamma of every step, not divided by n.
      eigenvalues: eigenvalues of S, of any shape `[*any]`.

    Returns:
      a `[iterate *any]`; the first iterate, before any step, is one.
    """
    return jnp.stack([a for a, _ in _polynomials(step_sizes, gammas, eigenvalues)])


def _polynomials(step_sizes: Rates, gammas: Rates, eigenvalues: Array) -> list[tuple[Array, Array]]:
    """The pairs (a, q) of the module docstring, before the first step and after every step."""
    a, q = jnp.ones_like(eigenvalues), jnp.zeros_like(eigenvalues)
    pairs = [(a, q)]
    for eta, gamma in zip(step_sizes, gammas, strict=True):
        q = q + eta * (1.0 - eigenvalues * q) * a**2
        a = a * (1.0 - gamma * a**2 * eigenvalues)
        pairs.append((a, q))
    return pairs


def spectral_risk(spectrum: Spectrum, step_sizes: Rates, gammas: Rates | None = None) -> Array:
    """The risk of GD++ or, without gammas, of gradient descent, for weights of variance psi^2 = 1.

    Args:
      spectrum: spectrum of the contexts over which the risk is averaged.
      step_sizes: eta of every step, not divided by n.
      gammas: gamma of every step, not divided by n. Default: zero (gradient descent).

    Returns:
      The risk of one output, with the factor 1/2; a scalar.
    """
    eigenvalues = jnp.asarray(spectrum.eigenvalues)
    if gammas is None:
        gammas = [0.0] * len(step_sizes)
    _, q = _polynomials(step_sizes, gammas, eigenvalues)[-1]
    error = (1.0 - eigenvalues * q) ** 2 + spectrum.noise * eigenvalues * q**2
    return 0.5 * jnp.mean(jnp.sum(jnp.asarray(spectrum.weights) * error, axis=-1))


def _risk(spectrum: Spectrum, rates: Array) -> Array:
    return spectral_risk(spectrum, *rates)


@checked
def fit_step_sizes(spectrum: Spectrum, n_steps: Size, free: bool = False) -> Float[np.ndarray, " step"]:
    """Fits the step sizes of gradient descent by minimising its risk.

    Args:
      spectrum: spectrum of the contexts over which the risk is averaged.
      n_steps: number of steps.
      free: fit one step size per step. Default: one step size shared by all steps.

    Returns:
      Step sizes `[step]`, not divided by n, in increasing order. The order does not affect the final prediction.

    Raises:
      ValueError: if `n_steps` is not positive.
    """
    to_steps, zeros = np.ones((n_steps, 1)), np.zeros((n_steps, 1))  # map parameters to rates of all steps
    # The search starts at the closed form for one step; the optimum for several steps is not far from it.
    first = float(np.mean(spectrum.weights * spectrum.eigenvalues))
    second = float(np.mean(spectrum.weights * spectrum.eigenvalues**2))
    one_step = first / (second + spectrum.noise * first)
    shared = minimise_risk(_risk, spectrum, to_steps, zeros, np.array([one_step]))
    if free and n_steps > 1:  # equal step sizes are a saddle point, so random starting points are needed
        to_steps, zeros = np.eye(n_steps), np.zeros((n_steps, n_steps))
        return np.sort(minimise_risk(_risk, spectrum, to_steps, zeros, np.repeat(shared, n_steps), spread=1.0))
    return np.repeat(shared, n_steps)


@checked
def fit_gd_plus_plus(spectrum: Spectrum, n_steps: Size, free: bool = False) -> GDPlusPlusRates:
    """Fits the rates of GD++ (step size and gamma) by minimising its risk; returns the best of several local minima.

    Args:
      spectrum: spectrum of the contexts over which the risk is averaged.
      n_steps: number of steps.
      free: fit one pair of rates per step. Default: one pair shared by all steps.

    Returns:
      The fitted rates, one pair per step; step sizes and gammas are not divided by n.

    Raises:
      ValueError: if `n_steps` is not positive.
    """
    # 1 - gamma a^2 lambda must not become negative, so gamma starts below the inverse of the largest eigenvalues.
    gamma = 0.5 / float(np.quantile(spectrum.eigenvalues[:, -1], 0.9))
    start = np.array([fit_step_sizes(spectrum, n_steps)[0], gamma])
    shared = minimise_risk(_risk, spectrum, *to_pairs(n_steps, per_step=False), start, spread=0.3)
    fitted = np.repeat(shared, n_steps)
    if free and n_steps > 1:
        fitted = minimise_risk(_risk, spectrum, *to_pairs(n_steps, per_step=True), fitted, spread=0.2)
    return GDPlusPlusRates(fitted[:n_steps], fitted[n_steps:])


@checked
def tied_step_size(spectrum: Spectrum, n_steps: Size, n_context: Size) -> float:
    """Fits the step size of GD++ under the constraint `gamma = step_size / n`, shared by all steps.

    The published code of von Oswald et al. starts from these tied rates when it fits step size and gamma.

    Args:
      spectrum: spectrum of the contexts over which the risk is averaged.
      n_steps: number of steps.
      n_context: number n of context examples.

    Returns:
      The step size, not divided by n.

    Raises:
      ValueError: if a size is not positive.
    """
    to_steps = np.ones((n_steps, 1))
    start = fit_step_sizes(spectrum, n_steps)[:1]
    return float(minimise_risk(_risk, spectrum, to_steps, to_steps / n_context, start)[0])
