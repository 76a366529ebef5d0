"""Expected risks and optima in closed form, under the distribution of prompts rather than on a sample of them.

Notation: inputs have covariance Lambda (or independent centred coordinates of second moment s and fourth moment m4),
weights N(0, psi^2 I), context labels carry noise of variance sigma^2, queries are noise-free. All risks are
`1/2 E |y_hat - y_query|^2` of one output dimension; multiply by m for more.
"""

import numpy as np


def optimal_step_size(
    d_input: int, n_context: int, second: float, fourth: float, noise_to_weight: float = 0.0
) -> float:
    """The best step size of one gradient step from zero for independent centred coordinates.

    With S = (1/n) sum_i x_i x_i^T, E S^2 = Q I where Q = (m4 + (d-1) s^2)/n + (1 - 1/n) s^2, and the noise adds
    (sigma^2/psi^2) s / n to Q; then eta = s / Q minimises E (w.x_q - eta w S x_q)^2.

    Args:
      second, fourth: moments s and m4 of a coordinate.
      noise_to_weight: sigma^2 / psi^2.
    """
    return second / _mean_square(d_input, n_context, second, fourth, noise_to_weight)


def one_step_risk(
    step_size: float,
    d_input: int,
    n_context: int,
    second: float,
    fourth: float,
    noise_to_weight: float = 0.0,
    weight_scale: float = 1.0,
    input_scale: float = 1.0,
) -> float:
    """Risk of one gradient step from zero, with inputs scaled by alpha = `input_scale` at test time.

    `psi^2 d/2 (alpha^2 s - 2 eta alpha^4 s^2 + eta^2 s (alpha^6 Q + alpha^4 noise))`; its minimum over eta at
    alpha = 1 without noise is `d s (1 - s^2/Q) / 2`.
    """
    alpha2 = input_scale**2
    clean = _mean_square(d_input, n_context, second, fourth, 0.0)
    noise = noise_to_weight * second / n_context
    quadratic = step_size**2 * second * (alpha2**3 * clean + alpha2**2 * noise)
    return 0.5 * d_input * weight_scale**2 * (alpha2 * second - 2 * step_size * alpha2**2 * second**2 + quadratic)


def _mean_square(d_input: int, n_context: int, second: float, fourth: float, noise_to_weight: float) -> float:
    q = (fourth + (d_input - 1) * second**2) / n_context + (1 - 1 / n_context) * second**2
    return q + noise_to_weight * second / n_context


def gaussian_optimum_matrix(covariance: np.ndarray, n_context: int, noise_to_weight: float = 0.0) -> np.ndarray:
    """Gamma^{-1} `[d d]` of the best linear-self-attention layer for x ~ N(0, Lambda).

    The layer's optimum predicts `y_hat = x_q^T Gamma^{-1} (1/n) sum_i y_i x_i` with
    `Gamma = (1 + 1/n) Lambda + (tr Lambda + sigma^2/psi^2)/n I` (Ahn et al. 2306.00297 Theorem 1; Zhang, Frei and
    Bartlett 2306.09927 Theorem 4.1; Mahankali et al. 2307.03576 Theorem 1).
    """
    d = len(covariance)
    gamma = (1 + 1 / n_context) * covariance + (np.trace(covariance) + noise_to_weight) / n_context * np.eye(d)
    return np.linalg.inv(gamma)


def gaussian_optimum_risk(
    covariance: np.ndarray,
    n_context: int,
    noise_to_weight: float = 0.0,
    weight_scale: float = 1.0,
    n_test: int | None = None,
) -> float:
    """Risk of that optimum when tested on contexts of `n_test` examples (as many as trained on when left out).

    With G = Gamma^{-1} and M = n_test: `psi^2/2 (tr L - 2 tr(L^2 G) + tr(G^2 L ((1+1/M) L^2 + (tr L + noise)/M L)))`.
    """
    lam, trace = covariance, np.trace(covariance)
    g = gaussian_optimum_matrix(lam, n_context, noise_to_weight)
    m = n_context if n_test is None else n_test
    second = (1 + 1 / m) * lam @ lam + (trace + noise_to_weight) / m * lam
    return float(0.5 * weight_scale**2 * (trace - 2 * np.trace(lam @ lam @ g) + np.trace(g @ g @ lam @ second)))
