"""The fields of an experiment, by the names that the command line and config.json use.

A field is an attribute of one part of an experiment (task, model, train, eval, reference). It is written once, in the
dataclass of that part; this module reads its name, type, bounds, accepted words and documentation from there. If a part
can be one of several classes, an additional field selects the class (`task.name`, `model.style`).
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
# What the command line accepts for fields whose values are objects: names of analyses, and () for no claims.
AS_WORDS: dict[str, Any] = {"analyses": tuple[str, ...] | tuple[()], "claims": tuple[()]}
Path = tuple[str, ...]  # attribute names, from the experiment to a part or a field
Classes = dict[Path, type]  # of the experiment, `()`, and of its parts; they determine which fields exist


class Field(NamedTuple):
    """A field of an experiment.

    Attributes:
      path: attribute names, from the experiment to the field.
      hint: the annotation of one accepted value, also where members of a population may differ.
      is_free: whether the value may differ between a run and its resume.
      per_member: whether the members of one population may differ in the value.
      chooses: the classes that the field selects from, by word; None for an ordinary field.
      about: its documentation.
    """

    path: Path
    hint: Any
    is_free: bool = False
    per_member: bool = False
    chooses: Mapping[str, type] | None = None
    about: str = ""


def classes_of(experiment: Any, changed: Mapping[Path, type] | None = None) -> Classes:
    """The classes of an experiment and of its parts, with some of them replaced by `changed`."""
    changed = changed or {}
    classes: Classes = {(): type(experiment)}
    for section in SECTIONS:
        part = getattr(experiment, section)
        part_class = changed.get((section,), type(part))
        classes[(section,)] = part_class
        for name, union in in_config(part_class).unions.items():
            current = type(getattr(part, name)) if hasattr(part, name) else next(iter(union.values()))
            classes[(section, name)] = changed.get((section, name), current)
    return classes


def fields_of(classes: Classes) -> dict[str, Field]:
    """All fields of an experiment whose parts have these classes, by name, in order."""
    return _fields_of(tuple(classes.items()))


@cache
def _fields_of(items: tuple[tuple[Path, type], ...]) -> dict[str, Field]:
    classes = dict(items)
    result: dict[str, Field] = {}
    about = _attribute_docs(classes[()])
    for name, hint in hints(classes[()]).items():
        if name in SECTIONS:
            result |= dict(_fields_of_part((name,), classes))
        elif _is_readable(hint := AS_WORDS.get(name, hint)):
            result[name] = Field((name,), hint, name == "claims", about=about.get(name, ""))
    return result


def _fields_of_part(path: Path, classes: Classes) -> Iterator[tuple[str, Field]]:
    part_class, section = classes[path], path[0]
    config = in_config(part_class)

    def name_of(attribute: str) -> str:
        name = config.names.get(attribute, attribute)
        return name if "." in name else f"{section}.{name}"

    word = getattr(part_class, "name", None)
    if isinstance(word, str) and "name" not in hints(part_class) and len(path) == 1:
        choices = {"task": _by_name(classes[("reference",)].tasks), "model": MODELS}.get(section, {})
        choices = choices if choices.get(word) is part_class else {word: part_class}
        yield name_of("name"), _choice(path, choices)
    for name in config.unions:
        yield f"{section}.name", _choice((*path, name), dict(config.unions[name]))
    about = _attribute_docs(part_class)
    for attribute, hint in hints(part_class).items():
        if attribute in config.unions:
            yield from _fields_of_part((*path, attribute), classes)
        elif attribute not in config.hidden and _is_readable(hint):
            single = _single(hint)
            field = Field(
                (*path, attribute),
                single,
                is_free=attribute in config.free,
                per_member=single is not hint,
                about=about.get(attribute, ""),
            )
            yield name_of(attribute), field


def _by_name(classes: tuple[type, ...]) -> dict[str, type]:
    """The classes that have a name, by that name."""
    return {each.name: each for each in classes if isinstance(getattr(each, "name", None), str)}


def _choice(path: Path, choices: Mapping[str, type]) -> Field:
    """The field that selects a class by a word."""
    about = f"Selects the {path[-1]}" if len(choices) > 1 else "The only accepted value for this experiment"
    return Field(path, Annotated[str, OneOf(tuple(choices))], chooses=choices, about=about)


def _single(hint: Any) -> Any:
    """The annotation of one value of a field that also accepts arrays or tuples of numbers, to be swept over."""
    accepted = kinds(hint)
    if not any(get_origin(kind) is tuple for kind in accepted) or not {int, float} & set(accepted):
        return hint
    numbers = [kind for kind in accepted if kind in (int, float)]
    single = numbers[0] if len(numbers) == 1 else numbers[0] | numbers[1]
    if type(None) in accepted:
        single = single | None
    return Annotated[single, *rules(hint)] if rules(hint) else single


def _is_readable(hint: Any) -> bool:
    """Whether a field can be given as text."""
    return all(_is_word(kind) for kind in kinds(hint) if not is_array(kind))


def _is_word(kind: Any) -> bool:
    if get_origin(kind) is tuple:
        return all(item is ... or all(map(_is_word, kinds(item))) for item in get_args(kind))
    return kind in (int, float, bool, str, type(None))


@cache
def _attribute_docs(of: type) -> dict[str, str]:
    """The documentation of every attribute, from the docstrings of a class and of its base classes."""
    docs: dict[str, str] = {}
    for each in reversed(of.__mro__):
        if each is object:
            continue
        for entry in docstring_parser.parse(each.__doc__ or "").params:
            text = " ".join((entry.description or "").split())
            docs |= {name.strip(): text for name in entry.arg_name.split(",")}
    return docs


def takes_one_value(field: Field) -> bool:
    """Whether a tuple given for this field means several values (a sweep), and not one value that is a tuple."""
    return not any(get_origin(kind) is tuple for kind in kinds(field.hint))


def default_of(experiment: Any, field: Field) -> Any:
    """The default of a field in the dataclass that defines it; None if there is no such field."""
    of = classes_of(experiment).get(field.path[:-1], type(None))
    if not is_dataclass(of):
        return None
    return next((each.default for each in fields(of) if each.name == field.path[-1]), None)


def value_of(experiment: Any, field: Field) -> Any:
    """The value of a field; for a field that selects a class, its word."""
    value: Any = experiment
    for attribute in field.path:
        value = getattr(value, attribute)
    if field.chooses is not None:
        return next(word for word, of in field.chooses.items() if of is type(value))
    return value


def read(name: str, field: Field, text: str) -> Any:
    """Converts the text of a command line to the value of a field.

    Args:
      name: the name of the field, for error messages.
      field: the field.
      text: the text after the equals sign.

    Returns:
      The value, whose range is not checked yet. It is a tuple if the text holds several values.

    Raises:
      ConfigError: if the text is no value and no tuple of values.
    """
    takes_tuples = any(get_origin(kind) is tuple for kind in kinds(field.hint))
    if not takes_tuples and _is_whole(field.hint) and re.fullmatch(r"\d{1,3}(,\d{3})+", text):
        several = ", ".join(str(int(part)) for part in text.split(","))
        whole = text.replace(",", "")
        raise ConfigError(f"{name}={text}: write {whole} for one number, or '({several})' for a sweep")
    if text in ("None", "none") and accepts(field.hint, None):
        return None
    if text[:1] == "(" or "," in text:
        parts = _parts(text)
        if parts is None:
            raise ConfigError(f"{name}={text}: must be {said(field.hint)}; write a tuple as '(a, b)'")
        return tuple(_one(field.hint, part) for part in parts)
    value = _one(field.hint, text)
    return (value,) if takes_tuples and not accepts(field.hint, value) else value


def _parts(text: str) -> list[Any] | None:
    """The items of `(a, b)` or `a,b`, as Python literals or, failing that, as words; None if the text is no tuple."""
    try:
        value = ast.literal_eval(text)
        return list(value) if isinstance(value, tuple) else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        inside = text[1:-1] if text[:1] == "(" and text[-1:] == ")" else text
        parts = [part.strip().strip("'\"") for part in inside.split(",")]
        parts = parts[:-1] if len(parts) > 1 and not parts[-1] else parts
        return parts if all(part.isidentifier() for part in parts) else None


def _one(hint: Any, given: Any) -> Any:
    """One value, converted to the first type of an annotation that accepts it; unchanged if none does.

    A whole number may be written as a float: 5e5 is 500000.
    """
    accepted = _types_of_one(hint)
    if isinstance(given, float) and _is_whole(hint) and given.is_integer():
        return int(given)
    if not isinstance(given, str):
        return given
    for kind, parser in ((bool, BooleanParser()), (int, IntegerParser()), (float, FloatParser())):
        if kind in accepted:
            try:
                return parser.parse(given)
            except (ValueError, TypeError):
                continue
    if _is_whole(hint) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", given):
        return int(float(given)) if float(given).is_integer() else given
    return given


def _types_of_one(hint: Any) -> set[Any]:
    """The types of one value: those that an annotation names, with the item types in place of a tuple."""
    types: set[Any] = set()
    for kind in kinds(hint):
        items = kinds(get_args(kind)[0]) if get_args(kind) else ()
        types.update(items or (kind,))
    return types


def _is_whole(hint: Any) -> bool:
    """Whether an annotation accepts whole numbers and no floats."""
    accepted = _types_of_one(hint)
    return int in accepted and float not in accepted


def checked(name: str, field: Field, value: Any) -> None:
    """Checks that a field accepts a value.

    Raises:
      ConfigError: if it does not.
    """
    if not accepts(field.hint, value):
        raise ConfigError(f"{name}={value} {wanted(field.hint, value)}")


def rebuilt(part: Any, edits: Mapping[Path, Any], classes: Mapping[Path, type], path: Path = ()) -> Any:
    """A copy of an experiment, or of one of its parts, with all changes applied at once.

    Args:
      part: the experiment, or the part of it at `path`.
      edits: the new value of every changed attribute, by its path from the experiment.
      classes: the new class of every part whose class changes; attributes that both classes have keep their values.
      path: where `part` is in the experiment. Default: the experiment itself.

    Returns:
      The copy, whose constructors have checked it.

    Raises:
      ConfigError: if a part does not accept a value, or the parts are inconsistent.
    """
    of = classes.get(path, type(part))
    accepted = {each.name: hints(of)[each.name] for each in fields(of) if each.init}
    kept = {each.name: getattr(part, each.name) for each in fields(part) if each.name in accepted}
    if of is not type(part):
        kept = {name: value for name, value in kept.items() if accepts(accepted[name], value)}
    changed_parts = [*classes, *(edited[:-1] for edited in edits)]
    for name, value in kept.items():
        below = (*path, name)
        if any(changed[: len(below)] == below for changed in changed_parts):
            kept[name] = rebuilt(value, edits, classes, below)
    kept |= {edited[-1]: value for edited, value in edits.items() if edited[:-1] == path}
    try:
        return of(**kept)
    except ConfigError:
        raise
    except ValueError as error:  # from the constructor of a part, which does not know its section
        message = one_line(error)
        is_named = not path or message.startswith(tuple(f"{section}." for section in SECTIONS))
        raise ConfigError(message if is_named else f"{path[0]}.{message}") from error


def unknown(name: str, known: Mapping[str, Field], elsewhere: Mapping[str, list[str]]) -> ConfigError:
    """The error about a field that an experiment does not have.

    Args:
      name: the unknown field.
      known: the fields of the experiment.
      elsewhere: fields of other tasks and models, with the names of these.

    Returns:
      The error, which names the task or model that has the field, or the most similar field.
    """
    if name in elsewhere:
        owners = elsewhere[name] if len(elsewhere[name]) < 4 else [*elsewhere[name][:3], "others"]
        return ConfigError(f"{name}: not a field of this experiment, but of {', '.join(owners)}; remove it")
    return ConfigError(f"--config.{name}: unknown field; {nearest_field(name, list(known))}")


def with_current_names(values: Mapping[str, Any], notify: Callable[[str], None]) -> dict[str, Any]:
    """Renames fields and words of earlier versions to their current names.

    Args:
      values: by name of the field, old or current.
      notify: called with one sentence for every renamed field or word.

    Returns:
      The values by current names.

    Raises:
      ConfigError: if an old name is ambiguous.
    """
    if "model.mlp_width" in values:
        raise ConfigError(
            f"model.mlp_width={values['model.mlp_width']}: this old name is ambiguous; give model.input_mlp_width for "
            "an MLP before the first layer (the width of the MLP in every block, block_mlp_width, is no field: it is "
            "4 times model.d_embed for model.style=gpt2)"
        )
    for old in FIELDS.keys() & values.keys():
        notify(f"{old} is now {FIELDS[old]}")
    current = {FIELDS.get(name, name): value for name, value in values.items()}
    form = current.get("train.form")
    if form in FORMS:
        notify(f"train.form={form} is now {FORMS[form]}")
        current["train.form"] = FORMS[form]
    return current
