"""The fields of an experiment, by the names that the command line and config.json use.

A field is an attribute of an experiment or of one of its parts (task, model, train, eval, reference). Its name, type,
bounds, accepted words and documentation are read from the dataclass that defines the attribute. If a part can be one of
several classes, an additional field selects the class (`task.name`, `model.style`).
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
from icl_gd.lab.config.parts import MODELS, in_config, with_config_names
from icl_gd.migrations import FIELDS, FORMS
from icl_gd.schema import OneOf, accepts, description, hints, is_array, kinds, requirement, rules

SECTIONS = ("task", "model", "train", "eval", "reference")
# What the command line accepts for fields whose values are objects: names of analyses; () for no claims.
AS_WORDS: dict[str, Any] = {"analyses": tuple[str, ...] | tuple[()], "claims": tuple[()]}
Path = tuple[str, ...]  # attribute names, from the experiment to a part or a field
Classes = dict[Path, type]  # the class of the experiment, at (), and of each part; they determine which fields exist


class Field(NamedTuple):
    """A field of an experiment.

    Attributes:
      path: attribute names, from the experiment to the field.
      hint: the annotation of a single value, without tuples that give every member its own value.
      is_free: whether a run may be resumed with another value.
      per_member: whether the members of one population may differ in the value.
      chooses: for a field that selects a class, the classes by word; otherwise None.
      about: the documentation of the field.
    """

    path: Path
    hint: Any
    is_free: bool = False
    per_member: bool = False
    chooses: Mapping[str, type] | None = None
    about: str = ""


def classes_of(experiment: Any, changed: Mapping[Path, type] | None = None) -> Classes:
    """The classes of an experiment and of its parts, by path. Classes in `changed` replace the current ones."""
    changed = changed or {}
    classes: Classes = {(): type(experiment)}
    for section in SECTIONS:
        part = getattr(experiment, section)
        part_class = changed.get((section,), type(part))
        classes[(section,)] = part_class
        for name, union in in_config(part_class).unions.items():
            current = type(getattr(part, name)) if hasattr(part, name) else next(iter(union.values()))
            classes[(section, name)] = changed.get((section, name), current)
        for name, (inner, _) in in_config(part_class).parts.items():
            classes[(section, name)] = inner
    return classes


def fields_of(classes: Classes) -> dict[str, Field]:
    """All fields of an experiment whose parts have these classes, by name, in the order of their definition."""
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


def _fields_of_part(
    path: Path, classes: Classes, field_names: Mapping[str, str] | None = None
) -> Iterator[tuple[str, Field]]:
    """Yields (name, field) for every field of the part at `path`.

    `field_names` has names that differ from the attribute. Default: `names` of the `InConfig` of the part.
    """
    part_class, section = classes[path], path[0]
    config = in_config(part_class)
    field_names = field_names or config.names

    def name_of(attribute: str) -> str:
        name = field_names.get(attribute, attribute)
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
        elif attribute in config.parts:
            yield from _fields_of_part((*path, attribute), classes, config.parts[attribute][1])
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
    """The classes that have a `name`, by this name."""
    return {each.name: each for each in classes if isinstance(getattr(each, "name", None), str)}


def _choice(path: Path, choices: Mapping[str, type]) -> Field:
    """The field that selects a class by a word."""
    about = f"Selects the {path[-1]}" if len(choices) > 1 else "The only accepted value for this experiment"
    return Field(path, Annotated[str, OneOf(tuple(choices))], chooses=choices, about=about)


def _single(hint: Any) -> Any:
    """Removes tuples and arrays, which give every member its own value, from the annotation of a number.

    Other annotations are returned unchanged.
    """
    accepted = kinds(hint)
    if not any(get_origin(kind) is tuple for kind in accepted) or not {int, float} & set(accepted):
        return hint
    numbers = [kind for kind in accepted if kind in (int, float)]
    single = numbers[0] if len(numbers) == 1 else numbers[0] | numbers[1]
    if type(None) in accepted:
        single = single | None
    return Annotated[single, *rules(hint)] if rules(hint) else single


def _is_readable(hint: Any) -> bool:
    """Whether values of this annotation can be read from text."""
    return all(_is_word(kind) for kind in kinds(hint) if not is_array(kind))


def _is_word(kind: Any) -> bool:
    """Whether a type is a number, bool, str, None, or a tuple of these."""
    if get_origin(kind) is tuple:
        return all(item is ... or all(map(_is_word, kinds(item))) for item in get_args(kind))
    return kind in (int, float, bool, str, type(None))


@cache
def _attribute_docs(part_class: type) -> dict[str, str]:
    """The documentation of every attribute, from the docstrings of a class and of its base classes."""
    docs: dict[str, str] = {}
    for each in reversed(part_class.__mro__):
        if each is object:
            continue
        for entry in docstring_parser.parse(each.__doc__ or "").params:
            text = " ".join((entry.description or "").split())
            docs |= {name.strip(): text for name in entry.arg_name.split(",")}
    return docs


def takes_one_value(field: Field) -> bool:
    """Whether a tuple for this field means a sweep over its items. If not, the tuple itself is the value."""
    return not any(get_origin(kind) is tuple for kind in kinds(field.hint))


def default_of(experiment: Any, field: Field) -> Any:
    """The default of a field in the dataclass that defines it; None if there is no such field."""
    part_class = classes_of(experiment).get(field.path[:-1], type(None))
    if not is_dataclass(part_class):
        return None
    return next((each.default for each in fields(part_class) if each.name == field.path[-1]), None)


def value_of(experiment: Any, field: Field) -> Any:
    """The value of a field. For a field that selects a class, the word of the class."""
    value: Any = experiment
    for attribute in field.path:
        value = getattr(value, attribute)
    if field.chooses is not None:
        return next(word for word, part_class in field.chooses.items() if part_class is type(value))
    return value


def read(name: str, field: Field, text: str) -> Any:
    """Converts text from a command line to the value of a field.

    Args:
      name: the name of the field, for error messages.
      field: the field.
      text: the text after the equals sign.

    Returns:
      The value, a tuple if the text contains several values. Its range is not checked.

    Raises:
      ConfigError: if the text is neither a value nor a tuple of values.
    """
    takes_tuples = any(get_origin(kind) is tuple for kind in kinds(field.hint))
    if not takes_tuples and _is_whole(field.hint) and re.fullmatch(r"\d{1,3}(,\d{3})+", text):
        several = ", ".join(str(int(item)) for item in text.split(","))
        whole = text.replace(",", "")
        raise ConfigError(f"{name}={text}: write {whole} for one number, or '({several})' for a sweep")
    if text in ("None", "none") and accepts(field.hint, None):
        return None
    if text[:1] == "(" or "," in text:
        items = _items(text)
        if items is None:
            raise ConfigError(f"{name}={text}: must be {description(field.hint)}; write a tuple as '(a, b)'")
        return tuple(_one(field.hint, item) for item in items)
    value = _one(field.hint, text)
    return (value,) if takes_tuples and not accepts(field.hint, value) else value


def _items(text: str) -> list[Any] | None:
    """The items of `(a, b)` or `a,b`: Python literals if possible, otherwise words. None if the text is not a tuple."""
    try:
        value = ast.literal_eval(text)
        return list(value) if isinstance(value, tuple) else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        inside = text[1:-1] if text[:1] == "(" and text[-1:] == ")" else text
        items = [item.strip().strip("'\"") for item in inside.split(",")]
        items = items[:-1] if len(items) > 1 and not items[-1] else items
        return items if all(item.isidentifier() for item in items) else None


def _one(hint: Any, item: Any) -> Any:
    """Converts one item to the first type of an annotation that accepts it. If none does, the item is unchanged.

    An integer may be written as a float: 5e5 is 500000.
    """
    accepted = _types_of_one(hint)
    if isinstance(item, float) and _is_whole(hint) and item.is_integer():
        return int(item)
    if not isinstance(item, str):
        return item
    for kind, parser in ((bool, BooleanParser()), (int, IntegerParser()), (float, FloatParser())):
        if kind in accepted:
            try:
                return parser.parse(item)
            except (ValueError, TypeError):
                continue
    if _is_whole(hint) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", item):
        return int(float(item)) if float(item).is_integer() else item
    return item


def _types_of_one(hint: Any) -> set[Any]:
    """The types of an annotation. A tuple type is replaced by the types of its items."""
    types: set[Any] = set()
    for kind in kinds(hint):
        items = kinds(get_args(kind)[0]) if get_args(kind) else ()
        types.update(items or (kind,))
    return types


def _is_whole(hint: Any) -> bool:
    """Whether an annotation accepts integers and no floats."""
    accepted = _types_of_one(hint)
    return int in accepted and float not in accepted


def checked(name: str, field: Field, value: Any) -> None:
    """Checks that a field accepts a value.

    Args:
      name: the name in the error message.
      field: the field.
      value: the value to check.

    Raises:
      ConfigError: if the field does not accept it.
    """
    if not accepts(field.hint, value):
        raise ConfigError(f"{name}={value} {requirement(field.hint, value)}")


def rebuilt(part: Any, edits: Mapping[Path, Any], classes: Mapping[Path, type], path: Path = ()) -> Any:
    """A copy of an experiment, or of one of its parts, with all changes applied at once.

    Args:
      part: the experiment, or the part of it at `path`.
      edits: the new value of every changed attribute, by its path from the experiment.
      classes: the new class of every part whose class changes. Attributes that the old and the new class share keep
        their values.
      path: the path of `part`. Default: the experiment itself.

    Returns:
      The copy, checked by the constructors of its parts.

    Raises:
      ConfigError: if a part does not accept a value, or the parts are inconsistent.
    """
    new_class = classes.get(path, type(part))
    accepted = {each.name: hints(new_class)[each.name] for each in fields(new_class) if each.init}
    arguments = {each.name: getattr(part, each.name) for each in fields(part) if each.name in accepted}
    if new_class is not type(part):
        arguments = {name: value for name, value in arguments.items() if accepts(accepted[name], value)}
    changed_parts = [*classes, *(edited[:-1] for edited in edits)]
    for name, value in arguments.items():
        inner = (*path, name)
        if any(changed[: len(inner)] == inner for changed in changed_parts):
            arguments[name] = rebuilt(value, edits, classes, inner)
    arguments |= {edited[-1]: value for edited, value in edits.items() if edited[:-1] == path}
    try:
        return new_class(**arguments)
    except ConfigError:
        raise
    except ValueError as error:  # from the constructor of a part, which does not know the name of its section
        message = with_config_names(one_line(error))
        is_named = not path or message.startswith(tuple(f"{section}." for section in SECTIONS))
        raise ConfigError(message if is_named else f"{path[0]}.{message}") from error


def unknown(name: str, known: Mapping[str, Field], elsewhere: Mapping[str, list[str]]) -> ConfigError:
    """Makes the error about a field that an experiment does not have.

    Args:
      name: the unknown field.
      known: the fields of the experiment.
      elsewhere: fields of other tasks and models, each with the names of the tasks or models that have it.

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
      values: values by old or current field name.
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
