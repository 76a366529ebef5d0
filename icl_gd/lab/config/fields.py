"""The fields of an experiment by the names that a command line and config.json have for them.

A field is an attribute of one of the parts of an experiment, written once, where the part is: here its name, type,
bounds, words and documentation are read off the dataclass. A part that may be of several classes has a field more, by
which one of them is chosen (`task.name`, `model.style`).
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import docstring_parser
from absl.flags import BooleanParser, FloatParser, IntegerParser

from icl_gd.lab.config.errors import ConfigError, nearest_field, one_line
from icl_gd.lab.config.parts import MODELS, in_config
from icl_gd.migrations import FIELDS, FORMS
from icl_gd.schema import OneOf, accepts, hints, is_array, kinds, rules, said, wanted

SECTIONS = ("task", "model", "train", "eval", "reference")
# How fields are given that hold more than words: analyses by their names; no claims at all, where others are stated.
AS_WORDS: dict[str, Any] = {"analyses": tuple[str, ...] | tuple[()], "claims": tuple[()]}
Path = tuple[str, ...]  # attributes, from the experiment to a part or a field
Classes = dict[Path, type]  # of the experiment, `()`, and of its parts: what fields it has depends on them alone


class Field(NamedTuple):
    """A field of an experiment.

    Attributes:
      path: attributes from the experiment to the field.
      hint: what it accepts; one value, where members of a population may differ.
      is_free: whether it may differ between a run and its resume.
      per_member: whether members of one population may differ in it.
      chooses: the classes it chooses among, by word, if that is what it does.
      about: what it is, in words.
    """

    path: Path
    hint: Any
    is_free: bool = False
    per_member: bool = False
    chooses: Mapping[str, type] | None = None
    about: str = ""


def classes_of(experiment: Any, changed: Mapping[Path, type] | None = None) -> Classes:
    """The classes of an experiment and of its parts, some of them changed."""
    changed = changed or {}
    classes: Classes = {(): type(experiment)}
    for section in SECTIONS:
        part = getattr(experiment, section)
        classes[(section,)] = of = changed.get((section,), type(part))
        for name, union in in_config(of).unions.items():
            there = type(getattr(part, name)) if hasattr(part, name) else next(iter(union.values()))
            classes[(section, name)] = changed.get((section, name), there)
    return classes


def fields_of(classes: Classes) -> dict[str, Field]:
    """Every field of an experiment of such parts, in order, by name."""
    return _fields_of(tuple(classes.items()))


@cache
def _fields_of(of: tuple[tuple[Path, type], ...]) -> dict[str, Field]:
    classes = dict(of)
    found: dict[str, Field] = {}
    about = _documented(classes[()])
    for name, hint in hints(classes[()]).items():
        if name in SECTIONS:
            found |= dict(_of_part((name,), classes))
        elif _is_readable(hint := AS_WORDS.get(name, hint)):
            found[name] = Field((name,), hint, name == "claims", about=about.get(name, ""))
    return found


def _of_part(path: Path, classes: Classes) -> Iterator[tuple[str, Field]]:
    of, section = classes[path], path[0]
    its = in_config(of)

    def name_of(attribute: str) -> str:
        named = its.names.get(attribute, attribute)
        return named if "." in named else f"{section}.{named}"

    if isinstance(word := getattr(of, "name", None), str) and "name" not in hints(of) and len(path) == 1:
        choices = {"task": _by_word(classes[("reference",)].tasks), "model": MODELS}.get(section, {})
        choices = choices if choices.get(word) is of else {word: of}
        yield name_of("name"), _choice(path, choices, of)
    for name in its.unions:
        yield f"{section}.name", _choice((*path, name), dict(its.unions[name]), of)
    about = _documented(of)
    for attribute, hint in hints(of).items():
        if attribute in its.unions:
            yield from _of_part((*path, attribute), classes)
        elif attribute not in its.hidden and _is_readable(hint):
            single = _single(hint)
            yield (
                name_of(attribute),
                Field(
                    (*path, attribute),
                    single,
                    attribute in its.free,
                    single is not hint,
                    about=about.get(attribute, ""),
                ),
            )


def _by_word(of: tuple[type, ...]) -> dict[str, type]:
    return {its.name: its for its in of if isinstance(getattr(its, "name", None), str)}


def _choice(path: Path, of: Mapping[str, type], part: type) -> Field:
    about = f"which {path[-1]} it is" if len(of) > 1 else "the only one there is here"
    return Field(path, Annotated[str, OneOf(tuple(of))], chooses=of, about=about)


def _single(hint: Any) -> Any:
    """The annotation of one value, where a hint takes numbers, arrays of them or tuples to be swept over."""
    its = kinds(hint)
    if not any(get_origin(kind) is tuple for kind in its) or not {int, float} & set(its):
        return hint
    left = [kind for kind in its if kind in (int, float, type(None))]
    numbers = [kind for kind in left if kind is not type(None)]
    single = numbers[0] if len(numbers) == 1 else numbers[0] | numbers[1]
    if len(left) > len(numbers):
        single = single | None
    return Annotated[single, *rules(hint)] if rules(hint) else single


def _is_readable(hint: Any) -> bool:
    """Whether a field can be given as words."""
    return all(_is_word(kind) for kind in kinds(hint) if not is_array(kind))


def _is_word(kind: Any) -> bool:
    if get_origin(kind) is tuple:
        return all(one is ... or all(map(_is_word, kinds(one))) for one in get_args(kind))
    return kind in (int, float, bool, str, type(None))


@cache
def _documented(of: type) -> dict[str, str]:
    """What the docstrings of a class and of those it extends say of its attributes."""
    found: dict[str, str] = {}
    for its in reversed(of.__mro__):
        for one in docstring_parser.parse(its.__doc__ or "").params if its is not object else ():
            found |= {name.strip(): " ".join((one.description or "").split()) for name in one.arg_name.split(",")}
    return found


def takes_one_value(field: Field) -> bool:
    """Whether a tuple in a field is no value, but several."""
    return not any(get_origin(kind) is tuple for kind in kinds(field.hint))


def default_of(experiment: Any, field: Field) -> Any:
    """What a field of an experiment is if nothing is said of it."""
    of = classes_of(experiment).get(field.path[:-1], type(None))
    return next((one.default for one in fields(of) if one.name == field.path[-1]), None) if is_dataclass(of) else None


def value_of(experiment: Any, field: Field) -> Any:
    """The value a field has; of a field that chooses, its word."""
    value: Any = experiment
    for attribute in field.path:
        value = getattr(value, attribute)
    if field.chooses is not None:
        return next(word for word, of in field.chooses.items() if of is type(value))
    return value


def read(name: str, field: Field, text: str) -> Any:
    """The value that words of a command line are; a tuple where several are given, whatever the field takes.

    Raises:
      ConfigError: if they are no such value.
    """
    takes_tuples = any(get_origin(kind) is tuple for kind in kinds(field.hint))
    if not takes_tuples and _is_whole(field.hint) and re.fullmatch(r"\d{1,3}(,\d{3})+", text):
        several = ", ".join(str(int(part)) for part in text.split(","))
        raise ConfigError(f"{name}={text}: write {text.replace(',', '')}, or '({several})' for a sweep")
    opened = text[:1] == "(" or (takes_tuples and "," in text)
    if text in ("None", "none") and accepts(field.hint, None):
        return None
    if opened or "," in text:
        parts = _parts(text)
        if parts is None:
            raise ConfigError(f"{name}={text}: must be {said(field.hint)}; a tuple is written as '(a, b)'")
        return tuple(_one(field.hint, part) for part in parts)
    value = _one(field.hint, text)
    return (value,) if takes_tuples and not accepts(field.hint, value) else value


def _parts(text: str) -> list[Any] | None:
    """The items of a tuple, `(a, b)` or `a,b`, as values or as the words they are; None if it is no tuple."""
    try:
        value = ast.literal_eval(text)
        return list(value) if isinstance(value, tuple) else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        inside = text[1:-1] if text[:1] == "(" and text[-1:] == ")" else text
        parts = [part.strip().strip("'\"") for part in inside.split(",")]
        parts = parts[:-1] if len(parts) > 1 and not parts[-1] else parts
        return parts if all(part.isidentifier() for part in parts) else None


def _one(hint: Any, given: Any) -> Any:
    """A word as the first of the types that an annotation has, or as it is; 5e5 is whole where numbers are whole."""
    its = _of_one(hint)
    if isinstance(given, float) and _is_whole(hint) and given.is_integer():
        return int(given)
    if not isinstance(given, str):
        return given
    for kind, parser in ((bool, BooleanParser()), (int, IntegerParser()), (float, FloatParser())):
        if kind in its:
            try:
                return parser.parse(given)
            except (ValueError, TypeError):
                continue
    if _is_whole(hint) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", given):
        return int(float(given)) if float(given).is_integer() else given
    return given


def _of_one(hint: Any) -> set[Any]:
    """The types of one value that an annotation has: of a tuple, those of its items."""
    return {one for kind in kinds(hint) for one in ((kinds(get_args(kind)[0]) if get_args(kind) else ()) or (kind,))}


def _is_whole(hint: Any) -> bool:
    """Whether the numbers that an annotation takes are whole."""
    return int in _of_one(hint) and float not in _of_one(hint)


def checked(name: str, field: Field, value: Any) -> None:
    """Whether a field accepts a value.

    Raises:
      ConfigError: if it does not.
    """
    if not accepts(field.hint, value):
        raise ConfigError(f"{name}={value} {wanted(field.hint, value)}")


def rebuilt(part: Any, edits: Mapping[Path, Any], classes: Mapping[Path, type], path: Path = ()) -> Any:
    """An experiment, or the part of it at `path`, with some attributes changed, all of them at once.

    Args:
      classes: of parts that become one of another class; they keep what both classes have.
    """
    of = classes.get(path, type(part))
    taken = {name: hints(of)[name] for name in (one.name for one in fields(of) if one.init)}
    kept = {one.name: getattr(part, one.name) for one in fields(part) if one.name in taken}
    if of is not type(part):
        kept = {name: value for name, value in kept.items() if accepts(taken[name], value)}
    for name, value in kept.items():
        below = (*path, name)
        if any(at[: len(below)] == below for at in (*classes, *(at[:-1] for at in edits))):
            kept[name] = rebuilt(value, edits, classes, below)
    kept |= {at[-1]: value for at, value in edits.items() if at[:-1] == path}
    try:
        return of(**kept)
    except ConfigError:
        raise
    except ValueError as error:  # of a part, which does not know the section it is in
        message = one_line(error)
        is_named = not path or message.startswith(tuple(f"{section}." for section in SECTIONS))
        raise ConfigError(message if is_named else f"{path[0]}.{message}") from error


def unknown(name: str, known: Mapping[str, Field], elsewhere: Mapping[str, list[str]]) -> ConfigError:
    """That there is no such field: whose it is, or which may have been meant."""
    if name in elsewhere:
        few = elsewhere[name] if len(elsewhere[name]) < 4 else [*elsewhere[name][:3], "others"]
        return ConfigError(f"{name}: not a field of this experiment, but of {', '.join(few)}; leave it out")
    return ConfigError(f"--config.{name}: unknown field; {nearest_field(name, list(known))}")


def respelt(values: Mapping[str, Any], told: Callable[[str], None]) -> dict[str, Any]:
    """Values by the names that fields have today; an old name that is taken is told of.

    Raises:
      ConfigError: if an old name could mean either of two fields.
    """
    if "model.mlp_width" in values:
        raise ConfigError(
            f"model.mlp_width={values['model.mlp_width']}: give model.input_mlp_width, for an MLP before the first "
            "layer; that of every block is block_mlp_width, of model.style=gpt2 four times model.d_embed"
        )
    for old in FIELDS.keys() & values.keys():
        told(f"{old} is now {FIELDS[old]}")
    found = {FIELDS.get(name, name): value for name, value in values.items()}
    if found.get("train.form") in FORMS:
        told(f"train.form={found['train.form']} is now {FORMS[found['train.form']]}")
        found["train.form"] = FORMS[found["train.form"]]
    return found
