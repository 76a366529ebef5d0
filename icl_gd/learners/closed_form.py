"""Expected risks and optima in closed form, under the distribution of prompts rather than on a sample of them.

Notation: inputs have covariance Lambda (or independent centred coordinates of second moment s and fourth moment m4),
weights N(0, psi^2 I), context labels carry noise of variance sigma^2, queries are noise-free. All risks are
`1/2 E |y_hat - y_query|^2` of one output dimension; multiply by m for more.
"""

from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt

from icl_gd.schema import Count, Size, checked

Moment = Annotated[float, Gt(0)]
Ratio = Annotated[float, Ge(0)]


@checked
def optimal_step_size(
    d_input: Size,
    n_context: Size,
    second: Moment,
    fourth: Moment,
    noise_to_weight: Ratio = 0.0,
    corrupted: Count = 0,
    corrupted_to_weight: Ratio = 1.0,
) -> float:
    """The best step size of one gradient step from zero for independent centred coordinates.

    `c s / (Q + R)` in the notation of `one_step_risk`, which is quadratic in the step size.

    Args:
      second, fourth: moments s and m4 of a coordinate.
      noise_to_weight: sigma^2 / psi^2.
      corrupted: how many of the n context labels are replaced by noise of variance tau^2.
      corrupted_to_weight: tau^2 / psi^2.
    """
    clean = 1 - corrupted / n_context
    signal, noise = _mean_squares(d_input, n_context, second, fourth, noise_to_weight, corrupted, corrupted_to_weight)
    return clean * second / (signal + noise)


@checked
def one_step_risk(
    step_size: float,
    d_input: Size,
    n_context: Size,
    second: Moment,
    fourth: Moment,
    noise_to_weight: Ratio = 0.0,
    weight_scale: Ratio = 1.0,
    input_scale: float = 1.0,
    corrupted: Count = 0,
    corrupted_to_weight: Ratio = 1.0,
) -> float:
    """Risk of one gradient step from zero, with inputs scaled by alpha = `input_scale` at test time.

    `psi^2 d/2 (alpha^2 s - 2 eta c alpha^4 s^2 + eta^2 s (alpha^6 Q + alpha^4 R))`, c = 1 - k/n the clean share.

    Proof. The prediction is y_hat = (eta/n) sum_i y_i x_i.x_q, where y_i = w.x_i + noise in n - k examples and
    y_i = z_i of variance tau^2 in the k others. Given the inputs, z_i and the noise are centred and independent of w,
    so only clean labels meet the target: E y_hat w.x_q = (eta/n)(n - k) E (w.x)(x.x_q)(w.x_q) = eta c psi^2 d s^2.
    Of E y_hat^2 the part in w is (eta/n)^2 psi^2 s E |sum_clean x x^T|_F^2 = eta^2 psi^2 d s Q with
    Q = c (m4 + (d-1) s^2)/n + c (c - 1/n) s^2, by n - k diagonal and (n - k)(n - k - 1) other pairs; the rest, of
    noise, is (eta/n)^2 ((n - k) sigma^2 + k tau^2) E (x.x_q)^2 = eta^2 psi^2 d s R with
    R = s (c sigma^2 + (1 - c) tau^2) / (n psi^2). Scaled inputs multiply these three by alpha^4, alpha^6, alpha^4, and
    E (w.x_q)^2 = psi^2 d s by alpha^2. QED
    """
    alpha2, clean = input_scale**2, 1 - corrupted / n_context
    signal, noise = _mean_squares(d_input, n_context, second, fourth, noise_to_weight, corrupted, corrupted_to_weight)
    quadratic = step_size**2 * second * (alpha2**3 * signal + alpha2**2 * noise)
    linear = 2 * step_size * clean * alpha2**2 * second**2
    return 0.5 * d_input * weight_scale**2 * (alpha2 * second - linear + quadratic)


def _mean_squares(
    d: int, n: int, second: float, fourth: float, noise_to_weight: float, corrupted: int, corrupted_to_weight: float
) -> tuple[float, float]:
    """Q and R of `one_step_risk`."""
    clean = 1 - corrupted / n
    signal = clean * (fourth + (d - 1) * second**2) / n + clean * (clean - 1 / n) * second**2
    return signal, second * (clean * noise_to_weight + (1 - clean) * corrupted_to_weight) / n


@checked
def gaussian_optimum_matrix(covariance: np.ndarray, n_context: Size, noise_to_weight: Ratio = 0.0) -> np.ndarray:
    """Gamma^{-1} `[d d]` of the best linear-self-attention layer for x ~ N(0, Lambda).

    The layer's optimum predicts `y_hat = x_q^T Gamma^{-1} (1/n) sum_i y_i x_i` with
    `Gamma = (1 + 1/n) Lambda + (tr Lambda + sigma^2/psi^2)/n I` (Ahn et al. 2306.00297 Theorem 1; Zhang, Frei and
    Bartlett 2306.09927 Theorem 4.1; Mahankali et al. 2307.03576 Theorem 1).
    """
    d = len(covariance)
    gamma = (1 + 1 / n_context) * covariance + (np.trace(covariance) + noise_to_weight) / n_context * np.eye(d)
    return np.linalg.inv(gamma)


@checked
def gaussian_optimum_risk(
    covariance: np.ndarray,
    n_context: Size,
    noise_to_weight: Ratio = 0.0,
    weight_scale: Ratio = 1.0,
    n_test: Size | None = None,
) -> float:
    """Risk of that optimum when tested on contexts of `n_test` examples (as many as trained on when left out).

    With G = Gamma^{-1} and M = n_test: `psi^2/2 (tr L - 2 tr(L^2 G) + tr(G^2 L ((1+1/M) L^2 + (tr L + noise)/M L)))`.
    """
    lam, trace = covariance, np.trace(covariance)
    g = gaussian_optimum_matrix(lam, n_context, noise_to_weight)
    m = n_context if n_test is None else n_test
    second = (1 + 1 / m) * lam @ lam + (trace + noise_to_weight) / m * lam
    return float(0.5 * weight_scale**2 * (trace - 2 * np.trace(lam @ lam @ g) + np.trace(g @ g @ lam @ second)))
