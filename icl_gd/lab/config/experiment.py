"""An experiment: a typed value with a task, a model, training settings, a reference, analyses and claims.

    >>> from icl_gd.lab import Experiment, GradientDescent, Network, Regression, Train
    >>> experiment = Experiment(
    ...     task=Regression(d_input=5, n_context=8), model=Network(), train=Train(steps=1000),
    ...     reference=GradientDescent(), seeds=3, analyses=("alignment", "weights"),
    ... )
    >>> experiment.change({"task.n_context": 4}).network.d_token
    6

Every constructor checks its arguments; the constructor of an experiment also checks that its parts are consistent.
"""

import ctypes
import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Annotated, Any

from icl_gd.lab.config import fields as names
from icl_gd.lab.config.claims import Claim
from icl_gd.lab.config.errors import ConfigError, nearest, reject
from icl_gd.lab.config.fields import Field, Path
from icl_gd.lab.config.parts import TASKS, Eval, Train, in_config
from icl_gd.lab.config.questions import Analysis, Reference, Unfit, find, is_recorded, shipped
from icl_gd.lab.config.sweeps import product_of
from icl_gd.models import TransformerConfig
from icl_gd.schema import OneOf, Seed, Size, hints, wanted
from icl_gd.tasks import SHIFTS
from icl_gd.tokens import LAYOUTS
from icl_gd.training import TrainSettings
from icl_gd.types import Layout

ENDINGS = ("_untrapped", "_trapped")  # of the names of metrics over a subset of the members
SWEPT_SECTIONS = ("task", "model", "train")
MOST_COMBINATIONS, MOST_POPULATIONS = 10**5, 10**3
# The values of model fields with which layers are linear attention alone.
LINEAR = {"clip": None, "layer_norm": False, "sum_normalised": False, "d_embed": None, "input_mlp_width": None}
BYTES_PER_FLOAT = {"float32": 4, "float64": 8}


@dataclass(frozen=True)
class Experiment:
    """A population of models to train, its reference, and the analyses and claims about it.

    Attributes:
      task: what prompts are drawn from: `Regression`, `Elementwise`, `Sine`, `Functions`, or your own frozen dataclass
        with `d_input`, `d_output`, `n_context` and `sample(key) -> Prompt`.
      model: the Transformer, `Network` or `GPT2`.
      reference: what the population is compared with, for example `GradientDescent`.
      train: how the population is trained.
      eval: what the population is evaluated on.
      seeds: number of members of the population.
      seed: seed of the first member; member i has seed + i.
      precision: floating-point type, "float32" or "float64".
      analyses: names of built-in analyses; from Python also `Analysis` values.
      claims: statements that the results are compared with, made by `claim`; () for none.
      sweep: values by field, for example `{"task.n_context": (5, 10)}`. Fields in which the members of one population
        may differ (rates, the scale of initial weights, attention modifications) become members of one population; for
        other fields, one population is trained after another.
    """

    task: Any
    model: Any
    reference: Any
    train: Train = dataclasses.field(default_factory=Train)
    eval: Eval = dataclasses.field(default_factory=Eval)
    seeds: Size = 10
    seed: Seed = 0
    precision: Annotated[str, OneOf(tuple(BYTES_PER_FLOAT))] = "float32"
    analyses: Any = ()
    claims: tuple[Claim, ...] = ()
    sweep: Mapping[str, tuple] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for name, hint in hints(Experiment).items():
            if name in ("seeds", "seed", "precision"):
                names.checked(name, Field((name,), hint), getattr(self, name))
        if self.seed + self.seeds > 2**32:
            reject("seeds", self.seeds, f"seed + seeds must stay below 2^32 (seed={self.seed})")
        self._check_parts()
        if not isinstance(self.analyses, str | Analysis | tuple | list):
            reject("analyses", self.analyses, f"must be a tuple of Analysis values or names: {', '.join(shipped())}")
        if not isinstance(self.claims, tuple | list):
            reject("claims", self.claims, "must be a tuple of claims, each made by claim(...)")
        if not isinstance(self.sweep, Mapping) or not all(isinstance(name, str) for name in self.sweep):
            example = "{'task.n_context': (5, 10)}"
            reject("sweep", self.sweep, f"must be a mapping from field to values, for example {example}")
        self._set("analyses", tuple(map(_as_analysis, _as_tuple(self.analyses))))
        self._set("claims", tuple(self.claims))
        self._set("sweep", self._checked_sweep())
        self._check_claims()
        turns = self.in_turn()
        if any(fields for fields, _ in turns):
            return  # the experiment of every turn has checked itself
        self._check_consistency()

    def _set(self, name: str, value: Any) -> None:
        """Sets an attribute of this frozen dataclass."""
        object.__setattr__(self, name, value)

    # --- fields by name ---

    @cached_property
    def fields(self) -> dict[str, Field]:
        """All fields by name, such as `task.n_context`, in order."""
        return names.fields_of(names.classes_of(self))

    def __getitem__(self, name: str) -> Any:
        """The value of a field; the tuple of its values if it is swept over."""
        if name in self.sweep:
            return self.sweep[name]
        if name == "analyses":
            return self.asked
        return names.value_of(self, self.fields[name])

    def get(self, name: str) -> Any:
        """The value of a field; None if there is no such field."""
        return self[name] if name in self.fields else None

    @property
    def asked(self) -> tuple[str, ...]:
        """The names of the analyses."""
        return tuple(analysis.name for analysis in self.analyses)

    @property
    def sweepable(self) -> tuple[str, ...]:
        """The names of the fields that may be swept over."""
        return tuple(name for name, field in self.fields.items() if _is_sweepable(field))

    def change(self, values: Mapping[str, Any], notify: Callable[[str], None] | None = None) -> "Experiment":
        """A copy of the experiment with other values of some fields, all changed at once.

        Args:
          values: new values by name of the field. A tuple in a field that takes one value is swept over. `task.name`
            and `model.style` select another class; fields that both classes have keep their values.
          notify: called with one sentence for every renamed field, and for every value that is dropped because the new
            class has no such field. Default: these are not reported.

        Returns:
          The changed experiment.

        Raises:
          ConfigError: if a field does not exist or does not accept its value, or the parts are inconsistent.
        """
        notify = notify or _ignore
        values = names.with_current_names(values, notify)
        classes: dict[Path, type] = {}
        for name, field in self.fields.items():
            if field.chooses is not None and name in values and not isinstance(values[name], tuple):
                names.checked(name, field, values[name])
                classes[field.path] = field.chooses[values[name]]
        table = names.fields_of(names.classes_of(self, classes))
        edits: dict[Path, Any] = {}
        sweep = {name: swept for name, swept in self.sweep.items() if name not in values and name in table}
        for name, value in values.items():
            if name not in table:
                raise names.unknown(name, table, _elsewhere(self))
            field = table[name]
            if isinstance(value, tuple) and names.takes_one_value(field):
                sweep[name] = value
                self._check_swept(name, field, value)
                value = value[0]
                if field.chooses is not None:
                    classes[field.path] = field.chooses[value]
            if name == "analyses":  # a name may be that of an Analysis value of this experiment
                own = {analysis.name: analysis for analysis in self.analyses}
                value = tuple(own.get(word, word) for word in _as_tuple(value))
            elif name != "claims":
                names.checked(name, field, value)
            if field.chooses is None:
                edits[field.path] = value
        for name in sorted(name for name in self.fields if name not in table):
            if name not in values and self[name] != names.default_of(self, self.fields[name]):
                notify(f"{name}={self[name]} is dropped: the new task or model has no such field")
        return names.rebuilt(self, {**edits, ("sweep",): sweep}, classes)

    def flat(self) -> dict[str, Any]:
        """All fields except claims, by name, as they look after a round trip through JSON.

        Returns:
          Values by name of the field; tuples, and the values of a sweep, are lists.
        """
        values = {name: self[name] for name in self.fields if name != "claims"} | {"analyses": self.asked}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    # --- what the parts are converted to ---

    @cached_property
    def law(self) -> Any:
        """The task for evaluation: the training task, with `eval.n_context` examples per prompt if that is set."""
        task, n = self.law_of_training, self.eval.n_context
        return task if n is None else replace(task, n_context=n)

    @cached_property
    def law_of_training(self) -> Any:
        """The task for training, before prompts or functions are restricted to a pool."""
        return getattr(self.task, "law", self.task)

    @cached_property
    def trained_on(self) -> Any:
        """The task that training draws prompts from: `law_of_training`, or a pool of its prompts or functions."""
        return self.task.trained_on(self.seed) if hasattr(self.task, "trained_on") else self.law_of_training

    @property
    def never_trained(self) -> range:
        """Numbers of examples after which a prediction is evaluated but never trained."""
        n = self.eval.n_context
        return range(0) if n is None else range(self.law_of_training.n_context + 1, n + 1)

    @cached_property
    def network(self) -> TransformerConfig:
        """The Transformer, with positions for the longest prompts, and tuples where members differ in a value."""
        longest = self.law if self.never_trained else self.law_of_training
        return self.model.transformer(longest, **self._swept_of("model"))

    @cached_property
    def settings(self) -> TrainSettings:
        """The training settings, with tuples where members differ in a value."""
        return self.train.settings(self.law_of_training, **self._swept_of("train"))

    @cached_property
    def layout(self) -> Layout:
        """The layout that encodes a prompt as tokens."""
        return LAYOUTS[self.model.layout](self.law.d_input, self.law.d_output)

    def resolved(self) -> list[dict[str, Any]]:
        """The library's task, Transformer and training settings of every population, as JSON values.

        Returns:
          One mapping with the keys "task", "model" and "train" per population, in the order of training.
        """
        resolved = [
            {"task": asdict(one.law_of_training), "model": asdict(one.network), "train": asdict(one.settings)}
            for _, one in self.in_turn()
        ]
        return json.loads(json.dumps(resolved, default=str))

    @property
    def beside_linear(self) -> dict[str, Any]:
        """The fields, with their values, that make the network more than linear attention layers.

        The Gram (second-moment) form is exact if there are none.
        """
        result: dict[str, Any] = {}
        if set(self.model.kinds) != {"linear"}:
            result["model.attention"] = self["model.attention"]
        for name, plain in LINEAR.items():
            value = getattr(self.model, name, plain)
            if value != plain:
                result[f"model.{name}"] = value
        if self.model.name != "von_oswald":
            result["model.style"] = self.model.name
        return result

    def _swept_of(self, section: str) -> dict[str, tuple]:
        """The values in which members differ, by attribute of a section."""
        fields = [(name, self.fields[name]) for name in self.sweep if name.startswith(f"{section}.")]
        return {field.path[-1]: self.sweep[name] for name, field in fields if field.per_member}

    # --- sweeps ---

    def together(self) -> list[dict[str, Any]]:
        """The combinations of values within one population; the last field varies fastest.

        Returns:
          One mapping from field to value per combination; a single empty mapping without such a sweep.
        """
        return product_of({name: values for name, values in self.sweep.items() if self.fields[name].per_member})

    def in_turn(self) -> list[tuple[dict[str, Any], "Experiment"]]:
        """The populations that are trained one after another.

        Returns:
          For each population, the values of the swept fields and its experiment, which has no claims; without such a
          sweep, an empty mapping and this experiment.
        """
        return self._turns

    @cached_property
    def _turns(self) -> list[tuple[dict[str, Any], "Experiment"]]:
        swept = {name: values for name, values in self.sweep.items() if not self.fields[name].per_member}
        if not swept:
            return [({}, self)]
        return [(fields, self.change({**fields, "claims": ()})) for fields in product_of(swept)]

    def _checked_sweep(self) -> dict[str, tuple]:
        """The checked sweep, including fields of parts that hold a tuple of rates, in the order of the members."""
        swept: dict[str, Any] = dict(self.sweep)
        for name, field in self.fields.items():
            if field.per_member and isinstance(value := names.value_of(self, field), tuple):
                swept[name] = value
                part = getattr(self, field.path[0])
                first = {field.path[1:]: value[0] if value else None}
                self._set(field.path[0], names.rebuilt(part, first, {}))
        for name, values in swept.items():
            if name not in self.fields:
                raise names.unknown(name, self.fields, _elsewhere(self))
            self._check_swept(name, self.fields[name], values)
        for per_member, most, what in (
            (True, MOST_COMBINATIONS, "combinations"),
            (False, MOST_POPULATIONS, "populations"),
        ):
            counts = {name: len(values) for name, values in swept.items() if self.fields[name].per_member == per_member}
            if math.prod(counts.values()) > most:
                shown = " x ".join(f"{count} of {name}" for name, count in counts.items())
                raise ConfigError(
                    f"{shown}: {math.prod(counts.values()):,} {what}; at most {most:,} are accepted in one run"
                )
        # The population trainer orders members by training rates first, then by values of the model.
        order = {
            name: (field.per_member, field.per_member and field.path[0] == "model")
            for name, field in self.fields.items()
        }
        return {name: tuple(swept[name]) for name in sorted(order, key=order.__getitem__) if name in swept}

    def _check_swept(self, name: str, field: Field, values: Any) -> None:
        if not _is_sweepable(field):
            reject(name, values, f"takes one value; the fields that can be swept over are {', '.join(self.sweepable)}")
        if not isinstance(values, tuple | list) or not values:
            reject(name, values, "a sweep needs at least one value")
        for i, value in enumerate(values):
            if value is None:
                raise ConfigError(f"{name}=None {wanted(field.hint, value).removesuffix(', or None')}")
            names.checked(name, field, value)
            if value in values[:i]:
                reject(name, tuple(values), "a sweep accepts every value only once")

    # --- whether the parts are consistent ---

    def _check_parts(self) -> None:
        if not isinstance(self.reference, Reference):
            reject("reference", self.reference, "must be a reference of icl_gd.lab, for example GradientDescent()")
        accepted = self.reference.tasks
        if not isinstance(self.task, accepted):
            classes = ", ".join(of.__name__ for of in accepted)
            reject("task", self.task, f"reference={self.reference.name} takes {classes}")
        if missing := [name for name in ("d_input", "d_output", "sample") if not hasattr(self.law_of_training, name)]:
            needed = "a task has d_input, d_output and sample(key) -> Prompt"
            reject("task", self.task, f"lacks {', '.join(missing)}; {needed}")
        if not hasattr(self.task, "__dataclass_fields__"):
            reject("task", self.task, "must be a frozen dataclass, whose fields become those of the command line")
        if not hasattr(self.model, "transformer"):
            reject("model", self.model, "must be Network(...) or GPT2(...)")
        for name, of in (("train", Train), ("eval", Eval)):
            if not isinstance(getattr(self, name), of):
                reject(name, getattr(self, name), f"must be {of.__name__}(...)")

    def _check_claims(self) -> None:
        for claim in self.claims:
            if not isinstance(claim, Claim):
                raise ConfigError(f"claims: {claim!r} is not a claim; make claims with claim(...)")
        ids = [claim.id for claim in self.claims]
        if twice := [name for name in ids if ids.count(name) > 1]:
            raise ConfigError(f"claims: two claims have the id {twice[0]}; give every claim its own id")
        for claim in self.claims:
            if not self.is_measured(claim.measured):
                measuring = ", ".join((self.reference.name, *self.asked))
                raise ConfigError(
                    f"claims: {claim.id} is about {claim.metric}, which is not measured by {measuring}; correct its "
                    "metric, or run without claims: --config.claims=()"
                )

    def is_measured(self, name: str) -> bool:
        """Whether the results of this experiment may have a metric or curve of this name."""
        patterns = [*self.reference.records, *("seeds_trapped", "seeds_diverged", "steps_skipped")]
        for analysis in self.analyses:
            patterns += analysis.records
        metric = name
        for ending in ("_by_step", *(f"_by_{field.split('.')[-1]}" for field in self.sweep)):
            metric = metric.removesuffix(ending)
        names = {name, *(metric.removesuffix(ending) for ending in ("", *ENDINGS))}
        return any(is_recorded(one, tuple(patterns)) for one in names)

    def _check_consistency(self) -> None:
        """Checks the parts of a single population against each other."""
        model, train = self.model, self.train
        self._check_length()
        self._build("task", lambda: (self.law, self.trained_on))
        self._check_layout()
        self._build("model", lambda: self.network)
        self.reference.check(self)
        for name, (stage, end) in train.ramps(self.law_of_training).items():
            most = "task.d_input" if name == "active_inputs" else "task.n_context + 1"
            if model.name != "gpt2":
                reject(f"train.{name}", tuple(stage), "a curriculum needs model.style=gpt2; give () for none")
            if stage[0] > end:
                reject(f"train.{name}", stage, f"must start with at most {most}={end}, or be () for no curriculum")
        if train.form == "gram" and self.beside_linear:
            shown = ", ".join(f"{name}={value}" for name, value in self.beside_linear.items())
            reject("train.form", "gram", f"is exact only for linear attention, not for {shown}; give auto or tokens")
        if train.form == "query" and (self.network.n_layers > 1 or model.name == "gpt2"):
            accepted = "give model.n_layers=1 and model.style=von_oswald, or train.form=auto"
            reject("train.form", "query", f"is exact only for a single attention layer; {accepted}")
        modified = [f"model.{name}" for name in self.network.modification.there]
        if modified and self["train.weight_decay"] != 0.0:
            reject(
                "train.weight_decay",
                self["train.weight_decay"],
                f"would also shrink the fixed strengths {', '.join(modified)}; only 0 is accepted with these",
            )
        self._check_rounded()
        self._check_analyses()

    def _build(self, section: str, build: Callable[[], Any]) -> None:
        """Builds what a part is converted to; adds the section to the messages of the library's errors."""
        try:
            build()
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"{section}.{error}") from error

    def _check_length(self) -> None:
        """Checks that evaluation prompts can be of another length than training prompts, if `eval.n_context` is set."""
        n = self.eval.n_context
        if n is None:
            return
        if self.reference.on_prefixes:
            task = self.law_of_training
            if not is_dataclass(task) or "n_context" not in [each.name for each in fields(task)]:
                reject("eval.n_context", n, "the task has no field n_context to change; only None is accepted")
            return
        factors = ", ".join(f"{factor:g}" for factor in SHIFTS["context_length"].values)
        try:
            find("shifts").check(self)
            instead = f"analyses=shifts evaluates {factors} times task.n_context={self['task.n_context']} examples"
        except Unfit:
            instead = "the predictors of icl_gd.load(workdir) take contexts of any length"
        reject(
            "eval.n_context",
            n,
            f"reference.name={self.reference.name} has one query per prompt, so only None is accepted; {instead}",
        )

    def _check_layout(self) -> None:
        law, model = self.law, self.model
        if model.layout == "interleaved" and law.d_output > (most := min(law.d_input, D_POSITIONS)):
            reject(
                "task.d_output",
                law.d_output,
                f"must be at most {most}, the smaller of task.d_input and {D_POSITIONS}, with model.layout=interleaved "
                "(y is stored in the slot of x and read from the slot of the position); model.layout=concatenated "
                "accepts any",
            )

    def _check_rounded(self) -> None:
        """Checks values per member after rounding to float32, where 0.99999999 is 1 and 1e-50 is 0.

        They are stored in arrays with the precision of the run.
        """
        if self.precision != "float32":
            return
        for name, field in self.fields.items():
            if not field.per_member:
                continue
            for value in self[name] if isinstance(self[name], tuple) else (self[name],):
                rounded = None if value is None else ctypes.c_float(value).value
                try:
                    names.checked(name, field, rounded)
                except ConfigError as error:
                    raise ConfigError(f"{name}={value} is {rounded} in float32, and {error}") from error

    def _check_analyses(self) -> None:
        """Checks that the analyses apply; one error names all analyses that fail because of the same field."""
        if twice := [name for name in self.asked if self.asked.count(name) > 1]:
            reject("analyses", twice[0], "is given twice; every analysis is accepted once")
        against: dict[str, Unfit] = {}
        for analysis in self.analyses:
            try:
                analysis.check(self)
            except Unfit as error:
                against[analysis.name] = error
        if against:
            first = next(iter(against.values()))
            same = [name for name, error in against.items() if error.field == first.field]
            left = tuple(name for name in self.asked if name not in against)
            reject(
                first.field,
                first.value,
                f"contradicts analyses={','.join(same)}, which {first.accepted}; change the field, or remove these "
                f"analyses: --config.analyses={left}",
            )


D_POSITIONS = 10  # width of the position code in interleaved tokens


def _ignore(message: str) -> None:
    """Drops a message."""


def _is_sweepable(field: Field) -> bool:
    return field.path[0] in SWEPT_SECTIONS and not field.is_free and names.takes_one_value(field)


def _as_tuple(analyses: Any) -> tuple:
    return (analyses,) if isinstance(analyses, str | Analysis) else tuple(analyses)


def _as_analysis(given: Any) -> Analysis:
    """The built-in analysis with a name; an `Analysis` value is returned as it is."""
    if isinstance(given, Analysis):
        if given.name in shipped() and given is not find(given.name):
            reject("analyses", given.name, "is the name of a built-in analysis; give yours another name")
        return given
    try:
        return find(given)
    except KeyError as error:
        raise ConfigError(f"analyses={given}: {nearest(str(given), shipped())}") from error


def _elsewhere(experiment: Experiment) -> dict[str, list[str]]:
    """The fields that an experiment lacks but would have with another task or model, with the names of these."""
    others: list[tuple[dict[Path, type], str]] = []
    for name, field in experiment.fields.items():
        others += [({field.path: of}, f"{name}={word}") for word, of in (field.chooses or {}).items()]
    for task in TASKS:
        others.append(({("task",): task}, f"task={task.__name__}(...)"))
        for attribute, union in in_config(task).unions.items():
            for word, of in union.items():
                others.append(({("task",): task, ("task", attribute): of}, f"task={task.__name__}({word}, ...)"))
    owners: dict[str, list[str]] = {}
    for changed, owner in others:
        for name in names.fields_of(names.classes_of(experiment, changed)):
            if name in experiment.fields:
                continue
            listed = owners.setdefault(name, [])
            # `task=Functions(sparse, ...)` adds nothing to `task=Functions(...)`.
            if not any(owner.startswith(each.removesuffix("...)")) for each in listed):
                listed.append(owner)
    return owners
