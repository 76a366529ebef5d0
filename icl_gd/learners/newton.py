"""Newton-Schulz iteration: least squares through an iterative inverse of the context covariance `S = X^T X / n`.

A step is `M <- 2 M - M S M`. The prediction is `x_query^T M X^T Y / n`. It is that of least squares when M is the
(pseudo-)inverse of S.

Claim. K steps raise the error to the power 2^K: `I - M_K S = (I - M_0 S)^(2^K)`.

Proof. One step gives `I - (2 M - M S M) S = I - 2 M S + M S M S = (I - M S)^2`. QED

From `M_0 = scale I`, K steps are therefore 2^K steps of gradient descent from W = 0, all of size `scale`. Gradient
descent multiplies the error by `I - scale S` in every step. With S = 1 and scale = 1/2, the remaining error is 1/2,
1/4 and 1/16:

    >>> x, y, x_query = jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.ones(1)
    >>> layerwise_newton_schulz(n_steps=2, scale=0.5, start="identity")(x, y, x_query).ravel().tolist()
    [0.5, 0.75, 0.9375]
"""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Float

from icl_gd.learners.iterative import final_iterate
from icl_gd.problems import on_problem
from icl_gd.programs import cached_by_value
from icl_gd.schema import Count, OneOf, checked
from icl_gd.types import Array, Positive, Predictor

Start = Annotated[str, OneOf(("gram", "identity"))]


@checked
def layerwise_newton_schulz(n_steps: Count, scale: Positive | None = None, start: Start = "gram") -> Predictor:
    """Like `newton_schulz`, but returns the prediction after every step.

    Args:
      n_steps: number K of steps.
      scale: factor of M_0, see `newton_schulz`. Default: one for which the iteration converges on every context.
      start: "gram" or "identity". Default: "gram".

    Returns:
      A Predictor with y_hat `[iterate m]`; the first iterate is the prediction of M_0.

    Raises:
      ValueError: if `n_steps` is negative, the scale is not positive, or the start is unknown.
    """
    return Partial(_newton_schulz(n_steps, start), scale)


@checked
def newton_schulz(n_steps: Count, scale: Positive | None = None, start: Start = "gram") -> Predictor:
    """Least squares with an inverse of the context covariance S from the Newton-Schulz iteration `M <- 2 M - M S M`.

    The iteration converges if the eigenvalues of M_0 S are below 2. With fewer examples than input dimensions, the
    limit is the solution of minimum norm. From the identity, M then doubles in every step outside the span of the
    inputs, and rounding errors of the prediction grow fourfold; from the Gram matrix, M is zero there. Without examples
    it predicts zero.

    Source: Fu et al. 2310.17086 (iterative Newton's method).

    Args:
      n_steps: number K of steps. With 0 steps, M_0 makes the prediction.
      scale: factor of M_0. Default: the inverse of the trace of M_0 S at scale 1, for which the iteration converges on
        every context. This is 1 / |S|_F^2 for "gram" and 1 / tr S for "identity".
      start: "gram" for M_0 = scale S, or "identity" for M_0 = scale I, whose K steps are 2^K steps of gradient descent
        of size `scale`. Default: "gram".

    Returns:
      A Predictor with y_hat `[m]`.

    Raises:
      ValueError: if `n_steps` is negative, the scale is not positive, or the start is unknown.
    """
    return final_iterate(layerwise_newton_schulz(n_steps, scale, start))


@cached_by_value
def _newton_schulz(n_steps: int, start: str) -> Callable[..., Float[Array, "iterate m"]]:
    @on_problem
    def predict(scale: Any, x: Array, y: Array, x_query: Array) -> Array:
        n = max(len(x), 1)
        gram, moment = x.T @ x / n, x.T @ y / n
        first = gram if start == "gram" else jnp.eye(len(gram), dtype=x.dtype)
        if scale is None:
            trace = jnp.sum(first * gram)
            scale = 1.0 / jnp.where(trace > 0, trace, 1.0)
        first = jnp.asarray(scale, x.dtype) * first

        def step(inverse: Array, _: None) -> tuple[Array, Array]:
            inverse = 2.0 * inverse - inverse @ gram @ inverse
            return inverse, inverse

        _, inverses = jax.lax.scan(step, first, None, length=n_steps)
        return jnp.concatenate([first[None], inverses]) @ x_query @ moment

    return predict
