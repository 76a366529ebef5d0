"""The classes of analyses, figures and references, which define the measurements and comparisons of a run.

An analysis of your own:

    def measure(evaluation, records):
        records.add("weight_norm", jax.vmap(optax.global_norm)(evaluation.trained.params))

    ANALYSIS = Analysis("weight_norm", measure, records=("weight_norm",))

Pass it as a value: `Experiment(analyses=(ANALYSIS,))`. A built-in analysis is a module of `lab.evaluation.analyses`.
Select it by the name of the module.
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
    """Bounds on a metric that hold if a population equals its reference, and fail for an untrained population.

    They hold for every member in the first case, and for no member in the second case.

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
      name: the name of the figure; the file is `NN_name`, where NN is the position of the figure in the report.
      needs: names of the curves, arrays or metrics that the figure shows. If the results lack one of them, the figure
        is not drawn.
      draw: maps the content of results.json to a Matplotlib figure, made by `icl_gd.plots.subplots`.
      caption: the caption, in sentences that can be read alone.
      place: figures are sorted by place, then by name. Default: 1000.
      remarks: sentences by name of an array. If the results have the array, the sentence is appended to the caption,
        and `{}` in it is replaced by the value of the array.
    """

    name: str
    needs: tuple[str, ...]
    draw: Callable[[Done], Any]
    caption: str
    place: int = 1000
    remarks: Mapping[str, str] = field(default_factory=dict)


def _accept_any(experiment: Any) -> None:
    """The default of `Analysis.check`: accepts every experiment."""


@dataclass(frozen=True)
class Analysis:
    """A measurement of a trained population, with figures that show it.

    Attributes:
      name: the name by which configs select it.
      measure: `measure(evaluation, records)` adds metrics, curves and arrays to `records`.
      records: names of the metrics and curves that `measure` may add; `*` matches any part of a name. A claim about a
        metric that no analysis and no reference lists is refused before training.
      check: raises `Unfit` if the analysis does not apply to an experiment; call `needs` or `unfit` in it. Default: the
        analysis applies to every experiment.
      watch: `watch(setting)` returns a function from the parameters of one member to metrics. It is called during
        training. Default: None, no metrics during training.
      figures: the figures that show the records.
      evidence: bounds that hold for a population that equals its reference, and fail for an untrained one.
      identities: metrics that are zero for all weights up to rounding, each with the largest accepted rounding error.
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
    """Base class of references: the learners that a population is compared with.

    `lab.evaluation.references` has the built-in references.

    Attributes:
      name: the name of the kind of reference.
      tasks: the accepted classes of tasks.
      records: names of the metrics and curves that the reference may add to the results, as in `Analysis`.
      on_prefixes: whether the reference compares predictions for every prefix of a prompt.
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
        """Computes or trains the learners that the population is compared with.

        Args:
          setting: the experiment and its prompts, a `lab.evaluation.measured.Setting`.

        Returns:
          The prepared reference, whose methods evaluate the population.
        """
        raise NotImplementedError


class Unfit(Exception):
    """An analysis does not apply to an experiment.

    Args:
      field: the field whose value does not fit.
      value: the value of this field.
      accepted: the requirement of the analysis, beginning with a verb: "needs softmax".
    """

    def __init__(self, field: str, value: Any, accepted: str):
        super().__init__(f"{field}={value}: {accepted}")
        self.field, self.value, self.accepted = field, value, accepted


def unfit(experiment: Any, field: str, accepted: str) -> NoReturn:
    """Raises `Unfit` about the value of a field of an experiment.

    Args:
      experiment: the experiment.
      field: the name of the field.
      accepted: the requirement of the analysis, as in `Unfit`.
    """
    raise Unfit(field, experiment[field], accepted)


def needs(experiment: Any, **wanted: Any) -> None:
    """Checks that fields of an experiment have these values: `needs(experiment, **{"model.n_layers": 1})`.

    The value of a field that the experiment does not have is None.

    Raises:
      Unfit: if a field has another value.
    """
    for name, value in wanted.items():
        if experiment.get(name) != value:
            raise Unfit(name, experiment.get(name), f"needs {value}")


def needs_one_layer(experiment: Any) -> None:
    """Checks that the model has one layer and the reference takes one step; raises `Unfit` if not."""
    needs(experiment, **{"model.n_layers": 1})
    if experiment.get("reference.steps") not in (None, 1):
        unfit(experiment, "reference.steps", "needs one step, because the model has one layer")


def needs_linear_layers(experiment: Any) -> None:
    """Checks that the model is linear attention on tokens (x, y) without extra components; raises `Unfit` if not.

    The circuits W_KQ and W_PV then determine the model.
    """
    for name, value in experiment.beyond_linear.items():
        raise Unfit(name, value, "needs linear attention without extra components")
    needs(experiment, **{"model.layout": "concatenated"})


def needs_one_kernel(experiment: Any) -> None:
    """Checks that all layers are softmax attention, or all linear attention; raises `Unfit` if not."""
    if set(experiment.model.kinds) not in ({"softmax"}, {"linear"}):
        accepted = "needs softmax attention in all layers, or linear attention in all layers"
        unfit(experiment, "model.attention", accepted)


def needs_slope(experiment: Any) -> None:
    """Checks that the suites have enough values to fit a slope; raises `Unfit` if not."""
    if experiment.eval.suite_values is not None and experiment.eval.suite_values < 2:
        unfit(experiment, "eval.suite_values", "needs at least 2 values to fit a slope")


def needs_step_a_layer(experiment: Any) -> None:
    """Checks that the reference takes as many steps as the model has layers; raises `Unfit` if not."""
    needs(experiment, **{"reference.steps": None})


FOLDER = "icl_gd.lab.evaluation.analyses"  # one module per analysis, imported only when it is selected


def find(name: str) -> Analysis:
    """The built-in analysis with this name.

    Raises:
      KeyError: if there is no built-in analysis with this name.
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
