"""Gradient descent and GD++ in the eigenbasis of the context, where their risk is a polynomial: best step sizes.

With S = (1/n) sum_i x_i x_i^T and labels y_i = W x_i, GD++ keeps, after any number of steps, inputs a(S) x and residual
labels W r(S) x_i, for polynomials a and r that act on each eigenvalue lambda of S by itself: the step
y <- y - eta/n sum_i y_i x_i^T x of a label, and the same added to the prediction, gives r <- r (1 - eta a^2 lambda),
and x <- (I - gamma/n sum_i x_i x_i^T) x gives a <- a (1 - gamma a^2 lambda). The prediction is W (I - r(S)) x_query =
(1/n) sum_i y_i x_i^T q(S) x_query with 1 - r = lambda q. For W of independent entries of variance psi^2, labels with
noise of variance sigma^2, and queries of second moment Lambda that do not depend on the context, the risk of one output
is therefore

    psi^2 / 2  E sum_k [ r(lambda_k)^2 + (sigma^2/psi^2) / n * lambda_k q(lambda_k)^2 ]  v_k^T Lambda v_k

over eigenpairs (lambda_k, v_k) of S: weights, noise and queries are integrated exactly, and a step costs d numbers a
prompt. Gradient descent has gamma = 0.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from icl_gd.learners.fit import minimise_risk
from icl_gd.schema import Size, checked
from icl_gd.types import Array, Rates


class Spectrum(NamedTuple):
    """The contexts of a sample of prompts, as far as gradient descent and GD++ tell them apart."""

    eigenvalues: Float[np.ndarray, "prompt d"] | Float[Array, "prompt d"]  # of S
    weights: Float[np.ndarray, "prompt d"] | Float[Array, "prompt d"]  # v_k^T Lambda v_k
    noise: float | Array  # sigma^2 / psi^2 / n

    @classmethod
    def of(
        cls,
        x: Float[Array, "prompt n d"] | Float[np.ndarray, "prompt n d"],
        second_moment: Float[np.ndarray, "d d"],
        noise_to_weight: float = 0.0,
    ) -> "Spectrum":
        """Of contexts x, with the second moment of queries and the variance of label noise over that of weights."""
        x64 = np.asarray(x, np.float64)
        eigenvalues, vectors = np.linalg.eigh(x64.swapaxes(1, 2) @ x64 / x.shape[1])
        weights = np.einsum("pik,ij,pjk->pk", vectors, second_moment, vectors, optimize=True)
        return cls(eigenvalues, weights, noise_to_weight / x.shape[1])


class GDPlusPlusRates(NamedTuple):
    """The two rates of every step of GD++; the last gamma changes nothing that is read."""

    step_sizes: Float[np.ndarray | Array, " step"]
    gammas: Float[np.ndarray | Array, " step"]


def residual_factors(
    step_sizes: Rates, gammas: Rates, eigenvalues: Float[Array, " *any"]
) -> Float[Array, " iterate *any"]:
    """r after every step, at every eigenvalue: what is left of the error along an eigenvector of S."""
    return jnp.stack([1.0 - eigenvalues * q for _, q in _polynomials(step_sizes, gammas, eigenvalues)])


def input_factors(
    step_sizes: Rates, gammas: Rates, eigenvalues: Float[Array, " *any"]
) -> Float[Array, " iterate *any"]:
    """a after every step: what GD++ has multiplied the inputs by; S then has the eigenvalues a^2 lambda."""
    return jnp.stack([a for a, _ in _polynomials(step_sizes, gammas, eigenvalues)])


def _polynomials(step_sizes: Rates, gammas: Rates, eigenvalues: Array) -> list[tuple[Array, Array]]:
    """The pairs (a, q) before the first step and after each."""
    a, q = jnp.ones_like(eigenvalues), jnp.zeros_like(eigenvalues)
    found = [(a, q)]
    for eta, gamma in zip(step_sizes, gammas, strict=True):
        q = q + eta * (1.0 - eigenvalues * q) * a**2
        a = a * (1.0 - gamma * a**2 * eigenvalues)
        found.append((a, q))
    return found


def spectral_risk(spectrum: Spectrum, step_sizes: Rates, gammas: Rates | None = None) -> Array:
    """The risk of one output, for weights of variance one, of GD++ or, without gammas, of gradient descent."""
    eigenvalues = jnp.asarray(spectrum.eigenvalues)
    _, q = _polynomials(step_sizes, [0.0] * len(step_sizes) if gammas is None else gammas, eigenvalues)[-1]
    error = (1.0 - eigenvalues * q) ** 2 + spectrum.noise * eigenvalues * q**2
    return 0.5 * jnp.mean(jnp.sum(jnp.asarray(spectrum.weights) * error, axis=-1))


def _risk(spectrum: Spectrum, rates: Array) -> Array:
    return spectral_risk(spectrum, *rates)


@checked
def fit_step_sizes(spectrum: Spectrum, n_steps: Size, free: bool = False) -> Float[np.ndarray, " step"]:
    """Gradient descent's best step size, one for all steps or, if `free`, one per step (in growing order).

    The order does not matter to gradient descent.
    """
    every, none = np.ones((n_steps, 1)), np.zeros((n_steps, 1))
    # Of one step it is in closed form, and the start of the search: with more steps it shrinks or grows mildly.
    first, second = (float(np.mean(spectrum.weights * spectrum.eigenvalues**k)) for k in (1, 2))
    shared = minimise_risk(_risk, spectrum, every, none, np.array([first / (second + spectrum.noise * first)]))
    if free and n_steps > 1:  # equal ones are a saddle
        each = np.eye(n_steps)
        return np.sort(minimise_risk(_risk, spectrum, each, 0 * each, np.repeat(shared, n_steps), spread=1.0))
    return np.repeat(shared, n_steps)


@checked
def fit_gd_plus_plus(spectrum: Spectrum, n_steps: Size, free: bool = False) -> GDPlusPlusRates:
    """GD++'s best pair, one for all steps or, if `free`, one per step: the best of several local minima."""
    every, none = np.ones((n_steps, 1)), np.zeros((n_steps, 1))
    # a (1 - gamma a^2 lambda) must not overshoot: gamma stays near the inverse of the largest eigenvalues.
    gamma = 0.5 / float(np.quantile(spectrum.eigenvalues[:, -1], 0.9))
    start = np.array([fit_step_sizes(spectrum, n_steps)[0], gamma])
    found = minimise_risk(_risk, spectrum, np.hstack([every, none]), np.hstack([none, every]), start, spread=0.3)
    found = np.repeat(found, n_steps)
    if free and n_steps > 1:
        each = np.eye(n_steps)
        maps = np.hstack([each, 0 * each]), np.hstack([0 * each, each])
        found = minimise_risk(_risk, spectrum, *maps, found, spread=0.2)
    return GDPlusPlusRates(found[:n_steps], found[n_steps:])


@checked
def tied_step_size(spectrum: Spectrum, n_steps: Size, n_context: Size) -> float:
    """The best step size of GD++ with `gamma = step_size / n`, from where the published code starts to learn a pair."""
    every = np.ones((n_steps, 1))
    return float(minimise_risk(_risk, spectrum, every, every / n_context, fit_step_sizes(spectrum, n_steps)[:1])[0])
