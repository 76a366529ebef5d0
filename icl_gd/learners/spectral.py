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

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Float

from icl_gd.types import Array

Rates = Float[Array, " step"] | Float[np.ndarray, " step"] | Sequence[float | Float[Array, ""]]
SEARCHED = 4096  # contexts on which starting points are tried before all of them are used
STARTS = 6


class Spectrum(NamedTuple):
    """The contexts of a sample of prompts, as far as gradient descent and GD++ tell them apart."""

    eigenvalues: Float[np.ndarray, "prompt d"]  # of S
    weights: Float[np.ndarray, "prompt d"]  # v_k^T Lambda v_k
    noise: float  # sigma^2 / psi^2 / n

    @classmethod
    def of(
        cls, x: Float[Array, "prompt n d"], second_moment: Float[np.ndarray, "d d"], noise_to_weight: float = 0.0
    ) -> "Spectrum":
        """Of contexts x, with the second moment of queries and the variance of label noise over that of weights."""
        x64 = np.asarray(x, np.float64)
        eigenvalues, vectors = np.linalg.eigh(x64.swapaxes(1, 2) @ x64 / x.shape[1])
        weights = np.einsum("pik,ij,pjk->pk", vectors, second_moment, vectors, optimize=True)
        return cls(eigenvalues, weights, noise_to_weight / x.shape[1])

    def first(self, n: int) -> "Spectrum":
        """The first n prompts."""
        return Spectrum(self.eigenvalues[:n], self.weights[:n], self.noise)


class Pairs(NamedTuple):
    """The two rates of every step of GD++; the last gamma changes nothing that is read."""

    step_sizes: Float[np.ndarray, " step"]
    gammas: Float[np.ndarray, " step"]


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


def best_step_sizes(spectrum: Spectrum, n_steps: int, free: bool = False) -> Float[np.ndarray, " step"]:
    """Gradient descent's best step size, one for all steps or, if `free`, one per step (in growing order).

    The order does not matter to gradient descent.
    """
    shared = _shared_step_size(spectrum, n_steps)
    if not free or n_steps == 1:
        return np.full(n_steps, shared)
    spread = lambda rng: shared * np.exp(rng.normal(size=n_steps))  # equal ones are a saddle
    return np.sort(_minimise(lambda z: spectral_risk(spectrum, z), spread, _searched(spectrum)))


def best_gd_plus_plus(spectrum: Spectrum, n_steps: int, free: bool = False) -> Pairs:
    """GD++'s best pair, one for all steps or, if `free`, one per step: the best of several local minima."""
    eta = _shared_step_size(spectrum, n_steps)
    # a (1 - gamma a^2 lambda) must not overshoot: gamma stays near the inverse of the largest eigenvalues.
    gamma = 0.5 / float(np.quantile(spectrum.eigenvalues[:, -1], 0.9))
    pair = lambda rng: np.array([eta, gamma]) * np.exp(0.3 * rng.normal(size=2))
    of_pair = lambda of, z: spectral_risk(of, [z[0]] * n_steps, [z[1]] * n_steps)
    shared = _minimise(lambda z: of_pair(spectrum, z), pair, lambda z: of_pair(spectrum.first(SEARCHED), z))
    if not free or n_steps == 1:
        return Pairs(np.full(n_steps, shared[0]), np.full(n_steps, shared[1]))
    every = np.repeat(shared, n_steps)
    start = lambda rng: every * np.exp(0.2 * rng.normal(size=2 * n_steps))
    of_all = lambda of, z: spectral_risk(of, z[:n_steps], z[n_steps:])
    found = _minimise(lambda z: of_all(spectrum, z), start, lambda z: of_all(spectrum.first(SEARCHED), z))
    return Pairs(found[:n_steps], found[n_steps:])


def tied_step_size(spectrum: Spectrum, n_steps: int, n_context: int) -> float:
    """The best step size of GD++ with `gamma = step_size / n`, from where the published code starts to learn a pair."""
    risk = lambda z: spectral_risk(spectrum, [z[0]] * n_steps, [z[0] / n_context] * n_steps)
    start = np.array([_shared_step_size(spectrum, n_steps)])
    return float(_minimise(risk, lambda rng: start)[0])


def _shared_step_size(spectrum: Spectrum, n_steps: int) -> float:
    # Of one step it is in closed form, and the start of the search: with more steps it shrinks or grows mildly.
    moments = [float(np.mean(spectrum.weights * spectrum.eigenvalues**k)) for k in (1, 2)]
    one = moments[0] / (moments[1] + spectrum.noise * moments[0])
    if n_steps == 1:
        return one
    return float(_minimise(lambda z: spectral_risk(spectrum, [z[0]] * n_steps), lambda rng: np.array([0.9 * one]))[0])


def _searched(spectrum: Spectrum) -> Callable[[Array], Array]:
    return lambda z: spectral_risk(spectrum.first(SEARCHED), z)


def _minimise(
    risk: Callable[[Array], Array],
    start: Callable[[np.random.Generator], np.ndarray],
    rough: Callable[[Array], Array] | None = None,
) -> np.ndarray:
    """The minimum of `risk` by BFGS, from one start or, with a `rough` risk, from the best of several minima of it.

    In float64 whatever the caller computes in, and relative to the start, because rates of one learner differ by
    orders of magnitude.
    """
    rng = np.random.default_rng(0)

    def descend(f: Callable[[Array], Array], origin: np.ndarray) -> tuple[float, np.ndarray]:
        value_and_gradient = jax.jit(jax.value_and_grad(lambda ratio: jnp.log(f(ratio * origin))))

        def both(ratio: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = value_and_gradient(jnp.asarray(ratio))
            return (float(value), np.asarray(gradient)) if np.isfinite(value) else (1e9, np.zeros(len(ratio)))

        found = scipy.optimize.minimize(both, np.ones(len(origin)), jac=True, method="BFGS", options={"gtol": 1e-7})
        return float(found.fun), found.x * origin

    with jax.enable_x64(True):
        if rough is None:
            return descend(risk, start(rng))[1]
        _, nearest = min((descend(rough, start(rng)) for _ in range(STARTS)), key=lambda found: found[0])
        return descend(risk, nearest)[1]
