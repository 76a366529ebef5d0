"""What is examined: the members of a run, a saved model, a model of the zoo, or a function, with their task."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from icl_gd.analysis.calls import ARGUMENTS, Calls, Refusal
from icl_gd.analysis.symmetries import check_task, prompts_of
from icl_gd.identification.embedding import after_embedding
from icl_gd.identification.subject import MANY
from icl_gd.lab.config.errors import ConfigError, nearest, one_line
from icl_gd.lab.inspection.subject import Place, find, load_subject
from icl_gd.lab.inspection.verdicts.tasks import changed_task, config_task, in_words
from icl_gd.models import Model
from icl_gd.paths import local
from icl_gd.schema import check_function
from icl_gd.types import Layout, Predictor
from icl_gd.zoo.library import CARD

SOURCES = ("workdir", "model", "predictor")


class ExaminedMember(NamedTuple):
    """One Predictor.

    Attributes:
      number: its number in the run; None if there are no members.
      label: what distinguishes it from other members, such as the value of a sweep; may be empty.
      predictor: the Predictor.
      task: the task from which its prompts are drawn.
    """

    number: int | None
    label: str
    predictor: Predictor
    task: Any


class Examined(NamedTuple):
    """What is examined.

    Attributes:
      name: the name of the run, model or function.
      members: the Predictors.
      task: the task from which prompts are drawn.
      on_features: whether the layers of models are examined, on the features of their embeddings.
    """

    name: str
    members: tuple[ExaminedMember, ...]
    task: Any
    on_features: bool = False

    @property
    def task_in_words(self) -> str:
        """The task in one line."""
        return in_words(self.task) + "; the layers are examined on the features of the embedding" * self.on_features

    def title(self, member: ExaminedMember) -> str:
        """The name of one member."""
        if member.number is None:
            return self.name
        return f"{self.name}, member {member.number}" + (f" ({member.label})" if member.label else "")


def find_precision(source: str, text: str) -> str:
    """Finds what is examined, without loading it.

    Args:
      source: one of `SOURCES`.
      text: the value of its flag.

    Returns:
      The floating-point type of the run, "float32" or "float64".

    Raises:
      ConfigError: if there is no such run or model.
    """
    return "float32" if source == "predictor" else _place(source, text).precision


def load_examined(source: str, text: str, fields: Mapping[str, str], on_features: bool = False) -> Examined:
    """Loads the Predictors and their task, and checks that they fit.

    Args:
      source: one of `SOURCES`.
      text: the value of its flag.
      fields: text by name of a field of the task, such as "task.n_context".
      on_features: whether to take the layers of the models, with the features of their embeddings as inputs.

    Returns:
      What is examined.

    Raises:
      ConfigError: if something is missing, cannot be read, or does not fit.
    """
    if source == "predictor":
        if on_features:
            raise ConfigError("--features takes the layers of a model; give --model or --workdir, or leave it out")
        function, task = load_function(text), config_task(fields, {})
        examined = Examined(text, (ExaminedMember(None, "", function, task),), task)
        _check_prompts(examined.task)
        _check_called(examined)
        return examined
    place = _place(source, text)
    subject = load_subject(place)
    layout, task = subject.model.layout, subject.task
    if place.run is not None or (place.path / CARD).is_file():
        task = changed_task(task, fields)
    elif fields:
        sizes = {"task.d_input": layout.d_input, "task.d_output": layout.d_output, "task.n_context": task.n_context}
        task = config_task(fields, {**{name: str(size) for name, size in sizes.items()}, "task.inputs": "normal"})
    _check_fits(subject.model, layout, task)
    _check_prompts(task)
    numbers: list[int | None] = [None] if source == "model" and len(subject.members) == 1 else []
    numbers = numbers or [*range(len(subject.members))]
    members = []
    for i, (number, label) in enumerate(zip(numbers, subject.members, strict=True)):
        examined_as = subject.member(i), task
        if on_features:
            try:
                examined_as = after_embedding(*examined_as)
            except ValueError as error:
                raise ConfigError(f"--features: {one_line(error)}") from error
        members.append(ExaminedMember(number, label, *examined_as))
    return Examined(subject.name, tuple(members), task, on_features)


def _place(source: str, text: str) -> Place:
    """The run or model at a path, of the kind that the flag asks for."""
    if not text:
        example = "--model=NAME_OR_DIR" if source == "model" else "--workdir=DIR"
        raise ConfigError(f"--{source} is empty; give {example}")
    place = find(text, f"--{source}")
    is_model = (place.path / "model.safetensors").is_file()
    if source == "workdir" and is_model:
        raise ConfigError(f"--workdir={text}: this is a saved model, not a run; give it as --model={text}")
    if source == "model" and not is_model:
        raise ConfigError(
            f"--model={text}: there is no model.safetensors; give a directory of Model.save, a name of icl-gd zoo, or "
            f"a run as --workdir={text}"
        )
    return place


def _check_prompts(task: Any) -> None:
    """Checks that prompts have examples, which those of function classes may lack, and fit into memory.

    Raises:
      ConfigError: if they do not.
    """
    if task.n_context < 1:
        raise ConfigError(f"task.n_context={task.n_context}: a verdict needs at least one example; give 1 or more")
    try:
        check_task(task, MANY)
    except Refusal as error:
        raise ConfigError(one_line(error)) from error


def _check_fits(model: Model, layout: Layout, task: Any) -> None:
    """Checks that a model accepts the prompts of a task.

    Raises:
      ConfigError: if it does not.
    """
    for name in ("d_input", "d_output"):
        own, other = getattr(layout, name), getattr(task, name)
        if own != other:
            raise ConfigError(f"task.{name}={other}: the model has {name}={own}; give --task.{name}={own}")
    per_example = 2 if layout.has_separate_tokens else 1
    most = model.config.n_positions
    if most is not None and per_example * task.n_context + 1 > most:
        fits = (most - 1) // per_example
        raise ConfigError(
            f"task.n_context={task.n_context}: a prompt has {per_example * task.n_context + 1} tokens, but the model "
            f"has {most} positions; give --task.n_context={fits}"
        )


def load_function(text: str) -> Callable[..., Any]:
    """Imports a function.

    Args:
      text: `MODULE:FUNCTION` or `FILE.py:FUNCTION`.

    Returns:
      The function.

    Raises:
      ConfigError: if the file, module or function does not exist, or raises an error when it is imported.
    """
    where, colon, name = text.rpartition(":")
    if not colon or not where or not name:
        raise ConfigError(
            f"--predictor={text}: must be a file or module and a function, such as --predictor=mine.py:predict or "
            "--predictor=mypackage.mymodule:predict"
        )
    module = _module(text, where)
    if not hasattr(module, name):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        hint = nearest(name, functions) if functions else f"it defines no function; define {name}(x, y, x_query) in it"
        raise ConfigError(f"--predictor={text}: {where} has no function {name!r}; {hint}")
    function = getattr(module, name)
    if not callable(function):
        kind = type(function).__name__
        raise ConfigError(
            f"--predictor={text}: {name} is no function but {kind}; give a function (x, y, x_query) -> y_hat"
        )
    try:
        check_function(f"--predictor={text}", function, ARGUMENTS)
    except ValueError as error:
        raise ConfigError(one_line(error)) from error
    return function


def _module(text: str, where: str) -> Any:
    """Executes a file, or imports a module; modules of the current directory are found, too."""
    is_file = where.endswith(".py") or "/" in where
    if not is_file and not all(part.isidentifier() for part in where.split(".")):
        raise ConfigError(
            f"--predictor={text}: {where} is no name of a module; give --predictor=MODULE:FUNCTION or "
            "--predictor=FILE.py:FUNCTION"
        )
    try:
        path = local(where, "--predictor") if is_file else Path.cwd()
    except ValueError as error:
        raise ConfigError(one_line(error)) from error
    if is_file and not path.is_file():
        beside = [each.name for each in path.parent.glob("*.py")] if path.parent.is_dir() else []
        none = f"there is no Python file in {path.parent}; give --predictor=FILE.py:FUNCTION"
        hint = nearest(path.name, beside) if beside else none
        raise ConfigError(f"--predictor={text}: there is no file {where}; {hint}")
    directory = str((path.parent if is_file else path).absolute())
    sys.path.insert(0, directory)  # a file may import modules of its directory, like a script
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # no __pycache__ beside the user's files
    try:
        if not is_file:
            return importlib.import_module(where)
        spec = importlib.util.spec_from_file_location(f"icl_gd_predictor_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ImportError("it is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses in the file resolve their type hints there
        spec.loader.exec_module(module)
        return module
    except ModuleNotFoundError as error:
        if not is_file and where.startswith(str(error.name)):
            raise ConfigError(
                f"--predictor={text}: there is no module {error.name}; give an installed module, one of the current "
                "directory, or a file: --predictor=FILE.py:FUNCTION"
            ) from error
        raise ConfigError(
            f"--predictor={text}: {where} imports {error.name}, which is not installed: pip install {error.name}"
        ) from error
    except (Exception, SystemExit) as error:
        message = f"{type(error).__name__}: {one_line(error)}"
        raise ConfigError(f"--predictor={text}: {where} cannot be imported ({message}); correct it") from error
    finally:
        sys.path.remove(directory)
        sys.dont_write_bytecode = writes_bytecode


def _check_called(examined: Examined) -> None:
    """Calls the function with one prompt of the task.

    Raises:
      ConfigError: if it raises an error, or does not return m finite numbers.
    """
    try:
        x, y, x_query = prompts_of(examined.task, jax.random.key(0), 1)
    except Refusal as error:
        raise ConfigError(f"--predictor={examined.name}: {one_line(error)}") from error
    n, d, m = *x.shape[1:], y.shape[-1]
    shapes = f"x [{n} {d}], y [{n} {m}] and x_query [{d}]"
    (member,) = examined.members
    other = "or give the size that it takes by --task.d_input, --task.d_output and --task.n_context"
    y_hat = np.zeros(0)
    try:
        y_hat = Calls(member.predictor, name="it")(x, y, x_query)
        shape = y_hat.shape[1:]
    except Refusal as error:
        if error.shape is None:
            raise ConfigError(f"--predictor={examined.name}: for {shapes}, {one_line(error)}") from error
        shape = error.shape
    except (Exception, SystemExit) as error:
        raised = f"it raises {type(error).__name__} ({one_line(error)})"
        remedy = f"accept a prompt of this size, {other}"
        raise ConfigError(f"--predictor={examined.name}: for {shapes}, {raised}; {remedy}") from error
    if shape != (m,):
        returned = " ".join(map(str, shape))
        raise ConfigError(
            f"--predictor={examined.name}: for {shapes}, it returns an array [{returned}]; return y_hat [{m}], {other}"
        )
    if not np.isfinite(y_hat).all():
        raise ConfigError(
            f"--predictor={examined.name}: for a prompt of the task, it returns {y_hat[~np.isfinite(y_hat)][0]}; "
            "return finite numbers, or give another task by --task.FIELD=VALUE"
        )
