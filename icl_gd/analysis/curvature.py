"""Input transforms: how the layers of a Transformer change the covariance of the context inputs, as GD++ does.

The inputs X `[n d]` are the first d slots of the context tokens of a residual. Their covariance is `S = X^T X / n`.

Example:
  >>> from icl_gd import learners
  >>> from icl_gd.tasks import LinearRegression, draw_prompts
  >>> prompts = draw_prompts(LinearRegression(d_input=2, n_context=8, inputs="normal").sample, jax.random.key(0), 16)
  >>> bins = spectral_filter(learners.gradient_descent([0.1]), prompts, jnp.array([0.0, 1.0, 4.0]))
  >>> bins.shape, bool(bins[0] < bins[1])  # h = 0.1 lambda: directions of large eigenvalues are learned first
  ((2,), True)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from icl_gd.schema import Count, Size, checked
from icl_gd.types import Array, Predictor, Prompt


@checked
def context_spectrum(residual: Float[Array, "depth t e"], d_input: Size) -> Float[Array, "depth d"]:
    """Eigenvalues of the input covariance S before the first layer and after every layer.

    Returns:
      Eigenvalues `[depth d]` in ascending order.
    """
    x = residual[:, :-1, :d_input]
    return jnp.linalg.eigvalsh(jnp.einsum("lna,lnb->lab", x, x) / x.shape[1])


@checked
def condition_numbers(spectrum: Float[Array, "*batch d"], rank: Size) -> Float[Array, "*batch"]:
    """Condition number of S on its range: the largest eigenvalue divided by the `rank`-th largest.

    Args:
      spectrum: eigenvalues in ascending order, as `context_spectrum` returns them.
      rank: rank of S. It is at most n if the context has n < d examples.

    Returns:
      Ratios `[*batch]`.
    """
    return spectrum[..., -1] / spectrum[..., -rank]


class InputTransform(NamedTuple):
    """The polynomial in S that best fits the map of a layer from inputs x to inputs x', over all tokens and prompts.

    Attributes:
      coefficients: the c_k of `x' = sum_k c_k S^k x`.
      explained: share of `|x' - x|^2` that the fit explains, at most 1.
    """

    coefficients: Float[Array, "layer degree+1"]
    explained: Float[Array, " layer"]

    @property
    def gamma(self) -> Float[Array, " layer"]:
        """The gamma of GD++, `x' = (I - gamma S) x`, for a fit with `degree=1` and `identity=True`."""
        return -self.coefficients[:, 1]


@checked
def input_transform(
    residuals: Float[Array, "prompt depth t e"], d_input: Size, degree: Count = 1, identity: bool = True
) -> InputTransform:
    """Fits `x' = sum_k c_k S^k x` to every layer by least squares, with the same coefficients for all prompts.

    Args:
      residuals: residuals of a batch of prompts.
      d_input: number of x slots of a token.
      degree: highest power of S. Default: 1, as in GD++.
      identity: whether c_0 is fixed to one, as in GD++. If False, c_0 is fitted. Default: True.

    Returns:
      InputTransform with coefficients `[layer degree+1]`.

    Raises:
      ValueError: for `degree=0` with `identity=True`, where there is no coefficient to fit.
    """
    if identity and not degree:
        raise ValueError("degree=0 with identity=True leaves nothing to fit; set degree>=1 or identity=False")
    x = residuals[..., :d_input]
    before, after = x[:, :-1], x[:, 1:]
    s = jnp.einsum("plna,plnb->plab", before[:, :, :-1], before[:, :, :-1]) / (x.shape[2] - 1)
    powers = [before]
    for _ in range(degree):
        powers.append(jnp.einsum("plna,plab->plnb", powers[-1], s))
    update = after - before
    features = jnp.stack(powers[1:] if identity else powers)  # [k prompt layer t d]
    # Features are scaled to unit length. Otherwise, high powers of small eigenvalues would be lost in the normal
    # equations in float32.
    tiny = jnp.finfo(features.dtype).tiny
    length = jnp.sqrt(jnp.sum(features**2, axis=(1, 3, 4), keepdims=True))
    unit = features / jnp.maximum(length, tiny)
    gram = jnp.einsum("jplnd,kplnd->ljk", unit, unit)
    moment = jnp.einsum("jplnd,plnd->lj", unit, update)
    solution = jax.vmap(lambda g, m: jnp.linalg.lstsq(g, m)[0])(gram, moment)
    total = jnp.sum(update**2, axis=(0, 2, 3))
    unexplained = jnp.sum((update - jnp.einsum("lk,kplnd->plnd", solution, unit)) ** 2, axis=(0, 2, 3))
    coefficients = solution / jnp.maximum(length[:, 0, :, 0, 0].T, tiny)
    # The update x' - x was fitted, so c_0 is one plus the fitted coefficient.
    if identity:
        coefficients = jnp.concatenate([jnp.ones_like(coefficients[:, :1]), coefficients], axis=1)
    else:
        coefficients = coefficients.at[:, 0].add(1.0)
    return InputTransform(coefficients, 1.0 - unexplained / jnp.maximum(total, jnp.finfo(total.dtype).tiny))


def spectral_filter(predictor: Predictor, prompts: Prompt, edges: Float[Array, " edge"]) -> Float[Array, " bin"]:
    """Spectral filter of a Predictor: the function h in `y_hat = W h(S) x_query`, for bins of eigenvalues of S.

    For every bin, h is the least-squares fit of `(d y_hat / d x_query) v = h W v` over prompts and over eigenvectors v
    whose eigenvalue is in the bin. h = 0 means that nothing is learned along v, h = 1 that W is recovered. The fit is
    defined for any Predictor. For gradient descent and GD++, `h = 1 - learners.residual_factors`.

    Args:
      predictor: a Predictor.
      prompts: a batch of prompts of a linear task, with weights `[m d]` as `w`.
      edges: edges of the bins in ascending order, one more than there are bins.

    Returns:
      h of every bin; nan for bins without eigenvalues.
    """

    def project(x: Array, y: Array, x_query: Array, w: Array) -> tuple[Array, Array, Array]:
        eigenvalues, vectors = jnp.linalg.eigh(x.T @ x / len(x))
        # With n < d examples, d - n eigenvalues are zero up to rounding.
        eigenvalues = eigenvalues.at[: max(x.shape[1] - len(x), 0)].set(0.0)
        predicted, true = jax.jacrev(predictor, argnums=2)(x, y, x_query) @ vectors, w @ vectors
        return eigenvalues, jnp.sum(predicted * true, axis=0), jnp.sum(true**2, axis=0)

    by_prompt = jax.vmap(project)(prompts.x, prompts.y, prompts.x_query, prompts.w)
    eigenvalues, inner, power = (leaf.ravel() for leaf in by_prompt)
    bins = jnp.clip(jnp.searchsorted(edges, eigenvalues, side="right") - 1, 0, len(edges) - 2)
    inside = (eigenvalues >= edges[0]) & (eigenvalues <= edges[-1])

    def sum_in_bins(values: Array) -> Array:
        return jax.ops.segment_sum(jnp.where(inside, values, 0.0), bins, len(edges) - 1)

    return sum_in_bins(inner) / sum_in_bins(power)
