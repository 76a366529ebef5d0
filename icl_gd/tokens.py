"""Layouts: how a problem becomes tokens and how the prediction is read back."""

from collections.abc import Callable
from typing import Annotated

import jax.numpy as jnp
import numpy as np
from annotated_types import Ge
from jaxtyping import Float

from icl_gd.programs import kept
from icl_gd.schema import Count, Size, checked
from icl_gd.types import Array, Layout

Codes = Annotated[int, Ge(2)]  # dimensions of a place's code: pairs of sine and cosine


@kept
@checked
def concatenated(d_input: Size, d_output: Size, w0: Array | np.ndarray | None = None) -> Layout:
    """Tokens `e_j = (x_j, y_j)` and, last, the query `(x_query, -W_0 x_query)` (von Oswald et al. eq. 5-6).

    Args:
      d_input, d_output: sizes of x and y; the token width is their sum.
      w0: `[m d]`, the weights gradient descent starts from; zero when left out.

    The prediction is minus the query's y slot, so a network that writes nothing predicts `W_0 x_query`.
    """
    start = (
        np.broadcast_to(0.0, (d_output, d_input)) if w0 is None else jnp.asarray(w0)
    )  # layouts are kept, arrays of JAX are not
    if start.shape != (d_output, d_input):
        raise ValueError(f"w0 has shape {start.shape}, expected (d_output, d_input) = {(d_output, d_input)}")

    def encode(
        x: Float[Array, "n d *batch"], y: Float[Array, "n m *batch"], x_query: Float[Array, " d *batch"]
    ) -> Float[Array, "n+1 e *batch"]:
        _check_widths(x, y, x_query, d_input, d_output)
        context = jnp.concatenate([x, y], axis=1)
        begun = jnp.tensordot(jnp.asarray(-start, x_query.dtype), x_query, 1)
        return jnp.concatenate([context, jnp.concatenate([x_query, begun])[None]])

    return Layout(encode, _minus_last(d_output), d_input + d_output)


def _rates(d_positions: int) -> Float[np.ndarray, " pair"]:
    """By how much each pair of a code's dimensions turns a place, in radians."""
    if d_positions % 2:
        raise ValueError(
            f"d_positions={d_positions}: codes of places are pairs of sine and cosine; give an even number"
        )
    return 10000.0 ** (-np.arange(0, d_positions, 2) / d_positions)


@checked
def positions(n_tokens: Count, d_positions: Codes) -> Float[np.ndarray, "t d_positions"]:
    """Codes of the places 0, 1, ...: sines and cosines in turn, of slower and slower rates (Vaswani et al. 2017)."""
    angles = np.arange(n_tokens)[:, None] * _rates(d_positions)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(n_tokens, d_positions)


@checked
def shift(d_positions: Codes, places: int) -> Float[np.ndarray, "d_positions d_positions"]:
    """The rotation that takes the code of every place to the code of the place `places` further on."""
    turn = np.zeros((d_positions, d_positions))
    for i, angle in enumerate(places * _rates(d_positions)):
        cos, sin = np.cos(angle), np.sin(angle)
        turn[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = [[cos, sin], [-sin, cos]]
    return turn


@kept
@checked
def interleaved(d_input: Size, d_output: Size, d_positions: Codes = 10, own_slots: bool = False) -> Layout:
    """Separate tokens x_1, y_1, x_2, ..., x_query, each with the code of its place: 2n + 1 of them.

    As published by von Oswald et al. for their "standard token construction": `[x_j, p]`, `[0, ..., 0, y_j, p]` and
    `[x_query, p]`, so that y stands where the last coordinates of x do, and only its place tells one from the other.
    The prediction is minus the last slots of the query's token. They hold a part of its position's code, close to 1,
    which is why an untrained network does not predict zero.

    Args:
      d_positions: dimensions of a place's code, an even number.
      own_slots: x, y and the prediction have slots of their own, `[x_j, 0, p, 0]`, `[0, y_j, p, 0]` and
        `[x_query, 0, p, 0]`. This is what the copying layer of `constructions.copying` needs.

    Raises:
      ValueError: if y has no room in the place of x, or the prediction none in that of the code.
    """
    most = d_output if own_slots else min(d_input, d_positions)
    if d_output > most:
        raise ValueError(
            f"d_output={d_output}: interleaved tokens hold y in the place of x and the prediction in that of the "
            f"position; at most {most} is accepted with d_input={d_input}, d_positions={d_positions}"
        )
    _rates(d_positions)

    def encode(
        x: Float[Array, "n d *batch"], y: Float[Array, "n m *batch"], x_query: Float[Array, " d *batch"]
    ) -> Float[Array, "2*n+1 e *batch"]:
        _check_widths(x, y, x_query, d_input, d_output)
        apart, batch = d_output if own_slots else 0, x.shape[2:]
        content = _in_turn(_widened(x, 0, apart), _widened(y, d_input - d_output + apart, 0), x_query)
        places = np.pad(positions(len(content), d_positions), ((0, 0), (0, apart)))
        places = jnp.asarray(places, x.dtype).reshape(places.shape + (1,) * len(batch))
        return jnp.concatenate([content, jnp.broadcast_to(places, (*places.shape[:2], *batch))], axis=1)

    width = d_input + d_positions + 2 * d_output * own_slots
    return Layout(encode, _minus_last(d_output), width, apart=True)


@kept
@checked
def alternating(d_input: Size, d_output: Size) -> Layout:
    """Separate tokens `x_1`, `(y_1, 0)`, x_2, ..., x_query without places, as Garg et al. have them: 2n + 1 of them.

    What is narrower is filled up with zeros. Models add positions of their own, and read predictions from what they
    learn to; of others it is minus the last slots.
    """
    width = max(d_input, d_output)

    def encode(
        x: Float[Array, "n d *batch"], y: Float[Array, "n m *batch"], x_query: Float[Array, " d *batch"]
    ) -> Float[Array, "2*n+1 e *batch"]:
        _check_widths(x, y, x_query, d_input, d_output)
        return _in_turn(_widened(x, 0, width - d_input), _widened(y, 0, width - d_output), x_query)

    return Layout(encode, _minus_last(d_output), width, apart=True)


def _widened(rows: Float[Array, "n k *batch"], before: int, after: int) -> Float[Array, "n e *batch"]:
    """Rows with zeros around."""
    return jnp.pad(rows, ((0, 0), (before, after), *((0, 0),) * (rows.ndim - 2)))


def _in_turn(
    inputs: Float[Array, "n e *batch"], labels: Float[Array, "n e *batch"], x_query: Float[Array, " d *batch"]
) -> Float[Array, "2*n+1 e *batch"]:
    """Inputs and labels in turn, and last the query, filled up with zeros."""
    pairs = jnp.stack([inputs, labels], axis=1).reshape(2 * len(inputs), *inputs.shape[1:])
    return jnp.concatenate([pairs, _widened(x_query[None], 0, inputs.shape[1] - len(x_query))])


def _check_widths(x: Array, y: Array, x_query: Array, d_input: int, d_output: int) -> None:
    """A problem of these sizes: layouts that fill up with zeros would take a narrower one for it."""
    n, batch = len(x) if x.ndim else 0, x.shape[2:]
    wanted = (n, d_input, *batch), (n, d_output, *batch), (d_input, *batch)
    if (x.shape, y.shape, x_query.shape) != wanted:
        raise ValueError(
            f"x {x.shape}, y {y.shape}, x_query {x_query.shape}: not one problem of d_input={d_input}, "
            f"d_output={d_output}, which has [n {d_input}], [n {d_output}], [{d_input}]"
        )


def _minus_last(d_output: int) -> Callable[[Array], Array]:
    def read_out(token: Float[Array, " e"]) -> Float[Array, " m"]:
        return -token[-d_output:]  # of an embedded token too, whatever its width

    return read_out


# By (d_input, d_output).
LAYOUTS: dict[str, Callable[[int, int], Layout]] = {
    "concatenated": concatenated,
    "interleaved": interleaved,
    "alternating": alternating,
}
