"""Path patching: which direct paths from one activation to others carry the difference between two runs?

>>> import jax.numpy as jnp
>>> from icl_gd import models, tokens
>>> config = models.TransformerConfig(d_token=3, n_layers=2, n_heads=2, init_scale=1.0)
>>> model = models.Model(config, models.init(config, jax.random.key(0)), tokens.concatenated(2, 1))
>>> x, y, x_query = jnp.eye(2), jnp.ones((2, 1)), jnp.ones(2)
>>> clean, corrupted = (x, y, x_query), (x, -y, x_query)
>>> path_patch(model, corrupted, clean, "attn.z", "prediction", positions=(-1,)).shape  # [layer position head m]
(2, 1, 2, 1)
"""

import operator
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from icl_gd.analysis.places import (
    BATCH,
    STATIC,
    Place,
    Problem,
    Selection,
    checked_problems,
    grid_of,
    new_value,
    predict_once,
    program_model,
    source_values,
    static_arguments,
)
from icl_gd.models import sites
from icl_gd.models.activations import Activations
from icl_gd.models.edits import Edit
from icl_gd.models.model import Edits, Model, edited, pass_through
from icl_gd.models.sites import SITES, Site, split
from icl_gd.schema import Size, checked
from icl_gd.types import Array

Receiver = str | tuple[str, int]  # a site, or a site and a head

# Sites inside attention and inside the MLP, between their input and the output that path patching freezes.
IN_ATTENTION = ("ln1.scale", "ln1.normalized", "attn.q", "attn.k", "attn.v", "attn.scores", "attn.pattern")
IN_MLP = ("ln2.scale", "ln2.normalized", "mlp.pre", "mlp.post")
AFTER_FROZEN = ("attn.result", "attn_out")  # functions of the frozen `attn.z` of their layer


@checked
def path_patch(
    model: Model,
    base: Problem,
    source: Problem | Activations,
    sender: str,
    receivers: Receiver | Sequence[Receiver],
    *,
    layers: Selection = "each",
    positions: Selection = "each",
    heads: Selection = "each",
    batch: Size = BATCH,
) -> Float[Array, "..."]:
    """Path patching: predictions of the base run when one sender at a time affects the receivers by direct paths only.

    Every sender takes two runs. In the first, the sender has its value of the source run, the outputs of all attention
    heads (`attn.z`) and of all MLPs (`mlp_out`) are frozen to their values of the base run, and the values of the
    receivers are recorded. LayerNorms and clips are not frozen. In the second, the receivers have these values, and the
    prediction is recorded.

    If the sender is inside a head or an MLP, as "attn.q" is, the output of this head or MLP is not frozen. A receiver
    that is the sender itself has the value of the source run. A receiver before the sender is not affected.

    Memory: twice that of `patch`.

    Args:
      model: the model.
      base: the problem that is run, `(x [n d], y [n m], x_query [d])` or a Prompt.
      source: the problem from which the sender's value is taken, of the same shapes; or values, as `model.run` records
        them.
      sender: the kind of site of the senders, a key of `models.sites.SITES` such as "attn.z".
      receivers: sites, as `models.sites.expand` accepts them, at all positions. A pair `("blocks.1.attn.q", 0)` is one
        head of a site. "prediction" gives the direct effect on the prediction. The sites "attn.result" and "attn_out"
        are not accepted, because they follow from the frozen "attn.z"; "attn.z" is.
      layers, positions, heads: the senders, selected as in `patch`.
      batch: number of senders that are computed at once. Default: 16.

    Returns:
      y_hat `[layer position head m]`, without the axes that the sender does not have or that are "all".

    Raises:
      ValueError: if the model has no such site, a site has no such index, a receiver is not accepted, or the problems
        have different shapes.

    Source: Wang et al. 2211.00593, section 3.1; Goldowsky-Dill et al. 2304.05969.
    """
    arguments = static_arguments(sender, layers, positions, heads, batch)
    return _path_patch(program_model(model), *checked_problems(base, source), receivers=_pairs(receivers), **arguments)


def _pairs(receivers: Any) -> tuple[tuple[str, int | None], ...]:
    """Every receiver as a site and a head, which is None for all heads."""
    each = [receivers] if isinstance(receivers, str) or _is_pair(receivers) else list(receivers)
    if wrong := [one for one in each if not (isinstance(one, str) or _is_pair(one))]:
        raise ValueError(
            f'receiver {wrong[0]!r}; give a site or a pair such as ("blocks.1.attn.q", 0) of site and head'
        )
    if not each:
        raise ValueError('there are no receivers; give at least one site, such as "prediction"')
    return tuple((one, None) if isinstance(one, str) else (one[0], operator.index(one[1])) for one in each)


def _is_pair(receiver: Any) -> bool:
    """Whether a receiver is a site and a head."""
    is_tuple = isinstance(receiver, tuple) and len(receiver) == 2
    return is_tuple and isinstance(receiver[0], str) and isinstance(receiver[1], int | np.integer)


@partial(jax.jit, static_argnames=("receivers", *STATIC))
def _path_patch(
    model: Model, base: Any, source: Any, receivers: Any, kind: str, batch: int, **selections: Selection
) -> Array:
    grid = grid_of(model, base, kind, **selections)
    values, heads_of = source_values(model, source, grid), _receiving_heads(model, receivers)
    frozen = model.run(*base, names=["attn.z", *["mlp_out"] * (model.config.block_mlp_width is not None)])

    def predict(place: Place) -> Array:
        sent = {name: place.edit(layer, values[name]) for layer, name in grid.names.items()}
        path = _Path(model.edits, kind, place, sent, frozen, heads_of)
        pass_through(path, model, *base)
        changes = {name: Edit(new_value, (path.received[name],), head) for name, head in heads_of.items()}
        return predict_once(model.edit(changes), base)

    return grid.map(predict, batch)


def _receiving_heads(model: Model, receivers: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The heads of every receiving site; None for all."""
    result: dict[str, Any] = {}
    for request, head in receivers:
        for name in sites.expand(model.config, request):
            kind, layer = split(name)
            if kind in AFTER_FROZEN:
                raise ValueError(
                    f"receiver {name!r} follows from the outputs of heads, which path patching freezes; give "
                    f"'blocks.{layer}.attn.z'"
                )
            before = result.get(name, ())
            result[name] = None if head is None or before is None else (*before, head)
    return result


class _Path:
    """The run in which a sender affects the receivers by direct paths only: a function `(name, value) -> value`."""

    def __init__(
        self,
        edits: Edits,
        kind: str,
        place: Place,
        sent: dict[str, Edit],
        frozen: Activations,
        receivers: Iterable[str],
    ):
        self.edits, self.kind, self.place = edits, kind, place
        self.sent, self.frozen, self.receivers = sent, frozen, receivers
        self.received: dict[str, Array] = {}

    def __call__(self, name: str, value: Array) -> Array:
        kind, layer = split(name)
        site, sent = SITES[kind], self.sent.get(name, _identity)
        value = edited(self.edits, name, value)
        if name in self.receivers:
            self.received[name] = sent(site, value)
        if name in self.frozen:
            frozen = self.frozen[name]
            if self.kind in (IN_ATTENTION if kind == "attn.z" else IN_MLP):
                own = self.place._replace(position=None).edit(layer or 0, value)  # the sender's component
                frozen = own(site, frozen)
            value = frozen
        return sent(site, value)


def _identity(site: Site, value: Array) -> Array:
    return value
