"""An experiment: a typed value that says what is trained, on what, beside what, and what is asked and claimed of it.

    >>> from icl_gd.lab import Experiment, GradientDescent, Network, Regression, Train
    >>> experiment = Experiment(
    ...     task=Regression(d_input=5, n_context=8), model=Network(), train=Train(steps=1000),
    ...     reference=GradientDescent(), seeds=3, analyses=("alignment", "weights"),
    ... )
    >>> experiment.change({"task.n_context": 4}).network.d_token
    6

Every constructor checks what it is given; an experiment also checks that its parts agree.
"""

import ctypes
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
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

ENDINGS = ("_untrapped", "_trapped")  # of metrics over some members
SWEPT_SECTIONS = ("task", "model", "train")
MOST_COMBINATIONS, MOST_POPULATIONS = 10**5, 10**3
LINEAR = {"clip": None, "layer_norm": False, "normalised": False, "d_embed": None, "input_mlp_width": None}
BYTES_PER_FLOAT = {"float32": 4, "float64": 8}


@dataclass(frozen=True)
class Experiment:
    """What is trained, on what, beside what, and what is asked and claimed of it.

    Attributes:
      task: what prompts are drawn from: one of `lab.config.parts`, or a frozen dataclass of one's own with `d_input`,
        `d_output`, `n_context` and `sample(key) -> Prompt`.
      model: the Transformer, `Network` or `GPT2`.
      train, eval: how it is trained, and what it is measured on.
      reference: what the population is compared with, one of `lab.evaluation.references`.
      seeds: members of the population.
      seed: the seed of the first member.
      precision: "float32" or "float64".
      analyses: questions, by the names of those that ship, or `Analysis` values of one's own.
      claims: made by `claim`.
      sweep: field -> values, as `{"task.n_context": (5, 10)}`. What members of a population may differ in (rates, the
        scale of initial weights, modifications of attention) is an axis of one program; other fields are swept over by
        one population after another.
    """

    task: Any
    model: Any
    reference: Any
    train: Train = field(default_factory=Train)
    eval: Eval = field(default_factory=Eval)
    seeds: Size = 10
    seed: Seed = 0
    precision: Annotated[str, OneOf(tuple(BYTES_PER_FLOAT))] = "float32"
    analyses: Any = ()
    claims: tuple[Claim, ...] = ()
    sweep: Mapping[str, tuple] = field(default_factory=dict)

    def __post_init__(self):
        for name, hint in hints(Experiment).items():
            if name in ("seeds", "seed", "precision"):
                names.checked(name, Field((name,), hint), getattr(self, name))
        if self.seed + self.seeds > 2**32:
            reject("seeds", self.seeds, f"seed + seeds must stay below 2^32 (seed={self.seed})")
        self._check_parts()
        if not isinstance(self.analyses, str | Analysis | tuple | list):
            reject("analyses", self.analyses, f"must be a tuple of Analysis values or of names: {', '.join(shipped())}")
        if not isinstance(self.claims, tuple | list):
            reject("claims", self.claims, "must be a tuple of claims, each made by claim(...)")
        if not isinstance(self.sweep, Mapping) or not all(isinstance(name, str) for name in self.sweep):
            reject("sweep", self.sweep, "must be a mapping from fields to their values, as {'task.n_context': (5, 10)}")
        self._settle("analyses", tuple(map(_found, _words(self.analyses))))
        self._settle("claims", tuple(self.claims))
        self._settle("sweep", self._checked_sweep())
        self._check_claims()
        turns = self.in_turn()
        if any(fields for fields, _ in turns):
            return  # each of them has been checked by itself
        self._check_together()

    def _settle(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    # --- by the names of fields ---

    @cached_property
    def fields(self) -> dict[str, Field]:
        """Every field by name, `task.n_context`, in order."""
        return names.fields_of(names.classes_of(self))

    def __getitem__(self, name: str) -> Any:
        """The value of a field; a tuple where it is swept over."""
        if name in self.sweep:
            return self.sweep[name]
        if name == "analyses":
            return self.asked
        return names.value_of(self, self.fields[name])

    def get(self, name: str) -> Any:
        """The value of a field, or None where there is no such field."""
        return self[name] if name in self.fields else None

    @property
    def asked(self) -> tuple[str, ...]:
        """The names of the analyses."""
        return tuple(analysis.name for analysis in self.analyses)

    @property
    def sweepable(self) -> tuple[str, ...]:
        """The fields that may be swept over."""
        of_weights = (name for name, its in self.fields.items() if its.path[0] in SWEPT_SECTIONS and not its.is_free)
        return tuple(name for name in of_weights if names.takes_one_value(self.fields[name]))

    def change(self, values: Mapping[str, Any], dropped: Callable[[str], None] = lambda line: None) -> "Experiment":
        """The experiment with other values of some fields, all of them changed at once.

        Args:
          values: by name. A tuple in a field that takes one value is swept over; `task.name` and `model.style` choose
            another class, which keeps the fields that both have.
          dropped: is told of values that the other class has no field for.

        Raises:
          ConfigError: if a field or a value will not do.
        """
        values = names.respelt(values, dropped)
        classes: dict[Path, type] = {}
        for name, its in self.fields.items():
            if its.chooses is not None and name in values and not isinstance(values[name], tuple):
                names.checked(name, its, values[name])
                classes[its.path] = its.chooses[values[name]]
        table = names.fields_of(names.classes_of(self, classes))
        edits: dict[Path, Any] = {}
        sweep = {name: tuple_ for name, tuple_ in self.sweep.items() if name not in values and name in table}
        for name, value in values.items():
            if name not in table:
                raise names.unknown(name, table, _elsewhere(self))
            its = table[name]
            if isinstance(value, tuple) and names.takes_one_value(its):
                sweep[name] = value
                self._check_swept(name, its, value)
                value = value[0]
                if its.chooses is not None:
                    classes[its.path] = its.chooses[value]
            if name == "analyses":  # words, among which those of its own may be
                own = {analysis.name: analysis for analysis in self.analyses}
                value = tuple(own.get(word, word) for word in _words(value))
            elif name != "claims":
                names.checked(name, its, value)
            if its.chooses is None:
                edits[its.path] = value
        before = {name for name in self.fields if name not in table}
        for name in sorted(before):
            if name not in values and self[name] != names.default_of(self, self.fields[name]):
                dropped(f"{name}={self[name]} is left out: the task or model asked for has no such field")
        return names.rebuilt(self, {**edits, ("sweep",): sweep}, classes)

    def flat(self) -> dict[str, Any]:
        """Every field but claims, by name, as JSON gives it back; what is swept over as the list of its values."""
        values = {name: self[name] for name in self.fields if name != "claims"} | {"analyses": self.asked}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    # --- what the parts become ---

    @cached_property
    def law(self) -> Any:
        """The task that the population is evaluated on: that of training, with prompts of `eval.n_context` examples."""
        its, n = self.law_of_training, self.eval.n_context
        return its if n is None else replace(its, n_context=n)

    @cached_property
    def law_of_training(self) -> Any:
        """The task that it is trained on, or on a pool of whose prompts."""
        return getattr(self.task, "law", self.task)

    @cached_property
    def trained_on(self) -> Any:
        """What it is trained on: the law of training, or a pool of its prompts."""
        return self.task.trained_on(self.seed) if hasattr(self.task, "trained_on") else self.law_of_training

    @property
    def never_trained(self) -> range:
        """The numbers of examples after which it is asked in evaluation, and never in training."""
        n = self.eval.n_context
        return range(0) if n is None else range(self.law_of_training.n_context + 1, n + 1)

    @cached_property
    def network(self) -> TransformerConfig:
        """The Transformer, with tuples for what members of the population differ in, and places for all prompts."""
        longest = self.law if self.never_trained else self.law_of_training
        return self.model.transformer(longest, **self._swept_of("model"))

    @cached_property
    def settings(self) -> TrainSettings:
        """How it is trained, likewise."""
        return self.train.settings(self.law_of_training, **self._swept_of("train"))

    @cached_property
    def layout(self) -> Layout:
        """How a prompt becomes tokens."""
        return LAYOUTS[self.model.layout](self.law.d_input, self.law.d_output)

    def resolved(self) -> list[dict[str, Any]]:
        """What the fields became: task, Transformer and training of every population that is trained in turn."""
        parts = lambda one: {
            "task": asdict(one.law_of_training),
            "model": asdict(one.network),
            "train": asdict(one.settings),
        }
        return json.loads(json.dumps([parts(one) for _, one in self.in_turn()], default=str))

    @property
    def beside_linear(self) -> dict[str, Any]:
        """The fields by which the network is not linear layers alone, whose moment form is exact."""
        found = {
            f"model.{name}": value
            for name, plain in LINEAR.items()
            if (value := getattr(self.model, name, plain)) != plain
        }
        if set(self.model.kinds) != {"linear"}:
            found = {"model.attention": self["model.attention"], **found}
        return found | ({"model.style": self.model.name} if self.model.name != "von_oswald" else {})

    def _swept_of(self, section: str) -> dict[str, tuple]:
        chosen = {name: values for name, values in self.sweep.items() if self.fields[name].per_member}
        return {self.fields[name].path[-1]: its for name, its in chosen.items() if name.startswith(f"{section}.")}

    # --- sweeps ---

    def together(self) -> list[dict[str, Any]]:
        """The combinations of values within one population, the last field fastest; one without fields where there are
        none."""
        return product_of({name: its for name, its in self.sweep.items() if self.fields[name].per_member})

    def in_turn(self) -> list[tuple[dict[str, Any], "Experiment"]]:
        """The populations trained one after another, with the experiment of each, which claims nothing."""
        return self._turns

    @cached_property
    def _turns(self) -> list[tuple[dict[str, Any], "Experiment"]]:
        turns = {name: its for name, its in self.sweep.items() if not self.fields[name].per_member}
        if not turns:
            return [({}, self)]
        return [(fields, self.change({**fields, "claims": ()})) for fields in product_of(turns)]

    def _checked_sweep(self) -> dict[str, tuple]:
        """What is swept over, in the order of the fields; tuples that rates were given count too."""
        given = dict(self.sweep)
        for name, its in self.fields.items():
            if its.per_member and isinstance(value := names.value_of(self, its), tuple):
                given[name] = value
                part = getattr(self, its.path[0])
                first = {its.path[1:]: value[0] if value else None}
                self._settle(its.path[0], names.rebuilt(part, first, {}))
        for name, values in given.items():
            if name not in self.fields:
                raise names.unknown(name, self.fields, _elsewhere(self))
            self._check_swept(name, self.fields[name], values)
        for per_member, most, what in (
            (True, MOST_COMBINATIONS, "combinations"),
            (False, MOST_POPULATIONS, "populations"),
        ):
            counts = {name: len(its) for name, its in given.items() if self.fields[name].per_member == per_member}
            if math.prod(counts.values()) > most:
                shown = " x ".join(f"{count} of {name}" for name, count in counts.items())
                raise ConfigError(
                    f"{shown}: {math.prod(counts.values()):,} {what}; at most {most:,} are accepted in one run"
                )
        # Of members, rates come before what models differ in, as the population trainer has them.
        order = {name: (its.per_member, its.per_member and its.path[0] == "model") for name, its in self.fields.items()}
        return {name: tuple(given[name]) for name in sorted(order, key=order.__getitem__) if name in given}

    def _check_swept(self, name: str, its: Field, values: Any) -> None:
        if its.path[0] not in SWEPT_SECTIONS or its.is_free or not names.takes_one_value(its):
            reject(name, values, f"takes one value; tuples are swept over in {', '.join(self.sweepable)}")
        if not isinstance(values, tuple | list) or not values:
            reject(name, values, "a sweep needs at least one value")
        for i, value in enumerate(values):
            if value is None:
                raise ConfigError(f"{name}=None {wanted(its.hint, value).removesuffix(', or None')}")
            names.checked(name, its, value)
            if value in values[:i]:
                reject(name, tuple(values), "every value of a sweep is accepted once")

    # --- whether its parts agree ---

    def _check_parts(self) -> None:
        if not isinstance(self.reference, Reference):
            reject("reference", self.reference, "must be one of lab.evaluation.references, as GradientDescent()")
        accepted = self.reference.tasks
        if not isinstance(self.task, accepted):
            reject(
                "task", self.task, f"reference={self.reference.name} takes {', '.join(of.__name__ for of in accepted)}"
            )
        if missing := [name for name in ("d_input", "d_output", "sample") if not hasattr(self.law_of_training, name)]:
            reject(
                "task", self.task, f"lacks {', '.join(missing)}; a task has d_input, d_output and sample(key) -> Prompt"
            )
        if not hasattr(self.task, "__dataclass_fields__"):
            reject("task", self.task, "must be a frozen dataclass, whose fields are those of the command line")
        if not hasattr(self.model, "transformer"):
            reject("model", self.model, "must be Network(...) or GPT2(...)")
        for name, of in (("train", Train), ("eval", Eval)):
            if not isinstance(getattr(self, name), of):
                reject(name, getattr(self, name), f"must be {of.__name__}(...)")

    def _check_claims(self) -> None:
        for its in self.claims:
            if not isinstance(its, Claim):
                raise ConfigError(f"claims: {its!r} is no claim; make it by claim(...)")
        ids = [its.id for its in self.claims]
        if twice := [name for name in ids if ids.count(name) > 1]:
            raise ConfigError(f"claims: {twice[0]} is stated twice; give every claim an id of its own")
        for its in self.claims:
            if not self.is_measured(its.measured):
                by = ", ".join((self.reference.name, *self.asked))
                raise ConfigError(
                    f"claims: {its.id} is about {its.metric}, which is not measured by {by}; "
                    "--config.claims=() states none"
                )

    def is_measured(self, name: str) -> bool:
        """Whether a metric or curve may be in the results."""
        patterns = [*self.reference.records, *("seeds_trapped", "seeds_diverged", "steps_skipped")]
        for analysis in self.analyses:
            patterns += analysis.records
        for ending in ("_by_step", *(f"_by_{name.split('.')[-1]}" for name in self.sweep)):
            name = name.removesuffix(ending)
        return any(is_recorded(name.removesuffix(ending), tuple(patterns)) for ending in ("", *ENDINGS))

    def _check_together(self) -> None:
        """Whether the parts agree, none of which is swept over but by members."""
        model, train = self.model, self.train
        self._check_length()
        self._there("task", lambda: (self.law, self.trained_on))
        self._check_layout()
        self._there("model", lambda: self.network)
        self.reference.check(self)
        for name, (stage, end) in train.ramps(self.law_of_training).items():
            most = "task.d_input" if name == "active_inputs" else "task.n_context + 1"
            if model.name != "gpt2":
                reject(f"train.{name}", tuple(stage), "prefixes are learned by model.style=gpt2 alone; () for none")
            if stage[0] > end:
                reject(f"train.{name}", stage, f"three whole numbers, the first at most {most}={end}, or () for none")
        if train.form == "gram" and self.beside_linear:
            shown = ", ".join(f"{name}={value}" for name, value in self.beside_linear.items())
            reject("train.form", "gram", f"is exact for linear layers alone; {shown} needs auto or tokens")
        if train.form == "query" and (self.network.n_layers > 1 or model.name == "gpt2"):
            reject(
                "train.form",
                "query",
                "is exact for one layer of attention alone; model.n_layers=1 and "
                "model.style=von_oswald, or train.form=auto",
            )
        there = [f"model.{name}" for name in self.network.modification.there]
        if there and self["train.weight_decay"] != 0.0:
            reject(
                "train.weight_decay", self["train.weight_decay"], f"would shrink {', '.join(there)} too; 0 is accepted"
            )
        self._check_rounded()
        self._check_analyses()

    def _there(self, section: str, made: Callable[[], Any]) -> None:
        """What a part becomes; what the library refuses of it is said of the part's field."""
        try:
            made()
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"{section}.{error}") from error

    def _check_length(self) -> None:
        """Whether prompts of evaluation can have a length of their own."""
        n, its = self.eval.n_context, self.reference
        if n is None:
            return
        if its.on_prefixes:
            law = self.law_of_training
            if not is_dataclass(law) or "n_context" not in [its.name for its in fields(law)]:
                reject("eval.n_context", n, "changes the field n_context of a task, which task lacks; None is accepted")
            return
        measured = ", ".join(f"{factor:g}" for factor in SHIFTS["context_length"].values)
        try:
            find("shifts").check(self)
            other = f"analyses=shifts measures {measured} times task.n_context={self['task.n_context']}"
        except Unfit:
            other = "the predictors of icl_gd.load(workdir) take contexts of any length"
        reject("eval.n_context", n, f"reference.name={its.name} has one query a prompt, and takes None; {other}")

    def _check_layout(self) -> None:
        law, model = self.law, self.model
        if model.layout == "interleaved" and law.d_output > (most := min(law.d_input, D_POSITIONS)):
            reject(
                "task.d_output",
                law.d_output,
                f"at most {most}, the smaller of task.d_input and {D_POSITIONS}, or "
                "model.layout=concatenated: interleaved tokens hold y in the place of x and read it from that of "
                "the position",
            )

    def _check_rounded(self) -> None:
        """What is an array over members has the precision of the run: there .99999999 is 1, and 1e-50 is 0."""
        for name, its in self.fields.items() if self.precision == "float32" else ():
            for value in _each(self[name]) if its.per_member else ():
                rounded = None if value is None else ctypes.c_float(value).value
                try:
                    names.checked(name, its, rounded)
                except ConfigError as error:
                    raise ConfigError(f"{name}={value} is {rounded} in float32, and {error}") from error

    def _check_analyses(self) -> None:
        """Whether its questions can be asked of it; those that stand against the same field are named together."""
        if twice := [name for name in self.asked if self.asked.count(name) > 1]:
            reject("analyses", twice[0], "every analysis is accepted once")
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
                f"contradicts analyses={','.join(same)}, which {first.accepted}; drop "
                f"those, as in --config.analyses={left}",
            )


D_POSITIONS = 10  # of interleaved tokens


def _words(given: Any) -> tuple:
    return (given,) if isinstance(given, str | Analysis) else tuple(given)


def _found(given: Any) -> Analysis:
    """An analysis by its name, which is that of its module, or one that is there already."""
    if isinstance(given, Analysis):
        if given.name in shipped() and given is not find(given.name):
            reject("analyses", given.name, "is the name of one that ships; give yours another")
        return given
    try:
        return find(given)
    except KeyError as error:
        raise ConfigError(f"analyses={given}: {nearest(str(given), shipped())}") from error


def _each(value: Any) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def _elsewhere(experiment: Experiment) -> dict[str, list[str]]:
    """Fields that other tasks and models have, with what they are fields of."""
    others: list[tuple[dict[Path, type], str]] = [
        ({its.path: of}, f"{name}={word}")
        for name, its in experiment.fields.items()
        for word, of in (its.chooses or {}).items()
    ]
    for of in TASKS:
        others.append(({("task",): of}, f"task={of.__name__}(...)"))
        for attribute, union in in_config(of).unions.items():
            path = ("task", attribute)
            others += [({("task",): of, path: its}, f"task={of.__name__}({word}, ...)") for word, its in union.items()]
    found: dict[str, list[str]] = {}
    for changed, what in others:
        for name in names.fields_of(names.classes_of(experiment, changed)):
            its = found.setdefault(name, [])
            if name not in experiment.fields and not any(what.startswith(one.removesuffix("...)")) for one in its):
                its.append(what)
    return {name: its for name, its in found.items() if its}
