"""Sweeps: how combinations of values are counted, named and shown."""

from collections.abc import Mapping
from itertools import product
from typing import Any

# Fields whose values are told apart by their ratios.
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
    """All combinations, the last field fastest; one without fields where nothing is swept over."""
    return [dict(zip(values, point, strict=True)) for point in product(*values.values())]


def label(fields: Mapping[str, Any]) -> str:
    """`n_context=5,batch_size=256`: a directory, and what metrics are filed under."""
    return ",".join(f"{leaf(name)}={value}" for name, value in fields.items()).replace("/", "_")


def leaf(field: str) -> str:
    """A field without the part of the experiment it is in."""
    return field.split(".")[-1]


def describe(experiment: Any) -> str:
    """What is swept over and how; empty where nothing is."""
    its = experiment.sweep
    turns = {name: values for name, values in its.items() if not experiment.fields[name].per_member}
    rates = {name: values for name, values in its.items() if name not in turns}
    count = lambda fields: f"{', '.join(fields)}: {' x '.join(str(len(values)) for values in fields.values())}"
    said = [f"{count(turns)} populations one after another, each a program of its own"] * bool(turns)
    if rates:
        members = len(product_of(rates)) * experiment.seeds
        said.append(f"{count(rates)} combinations of {experiment.seeds} seeds: {members} members in one population")
    return "; ".join(said)
