"""Probes a Predictor with transformed prompts: which part of its response can be an algorithm, and which part is noise.

Most learning algorithms commute with rotations of the inputs, permutations of the context, and a change of sign of the
query or of the labels. A probe sends every prompt through several random elements of this group, with the labels y and
-y:

- `odd = (f(y) - f(-y)) / 2`, averaged over the group, is the response that such an algorithm can have;
- `even = (f(y) + f(-y)) / 2` is a response that none of these algorithms has. Its size, the gauge, measures the noise;
- the variance of `odd` over the group is the part of the response that breaks a symmetry.

This is repeated with inputs that are multiplied by several factors. At large factors, gradient descent with K and with
K - 1 steps differ most.

>>> def averaging(x, y, x_query):
...     return np.einsum("pna,pnm,pa->pm", x, y, x_query) / x.shape[1]
>>> generator = np.random.default_rng(0)
>>> prompts = tuple(generator.normal(size=shape) for shape in ((20, 4, 2), (20, 4, 1), (20, 2)))
>>> probe(averaging, prompts, generator).base.violation < 1e-20
True
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from icl_gd.analysis.calls import Batch
from icl_gd.analysis.symmetries import orthogonal_matrices

PROMPTS = 256
ELEMENTS = 8  # elements of the group per prompt; the first one is the identity
FACTORS = (1.0, 0.25, 0.5, 2**-0.5, 2**0.25, 2**0.5, 2**0.75, 2.0, 8**0.5, 4.0)
SMALLEST = 1e-100  # square of a response that counts as not zero; weights of smaller ones would overflow
CEILING = 0.1  # largest part of the response, as a share, that may break the symmetries at any scale

Call = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def weights(response: np.ndarray) -> np.ndarray:
    """Weights of prompts: those with a large response weigh less. On rare prompts, an algorithm may diverge.

    Returns:
      `1 / (f^2 + median f^2)`, of the shape of the response f.
    """
    return 1.0 / np.maximum(response**2 + np.median(response**2), SMALLEST)


@dataclass(frozen=True)
class Whitening:
    """A linear map z = B x, in whose coordinates the response may be symmetric under rotations.

    Attributes:
      forward: B `[r d]`.
      back: the pseudo-inverse of B `[d r]`.
    """

    forward: np.ndarray
    back: np.ndarray

    @classmethod
    def of(cls, preconditioner: np.ndarray, smallest: float = 1e-3) -> "Whitening":
        """The map `B = D^{1/2} U^T` for a preconditioner `A = U D U^T` without negative eigenvalues.

        Eigenvalues below `smallest` times the largest one count as zero: B maps onto the range of A.

        Returns:
          The map.
        """
        values, vectors = np.linalg.eigh(preconditioner)
        kept = values > smallest * values.max()
        root, basis = np.sqrt(values[kept]), vectors[:, kept]
        return cls(root[:, None] * basis.T, basis / root)

    @classmethod
    def identity(cls, d: int) -> "Whitening":
        """The map that changes nothing.

        Returns:
          The map.
        """
        return cls(np.eye(d), np.eye(d))

    def turned(self, rotation: np.ndarray) -> np.ndarray:
        """The map of x that rotates z, and leaves the part of x on which z does not depend: `[... d d]`.

        Returns:
          The map, as a matrix.
        """
        return np.eye(len(self.back)) + self.back @ (rotation - np.eye(len(self.forward))) @ self.forward


@dataclass(frozen=True)
class Scale:
    """The response of a Predictor to all prompts, with inputs multiplied by one factor.

    Attributes:
      t: the factor of all inputs.
      mean: mean of the odd part over the group, `[prompt m]`.
      variance: variance of the odd part over the group, of one element `[prompt m]`.
      even: mean square of the even part `[prompt m]`.
    """

    t: float
    mean: np.ndarray
    variance: np.ndarray
    even: np.ndarray

    @property
    def weight(self) -> np.ndarray:
        """Weights `[prompt m]` of the mean response."""
        return weights(self.mean)

    def share(self, squares: np.ndarray) -> float:
        """A weighted sum of squares `[prompt m]`, as a share of that of the response.

        Returns:
          The share.
        """
        with np.errstate(over="ignore"):  # infinity, if the response is zero
            total = np.sum(self.weight * self.mean**2)
            return float(np.sum(self.weight * squares) / max(total, np.finfo(float).tiny))

    @property
    def gauge(self) -> float:
        """The noise: the part that is even in the labels, as a share of the response."""
        return self.share(self.even)

    @property
    def within(self) -> float:
        """The part that breaks another symmetry, as a share of the response."""
        return self.share(self.variance)

    @property
    def violation(self) -> float:
        """All that breaks a symmetry, as a share of the response; at most 1, also if the symmetric part is zero."""
        return min(self.gauge + self.within, 1.0)

    def misfit(self, fitted: np.ndarray) -> float:
        """The share of the symmetric response that predictions `[prompt m]` leave unexplained, without sampling noise.

        The mean over the group still contains noise of known variance, which is subtracted. So the share may be
        negative.

        Returns:
          The share.
        """
        return self.share((self.mean - fitted) ** 2 - self.variance / ELEMENTS)

    def part(self, prompts: np.ndarray | slice, columns: slice) -> "Scale":
        """The response to some of the prompts, of some of the outputs.

        Returns:
          The response at the same factor.
        """
        return Scale(self.t, *(leaf[prompts, columns] for leaf in (self.mean, self.variance, self.even)))


@dataclass(frozen=True)
class Probe:
    """The responses of a Predictor at several scales, with the spectra of the contexts.

    The response of a learner with the filter p is `sum_k loadings_k p(eigenvalues_k)`.

    Attributes:
      scales: the responses at the factors at which the symmetries hold; the first one has the factor 1.
      eigenvalues: of `S = X^T X / n` at factor 1, in the coordinates of the whitening: `[prompt r]`, ascending.
      loadings: `(c . v_k) (v_k . x_query)` with `c = X^T y / n`, at factor 1: `[prompt m r]`.
      whitening: the coordinates in which inputs are rotated.
    """

    scales: tuple[Scale, ...]
    eigenvalues: np.ndarray
    loadings: np.ndarray
    whitening: Whitening

    @property
    def base(self) -> Scale:
        """The response at factor 1."""
        return self.scales[0]

    @property
    def ratios(self) -> np.ndarray:
        """The factors `[scale]`."""
        return np.array([scale.t for scale in self.scales])

    def outputs(self, columns: slice) -> "Probe":
        """The probe of some of the outputs.

        Returns:
          The probe with the same spectra.
        """
        scales = tuple(scale.part(slice(None), columns) for scale in self.scales)
        return Probe(scales, self.eigenvalues, self.loadings, self.whitening)

    def without(self, group: int, groups: int) -> "Probe":
        """The probe of all prompts but every `groups`-th one, counted from `group`.

        Returns:
          The probe of the other prompts.
        """
        kept = np.arange(len(self.eigenvalues)) % groups != group
        scales = tuple(scale.part(kept, slice(None)) for scale in self.scales)
        return Probe(scales, self.eigenvalues[kept], self.loadings[kept], self.whitening)


def spectrum(prompts: Batch, whitening: Whitening) -> tuple[np.ndarray, np.ndarray]:
    """The eigenvalues of every context, and the loadings of every prompt, in the coordinates of a whitening.

    Directions that the context does not contain, for n < r, have eigenvalue 0 and loading 0 exactly.

    Returns:
      Eigenvalues `[prompt r]` and loadings `[prompt m r]`.
    """
    x, y, x_query = prompts
    z, z_query = x @ whitening.forward.T, x_query @ whitening.forward.T
    n, r = z.shape[1:]
    values, vectors = np.linalg.eigh(np.einsum("pna,pnb->pab", z, z) / n)
    moment = np.einsum("pna,pnm->pma", z, y) / n
    loadings = np.einsum("pma,pak->pmk", moment, vectors) * np.einsum("pa,pak->pk", z_query, vectors)[:, None]
    unseen = np.arange(r) < r - n
    return np.where(unseen, 0.0, values), np.where(unseen, 0.0, loadings)


def respond(call: Call, prompts: Batch, t: float, whitening: Whitening, generator: np.random.Generator) -> Scale:
    """The response with inputs multiplied by one factor: every prompt through `ELEMENTS` elements of the group.

    Args:
      call: the Predictor for batches.
      prompts: the prompts at factor 1.
      t: the factor of all inputs.
      whitening: the coordinates in which inputs are rotated.
      generator: draws the elements.

    Returns:
      The response. The outputs of a layerwise Predictor, `[depth m]`, are one axis.
    """
    x, y, x_query = prompts
    count, n, d = x.shape
    turn = whitening.turned(orthogonal_matrices(generator, (ELEMENTS, count), len(whitening.forward)))
    order = generator.permuted(np.broadcast_to(np.arange(n), (ELEMENTS, count, n)), axis=-1)
    sign = generator.choice([-1.0, 1.0], (ELEMENTS, count))
    turn[0], order[0], sign[0] = np.eye(d), np.arange(n), 1.0
    inputs = np.take_along_axis(np.einsum("rpab,pnb->rpna", turn, t * x), order[..., None], 2)
    labels = np.take_along_axis(np.broadcast_to(y, (ELEMENTS, *y.shape)), order[..., None], 2)
    query = sign[..., None] * np.einsum("rpab,pb->rpa", turn, t * x_query)
    inputs, labels, query = (part.reshape(-1, *part.shape[2:]) for part in (inputs, labels, query))
    y_hat = call(np.concatenate([inputs] * 2), np.concatenate([labels, -labels]), np.concatenate([query] * 2))
    y_hat = y_hat.reshape(2, ELEMENTS, count, -1) * sign[..., None]
    with np.errstate(all="ignore"):  # a response may be infinite
        odd, even = (y_hat[0] - y_hat[1]) / 2, (y_hat[0] + y_hat[1]) / 2
        return Scale(t, odd.mean(0), odd.var(0, ddof=1), (even**2).mean(0))


def probe(
    call: Call,
    prompts: Batch,
    generator: np.random.Generator,
    whitening: Whitening | None = None,
    ceiling: float = CEILING,
) -> Probe:
    """Probes a Predictor with inputs multiplied by 1, and by smaller and larger factors while its symmetries hold.

    Args:
      call: the Predictor for batches.
      prompts: the prompts.
      generator: draws the elements of the group.
      whitening: the coordinates in which inputs are rotated. Default: those of the prompts.
      ceiling: largest share of the response that may break a symmetry at factors other than 1.

    Returns:
      The probe. It always contains factor 1.
    """
    whitening = whitening or Whitening.identity(prompts[0].shape[-1])
    scales = [respond(call, prompts, 1.0, whitening, generator)]
    limit = max(ceiling, scales[0].violation)
    smaller = sorted((t for t in FACTORS if t < 1), reverse=True)
    for factors in (smaller, sorted(t for t in FACTORS if t > 1)):
        for t in factors:
            with np.errstate(all="ignore"):
                scale = respond(call, prompts, t, whitening, generator)
                if not (np.isfinite(scale.mean).all() and scale.violation <= limit):
                    break
            scales.append(scale)
    return Probe(tuple(scales), *spectrum(prompts, whitening), whitening)
