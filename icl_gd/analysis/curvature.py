"""What layers do to the inputs: transforms of the context's covariance, by which GD++ beats gradient descent.

Inputs of a residual are its first d slots, of context tokens. Their covariance is S = X^T X / n `[d d]`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from icl_gd.schema import Count, Size, checked
from icl_gd.types import Array, Predictor, Prompt


@checked
def context_spectrum(residual: Float[Array, "depth t e"], d_input: Size) -> Float[Array, "depth d"]:
    """Eigenvalues of S before the first layer and after each, in growing order."""
    x = residual[:, :-1, :d_input]
    return jnp.linalg.eigvalsh(jnp.einsum("lna,lnb->lab", x, x) / x.shape[1])


@checked
def condition_numbers(spectrum: Float[Array, "*batch d"], rank: Size) -> Float[Array, "*batch"]:
    """Largest over smallest of the `rank` largest eigenvalues; a context of n < d examples has no more than n."""
    return spectrum[..., -1] / spectrum[..., -rank]


class InputTransform(NamedTuple):
    """The polynomial in S that fits best what a layer makes of the inputs, over prompts."""

    coefficients: Float[Array, "layer degree+1"]  # c_k of x' = sum_k c_k S^k x
    explained: Float[Array, " layer"]  # share of |x' - x|^2, at most 1

    @property
    def gamma(self) -> Float[Array, " layer"]:
        """Of `x' = (I - gamma S) x`, in the conventions of GD++, where that was fitted."""
        return -self.coefficients[:, 1]


@checked
def input_transform(
    residuals: Float[Array, "prompt depth t e"], d_input: Size, degree: Count = 1, identity: bool = True
) -> InputTransform:
    """Fits `x' = sum_k c_k S^k x` to each layer, one set of coefficients for all tokens and prompts.

    Args:
      degree: the highest power of S.
      identity: whether c_0 is held at one, as in GD++; it is fitted otherwise.

    Raises:
      ValueError: if nothing is left to fit.
    """
    if identity and not degree:
        raise ValueError("degree=0 with identity=True leaves nothing to fit: the degree must be at least 1")
    x = residuals[..., :d_input]
    before, after = x[:, :-1], x[:, 1:]
    s = jnp.einsum("plna,plnb->plab", before[:, :, :-1], before[:, :, :-1]) / (x.shape[2] - 1)
    powers = [before]
    for _ in range(degree):
        powers.append(jnp.einsum("plna,plab->plnb", powers[-1], s))
    update = after - before
    features = jnp.stack(powers[1:] if identity else powers)  # [k prompt layer t d]
    # Each to unit length, or the normal equations of high powers of small eigenvalues are lost in float32.
    length = jnp.sqrt(jnp.sum(features**2, axis=(1, 3, 4), keepdims=True))
    unit = features / jnp.maximum(length, jnp.finfo(features.dtype).tiny)
    gram = jnp.einsum("jplnd,kplnd->ljk", unit, unit)
    moment = jnp.einsum("jplnd,plnd->lj", unit, update)
    found = jax.vmap(lambda g, m: jnp.linalg.lstsq(g, m)[0])(gram, moment)
    total = jnp.sum(update**2, axis=(0, 2, 3))
    left = jnp.sum((update - jnp.einsum("lk,kplnd->plnd", found, unit)) ** 2, axis=(0, 2, 3))
    coefficients = found / jnp.maximum(length[:, 0, :, 0, 0].T, jnp.finfo(features.dtype).tiny)
    if identity:
        coefficients = jnp.concatenate([jnp.ones_like(coefficients[:, :1]), coefficients], axis=1)
    else:
        coefficients = coefficients.at[:, 0].add(1.0)
    return InputTransform(coefficients, 1.0 - left / jnp.maximum(total, jnp.finfo(total.dtype).tiny))


def spectral_filter(predictor: Predictor, prompts: Prompt, edges: Float[Array, " edge"]) -> Float[Array, " bin"]:
    """What a Predictor makes of the weights along eigenvectors of S, by eigenvalue: the h of `y_hat = W h(S) x_query`.

    In each bin of eigenvalues the factor that fits best, over prompts, `(d y_hat / d x_query) v = h W v`. It is 0 where
    nothing is learned and 1 where everything is, and is asked of any Predictor; gradient descent and GD++ have
    `h = 1 - learners.residual_factors`. A bin without eigenvalues has nan.

    Args:
      edges: of the bins, one more than there are, in growing order.
    """

    def one(x: Array, y: Array, x_query: Array, w: Array) -> tuple[Array, Array, Array]:
        eigenvalues, vectors = jnp.linalg.eigh(x.T @ x / len(x))
        # But for rounding zero: a context of fewer examples than dimensions leaves some directions empty.
        eigenvalues = eigenvalues.at[: max(x.shape[1] - len(x), 0)].set(0.0)
        found, true = jax.jacrev(predictor, argnums=2)(x, y, x_query) @ vectors, w @ vectors
        return eigenvalues, jnp.sum(found * true, axis=0), jnp.sum(true**2, axis=0)

    eigenvalues, shared, power = (
        leaf.ravel() for leaf in jax.vmap(one)(prompts.x, prompts.y, prompts.x_query, prompts.w)
    )
    bins = jnp.clip(jnp.searchsorted(edges, eigenvalues, side="right") - 1, 0, len(edges) - 2)
    inside = (eigenvalues >= edges[0]) & (eigenvalues <= edges[-1])
    total = lambda values: jax.ops.segment_sum(jnp.where(inside, values, 0.0), bins, len(edges) - 1)
    return total(shared) / total(power)
