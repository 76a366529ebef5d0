"""Risks and optimal learners in closed form: expectations over the distribution of prompts, without sampling.

Notation. Inputs x are normal with covariance Lambda, or have independent centred coordinates with second moment s and
fourth moment m4. Labels are inner products w.x with weights w from N(0, psi^2 I). Context labels also have noise of
variance sigma^2; query labels have none. Every risk is `1/2 E |y_hat - y_query|^2` for one output dimension; multiply
it by m for m output dimensions.

For isotropic Gaussian inputs, the optimal linear-attention layer is one gradient step with the optimal step size:

    >>> eta = optimal_step_size(d_input=2, n_context=4, second=1.0, fourth=3.0)
    >>> round(eta, 3)
    0.571
    >>> np.allclose(gaussian_optimum_matrix(np.eye(2), n_context=4), eta * np.eye(2))
    True
    >>> np.allclose(gaussian_optimum_risk(np.eye(2), n_context=4), one_step_risk(eta, 2, 4, second=1.0, fourth=3.0))
    True
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
    """The step size with the smallest risk for one gradient step from W = 0, for independent centred input coordinates.

    The risk is quadratic in the step size, with its minimum at `c s / (Q + R)`. `one_step_risk` defines c, Q and R.

    Args:
      d_input: input dimension d.
      n_context: number of context examples n.
      second, fourth: second moment s and fourth moment m4 of one input coordinate.
      noise_to_weight: sigma^2 / psi^2. Default: noise-free labels.
      corrupted: number k of the n context labels that are replaced by noise of variance tau^2. Default: 0.
      corrupted_to_weight: tau^2 / psi^2; used only if `corrupted` is positive.

    Returns:
      The step size eta (not divided by n).

    Raises:
      ValueError: if a size, a moment or a ratio is out of range.
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
    """Risk of one gradient step from W = 0, for independent centred input coordinates.

    At test time, inputs may be scaled by alpha = `input_scale`. Let c = 1 - k/n be the fraction of clean labels. With Q
    and R from the proof, the risk is `psi^2 d/2 (alpha^2 s - 2 eta c alpha^4 s^2 + eta^2 s (alpha^6 Q + alpha^4 R))`.

    Proof. The prediction is y_hat = (eta/n) sum_i y_i x_i.x_q. In n - k examples the label is y_i = w.x_i + noise. In
    the other k examples it is replaced by y_i = z_i of variance tau^2. Given the inputs, the noise and z_i are centred
    and independent of w. So only the clean labels correlate with the target w.x_q:
    E y_hat w.x_q = (eta/n)(n - k) E (w.x)(x.x_q)(w.x_q) = eta c psi^2 d s^2.

    E y_hat^2 has two parts. The part from w is (eta/n)^2 psi^2 s E |sum_i x_i x_i^T|_F^2 = eta^2 psi^2 d s Q, with a
    sum over the clean examples. The squared norm has n - k diagonal and (n - k)(n - k - 1) off-diagonal pairs of
    examples, hence Q = c (m4 + (d-1) s^2)/n + c (c - 1/n) s^2. The part from noise and from replaced labels is
    (eta/n)^2 ((n - k) sigma^2 + k tau^2) E (x.x_q)^2 = eta^2 psi^2 d s R with
    R = s (c sigma^2 + (1 - c) tau^2) / (n psi^2).

    Scaling the inputs by alpha multiplies E y_hat w.x_q by alpha^4, the term of Q by alpha^6, the term of R by alpha^4,
    and E (w.x_q)^2 = psi^2 d s by alpha^2. QED

    Args:
      step_size: eta (not divided by n).
      d_input: input dimension d.
      n_context: number of context examples n.
      second, fourth: second moment s and fourth moment m4 of one input coordinate.
      noise_to_weight: sigma^2 / psi^2. Default: noise-free labels.
      weight_scale: psi. Default: 1.
      input_scale: alpha. Default: 1.
      corrupted: number k of the n context labels that are replaced by noise of variance tau^2. Default: 0.
      corrupted_to_weight: tau^2 / psi^2; used only if `corrupted` is positive.

    Returns:
      The risk of one output dimension, with the factor 1/2.

    Raises:
      ValueError: if a size, a moment or a ratio is out of range.
    """
    alpha2, clean = input_scale**2, 1 - corrupted / n_context
    signal, noise = _mean_squares(d_input, n_context, second, fourth, noise_to_weight, corrupted, corrupted_to_weight)
    quadratic = step_size**2 * second * (alpha2**3 * signal + alpha2**2 * noise)
    linear = 2 * step_size * clean * alpha2**2 * second**2
    return 0.5 * d_input * weight_scale**2 * (alpha2 * second - linear + quadratic)


def _mean_squares(
    d: int, n: int, second: float, fourth: float, noise_to_weight: float, corrupted: int, corrupted_to_weight: float
) -> tuple[float, float]:
    """The terms Q and R in the proof of `one_step_risk`."""
    clean = 1 - corrupted / n
    signal = clean * (fourth + (d - 1) * second**2) / n + clean * (clean - 1 / n) * second**2
    return signal, second * (clean * noise_to_weight + (1 - clean) * corrupted_to_weight) / n


@checked
def gaussian_optimum_matrix(covariance: np.ndarray, n_context: Size, noise_to_weight: Ratio = 0.0) -> np.ndarray:
    """Preconditioner Gamma^{-1} of the optimal linear self-attention layer for x ~ N(0, Lambda).

    The optimal layer predicts `y_hat = x_q^T Gamma^{-1} (1/n) sum_i y_i x_i` with
    `Gamma = (1 + 1/n) Lambda + (tr Lambda + sigma^2/psi^2)/n I`.

    Source: Ahn et al. 2306.00297, Theorem 1; Zhang, Frei and Bartlett 2306.09927, Theorem 4.1; Mahankali et al.
    2307.03576, Theorem 1.

    Args:
      covariance: Lambda `[d d]`.
      n_context: number n of context examples, for which the layer is optimal.
      noise_to_weight: sigma^2 / psi^2. Default: noise-free labels.

    Returns:
      Gamma^{-1} `[d d]`.

    Raises:
      ValueError: if `n_context` is not positive or `noise_to_weight` is negative.
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
    """Risk of the optimal linear self-attention layer (`gaussian_optimum_matrix`) on contexts of any length.

    With L = Lambda, G = Gamma^{-1}, M = `n_test` and r = sigma^2/psi^2, the risk is
    `psi^2/2 (tr L - 2 tr(L^2 G) + tr(G^2 L ((1 + 1/M) L^2 + (tr L + r)/M L)))`.

    Args:
      covariance: Lambda `[d d]`.
      n_context: number of context examples for which the layer is optimal.
      noise_to_weight: sigma^2 / psi^2. Default: noise-free labels.
      weight_scale: psi. Default: 1.
      n_test: number of context examples at test time. Default: `n_context`.

    Returns:
      The risk of one output dimension, with the factor 1/2.

    Raises:
      ValueError: if a size is not positive or a ratio is negative.
    """
    lam, trace = covariance, np.trace(covariance)
    g = gaussian_optimum_matrix(lam, n_context, noise_to_weight)
    m = n_context if n_test is None else n_test
    second = (1 + 1 / m) * lam @ lam + (trace + noise_to_weight) / m * lam
    return float(0.5 * weight_scale**2 * (trace - 2 * np.trace(lam @ lam @ g) + np.trace(g @ g @ lam @ second)))
