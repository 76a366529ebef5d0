"""Sweeps: enumerates, names and describes the combinations of swept values."""

from collections.abc import Mapping
from itertools import product
from typing import Any

# Fields whose values are plotted on a logarithmic axis.
SPREAD_OUT = (
    "train.learning_rate",
    "train.clip",
    "train.weight_decay",
    "model.init_scale",
    "task.pool",
    "model.d_embed",
    "train.steps",
    "train.batch_size",
)
Fields = dict[str, Any]


def product_of(values: Mapping[str, tuple]) -> list[Fields]:
    """All combinations of values; the last field varies fastest.

    Returns:
      One mapping from field to value per combination. If `values` is empty, one empty mapping.
    """
    return [dict(zip(values, point, strict=True)) for point in product(*values.values())]


def label(fields: Mapping[str, Any]) -> str:
    """The name of a combination, for directories and metrics: `n_context=5,batch_size=256`."""
    return ",".join(f"{leaf(name)}={value}" for name, value in fields.items()).replace("/", "_")


def leaf(field: str) -> str:
    """The last name of a field: `steps` for `train.steps`."""
    return field.split(".")[-1]


def describe(experiment: Any) -> str:
    """The sweep of an experiment in words. If there is no sweep, an empty string."""
    separate, within = {}, {}
    for name, values in experiment.sweep.items():
        (within if experiment.fields[name].per_member else separate)[name] = values
    parts = []
    if separate:
        parts.append(f"{_sizes(separate)} populations, one after another, each compiled separately")
    if within:
        members = len(product_of(within)) * experiment.seeds
        parts.append(
            f"{_sizes(within)} combinations, {experiment.seeds} seeds each: {members} members in one population"
        )
    return "; ".join(parts)


def _sizes(values: Mapping[str, tuple]) -> str:
    """The fields of a sweep, and the number of values of each: `train.clip, train.beta1: 2 x 3`."""
    return f"{', '.join(values)}: {' x '.join(str(len(each)) for each in values.values())}"
