"""An experiment: a typed value with a task, a model, training settings, a reference, analyses and claims.

    >>> from icl_gd.lab import Experiment, GradientDescent, Network, Regression, Train
    >>> experiment = Experiment(
    ...     task=Regression(d_input=5, n_context=8), model=Network(), train=Train(steps=1000),
    ...     reference=GradientDescent(), seeds=3, analyses=("alignment", "weights"),
    ... )
    >>> experiment.change({"task.n_context": 4}).network.d_token
    6

Every constructor checks its arguments. `Experiment` also checks that its parts are consistent with each other.
"""

import ctypes
import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Annotated, Any

from icl_gd.lab.config import fields as config_fields
from icl_gd.lab.config.claims import Claim
from icl_gd.lab.config.errors import ConfigError, nearest, reject
from icl_gd.lab.config.fields import Field, Path
from icl_gd.lab.config.parts import MODIFICATION, TASKS, Eval, Train, in_config, with_config_names
from icl_gd.lab.config.questions import Analysis, Reference, Unfit, find, is_recorded, shipped
from icl_gd.lab.config.sweeps import product_of
from icl_gd.models import TransformerConfig
from icl_gd.schema import OneOf, Seed, Size, hints, requirement
from icl_gd.tasks import SHIFTS
from icl_gd.tokens import D_POSITIONS, LAYOUTS
from icl_gd.training import TrainSettings
from icl_gd.types import Layout

ENDINGS = ("_untrapped", "_trapped")  # suffixes of metrics that are means over some of the members
SWEPT_SECTIONS = ("task", "model", "train")
MOST_COMBINATIONS, MOST_POPULATIONS = 10**5, 10**3  # limits for one run
# Values of model fields with which a layer is linear attention without extra components.
LINEAR = {"clip": None, "layer_norm": False, "sum_normalised": False, "d_embed": None, "input_mlp_width": None}
BYTES_PER_FLOAT = {"float32": 4, "float64": 8}


@dataclass(frozen=True)
class Experiment:
    """A population of models to train, the reference that it is compared with, its analyses and its claims.

    Attributes:
      task: the distribution of prompts: `Regression`, `Elementwise`, `Sine`, `Functions`, or your own frozen dataclass
        with `d_input`, `d_output`, `n_context` and `sample(key) -> Prompt`.
      model: the Transformer: `Network` or `GPT2`.
      reference: the learners that the population is compared with, for example `GradientDescent`.
      train: settings of the training.
      eval: settings of the evaluation.
      seeds: number of members per combination of swept values.
      seed: seed of the first member; member i of a combination has the seed `seed + i`.
      precision: floating-point type, "float32" or "float64".
      analyses: names of built-in analyses; from Python also `Analysis` values.
      claims: statements about metrics, made by `claim`, which the run tests; () for none.
      sweep: the swept values of each field, for example `{"task.n_context": (5, 10)}`. Values of a rate, of the scale
        of initial weights or of an attention modification become members of one population. Each value of any other
        field becomes a separate population. Populations are trained in sequence.
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
                config_fields.checked(name, Field((name,), hint), getattr(self, name))
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
        if any(swept for swept, _ in self.populations()):
            return  # every population has its own experiment, whose constructor has checked it
        self._check_consistency()

    def _set(self, name: str, value: Any) -> None:
        """Sets an attribute of this frozen dataclass."""
        object.__setattr__(self, name, value)

    # --- fields by name ---

    @cached_property
    def fields(self) -> dict[str, Field]:
        """All fields by dotted name, such as `task.n_context`, in the order of their definition."""
        return config_fields.fields_of(config_fields.classes_of(self))

    def __getitem__(self, name: str) -> Any:
        """The value of a field. If the experiment sweeps over the field, the tuple of its values."""
        if name in self.sweep:
            return self.sweep[name]
        if name == "analyses":
            return self.analysis_names
        return config_fields.value_of(self, self.fields[name])

    def get(self, name: str) -> Any:
        """The value of a field; None if there is no such field."""
        return self[name] if name in self.fields else None

    @property
    def analysis_names(self) -> tuple[str, ...]:
        """The names of the analyses."""
        return tuple(analysis.name for analysis in self.analyses)

    @property
    def sweepable(self) -> tuple[str, ...]:
        """The names of the fields that may be swept over."""
        return tuple(name for name, field in self.fields.items() if _is_sweepable(field))

    def change(self, values: Mapping[str, Any], notify: Callable[[str], None] | None = None) -> "Experiment":
        """A copy of the experiment with new values of some fields. Consistency is checked after all changes.

        Args:
          values: new values by field name. If a field takes one value, a tuple is a sweep over its items. `task.name`
            and `model.style` select another class; fields that the old and the new class share keep their values.
          notify: called with one sentence for every renamed field, and for every value that is dropped because the new
            class has no such field. Default: nothing is reported.

        Returns:
          The changed experiment.

        Raises:
          ConfigError: if a field does not exist or does not accept its value, or the parts are inconsistent.
        """
        notify = notify or _ignore
        values = config_fields.with_current_names(values, notify)
        classes: dict[Path, type] = {}
        for name, field in self.fields.items():
            if field.chooses is not None and name in values and not isinstance(values[name], tuple):
                config_fields.checked(name, field, values[name])
                classes[field.path] = field.chooses[values[name]]
        table = config_fields.fields_of(config_fields.classes_of(self, classes))
        edits: dict[Path, Any] = {}
        sweep = {name: swept for name, swept in self.sweep.items() if name not in values and name in table}
        for name, value in values.items():
            if name not in table:
                raise config_fields.unknown(name, table, _elsewhere(self))
            field = table[name]
            if isinstance(value, tuple) and config_fields.takes_one_value(field):
                sweep[name] = value
                self._check_swept(name, field, value)
                value = value[0]
                if field.chooses is not None:
                    classes[field.path] = field.chooses[value]
            if name == "analyses":  # a name may refer to an Analysis value that this experiment already has
                current = {analysis.name: analysis for analysis in self.analyses}
                value = tuple(current.get(word, word) for word in _as_tuple(value))
            elif name != "claims":
                config_fields.checked(name, field, value)
            if field.chooses is None:
                edits[field.path] = value
        for name in sorted(name for name in self.fields if name not in table):
            if name not in values and self[name] != config_fields.default_of(self, self.fields[name]):
                notify(f"{name}={self[name]} is dropped: the new task or model has no such field")
        return config_fields.rebuilt(self, {**edits, ("sweep",): sweep}, classes)

    def flat(self) -> dict[str, Any]:
        """All fields except claims, by name, as JSON stores them.

        Returns:
          Values by field name. Tuples become lists. The values of a swept field are a list, too.
        """
        values = {name: self[name] for name in self.fields if name != "claims"} | {"analyses": self.analysis_names}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    # --- conversion to the types of the library ---

    @cached_property
    def eval_task(self) -> Any:
        """The task for evaluation: the training task, with `eval.n_context` examples per prompt if that is set."""
        task, n = self.train_task, self.eval.n_context
        return task if n is None else replace(task, n_context=n)

    @cached_property
    def train_task(self) -> Any:
        """The task for training, before prompts or functions are restricted to a pool."""
        return getattr(self.task, "library_task", self.task)

    @cached_property
    def training_source(self) -> Any:
        """The task that training draws prompts from: `train_task`, or a pool of its prompts or functions."""
        return self.task.training_source(self.seed) if hasattr(self.task, "training_source") else self.train_task

    @property
    def never_trained(self) -> range:
        """The context lengths whose predictions are evaluated but not trained. Empty if `eval.n_context` is None."""
        n = self.eval.n_context
        return range(0) if n is None else range(self.train_task.n_context + 1, n + 1)

    @cached_property
    def network(self) -> TransformerConfig:
        """The Transformer's config, with positions for the longest prompts. Values that differ by member are tuples."""
        longest = self.eval_task if self.never_trained else self.train_task
        return self.model.transformer(longest, **self._swept_of("model"))

    @cached_property
    def settings(self) -> TrainSettings:
        """The training settings. Values that differ by member are tuples."""
        return self.train.settings(self.train_task, **self._swept_of("train"))

    @cached_property
    def layout(self) -> Layout:
        """The layout that encodes a prompt as tokens."""
        return LAYOUTS[self.model.layout](self.eval_task.d_input, self.eval_task.d_output)

    def resolved(self) -> list[dict[str, Any]]:
        """The library's task, Transformer and training settings of every population, as JSON values.

        Returns:
          One mapping with the keys "task", "model" and "train" per population, in the order of training.
        """
        resolved = [
            {"task": asdict(one.train_task), "model": asdict(one.network), "train": asdict(one.settings)}
            for _, one in self.populations()
        ]
        return json.loads(json.dumps(resolved, default=str))

    @property
    def beyond_linear(self) -> dict[str, Any]:
        """The fields, with their values, that make the network more than a stack of linear attention layers.

        If there are no such fields, the Gram (second-moment) form is exact.
        """
        result: dict[str, Any] = {}
        if set(self.model.kinds) != {"linear"}:
            result["model.attention"] = self["model.attention"]
        for name, linear_value in LINEAR.items():
            value = getattr(self.model, name, linear_value)
            if value != linear_value:
                result[f"model.{name}"] = value
        if self.model.name != "von_oswald":
            result["model.style"] = self.model.name
        return result

    def _swept_of(self, section: str) -> dict[str, tuple]:
        """The swept values of a section that differ by member, by attribute name."""
        fields = [(name, self.fields[name]) for name in self.sweep if name.startswith(f"{section}.")]
        return {field.path[-1]: self.sweep[name] for name, field in fields if field.per_member}

    # --- sweeps ---

    def combinations(self) -> list[dict[str, Any]]:
        """The combinations of swept values within one population; the last field varies fastest.

        Returns:
          One mapping from field to value per combination. Without a sweep over members, one empty mapping.
        """
        return product_of({name: values for name, values in self.sweep.items() if self.fields[name].per_member})

    def populations(self) -> list[tuple[dict[str, Any], "Experiment"]]:
        """The populations that are trained in sequence.

        Returns:
          (values of the swept fields, experiment without claims) for each population. If all swept fields differ by
          member, or there is no sweep: one population, with an empty mapping and this experiment.
        """
        return self._populations

    @cached_property
    def _populations(self) -> list[tuple[dict[str, Any], "Experiment"]]:
        swept = {name: values for name, values in self.sweep.items() if not self.fields[name].per_member}
        if not swept:
            return [({}, self)]
        return [(fields, self.change({**fields, "claims": ()})) for fields in product_of(swept)]

    def _checked_sweep(self) -> dict[str, tuple]:
        """The checked sweep, in the order of the members.

        A tuple with one value per member, such as `Train(learning_rate=(1e-3, 3e-3))`, becomes a sweep. The part keeps
        the first value.
        """
        swept: dict[str, Any] = dict(self.sweep)
        for name, field in self.fields.items():
            if field.per_member and isinstance(value := config_fields.value_of(self, field), tuple):
                swept[name] = value
                part = getattr(self, field.path[0])
                first = {field.path[1:]: value[0] if value else None}
                self._set(field.path[0], config_fields.rebuilt(part, first, {}))
        for name, values in swept.items():
            if name not in self.fields:
                raise config_fields.unknown(name, self.fields, _elsewhere(self))
            self._check_swept(name, self.fields[name], values)
        for per_member, limit, noun in (
            (True, MOST_COMBINATIONS, "combinations"),
            (False, MOST_POPULATIONS, "populations"),
        ):
            counts = {name: len(values) for name, values in swept.items() if self.fields[name].per_member == per_member}
            if math.prod(counts.values()) > limit:
                shown = " x ".join(f"{count} of {name}" for name, count in counts.items())
                raise ConfigError(
                    f"{shown}: {math.prod(counts.values()):,} {noun}; at most {limit:,} are accepted in one run"
                )
        # Fields of separate populations come first. Within a population, the trainer orders members by training rates,
        # then by model values.
        sort_key = {
            name: (field.per_member, field.per_member and field.path[0] == "model")
            for name, field in self.fields.items()
        }
        return {name: tuple(swept[name]) for name in sorted(sort_key, key=sort_key.__getitem__) if name in swept}

    def _check_swept(self, name: str, field: Field, values: Any) -> None:
        """Checks that a field can be swept over, and accepts every value."""
        if not _is_sweepable(field):
            reject(name, values, f"takes one value; the fields that can be swept over are {', '.join(self.sweepable)}")
        if not isinstance(values, tuple | list) or not values:
            reject(name, values, "a sweep needs at least one value")
        for i, value in enumerate(values):
            if value is None:
                raise ConfigError(f"{name}=None {requirement(field.hint, value).removesuffix(', or None')}")
            config_fields.checked(name, field, value)
            if value in values[:i]:
                reject(name, tuple(values), "a sweep accepts every value only once")

    # --- consistency checks ---

    def _check_parts(self) -> None:
        """Checks the classes of the parts, and that the task has the attributes of a task."""
        if not isinstance(self.reference, Reference):
            reject("reference", self.reference, "must be a reference of icl_gd.lab, for example GradientDescent()")
        accepted = self.reference.tasks
        if not isinstance(self.task, accepted):
            classes = ", ".join(task_class.__name__ for task_class in accepted)
            reject("task", self.task, f"reference={self.reference.name} accepts {classes}")
        if missing := [name for name in ("d_input", "d_output", "sample") if not hasattr(self.train_task, name)]:
            needed = "a task has d_input, d_output and sample(key) -> Prompt"
            reject("task", self.task, f"lacks {', '.join(missing)}; {needed}")
        if not hasattr(self.task, "__dataclass_fields__"):
            reject("task", self.task, "must be a frozen dataclass; its attributes become fields of the command line")
        if not hasattr(self.model, "transformer"):
            reject("model", self.model, "must be Network(...) or GPT2(...)")
        for name, part_class in (("train", Train), ("eval", Eval)):
            if not isinstance(getattr(self, name), part_class):
                reject(name, getattr(self, name), f"must be {part_class.__name__}(...)")

    def _check_claims(self) -> None:
        """Checks that ids of claims are unique, and that every claim is about a metric that the run measures."""
        for claim in self.claims:
            if not isinstance(claim, Claim):
                raise ConfigError(f"claims: {claim!r} is not a claim; make claims with claim(...)")
        ids = [claim.id for claim in self.claims]
        if repeated := [name for name in ids if ids.count(name) > 1]:
            raise ConfigError(f"claims: two claims have the id {repeated[0]}; give every claim its own id")
        for claim in self.claims:
            if not self.is_measured(claim.measured):
                measuring = ", ".join((self.reference.name, *self.analysis_names))
                raise ConfigError(
                    f"claims: {claim.id} is about {claim.metric}, which is not measured by {measuring}; correct its "
                    "metric, or run without claims: --config.claims=()"
                )

    def is_measured(self, name: str) -> bool:
        """Whether the results of this experiment may contain a metric or curve with this name."""
        patterns = [*self.reference.records, *("seeds_trapped", "seeds_diverged", "steps_skipped")]
        for analysis in self.analyses:
            patterns += analysis.records
        metric = name
        for ending in ("_by_step", *(f"_by_{field.split('.')[-1]}" for field in self.sweep)):
            metric = metric.removesuffix(ending)
        candidates = {name, *(metric.removesuffix(ending) for ending in ("", *ENDINGS))}
        return any(is_recorded(candidate, tuple(patterns)) for candidate in candidates)

    def _check_consistency(self) -> None:
        """Checks that the parts of a single population are consistent with each other."""
        model, train = self.model, self.train
        self._check_length()
        self._build("task", lambda: (self.eval_task, self.training_source))
        self._check_layout()
        self._build("model", lambda: self.network)
        self.reference.check(self)
        for name, (stage, end) in train.ramps(self.train_task).items():
            end_name = "task.d_input" if name == "active_inputs" else "task.n_context + 1"
            if model.name != "gpt2":
                reject(f"train.{name}", tuple(stage), "a curriculum needs model.style=gpt2; give () for none")
            if stage[0] > end:
                reject(f"train.{name}", stage, f"must start with at most {end_name}={end}, or be () for no curriculum")
        if train.form == "gram" and self.beyond_linear:
            shown = ", ".join(f"{name}={value}" for name, value in self.beyond_linear.items())
            reject("train.form", "gram", f"is exact only for linear attention, not for {shown}; give auto or tokens")
        if train.form == "query" and (self.network.n_layers > 1 or model.name == "gpt2"):
            accepted = "give model.n_layers=1 and model.style=von_oswald, or train.form=auto"
            reject("train.form", "query", f"is exact only for a single attention layer; {accepted}")
        modified = [f"model.{MODIFICATION.get(name, name)}" for name in self.network.modification.enabled]
        if modified and self["train.weight_decay"] != 0.0:
            reject(
                "train.weight_decay",
                self["train.weight_decay"],
                f"would also shrink the fixed strengths {', '.join(modified)}; only 0 is accepted with these",
            )
        self._check_rounded()
        self._check_analyses()

    def _build(self, section: str, build: Callable[[], Any]) -> None:
        """Calls `build`, and adds the name of the section to error messages of the library."""
        try:
            build()
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(with_config_names(f"{section}.{error}")) from error

    def _check_length(self) -> None:
        """If `eval.n_context` is set, checks that evaluation prompts may have another length than training prompts."""
        n = self.eval.n_context
        if n is None:
            return
        if self.reference.on_prefixes:
            task = self.train_task
            if not is_dataclass(task) or "n_context" not in [field.name for field in fields(task)]:
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
        """Checks that the slots of interleaved tokens are wide enough for y."""
        task, model = self.eval_task, self.model
        if model.layout == "interleaved" and task.d_output > (most := min(task.d_input, D_POSITIONS)):
            reject(
                "task.d_output",
                task.d_output,
                f"must be at most {most}, the smaller of task.d_input and {D_POSITIONS}, with model.layout=interleaved "
                "(y is stored in the slot of x and read from the slot of the position); model.layout=concatenated "
                "accepts any",
            )

    def _check_rounded(self) -> None:
        """Checks values that differ by member after rounding to float32: 0.99999999 becomes 1, and 1e-50 becomes 0.

        These values are stored in arrays with the precision of the run.
        """
        if self.precision != "float32":
            return
        for name, field in self.fields.items():
            if not field.per_member:
                continue
            for value in self[name] if isinstance(self[name], tuple) else (self[name],):
                rounded = None if value is None else ctypes.c_float(value).value
                try:
                    config_fields.checked(name, field, rounded)
                except ConfigError as error:
                    raise ConfigError(f"{name}={value} is {rounded} in float32, and {error}") from error

    def _check_analyses(self) -> None:
        """Checks that every analysis applies. One error names all analyses that the same field rules out."""
        if repeated := [name for name in self.analysis_names if self.analysis_names.count(name) > 1]:
            reject("analyses", repeated[0], "is given twice; every analysis is accepted once")
        unfit: dict[str, Unfit] = {}
        for analysis in self.analyses:
            try:
                analysis.check(self)
            except Unfit as error:
                unfit[analysis.name] = error
        if unfit:
            first = next(iter(unfit.values()))
            same_field = [name for name, error in unfit.items() if error.field == first.field]
            remaining = tuple(name for name in self.analysis_names if name not in unfit)
            reject(
                first.field,
                first.value,
                f"contradicts analyses={','.join(same_field)}, which {first.accepted}; change the field, or remove "
                f"these analyses: --config.analyses={remaining}",
            )


def _ignore(message: str) -> None:
    """The default of `notify`: drops the message."""


def _is_sweepable(field: Field) -> bool:
    return field.path[0] in SWEPT_SECTIONS and not field.is_free and config_fields.takes_one_value(field)


def _as_tuple(analyses: Any) -> tuple:
    return (analyses,) if isinstance(analyses, str | Analysis) else tuple(analyses)


def _as_analysis(value: Any) -> Analysis:
    """An `Analysis` value unchanged, or the built-in analysis with a name."""
    if isinstance(value, Analysis):
        if value.name in shipped() and value is not find(value.name):
            reject("analyses", value.name, "is the name of a built-in analysis; give yours another name")
        return value
    try:
        return find(value)
    except KeyError as error:
        raise ConfigError(f"analyses={value}: {nearest(str(value), shipped())}") from error


def _elsewhere(experiment: Experiment) -> dict[str, list[str]]:
    """Fields that the experiment lacks but would have with another task or model, with the names of these owners."""
    alternatives: list[tuple[dict[Path, type], str]] = []
    for name, field in experiment.fields.items():
        for word, part_class in (field.chooses or {}).items():
            alternatives.append(({field.path: part_class}, f"{name}={word}"))
    for task in TASKS:
        alternatives.append(({("task",): task}, f"task={task.__name__}(...)"))
        for attribute, union in in_config(task).unions.items():
            for word, part_class in union.items():
                changed = {("task",): task, ("task", attribute): part_class}
                alternatives.append((changed, f"task={task.__name__}({word}, ...)"))
    owners: dict[str, list[str]] = {}
    for changed, owner in alternatives:
        for name in config_fields.fields_of(config_fields.classes_of(experiment, changed)):
            if name in experiment.fields:
                continue
            listed = owners.setdefault(name, [])
            # `task=Functions(sparse, ...)` is left out if `task=Functions(...)` is listed.
            if not any(owner.startswith(each.removesuffix("...)")) for each in listed):
                listed.append(owner)
    return owners
