"""Token layouts: how a prompt is encoded as tokens and where the prediction is read.

>>> import jax.numpy as jnp
>>> x, y, x_query = jnp.ones((4, 3)), jnp.ones((4, 1)), jnp.ones(3)
>>> concatenated(3, 1).encode(x, y, x_query).shape  # one token per example, then the query
(5, 4)
>>> alternating(3, 1).encode(x, y, x_query).shape  # two tokens per example, then the query
(9, 3)
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import jax.numpy as jnp
import numpy as np
from annotated_types import Ge
from jaxtyping import Float

from icl_gd.programs import cached_by_value
from icl_gd.schema import Count, Size, checked
from icl_gd.types import Array, Layout

D_POSITIONS = 10  # default width of positional encodings
PositionWidth = Annotated[int, Ge(2)]  # width of a positional encoding: a sine and a cosine per frequency


@cached_by_value
@checked
def concatenated(d_input: Size, d_output: Size, w0: Array | np.ndarray | None = None) -> Layout:
    """Layout with one token `(x_j, y_j)` per example, then the query token `(x_query, -W_0 x_query)`.

    The prediction is minus the y slot of the query token, so a network whose updates are zero predicts `W_0 x_query`.

    Args:
      d_input: width of x.
      d_output: width of y. The token width is `d_input + d_output`.
      w0: `[m d]`, the weights from which gradient descent starts. Default: zero.

    Returns:
      The layout, with n + 1 tokens.

    Raises:
      ValueError: if the shape of `w0` is not `[m d]`.

    Source: von Oswald et al. 2212.07677, equations 5 and 6.
    """
    if w0 is not None and jnp.shape(w0) != (d_output, d_input):
        raise ValueError(f"w0 has shape {jnp.shape(w0)}; give (d_output, d_input) = {(d_output, d_input)}")

    def encode(
        x: Float[Array, "n d *batch"], y: Float[Array, "n m *batch"], x_query: Float[Array, " d *batch"]
    ) -> Float[Array, "n+1 e *batch"]:
        _check_widths(x, y, x_query, d_input, d_output)
        context = jnp.concatenate([x, y], axis=1)
        start = np.zeros((d_output, d_input)) if w0 is None else jnp.asarray(w0)
        y_slot = jnp.tensordot(jnp.asarray(-start, x_query.dtype), x_query, 1)
        query = jnp.concatenate([x_query, y_slot])
        return jnp.concatenate([context, query[None]])

    name = "concatenated" if w0 is None else ""
    return Layout(encode, _minus_last(d_output), d_input + d_output, False, name, d_input, d_output)


def _frequencies(d_positions: int) -> Float[np.ndarray, " pair"]:
    """The angle in radians between consecutive positions, for each pair of dimensions of the encoding."""
    if d_positions % 2:
        raise ValueError(
            f"d_positions={d_positions}: positional encodings are pairs of sine and cosine; give an even number"
        )
    return 10000.0 ** (-np.arange(0, d_positions, 2) / d_positions)


@checked
def positions(n_tokens: Count, d_positions: PositionWidth) -> Float[np.ndarray, "t d_positions"]:
    """Sinusoidal positional encodings of the positions 0, 1, ..., n_tokens - 1.

    Sines and cosines alternate; frequencies decrease.

    Returns:
      The encodings `[t d_positions]`.

    Raises:
      ValueError: if `d_positions` is odd.

    Source: Vaswani et al. 1706.03762, section 3.5.
    """
    angles = np.arange(n_tokens)[:, None] * _frequencies(d_positions)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(n_tokens, d_positions)


@checked
def shift(d_positions: PositionWidth, offset: int) -> Float[np.ndarray, "d_positions d_positions"]:
    """The rotation that maps the encoding of every position p to the encoding of p + offset.

    Returns:
      The matrix `[d_positions d_positions]`, block diagonal with one rotation per pair of dimensions.

    Raises:
      ValueError: if `d_positions` is odd.
    """
    rotation = np.zeros((d_positions, d_positions))
    for i, angle in enumerate(offset * _frequencies(d_positions)):
        cos, sin = np.cos(angle), np.sin(angle)
        rotation[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = [[cos, sin], [-sin, cos]]
    return rotation


@cached_by_value
@checked
def interleaved(
    d_input: Size, d_output: Size, d_positions: PositionWidth = D_POSITIONS, own_slots: bool = False
) -> Layout:
    """Layout with separate tokens x_1, y_1, x_2, ..., x_query and positional encodings p.

    The tokens are `[x_j, p]`, `[0, ..., 0, y_j, p]` and `[x_query, p]`. The label y_j is stored in the slots of the
    last coordinates of x, so only the positional encoding distinguishes tokens of x from tokens of y. The prediction
    is minus the last slots of the query token. Before the first layer, these slots contain a part of the positional
    encoding, with values close to 1, so an untrained network does not predict zero.

    Args:
      d_input: width of x.
      d_output: width of y.
      d_positions: width of the positional encoding, an even number. Default: 10.
      own_slots: x, y and the prediction have different slots. The tokens are then `[x_j, 0, p, 0]`,
        `[0, y_j, p, 0]` and `[x_query, 0, p, 0]`. The copying layer of `constructions.copying` needs this layout.
        Default: False.

    Returns:
      The layout, with 2n + 1 tokens of width `d_input + d_positions`, or `2 d_output` more with `own_slots`.

    Raises:
      ValueError: if y does not fit the slots of x, the prediction does not fit the slots of the positional encoding,
        or `d_positions` is odd.

    Source: the "standard token construction" of von Oswald et al. 2212.07677.
    """
    max_output = d_output if own_slots else min(d_input, d_positions)
    if d_output > max_output:
        raise ValueError(
            f"d_output={d_output}: interleaved tokens store y in the slots of x, and the prediction in the slots of "
            f"the positional encoding; give at most {max_output} for d_input={d_input}, d_positions={d_positions}, "
            "or own_slots=True"
        )
    _frequencies(d_positions)  # raises ValueError if d_positions is odd
    n_own = d_output if own_slots else 0

    def encode(
        x: Float[Array, "n d *batch"], y: Float[Array, "n m *batch"], x_query: Float[Array, " d *batch"]
    ) -> Float[Array, "2*n+1 e *batch"]:
        _check_widths(x, y, x_query, d_input, d_output)
        batch = x.shape[2:]
        content = _interleave(_pad_width(x, 0, n_own), _pad_width(y, d_input - d_output + n_own, 0), x_query)
        encodings = np.pad(positions(len(content), d_positions), ((0, 0), (0, n_own)))
        encodings = jnp.asarray(encodings, x.dtype).reshape(encodings.shape + (1,) * len(batch))
        encodings = jnp.broadcast_to(encodings, (*encodings.shape[:2], *batch))
        return jnp.concatenate([content, encodings], axis=1)

    name = ("interleaved_own_slots" if own_slots else "interleaved") if d_positions == D_POSITIONS else ""
    width = d_input + d_positions + 2 * n_own
    return Layout(encode, _minus_last(d_output), width, True, name, d_input, d_output)


@cached_by_value
@checked
def alternating(d_input: Size, d_output: Size) -> Layout:
    """Layout with separate tokens `x_1`, `(y_1, 0)`, `x_2`, ..., `x_query` without positional encodings.

    If x and y differ in width, the narrower one is padded with zeros. Models add learned positions and usually have a
    learned read-out; without it, the prediction is minus the last slots of the query token.

    Returns:
      The layout, with 2n + 1 tokens of width `max(d_input, d_output)`.

    Source: Garg et al. 2208.01066, section 2.
    """
    width = max(d_input, d_output)

    def encode(
        x: Float[Array, "n d *batch"], y: Float[Array, "n m *batch"], x_query: Float[Array, " d *batch"]
    ) -> Float[Array, "2*n+1 e *batch"]:
        _check_widths(x, y, x_query, d_input, d_output)
        return _interleave(_pad_width(x, 0, width - d_input), _pad_width(y, 0, width - d_output), x_query)

    return Layout(encode, _minus_last(d_output), width, True, "alternating", d_input, d_output)


def _pad_width(rows: Float[Array, "n k *batch"], before: int, after: int) -> Float[Array, "n e *batch"]:
    """Pads the second axis with `before` zeros in front and `after` zeros at the end."""
    return jnp.pad(rows, ((0, 0), (before, after), *((0, 0),) * (rows.ndim - 2)))


def _interleave(
    inputs: Float[Array, "n e *batch"], labels: Float[Array, "n e *batch"], x_query: Float[Array, " d *batch"]
) -> Float[Array, "2*n+1 e *batch"]:
    """Alternates inputs and labels, and appends the query, which is padded with zeros."""
    pairs = jnp.stack([inputs, labels], axis=1).reshape(2 * len(inputs), *inputs.shape[1:])
    return jnp.concatenate([pairs, _pad_width(x_query[None], 0, inputs.shape[1] - len(x_query))])


def _check_widths(x: Array, y: Array, x_query: Array, d_input: int, d_output: int) -> None:
    """Checks the shapes of a prompt. Without this check, inputs that are too narrow would be padded silently."""
    n, batch = len(x) if x.ndim else 0, x.shape[2:]
    expected = (n, d_input, *batch), (n, d_output, *batch), (d_input, *batch)
    if (x.shape, y.shape, x_query.shape) != expected:
        raise ValueError(
            f"the shapes x {x.shape}, y {y.shape}, x_query {x_query.shape} do not form a prompt with "
            f"d_input={d_input}, d_output={d_output}; give x [n {d_input}], y [n {d_output}], x_query [{d_input}]"
        )


def _minus_last(d_output: int) -> Callable[[Array], Array]:
    """The read-out that returns minus the last `d_output` slots of a token."""

    def read_out(token: Float[Array, " e"]) -> Float[Array, " m"]:
        # The slots are counted from the end, so that an embedding may change the token width.
        return -token[-d_output:]

    return read_out


# Functions `(d_input, d_output) -> Layout`, by name.
LAYOUTS: dict[str, Callable[[int, int], Layout]] = {
    "concatenated": concatenated,
    "interleaved": interleaved,
    "alternating": alternating,
    "interleaved_own_slots": partial(interleaved, own_slots=True),
}
