"""The card of a model of the zoo: its task, its training, the verdicts on its claims, its loss and its checksum.

>>> from icl_gd.tasks import SineRegression
>>> encode_task(SineRegression(n_context=5))
{'type': 'SineRegression', 'n_context': 5, 'faithful': False}
>>> decode_task({"type": "SineRegression", "n_context": 5})
SineRegression(n_context=5, faithful=False)
"""

import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from typing import Any

from icl_gd.tasks import FUNCTIONS, ElementwiseRegression, FunctionRegression, LinearRegression, SineRegression

# Classes that a card may name: tasks, and the function classes inside them.
CLASSES: dict[str, Any] = {
    of.__name__: of
    for of in (LinearRegression, ElementwiseRegression, SineRegression, FunctionRegression, *FUNCTIONS.values())
    if isinstance(of, type)
}
RELATIONS = {"at_most": "at most {target:g}", "at_least": "at least {target:g}"}
WITHIN = "{target:g} ± {tolerance:g}"
INDENT = 12  # columns before the values of a printed card


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts.

    Attributes:
      mean: the mean.
      stderr: its standard error; None if it was not recorded.
      prompts: the number of prompts.
    """

    mean: float
    stderr: float | None
    prompts: int

    def __str__(self) -> str:
        return f"{self.mean:.4g}" + ("" if self.stderr is None else f" ± {self.stderr:.1g}")


@dataclass(frozen=True)
class ReferenceLearner:
    """The learner that a model is compared with.

    Attributes:
      learner: what it does, in words.
      loss: its loss, as `Card.loss`.
      normalised_error: its error over all context lengths, as `Card.normalised_error`.
    """

    learner: str
    loss: Estimate
    normalised_error: Estimate | None = None


@dataclass(frozen=True)
class Card:
    """What is known about a model of the zoo.

    Attributes:
      name: its name in the zoo.
      about: what it is, in one sentence.
      task: the task it was trained on: "type" and fields. `icl_gd.zoo.task` returns the task itself.
      config: the name of the config that trained it, or whose models a construction is compared with.
      variant: the variant of the config; None for the config itself.
      command: the command that trained it, or fitted the rates of a construction.
      steps: training steps; None for a construction, which is not trained.
      seed: the seed of the member; None for a construction.
      member: the index of the member in its population; None for a construction.
      chosen: the rule by which the member was chosen; for a construction, how its weights were made.
      rates: of a construction, the `step_sizes` and `gammas` that its layers implement; None for a trained model.
      construction: the name of the construction in the zoo that the model is compared with; None if there is none.
      claims: claims of the run about models such as this one, with their verdicts: rows of its results.json.
      loss: `1/2 |y_hat - y_query|^2` after a full context, over the prompts on which the model does not diverge.
      diverging: the share of prompts on which it diverges: its loss exceeds 100 times the mean loss of predicting zero.
      reference: the learner that the model is compared with.
      sha256: the checksum of model.safetensors.
      normalised_error: of a causal model, the squared error over the variance of labels, also averaged over all context
        lengths; None for others.
      verdict: the verdict of `icl_gd.identify`: its `sentence`, the key `verdict`, the number of `examples`, and the
        `unexplained` shares; None as long as there is none.
    """

    name: str
    about: str
    task: dict[str, Any]
    config: str
    variant: str | None
    command: str
    steps: int | None
    seed: int | None
    member: int | None
    chosen: str
    rates: dict[str, list[float]] | None
    construction: str | None
    claims: list[dict[str, Any]]
    loss: Estimate
    diverging: float
    reference: ReferenceLearner
    sha256: str
    normalised_error: Estimate | None = None
    verdict: dict[str, Any] | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Card":
        """The card with the content of a card.json.

        Returns:
          The card.

        Raises:
          ValueError: if an entry is missing or unknown.
        """
        known = {field.name for field in fields(cls)}
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        if wrong := sorted((content.keys() - known) | (needed - content.keys())):
            raise ValueError(f"entries {', '.join(wrong)} of the card are missing or unknown; install icl_gd again")
        reference = dict(content["reference"])
        parts = {"reference": ReferenceLearner(reference["learner"], **_estimates(reference)), **_estimates(content)}
        return cls(**{**content, **parts})

    def to_json(self) -> dict[str, Any]:
        """The content of card.json.

        Returns:
          JSON values by entry.
        """
        return asdict(self)

    def __str__(self) -> str:
        rows = [("task", _in_words(self.task)), ("command", self.command)]
        if self.member is not None:
            rows.append(("member", f"{self.member} (seed {self.seed}), after {self.steps:,} steps: {self.chosen}"))
        else:
            rows.append(("weights", self.chosen))
        if self.rates is not None:
            shown = {name: ", ".join(f"{rate:.4g}" for rate in rates) for name, rates in self.rates.items()}
            rows.append(("rates", "; ".join(f"{name.replace('_', ' ')} {each}" for name, each in shown.items())))
        rows.append(("loss", f"{self.loss} on {self.loss.prompts:,} prompts"))
        if self.diverging:
            rows.append(("diverges", f"on {self.diverging:.2g} of the prompts, which the loss leaves out"))
        if self.normalised_error is not None:
            rows.append(("error", f"{self.normalised_error} of the variance of labels, mean over context lengths"))
        reference = self.reference
        rows.append(("reference", f"{reference.learner}: loss {reference.loss}"))
        if reference.normalised_error is not None:
            rows[-1] = (rows[-1][0], f"{rows[-1][1]}, error {reference.normalised_error}")
        if self.construction is not None:
            rows.append(("beside", f"{self.construction}, its construction in the zoo"))
        rows.append(("sha256", self.sha256))
        rows.append(("verdict", "none yet" if self.verdict is None else self.verdict["sentence"]))
        lines = [_wrapped(f"{self.name}: ", self.about)]
        lines += [_wrapped(f"  {name}".ljust(INDENT), text) for name, text in rows]
        if self.claims:
            count = sum(claim["holds"] for claim in self.claims)
            lines.append(f"  claims    {count} of {len(self.claims)} hold")
        return "\n".join([*lines, *map(_claim, self.claims)])


def encode_task(task: Any) -> dict[str, Any]:
    """A task as JSON values.

    Returns:
      Its fields, and the name of its class as "type"; likewise for dataclasses inside it.
    """
    return {"type": type(task).__name__, **{field.name: _encoded(getattr(task, field.name)) for field in fields(task)}}


def _encoded(value: Any) -> Any:
    if is_dataclass(value):
        return encode_task(value)
    return list(map(_encoded, value)) if isinstance(value, tuple) else value


def decode_task(content: Mapping[str, Any]) -> Any:
    """The task that `encode_task` encoded.

    Returns:
      The task.

    Raises:
      ValueError: if its class is not one of `CLASSES`, or does not accept the fields.
    """
    values = {name: _decoded(value) for name, value in content.items() if name != "type"}
    if content.get("type") not in CLASSES:
        raise ValueError(f"type={content.get('type')!r} is no task; give one of {', '.join(CLASSES)}")
    try:
        return CLASSES[content["type"]](**values)
    except TypeError as error:
        raise ValueError(f"{content['type']}: {error}") from error


def _decoded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return decode_task(value)
    return tuple(map(_decoded, value)) if isinstance(value, list) else value


def _estimates(content: Mapping[str, Any]) -> dict[str, Any]:
    """The estimates in the content of a card, or of its reference learner."""
    values = {name: content.get(name) for name in ("loss", "normalised_error")}
    return {name: value and Estimate(**value) for name, value in values.items()}


def _in_words(content: Mapping[str, Any]) -> str:
    """A mapping in one line, such as `SineRegression(n_context=10)`; entries that are None are left out."""
    shown = (
        f"{name}={_in_words(value) if isinstance(value, Mapping) else value}"
        for name, value in content.items()
        if name != "type" and value is not None
    )
    return f"{content.get('type', '')}({', '.join(shown)})"


def _claim(claim: Mapping[str, Any]) -> str:
    """The lines of a claim of a printed card."""
    value = "nan" if claim["value"] is None else f"{claim['value']:.4g}"
    target = RELATIONS.get(claim["relation"], WITHIN).format(**claim)
    verdict = "holds" if claim["holds"] else "FAILS"
    return _wrapped(f"    {verdict}   ", f"{claim['id']}: {claim['statement']}: {value}, target {target}")


def _wrapped(first: str, text: str) -> str:
    return textwrap.fill(text, 120, initial_indent=first, subsequent_indent=" " * INDENT, break_long_words=False)
