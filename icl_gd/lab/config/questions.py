"""Analyses, figures and references: the classes that define what a run measures and what it compares with.

    def measure(evaluation, records):
        records.add("weight_norm", jax.vmap(optax.global_norm)(evaluation.trained.params))

    ANALYSIS = Analysis("weight_norm", measure, records=("weight_norm",))

A built-in analysis is a module of `lab.evaluation.analyses` and is selected by the name of the module. Your own is
passed as a value: `Experiment(analyses=(ANALYSIS,))`.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, NoReturn

Done = dict[str, Any]  # the content of results.json


class Evidence(NamedTuple):
    """A metric that separates a population that equals its reference from an untrained population.

    The bounds hold for every member of the first population and for no member of the second.

    Attributes:
      metric: the name of the metric.
      at_most: the upper bound; None for no bound.
      at_least: the lower bound; None for no bound.
    """

    metric: str
    at_most: float | None = None
    at_least: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a value is within the bounds."""
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)


@dataclass(frozen=True)
class Picture:
    """A figure of a report, drawn from results.json alone.

    Attributes:
      name: the name of its file, after the number that gives its position.
      needs: names of the curves, arrays or metrics that it shows; it is not drawn if the results lack one.
      draw: maps the content of results.json to a Matplotlib figure, which `icl_gd.plots.subplots` made.
      caption: what it shows, in sentences that can be read alone.
      place: its position; figures are sorted by place, then by name. Default: 1000.
      remarks: sentences appended to the caption if the results have an array of that name; `{}` becomes its value.
    """

    name: str
    needs: tuple[str, ...]
    draw: Callable[[Done], Any]
    caption: str
    place: int = 1000
    remarks: Mapping[str, str] = field(default_factory=dict)


def _accept_any(experiment: Any) -> None:
    """The check of an analysis that fits every experiment."""


@dataclass(frozen=True)
class Analysis:
    """A measurement of a trained population, with its figures.

    Attributes:
      name: the name by which configs select it.
      measure: `measure(evaluation, records)` adds metrics, curves and arrays to `records`.
      records: names of the metrics and curves that `measure` may add; `*` stands for any part of a name. A claim about
        any other name is refused before training.
      check: raises `Unfit`, by `needs` or `unfit`, if the analysis does not apply to an experiment. Default: it applies
        to all.
      watch: `watch(setting)` returns a function from the parameters of one member to metrics, which is evaluated during
        training too; None for nothing.
      figures: the figures of its records.
      evidence: bounds that hold for a population that equals its reference, and fail for an untrained one.
      identities: metrics that are zero for any weights, with the largest rounding error that is accepted.
    """

    name: str
    measure: Callable[[Any, Any], None]
    records: tuple[str, ...] = ()
    check: Callable[[Any], None] = _accept_any
    watch: Callable[[Any], Callable[[Any], dict[str, Any]]] | None = None
    figures: tuple[Picture, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    identities: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.name


class Reference:
    """What a population is compared with. `lab.evaluation.references` has the built-in references.

    Attributes:
      name: the name of the kind of reference.
      tasks: the accepted classes of the task.
      records: names of the metrics and curves that it may add to the results, as in `Analysis`.
      on_prefixes: whether it compares predictions for every prefix of a prompt.
    """

    name: ClassVar[str]
    tasks: ClassVar[tuple[type, ...]] = (object,)
    records: ClassVar[tuple[str, ...]] = ()
    on_prefixes: ClassVar[bool] = False

    def check(self, experiment: Any) -> None:
        """Raises `ConfigError` if the reference does not apply to an experiment."""

    def check_here(self) -> None:
        """Raises `ConfigError` if this machine lacks something that the reference needs, such as a library."""

    def prepare(self, setting: Any) -> Any:
        """Computes, or trains, what the population is compared with.

        Args:
          setting: the experiment and its prompts, a `lab.evaluation.measured.Setting`.

        Returns:
          The prepared reference, which evaluates the population.
        """
        raise NotImplementedError


class Unfit(Exception):
    """An analysis does not apply to an experiment.

    Args:
      field: the field that prevents it.
      value: the value of that field.
      accepted: what the analysis needs instead, as the end of "the analysis, which ...": "needs softmax".
    """

    def __init__(self, field: str, value: Any, accepted: str):
        super().__init__(f"{field}={value}: {accepted}")
        self.field, self.value, self.accepted = field, value, accepted


def unfit(experiment: Any, field: str, accepted: str) -> NoReturn:
    """Raises `Unfit` about the value that a field of an experiment has.

    Args:
      experiment: the experiment.
      field: the name of the field.
      accepted: what the analysis needs instead, as in `Unfit`.
    """
    raise Unfit(field, experiment[field], accepted)


def needs(experiment: Any, **wanted: Any) -> None:
    """Checks that fields of an experiment have these values: `needs(experiment, **{"model.n_layers": 1})`.

    A field that the experiment does not have counts as None.

    Raises:
      Unfit: about the first field with another value.
    """
    for name, value in wanted.items():
        if experiment.get(name) != value:
            raise Unfit(name, experiment.get(name), f"needs {value}")


def needs_one_layer(experiment: Any) -> None:
    """Checks that the model has one layer, and the reference one step; raises `Unfit` if not."""
    needs(experiment, **{"model.n_layers": 1})
    if experiment.get("reference.steps") not in (None, 1):
        unfit(experiment, "reference.steps", "needs one step, as there is one layer")


def needs_linear_layers(experiment: Any) -> None:
    """Checks that the model is linear attention on tokens (x, y) without extra components; raises `Unfit` if not.

    The circuits W_KQ and W_PV then determine the model.
    """
    for name, value in experiment.beside_linear.items():
        raise Unfit(name, value, "needs linear attention without extra components")
    needs(experiment, **{"model.layout": "concatenated"})


def needs_step_a_layer(experiment: Any) -> None:
    """Checks that the reference takes as many steps as the model has layers; raises `Unfit` if not."""
    needs(experiment, **{"reference.steps": None})


FOLDER = "icl_gd.lab.evaluation.analyses"  # one module per analysis, imported only when it is selected


def find(name: str) -> Analysis:
    """The built-in analysis with this name.

    Raises:
      KeyError: if there is none.
    """
    if name not in shipped():
        raise KeyError(name)
    return importlib.import_module(f"{FOLDER}.{name}").ANALYSIS


@cache
def shipped() -> tuple[str, ...]:
    """The names of the built-in analyses, sorted."""
    folder = Path(__file__).parents[1].joinpath(*FOLDER.split(".")[2:])
    return tuple(sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")))


def is_recorded(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether the name of a metric or curve matches one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
