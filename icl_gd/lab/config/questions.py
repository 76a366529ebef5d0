"""What analyses and references are, each of them one file: a question with its figures, and what is compared with.

    def measure(study, found):
        found.add("weight_norm", jax.vmap(optax.global_norm)(study.trained.params))

    ANALYSIS = Analysis("weight_norm", measure, records=("weight_norm",))

An analysis that ships is a module of `lab.evaluation.analyses`, found by its name; one of your own is passed to
`Experiment(analyses=...)` as it is.
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
    """A metric that tells a population that *is* what it is compared with from one that is untrained.

    It is within the bound for every member of the first, and beyond it for every member of the second.
    """

    metric: str
    at_most: float | None = None
    at_least: float | None = None

    def holds(self, value: float) -> bool:
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)


@dataclass(frozen=True)
class Picture:
    """A figure of a report, drawn from results.json alone.

    Attributes:
      name: of its file, after the number that says where it stands.
      needs: names of curves, arrays or metrics, without which there is nothing to draw.
      draw: from the content of results.json to a Matplotlib figure, made by `icl_gd.plots.subplots`.
      caption: what it shows, in sentences that stand alone.
      place: figures of a report are in this order, and by name where it is equal.
      remarks: sentences that join the caption where the results have an array of that name; `{}` is its value.
    """

    name: str
    needs: tuple[str, ...]
    draw: Callable[[Done], Any]
    caption: str
    place: int = 1000
    remarks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Analysis:
    """A question asked of a trained population.

    Attributes:
      name: by which configs name it.
      measure: adds its records of a study to what was found, `measure(study, found)`.
      records: names of the metrics and curves that it may add, `*` for any part of a name; a claim about another name
        is refused before training.
      check: raises `Unfit` by `needs` if the question cannot be asked of an experiment.
      watch: `watch(setting) -> (one member's parameters -> metrics)`: what is measured during training too.
      figures: what is drawn of its records.
      evidence: what it says of a population that is what it is compared with, and not of an untrained one.
      identities: metrics that are zero whatever the weights, by the most that rounding makes of them.
    """

    name: str
    measure: Callable[[Any, Any], None]
    records: tuple[str, ...] = ()
    check: Callable[[Any], None] = lambda experiment: None
    watch: Callable[[Any], Callable[[Any], dict[str, Any]]] | None = None
    figures: tuple[Picture, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    identities: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.name


class Reference:
    """What a population is compared with; see `lab.evaluation.references`, where those are that ship.

    Attributes:
      name: of the kind.
      tasks: classes that the task may be of.
      records: names of the metrics and curves that it may add to results, as in `Analysis`.
      on_prefixes: whether prompts are problems at every length.
    """

    name: ClassVar[str]
    tasks: ClassVar[tuple[type, ...]] = (object,)
    records: ClassVar[tuple[str, ...]] = ()
    on_prefixes: ClassVar[bool] = False

    def check(self, experiment: Any) -> None:
        """Raises `ConfigError` if it is no reference of such an experiment."""

    def check_here(self) -> None:
        """Raises `ConfigError` if this machine lacks what it needs."""

    def prepare(self, setting: Any) -> Any:
        """What a population is compared with, computed or trained; see `lab.evaluation.measured.Setting`."""
        raise NotImplementedError


class Unfit(Exception):
    """A question that cannot be asked of an experiment: the field against it, its value, and what would do."""

    def __init__(self, field: str, value: Any, accepted: str):
        super().__init__(f"{field}={value}: {accepted}")
        self.field, self.value, self.accepted = field, value, accepted


def unfit(experiment: Any, field: str, accepted: str) -> NoReturn:
    """Refuses an experiment for the value that one of its fields has."""
    raise Unfit(field, experiment[field], accepted)


def needs(experiment: Any, **wanted: Any) -> None:
    """Refuses an experiment one of whose fields has another value: `needs(experiment, **{"model.n_layers": 1})`.

    A field that the experiment does not have is refused too.
    """
    for name, value in wanted.items():
        if experiment.get(name) != value:
            raise Unfit(name, experiment.get(name), f"needs {value}")


def needs_one_layer(experiment: Any) -> None:
    """One layer, beside one step."""
    needs(experiment, **{"model.n_layers": 1})
    if experiment.get("reference.steps") not in (None, 1):
        unfit(experiment, "reference.steps", "needs one step, as of the one layer")


def needs_linear_layers(experiment: Any) -> None:
    """Linear layers on tokens (x, y) and nothing beside them, so that circuits are all there is to know."""
    for name, value in experiment.beside_linear.items():
        raise Unfit(name, value, "needs linear attention and nothing beside it")
    needs(experiment, **{"model.layout": "concatenated"})


def needs_step_a_layer(experiment: Any) -> None:
    """As many steps of the reference as layers."""
    needs(experiment, **{"reference.steps": None})


FOLDER = "icl_gd.lab.evaluation.analyses"  # a module each; found by name, so that only those asked for are imported


def find(name: str) -> Analysis:
    """The analysis that ships under a name.

    Raises:
      KeyError: if there is none.
    """
    if name not in shipped():
        raise KeyError(name)
    return importlib.import_module(f"{FOLDER}.{name}").ANALYSIS


@cache
def shipped() -> tuple[str, ...]:
    """The names of the analyses that ship."""
    folder = Path(__file__).parents[1].joinpath(*FOLDER.split(".")[2:])
    return tuple(sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")))


def is_recorded(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a metric or curve is one of those that are named."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
