"""The task from which prompts are drawn, from fields of the command line.

>>> config_task({"task.n_context": "4"}, {"task.d_input": "3"}).n_context
4
>>> in_words(config_task({"task.noise_std": "0.5"}, {}))
'LinearRegression: d_input=10, d_output=1, n_context=10, noise_std=0.5'
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache
from typing import Any

from icl_gd.lab.command_line import CONFIGS, changed, load
from icl_gd.lab.config import fields as config_fields
from icl_gd.lab.config.errors import ConfigError, nearest, nearest_field, one_line
from icl_gd.lab.config.experiment import Experiment
from icl_gd.lab.inspection.subject import BASES

# Fields of a config that a task does not have: they restrict training to few prompts or functions.
OF_TRAINING = ("task.pool", "task.function_pool")
# Other fields of a config that restrict the task. None of them can be given here.
UNRESTRICTED = {"analyses": (), "claims": (), "train.active_inputs": (), "train.active_points": ()}
SIZES = ("d_input", "d_output", "n_context")  # always written; other fields only if they differ from their default
LONGEST = 60  # characters of a value


@cache
def _bases() -> dict[str, Experiment]:
    """An experiment for every word that `task.name` accepts."""
    result: dict[str, Experiment] = {}
    for config in BASES.values():
        base = load(CONFIGS / f"{config}.py")
        suite = {"eval.suite": ("standard",)} if "eval.suite" in base.fields else {}
        base = base.change({**UNRESTRICTED, **suite})
        for word in base.fields["task.name"].chooses or {}:
            result.setdefault(word, base.change({"task.name": word}) if base["task.name"] != word else base)
    return result


def field_names() -> list[str]:
    """The fields of all tasks that can be given.

    Returns:
      Names such as "task.n_context", each once.
    """
    names = dict.fromkeys(name for experiment in _bases().values() for name in experiment.fields)
    return [name for name in names if name.startswith("task.") and name not in OF_TRAINING]


def config_task(given: Mapping[str, str], defaults: Mapping[str, str]) -> Any:
    """The task with fields as in a config.

    Args:
      given: text by field, such as "task.n_context", from the command line.
      defaults: text by field for those that are not given. Default of others: that of the config one_layer; with
        another `task.name`, of the built-in config for this task.

    Returns:
      The task of the library.

    Raises:
      ConfigError: if a field does not exist, or does not accept its value.
    """
    bases = _bases()
    word = given.get("task.name", "linear")
    if word not in bases:
        raise ConfigError(f"task.name={word}: {nearest(word, bases)}")
    experiment = bases[word]
    known = [name for name in experiment.fields if name.startswith("task.")]
    for name, text in given.items():
        if name in OF_TRAINING and name in known:
            raise ConfigError(f"--{name}: a verdict is reached on fresh prompts, without a pool; leave it out")
        if name not in known:
            others = [other for other in known if other not in OF_TRAINING]
            raise ConfigError(f"--{name}: unknown field of task.name={word}; {nearest_field(name, others)}")
        field = experiment.fields[name]
        if isinstance(config_fields.read(name, field, text), tuple) and config_fields.takes_one_value(field):
            raise ConfigError(f"{name}={text}: give one value; there are no sweeps here")
    fitting = {name: text for name, text in defaults.items() if name in known and word == "linear"}
    return changed(experiment, {**fitting, **given}, []).eval_task


def changed_task(task: Any, given: Mapping[str, str]) -> Any:
    """A copy of a known task with other values of some fields.

    Args:
      task: the task of a run, or of a card of the zoo.
      given: text by field, such as "task.n_context".

    Returns:
      The changed task.

    Raises:
      ConfigError: if the task has no such field, or does not accept the value.
    """
    if not given:
        return task
    classes = config_fields.classes_of(_bases()["linear"], {("task",): type(task)})
    known = {name: field for name, field in config_fields.fields_of(classes).items() if name.startswith("task.")}
    values = {}
    for name, text in given.items():
        if name not in known:
            raise ConfigError(f"--{name}: not a field of the task of this model; {nearest_field(name, [*known])}")
        value = config_fields.read(name, known[name], text)
        config_fields.checked(name, known[name], value)
        values[known[name].path[-1]] = value
    try:
        return replace(task, **values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"task.{one_line(error)}") from error


def in_words(task: Any) -> str:
    """The class of a task, its sizes, and all fields that differ from their defaults.

    Returns:
      One line.
    """
    parts = [f"{name}={getattr(task, name)}" for name in SIZES]
    for field in fields(task) if is_dataclass(task) else ():
        value = getattr(task, field.name)
        if field.name not in SIZES and (field.default is MISSING or value != field.default):
            text = str(value)
            parts.append(f"{field.name}={text if len(text) <= LONGEST else text[:LONGEST] + '...'}")
    return f"{type(task).__name__}: {', '.join(parts)}"
