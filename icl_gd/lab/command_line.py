"""From the command line to a checked Run. What is wrong is said in one line, before anything is compiled or written."""

import copy
import difflib
import inspect
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from icl_gd.lab.config import sweeps
from icl_gd.lab.config.asked import Config, Processes, Run
from icl_gd.lab.config.bad_input import BadInput, nearest, one_line
from icl_gd.lab.config.defaults import base_config, flatten
from icl_gd.lab.config.validation import WORDS, accepts_none, validate
from icl_gd.lab.lifecycle import processes
from icl_gd.lab.lifecycle.workdirs import FREE_FIELDS, check_workdir

CONFIGS = Path(__file__).parents[2] / "configs"
KINDS = {
    int: "an int: a whole number is accepted, as in 100",
    float: "a float: a number is accepted, as in 0.5 or 1e-3",
    bool: "a bool: true or false is accepted",
    tuple: "a tuple: '(a, b)' is accepted, with quotes around each word",
}


def parse(argv: list[str]) -> Run:
    """Reads a command line.

    Raises:
      BadInput: whatever is wrong with it.
    """
    several, words = _processes(_joined(argv[1:]))
    profile, words = _profile(words)
    path, variant, words = _config_path(words)
    stored = _load_config(path, variant)
    config = copy.deepcopy(stored)
    words = _check_names(words, stored, config)
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "Where results go.", flag_values=values)
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=[argv[0], *words])
        values([argv[0], *words])
    except Exception as error:  # absl and ml_collections each raise their own kinds
        raise BadInput(_wrong_type(words, config, error)) from error
    config = values["config"].value
    name = path.stem + (f"-{variant}" if variant else "")
    workdir = Path(values["workdir"].value or f"runs/{name}")
    validate(config)
    before, after = flatten(stored), flatten(config)
    overridden = tuple(field for field in after if after[field] != before.get(field) and field not in FREE_FIELDS)
    run = Run(config, path.stem, variant or None, workdir, overridden, several, profile)
    if several is None:  # of several processes only the first has a workdir
        check_workdir(run)
    return run


def _processes(words: list[str]) -> tuple[Processes | None, list[str]]:
    """What the command line says of processes, and the words that are left."""
    given = {}
    for word in words:
        flag, _, value = word.removeprefix("--").partition("=")
        if flag in processes.FLAGS:
            given[flag] = value
    left = [word for word in words if word.removeprefix("--").partition("=")[0] not in processes.FLAGS]
    return processes.processes_of(given), left


def _profile(words: list[str]) -> tuple[bool, list[str]]:
    """Whether the command line asks for a profile, and the words that are left."""
    given = [word.partition("=")[2].lower() for word in words if word.partition("=")[0] == "--profile"]
    if given and given[-1] not in ("", "true", "false"):
        raise BadInput(f"--profile={given[-1]}: true or false is accepted")
    return bool(given) and given[-1] != "false", [word for word in words if word.partition("=")[0] != "--profile"]


def _joined(words: list[str]) -> list[str]:
    """Every flag as one word `--FLAG=VALUE`, so that neither order nor spelling matters afterwards."""
    joined, words = [], list(words)
    while words:
        word = words.pop(0)
        if not re.match(r"--?\w", word):
            raise BadInput(f"stray argument {word!r}: settings are given as --config.FIELD=VALUE")
        word = "--" + word.lstrip("-")
        # A value may start with one dash (-5), a flag given with two is the next flag. A lone flag may be a bool.
        if "=" not in word and words and not re.match(r"--\w|-[a-z]", words[0]) and not word.startswith("--noconfig."):
            word += "=" + words.pop(0)
        joined.append(word)
    return joined


def _config_path(words: list[str]) -> tuple[Path, str, list[str]]:
    """The config file and variant named on the command line, and the words that are left."""
    given = [word.partition("=")[2] for word in words if word.partition("=")[0] == "--config"]
    names = ", ".join(_config_names())
    if not given or not given[-1]:
        raise BadInput(f"--config is missing: --config=FILE[:VARIANT], FILE one of {names}")
    file, colon, variant = given[-1].partition(":")
    if colon and not variant:
        raise BadInput(f"--config={given[-1]}: the variant after the colon is empty; leave the colon out for none")
    path = Path(file)
    try:
        found = path.is_file()
    except (OSError, ValueError):  # a name no file can have
        found = False
    if not found and f"configs/{path.name}" in _config_names() and Path.cwd() != CONFIGS.parent:
        raise BadInput(f"--config={file}: no such file in {Path.cwd()}; did you mean {CONFIGS / path.name}?")
    if not found:
        raise BadInput(f"--config={file}: no such file; {nearest(f'configs/{path.stem}.py', _config_names())}")
    return path, variant, [word for word in words if word.partition("=")[0] != "--config"]


def _config_names() -> list[str]:
    return sorted(f"configs/{path.name}" for path in CONFIGS.glob("*.py") if not path.stem.startswith("_"))


def _load_config(path: Path, variant: str) -> Config:
    module: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    try:
        exec(compile(path.read_text(), str(path), "exec"), module)  # unlike an import, it leaves no __pycache__ behind
        get_config = module["get_config"]
    except (Exception, SystemExit) as error:
        why = "" if isinstance(error, KeyError) else f": {one_line(error)}"
        raise BadInput(
            f"--config={path} is not a config file (it needs get_config() or get_config(variant)){why}"
        ) from error
    variants = module.get("VARIANTS")
    if variant and variants is not None and variant not in variants:
        raise BadInput(f"--config={path}:{variant}: unknown variant {variant!r}; {nearest(variant, variants)}")
    try:
        alone = not inspect.signature(get_config).parameters
        config = get_config() if alone else get_config(variant)
    except (Exception, SystemExit) as error:
        raise BadInput(f"--config={path}:{variant}: {one_line(error)}") from error
    if alone and variant:
        raise BadInput(f"--config={path}:{variant}: its get_config takes no variant; --config={path} is accepted")
    if not isinstance(config, ConfigDict):
        raise BadInput(f"--config={path}: get_config gives a {type(config).__name__}, it must give a ConfigDict")
    has = flatten(config)
    if missing := [field for field in flatten(base_config()) if field not in has]:
        raise BadInput(f"--config={path} lacks the fields {', '.join(missing)}; start from icl_gd.lab.config.defaults")
    return config


def _check_names(words: list[str], stored: Config, config: Config) -> list[str]:
    """Unknown flags and fields, with the nearest name, before absl sees them; sets what absl's parsers cannot read.

    Those are optional fields given as None, and numbers and words given as tuples, to sweep over: their words are taken
    out of what is returned. Words listed without quotes are given them.
    """
    base, unread = flatten(base_config()), {}
    fields, left = flatten(stored), []
    for word in words:
        flag, equals, value = word.removeprefix("--").partition("=")
        field = flag.removeprefix("no").removeprefix("config.") if flag.startswith(("config.", "noconfig.")) else None
        if field is None and flag != "workdir":
            known = (
                "--config",
                "--workdir",
                "--profile",
                "--help",
                "--config.FIELD",
                *(f"--{name}" for name in processes.FLAGS),
            )
            near = [f"--config.{name}" for name in fields if flag in (name, name.split(".")[-1])]
            raise BadInput(f"--{flag}: unknown flag; {nearest(near[0] if near else f'--{flag}', [*known, *near])}")
        if field is None and not value:
            raise BadInput("--workdir is empty; give a directory: --workdir=DIR")
        if field is not None and field not in fields:
            raise BadInput(f"--config.{field}: unknown field; {_nearest_few(field, fields)}")
        if field is not None and not equals and not isinstance(fields[field], bool):
            raise BadInput(f"--{flag} needs a value: --config.{field}=VALUE")
        several = sweeps.read_tuple(value) if field in base and not isinstance(base[field], list) else None
        if field in WORDS and (listed := _listed(value)):
            word = f"--{flag}={listed}"
        if (field is not None and value in ("None", "none") and accepts_none(field)) or several is not None:
            unread[field] = several
        else:  # the last word counts
            unread.pop(field, None)
            left.append(word)
            if field in sweeps.SWEPT:  # one value where the config has a tuple, of the type it then has
                with config.ignore_type():
                    config_path.set_value(field, config, base[field])
    with config.ignore_type():
        for field, value in unread.items():
            config_path.set_value(field, config, value)
    return [word for word in left if word.partition("=")[0].removeprefix("--config.") not in unread]


def _listed(word: str) -> tuple[str, ...] | None:
    """The words that a value on the command line lists, `a,b` or `('a', 'b')`, if it does."""
    inside = word[1:-1] if word[:1] == "(" and word[-1:] == ")" else word
    found = [part.strip().strip("'\"") for part in inside.split(",")]
    found = found[:-1] if len(found) > 1 and not found[-1] else found
    return tuple(found) if all(part.isidentifier() for part in found) else None


def _wrong_type(words: list[str], config: Config, error: Exception) -> str:
    """What absl could not read, in the words of a user."""
    fields = flatten(config)
    for word in words:
        flag, _, value = word.removeprefix("--config.").partition("=")
        if isinstance(error, flags.IllegalFlagValueError) and f"{word}:" in str(error) and flag in fields:
            kind = config_path.get_type(flag, config)
            several = "; several are swept over, as in (1, 2)" * (flag in sweeps.SWEPT)
            return f"{flag}={value}: not {KINDS.get(kind, kind)}{several}"
    return one_line(error)


def _nearest_few(field: str, fields: Collection[str]) -> str:
    """What may have been meant: a field of this last name elsewhere, one it shortens, one spelt alike, a section's."""
    if section := [name for name in fields if name.startswith(f"{field}.")]:
        return f"did you mean one of {', '.join(section)}?"
    part, _, leaf = field.rpartition(".")
    inside = [name for name in fields if name.rpartition(".")[0] == part]
    words = {name: name.rpartition(".")[2].split("_") for name in inside}
    short = [name for name, its in words.items() if leaf in ("".join(word[0] for word in its), *its)]
    elsewhere = [name for name in fields if name.rpartition(".")[2] == leaf]
    alike = difflib.get_close_matches(field, fields, 1, 0.75) if len(leaf) > 3 else []
    found = difflib.get_close_matches(field, elsewhere, 1, 0.0) or alike or short[:1]
    return f"did you mean {found[0]}?" if found else f"accepted: {', '.join(inside or fields)}"
