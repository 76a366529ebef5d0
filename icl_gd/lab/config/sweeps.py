"""Sweeps: a field that takes a tuple is swept over, by members of one population or by one population after another.

What differs between members (rates, and the scale of initial weights) is an axis of one compiled program: their product
with the seeds is one population. What changes shapes, or a constant of the program, is trained one combination after
another. Combinations are in the order of these lists, the last field fastest.
"""

import ast
import copy
from collections.abc import Mapping
from itertools import product
from typing import Any

from ml_collections.config_flags import config_path

from icl_gd.lab.config.asked import Config
from icl_gd.lab.config.recipe_fields import MODIFICATIONS

# As in icl_gd.training.population.Rates and models.TransformerConfig.varied, which order the members.
TOGETHER = (
    *("train.learning_rate", "train.clip", "train.beta1", "train.beta2", "train.weight_decay"),
    *(f"model.{name}" for name in ("init_scale", *MODIFICATIONS)),
)
IN_TURN = (
    *("task.name", "task.d_input", "task.d_output", "task.n_context", "task.inputs"),
    *("task.input_scale", "task.weight_scale", "task.noise_std", "task.corrupted_labels", "task.pool"),
    *("model.n_layers", "model.n_heads", "model.d_embed", "train.steps", "train.batch_size"),
)
SWEPT = TOGETHER + IN_TURN
SPREAD_OUT = (
    *("train.learning_rate", "train.clip", "train.weight_decay", "model.init_scale"),
    "task.pool",
    "model.d_embed",
    "train.steps",
    "train.batch_size",
)  # values told apart by their ratios
Fields = dict[str, Any]


def sweep(part: Config, **values: tuple) -> None:
    """Gives fields of a part of a config tuples: `sweep(config.train, learning_rate=(1e-3, 3e-3))`."""
    with part.ignore_type():  # a tuple where a number was
        part.update(values)


def read_tuple(word: str) -> tuple | None:
    """The tuple that a value on the command line is, if it is one."""
    try:
        value = ast.literal_eval(word)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, tuple) else None


def together(config: Config) -> list[Fields]:
    """The combinations within one population; one without fields where there are none."""
    return _product(config, TOGETHER)


def in_turn(config: Config) -> list[tuple[Fields, Config]]:
    """The populations trained one after another, with the config of each."""
    found = []
    for fields in _product(config, IN_TURN):
        one = copy.deepcopy(config)
        with one.ignore_type():
            for field, value in fields.items():
                config_path.set_value(field, one, value)
        found.append((fields, one))
    return found


def _product(config: Config, names: tuple[str, ...]) -> list[Fields]:
    values = swept(config, names)
    return [dict(zip(values, point, strict=True)) for point in product(*values.values())]


def swept(config: Config, names: tuple[str, ...]) -> dict[str, tuple]:
    """Those of the fields that take several values, with them."""
    values = {name: config_path.get_value(name, config) for name in names}
    return {name: value for name, value in values.items() if isinstance(value, tuple)}


def label(fields: Mapping[str, Any]) -> str:
    """`n_context=5,batch_size=256`: a directory, and what metrics are filed under."""
    return ",".join(f"{leaf(name)}={value}" for name, value in fields.items())


def leaf(field: str) -> str:
    """A field without the part of the config it is in."""
    return field.split(".")[-1]


def describe(config: Config) -> str:
    """What is swept over and how; empty where nothing is."""
    turns, rates = swept(config, IN_TURN), swept(config, TOGETHER)
    count = lambda fields: f"{', '.join(fields)}: {' x '.join(str(len(values)) for values in fields.values())}"
    said = [f"{count(turns)} populations one after another, each a program of its own: sizes are shapes"] * bool(turns)
    if rates:
        said.append(f"{count(rates)} combinations of {config.seeds} seeds: "
                    f"{len(together(config)) * config.seeds} members in one population")  # fmt: skip
    return "; ".join(said)
