"""Preconditioned gradient descent: the preconditioner A is read from the response to small inputs.

For small inputs, K steps predict `sum_k eta_k c^T A x_query` with `c = X^T y / n`, which is linear in A. In the
coordinates `z = A^{1/2} x`, the algorithm is gradient descent without preconditioner.

>>> symmetric_part(np.diag([1.0, 2.0])).round(6).tolist()
[[1.0, 0.0], [0.0, 2.0]]
>>> symmetric_part(np.array([[0.0, 1.0], [-1.0, 0.0]])) is None  # a rotation is no preconditioner
True
"""

from math import comb

import numpy as np

from icl_gd.analysis.calls import Batch
from icl_gd.identification.probe import Call, weights

SMALL = tuple(2.0**-k for k in range(8))  # factors of the inputs
POLISHED = (0.25, 0.5, 1.0)  # factors of the inputs at which all orders are fitted
MOST_STEPS = 8  # coefficients of the polynomial
ROUNDING = 1e-12  # noise of the response in float32, as a share
NEGATIVE = 0.05  # smallest accepted eigenvalue of A, as a share of the largest one, with the opposite sign


def odd_and_even(call: Call, prompts: Batch, t: float) -> tuple[np.ndarray, np.ndarray]:
    """The parts of the response that are odd and even in the labels, with inputs multiplied by one factor.

    Args:
      call: the Predictor for batches.
      prompts: the prompts at factor 1.
      t: the factor.

    Returns:
      Two arrays `[prompt m]`.
    """
    x, y, x_query = prompts
    y_hat = call(np.concatenate([t * x] * 2), np.concatenate([y, -y]), np.concatenate([t * x_query] * 2))
    plus, minus = np.split(y_hat, 2)
    return (plus - minus) / 2, (plus + minus) / 2


def leading_order(call: Call, prompts: Batch, t: float) -> tuple[np.ndarray, float]:
    """The matrix M for which `c^T M x_query` is closest to the response, with inputs multiplied by one factor.

    Args:
      call: the Predictor for batches.
      prompts: the prompts at factor 1.
      t: the factor.

    Returns:
      M `[d d]`, and the part of the response that is even in the labels, as a share; infinity if the response is not
      finite.
    """
    x, y, x_query = prompts
    _, n, d = x.shape
    odd, even = odd_and_even(call, prompts, t)
    if not np.isfinite(odd + even).all():
        return np.zeros((d, d)), np.inf
    root = np.sqrt(weights(odd))
    design = np.einsum("pna,pnm,pb->pmab", t * x, y, t * x_query).reshape(-1, d * d) / n
    solution = np.linalg.lstsq(root.reshape(-1, 1) * design, (root * odd).ravel(), rcond=None)[0]
    with np.errstate(over="ignore"):  # infinity, if the labels have no effect
        gauge = np.sum((root * even) ** 2) / max(np.sum((root * odd) ** 2), np.finfo(float).tiny)
    return solution.reshape(d, d), float(gauge)


def first_order(call: Call, prompts: Batch) -> np.ndarray:
    """The matrix M of the leading order, extrapolated to small inputs.

    Small inputs have a small error of the next order, which is proportional to t^2, but more noise.

    Returns:
      M `[d d]`.
    """
    d = prompts[0].shape[-1]
    found = {t: leading_order(call, prompts, t) for t in SMALL}
    rows = prompts[1].shape[0] * prompts[1].shape[2]

    def error(t: float) -> float:
        return found[t][1] * d**2 / rows + (0.5 * t**2) ** 2

    t = min(SMALL, key=error)
    matrix = found[t][0]
    if 2 * t in found and found[2 * t][1] <= max(found[t][1], 1e-12):
        matrix = (4 * matrix - found[2 * t][0]) / 3
    return matrix


class Orders:
    """The response at several scales as a polynomial in A S: a least-squares problem for A and the coefficients.

    K steps predict `sum_j b_j c^T A (S A)^j x_query` with K coefficients b. With `u_i = (S A)^i c` and
    `v_i = (S A)^i x_query`, the derivative with respect to A is `sum_i u_i (sum_{j >= i} b_j v_{j-i})^T`.
    """

    def __init__(self, call: Call, prompts: Batch):
        """Takes the odd response to the prompts, with inputs multiplied by each of `POLISHED`."""
        x, y, x_query = prompts
        n = x.shape[1]
        s, c = np.einsum("pna,pnb->pab", x, x) / n, np.einsum("pna,pnm->pma", x, y) / n
        parts = []
        for t in POLISHED:
            odd, even = odd_and_even(call, prompts, t)
            if np.isfinite(odd + even).all():
                weight = weights(odd)
                gauge = np.sum(weight * even**2) / max(np.sum(weight * odd**2), np.finfo(float).tiny)
                parts.append((t**2 * s, t * c, t * x_query, odd, np.sqrt(weight / (gauge + ROUNDING))))
        self.has_response = bool(parts)
        if parts:
            self.s, self.c, self.x_query, self.target, self.root = map(np.concatenate, zip(*parts, strict=True))

    def residuals(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weighted residuals, and their derivatives with respect to the upper triangle of A and to b_1, b_2, ...

        Args:
          a: the symmetric preconditioner `[d d]`.
          b: the coefficients; b_0 is fixed, because A has the scale.

        Returns:
          Residuals `[row]` and derivatives `[row number]`.
        """
        u, v = [self.c], [self.x_query]
        for _ in b[1:]:
            u.append(np.einsum("pab,bc,pmc->pma", self.s, a, u[-1], optimize=True))
            v.append(np.einsum("pab,bc,pc->pa", self.s, a, v[-1], optimize=True))
        orders = np.stack([np.einsum("pma,ab,pb->pm", self.c, a, vector, optimize=True) for vector in v])
        slope = np.zeros((*self.c.shape, a.shape[0]))
        for i, left in enumerate(u):
            right = np.einsum("j,jpa->pa", b[i:], np.stack(v[: len(b) - i]))
            slope += left[..., :, None] * right[:, None, None, :]
        slope += slope.swapaxes(-1, -2)
        diagonal = np.arange(len(a))
        slope[..., diagonal, diagonal] /= 2
        upper = np.triu_indices(len(a))
        design = np.concatenate([slope[..., upper[0], upper[1]], np.moveaxis(orders[1:], 0, -1)], axis=-1)
        residual = self.root * (np.einsum("j,jpm->pm", b, orders) - self.target)
        return residual.ravel(), (self.root[..., None] * design).reshape(residual.size, -1)


def polished(call: Call, prompts: Batch, a: np.ndarray) -> np.ndarray:
    """Improves a preconditioner with the response at all orders, by the method of Gauss and Newton.

    Args:
      call: the Predictor for batches.
      prompts: the prompts.
      a: first preconditioner `[d d]`, symmetric.

    Returns:
      The preconditioner `[d d]`, symmetric, times the sum of the step sizes.
    """
    orders = Orders(call, prompts)
    if not orders.has_response:
        return a
    d, k = len(a), MOST_STEPS
    upper = np.triu_indices(d)
    b = np.array([-comb(k, j + 1) * (-1.0 / k) ** (j + 1) for j in range(k)])  # k equal steps
    with np.errstate(all="ignore"):
        residual, design = orders.residuals(a, b)
        for _ in range(12):
            cost = residual @ residual
            if not np.isfinite(cost) or not np.isfinite(design).all():
                return a
            size = np.maximum(np.linalg.norm(design, axis=0), np.finfo(float).tiny)
            move = -np.linalg.lstsq(design / size, residual, rcond=1e-10)[0] / size
            step = np.zeros((d, d))
            step[upper] = move[: len(upper[0])]
            step += np.triu(step, 1).T
            for shrink in (1.0, 0.5, 0.25, 0.1, 0.02):
                new_a, new_b = a + shrink * step, b + shrink * np.append(0.0, move[len(upper[0]) :])
                residual, design = orders.residuals(new_a, new_b)
                if residual @ residual < cost:
                    break
            else:
                return a
            a, b = new_a, new_b
            if residual @ residual > (1 - 1e-6) * cost:
                break
    return a


def symmetric_part(matrix: np.ndarray) -> np.ndarray | None:
    """The preconditioner, if a matrix is one: symmetric, and with no negative eigenvalue, up to noise.

    Returns:
      A `[d d]`, without negative eigenvalues; None if the matrix is no preconditioner.
    """
    a = (matrix + matrix.T) / 2
    values, vectors = np.linalg.eigh(a)
    if not np.isfinite(values).all() or np.linalg.norm(matrix - a) > 0.2 * np.linalg.norm(a):
        return None
    if values[-1] <= 0 or values[0] < -NEGATIVE * values[-1]:
        return None
    return vectors * np.maximum(values, 0.0) @ vectors.T
