"""What every field of a config accepts by itself; whether all of them agree, and fit the memory of this machine."""

import ctypes
import importlib.util
import math
import os
from typing import Any

from ml_collections import ConfigDict

from icl_gd.lab.config import sweeps
from icl_gd.lab.config.agreement import ANALYSES, check_together
from icl_gd.lab.config.asked import Config
from icl_gd.lab.config.bad_input import BadInput, check_word, reject
from icl_gd.lab.config.claims import wrong_with
from icl_gd.lab.config.defaults import base_config, flatten
from icl_gd.lab.config.fields import ANNOTATIONS
from icl_gd.lab.config.recipe_fields import RECIPES
from icl_gd.lab.config.resources import memory_needed
from icl_gd.schema import accepts, wanted

WORDS = ("analyses", "eval.families", "eval.baselines")  # fields that are lists of them
BESIDE = {"tree": "sklearn", "tree_4": "sklearn", "xgboost": "xgboost"}  # what baselines ask to be installed

SIZES = (
    *("seeds", "task.d_input", "task.d_output", "task.n_context", "model.n_layers", "model.n_heads", "model.d_head"),
    *("model.d_embed", "model.mlp_width", "train.batch_size", "eval.curve_prompts"),
)


def validate(config: Config) -> None:
    """Checks every field by itself, then the fields against each other, then the memory they need.

    Raises:
      BadInput: at the first field that will not do.
    """
    fields = flatten(config)
    for field, value in fields.items():
        _check_sweep(field, value)
    for field in ANNOTATIONS:
        for value in _each(fields[field]):
            _check_value(field, value, alone=not isinstance(fields[field], list))
    _check_claims(config.claims)
    _check_words(config, fields)
    _check_rounded(config, fields)
    _check_combinations(config)
    for _, one in sweeps.in_turn(config):
        check_together(one)
        _check_memory(one)


def _check_claims(claims: tuple) -> None:
    """Whether claims are such, before the run that they are about."""
    for i, claim in enumerate(claims):
        stated = dict(claim.items()) if isinstance(claim, dict | ConfigDict) else claim
        if wrong := wrong_with(stated):
            name = stated.get("id", i) if isinstance(stated, dict) else i
            raise BadInput(f"claims: of claim {name}, {wrong}; claims are written in config files, () leaves them out")
    ids = [claim["id"] for claim in claims]
    if twice := [name for name in ids if ids.count(name) > 1]:
        raise BadInput(f"claims: {twice[0]} is stated twice; give every claim an id of its own")


def _each(value: Any) -> list:
    """The values of a field that may be swept over."""
    return value if isinstance(value, list) else [value]


def check_installed(config: Config) -> None:
    """Whether the libraries are there that baselines are of; not part of `validate`, which holds on any machine.

    Raises:
      BadInput: if one is not.
    """
    for name in config.eval.baselines:
        if name in BESIDE and importlib.util.find_spec(BESIDE[name]) is None:
            reject("eval.baselines", name, f"needs {BESIDE[name]}: pip install 'icl-gd[baselines]'")


def _check_sweep(field: str, value: Any) -> None:
    """A tuple where one value would do."""
    if not isinstance(value, list) or isinstance(flatten(base_config()).get(field, []), list):
        return
    if field not in sweeps.SWEPT:
        reject(field, tuple(value), f"takes one value; tuples are swept over in {', '.join(sweeps.SWEPT)}")
    if not value:
        reject(field, "()", "a sweep needs at least one value")
    if any(one in value[:i] for i, one in enumerate(value)):
        reject(field, tuple(value), "every value of a sweep is accepted once")


def _check_rounded(config: Config, fields: dict[str, Any]) -> None:
    """What is an array over members has the precision of the run: there .99999999 is 1, and 1e-50 is 0."""
    for field in sweeps.TOGETHER if config.precision == "float32" else ():
        for value in (value for value in _each(fields[field]) if value is not None):
            rounded = ctypes.c_float(value).value
            try:
                _check_value(field, rounded)
            except BadInput as error:
                raise BadInput(f"{field}={value} is {rounded} in float32, and {error}") from error


def _check_combinations(config: Config) -> None:
    if not RECIPES[config.recipe].sweeps and (several := sweeps.swept(config, sweeps.SWEPT)):
        field, values = next(iter(several.items()))
        reject(field, values, f"recipe={config.recipe} takes one value")
    for fields, most, what in ((sweeps.TOGETHER, 10**5, "combinations"), (sweeps.IN_TURN, 10**3, "populations")):
        counts = {field: len(values) for field, values in sweeps.swept(config, fields).items()}
        if math.prod(counts.values()) > most:
            shown = " x ".join(f"{count} of {field}" for field, count in counts.items())
            raise BadInput(f"{shown}: {math.prod(counts.values()):,} {what}; at most {most:,} are accepted in one run")


def _check_words(config: Config, fields: dict[str, Any]) -> None:
    takes, others = RECIPES[config.recipe], {task for takes in RECIPES.values() for task in takes.tasks}
    for word in _each(fields["task.name"]):
        if word not in others:  # those it says itself whose they are not
            check_word("task.name", word, takes.tasks)
    for name in fields["analyses"]:
        check_word("analyses", name, ANALYSES if takes.analyses is None else takes.analyses)
    for field in WORDS:
        if len(set(fields[field])) < len(fields[field]):
            reject(field, tuple(fields[field]), "every word is accepted once; a flag that is given again adds words")


def _check_value(field: str, value: Any, alone: bool = True) -> None:
    """Whether a field accepts a value, or, if that is not `alone`, as one of several to sweep over."""
    hint = ANNOTATIONS[field]
    if not accepts(hint, value) or isinstance(value, tuple) or (value is None and not alone):
        reject(field, value, wanted(hint, value))


def accepts_none(field: str) -> bool:
    """Whether a field may be left out, by None."""
    return field in ANNOTATIONS and accepts(ANNOTATIONS[field], None)


def _check_memory(config: Config) -> None:
    needed, there = memory_needed(config), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        fields = flatten(config)
        sizes = ", ".join(f"{field}={fields[field]}" for field in SIZES if fields[field] not in (None, 1))
        combinations = len(sweeps.together(config))
        sizes += f", or sweep over fewer than {combinations} combinations" * (combinations > 1)
        raise BadInput(
            f"these sizes need about {needed / 2**30:.3g} GiB, this machine has {there / 2**30:.3g}: lower {sizes}"
        )
