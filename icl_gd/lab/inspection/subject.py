"""What is to be inspected: the members of a run, a saved model or a model of the zoo, with their task."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from icl_gd import models, training, zoo
from icl_gd.lab.command_line import CONFIGS, load
from icl_gd.lab.config import sweeps
from icl_gd.lab.config.errors import ConfigError, nearest, one_line
from icl_gd.lab.lifecycle.workdirs import stored_fields
from icl_gd.models import Model
from icl_gd.paths import local
from icl_gd.schema import tuples
from icl_gd.tasks import LinearRegression
from icl_gd.zoo.cards import decode_task
from icl_gd.zoo.library import CARD, DATA

# A built-in config with the reference of a run, whose task becomes that of the run.
BASES = {
    "gradient_descent": "one_layer",
    "deep_features": "sine",
    "one_step": "dual_model",
    "prefix_learners": "garg_linear",
}
PAGE = "inspect.html"


class Place(NamedTuple):
    """Where models lie, before they are loaded.

    Attributes:
      path: the path as it was given: a workdir, one population or checkpoint in it, or a saved model.
      run: the workdir whose config.json describes the run; None for a saved model, and without config.json.
      content: the content of that config.json.
    """

    path: Path
    run: Path | None
    content: Mapping[str, Any]

    @property
    def precision(self) -> str:
        """The floating-point type of the run, "float32" or "float64"."""
        return self.content.get("precision", "float32")

    @property
    def name(self) -> str:
        """The name of the run or model."""
        if self.run is None:
            return self.path.resolve().name
        variant = self.content.get("variant")
        inside = f", {self._inside}" if self._inside else ""
        return f"{self.content['experiment']}{f':{variant}' if variant else ''}{inside}"

    @property
    def page(self) -> Path:
        """The default path of the page: in the workdir, beside its report, or beside model.safetensors.

        Of a model of the zoo, which lies in the installed package: in the current directory.
        """
        if self.path.parent == DATA:
            return Path(f"inspect-{self.path.name}.html")
        ending = self._inside.replace("/", "-")
        name = PAGE.replace(".html", f"-{ending}.html") if ending else PAGE
        return (self.run or self.path) / name

    @property
    def _inside(self) -> str:
        """The path inside the workdir, without `checkpoints`: a population of a sweep, a checkpoint, or both."""
        if self.run is None:
            return ""
        parts = self.path.resolve().relative_to(self.run.resolve()).parts
        return "/".join(part for part in parts if part != "checkpoints")


class Subject(NamedTuple):
    """Models that are inspected, and what they are inspected on.

    Attributes:
      name: the name of the run or model.
      model: the models; every leaf has a leading member axis.
      members: what distinguishes the members from each other, by number; empty text if only their seeds do.
      task: the task from which prompts are drawn.
      construction: the model that the zoo compares it with, and what that is; None for other models.
    """

    name: str
    model: Model
    members: tuple[str, ...]
    task: Any
    construction: tuple[str, Model] | None = None

    def member(self, i: int) -> Model:
        """The model of one member."""
        return jax.tree.map(lambda leaf: leaf[i], self.model)


def find(path: str, argument: str = "MODEL_OR_WORKDIR") -> Place:
    """Finds the run or saved model at a path, or a model of the zoo by its name.

    Args:
      path: the path or name.
      argument: the argument of the command line that has it, for error messages.

    Returns:
      The place; it is not loaded.

    Raises:
      ConfigError: if there is nothing to inspect.
    """
    try:
        directory = local(path, argument)
    except ValueError as error:
        raise ConfigError(one_line(error)) from error
    if not directory.is_dir() and path in zoo.names():
        return Place(DATA / path, None, {})
    if not directory.is_dir():
        beside = [each.name for each in directory.parent.glob("*/")] if directory.parent.is_dir() else []
        hint = nearest(directory.name, [*beside, *zoo.names()]).partition("accepted")[0]
        raise ConfigError(
            f"{path}: there is no such directory; {hint}give a workdir, a directory of Model.save, or a name of "
            "icl-gd zoo"
        )
    if (directory / "model.safetensors").is_file():
        return Place(directory, None, {})
    for run in (directory, *directory.resolve().parents[:3]):
        try:
            content = json.loads((run / "config.json").read_text())
            if "experiment" in content and "config" in content:
                return Place(directory, run, content)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{run / 'config.json'} cannot be read ({one_line(error)}); give another path") from error
    return Place(directory, None, {})


def load_subject(place: Place, n_context: int | None = None) -> Subject:
    """Loads models and their task.

    Args:
      place: where they lie.
      n_context: number of examples of a prompt. Default: that of the task; for a saved model see `_assumed_task`.

    Returns:
      The subject.

    Raises:
      ConfigError: if the models cannot be read, the task cannot be restored, or prompts have too many tokens.
    """
    try:
        if (place.path / "model.safetensors").is_file():
            model, members = _stacked(models.load_model(place.path))
        else:
            population = training.load(place.path)
            seeds = len(population) // len(population.swept)
            labels = [", ".join(f"{name} = {value}" for name, value in point.items()) for point in population.swept]
            model, members = population.stacked, tuple(label for label in labels for _ in range(seeds))
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(one_line(error)) from error
    task, construction = _card(place) if (place.path / CARD).is_file() else (None, None)
    if task is None:
        task = _assumed_task(model) if place.run is None else restored_task(place)
    if n_context is not None:
        task = _with_context(task, n_context)
    n_tokens = 2 * task.n_context + 1 if model.layout.has_separate_tokens else task.n_context + 1
    most = model.config.n_positions
    if most is not None and n_tokens > most:
        fits = (most - 1) // 2 if model.layout.has_separate_tokens else most - 1
        raise ConfigError(
            f"a prompt has {n_tokens} tokens, but the model has {most} positions; give --n_context={fits}"
        )
    return Subject(place.name, model, members, task, construction)


def _card(place: Place) -> tuple[Any, tuple[str, Model] | None]:
    """The task and the construction of a model with a card of the zoo."""
    try:
        content = json.loads((place.path / CARD).read_text(encoding="utf-8"))
        task, name = decode_task(content["task"]), content.get("construction")
        if name not in zoo.names():
            return task, None
        return task, (zoo.card(name).about, zoo.load(name))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{place.path / CARD} cannot be read ({one_line(error)}); remove it, or install again"
        ) from error


def _stacked(model: Model) -> tuple[Model, tuple[str, ...]]:
    """A saved model with a leading member axis, which is added if it was saved without one."""
    expected, leaves = jax.tree.leaves(models.shapes(model.config)), jax.tree.leaves(model.params)
    if expected[0].ndim == leaves[0].ndim:
        return jax.tree.map(lambda leaf: leaf[None], model), ("",)
    return model, ("",) * leaves[0].shape[0]


def _with_context(task: Any, n_context: int) -> Any:
    try:
        return replace(task, n_context=n_context)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"--n_context={n_context}: {one_line(error)}") from error


def _assumed_task(model: Model) -> LinearRegression:
    """Linear regression with normal inputs, as many examples as inputs, or as many as the positions allow."""
    layout, positions = model.layout, model.config.n_positions
    n = layout.d_input
    if positions is not None:
        n = (positions - 1) // 2 if layout.has_separate_tokens else positions - 1
    return LinearRegression(layout.d_input, layout.d_output, n, inputs="normal")


def restored_task(place: Place) -> Any:
    """The task on which a run is evaluated, restored from its config.json.

    Returns:
      The task of the library; for a population of a sweep, its own.

    Raises:
      ConfigError: if config.json cannot be read, or the task may be the user's own.
    """
    where = f"{place.run}/config.json"
    try:
        stored = stored_fields(place.content)
        name = stored.get("reference.name", "gradient_descent")
        if name not in BASES:
            raise ConfigError(
                f"{where} has reference.name={name}, so its task may be your own and cannot be restored from a file; "
                "save a member with Model.save and give its directory instead, with linear regression as its task"
            )
        base = load(CONFIGS / f"{BASES[name]}.py").change({"analyses": (), "claims": ()})
        if "task.name" in stored and not isinstance(stored["task.name"], list):
            base = base.change({"task.name": stored["task.name"]})
        own = {name: value for name, value in stored.items() if name.startswith("task.") or name == "eval.n_context"}
        experiment = base.change(tuples({name: value for name, value in own.items() if name in base.fields}))
    except ConfigError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{where} cannot be read ({one_line(error)}); give another path") from error
    # A population of a sweep is in a directory such as `n_context=10,n_heads=2`.
    values = {value for part in place.path.resolve().parts for value in part.split(",")}
    points = experiment.populations()
    matching = [one for fields, one in points if {*sweeps.label(fields).split(",")} - {""} <= values]
    return (matching or [one for _, one in points])[0].eval_task
