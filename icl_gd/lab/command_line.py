"""From the command line to a checked Run. What is wrong is said in one line, before anything is compiled or written."""

import difflib
import inspect
import re
import sys
import types
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import absl.logging  # which defines its flags
from absl import flags

import icl_gd.lab.foreign as foreign
from icl_gd.lab.config import fields as names
from icl_gd.lab.config.asked import Processes, Run
from icl_gd.lab.config.errors import ConfigError, nearest, one_line
from icl_gd.lab.config.experiment import Experiment
from icl_gd.lab.config.questions import Unfit
from icl_gd.lab.config.resources import check_memory
from icl_gd.lab.lifecycle import processes
from icl_gd.lab.lifecycle.workdirs import check_workdir
from icl_gd.paths import local
from icl_gd.schema import said

PACKAGE = Path(__file__).parents[1]
SHIPPED = PACKAGE / "configs"  # in a wheel; a clone has them beside the package
CONFIGS = SHIPPED if SHIPPED.is_dir() else PACKAGE.parent / "configs"
OWN = (
    "--config",
    "--workdir",
    "--profile",
    "--help",
    "--config.FIELD",
    *(f"--{name}" for name in processes.FLAGS),
    "--flagfile",
)
OF_LOGGING = tuple(flag for flag in flags.FLAGS if flags.FLAGS.find_module_defining_flag(flag) == absl.logging.__name__)
# Fields of which the smoke variant of a config that is not one of ours has no more than that of the one it is read as.
SMALL = (
    *("model.n_layers", "train.steps", "train.batch_size", "train.warmup", "train.log_every", "train.checkpoint_every"),
    *("eval.prompts", "seeds", "reference.published_steps"),
)


def parse(argv: list[str]) -> Run:
    """Reads a command line.

    Raises:
      ConfigError: whatever is wrong with it.
    """
    several, words = _processes(_logging(_joined(_with_files(argv[1:]))))
    profile, words = _profile(words)
    path, variant, words = _config_path(words)
    notes: list[str] = []
    stored = load(path, variant, [word.partition("=")[0].removeprefix("--config.") for word in words], notes)
    given, left = _overrides(words, stored)
    experiment = changed(stored, given, notes)
    name = path.stem + (f"-{variant}" if variant else "")
    workdir = _workdir(left) or Path(f"runs/{name}")
    check_memory(experiment)
    before, after = stored.flat(), experiment.flat()
    free = {name for name, its in experiment.fields.items() if its.is_free}
    overridden = tuple(field for field in after if after[field] != before.get(field) and field not in free)
    run = Run(experiment, path.stem, variant or None, workdir, overridden, several, profile)
    if several is None:  # of several processes only the first has a workdir
        check_workdir(run)
    for note in notes:
        print(f"note: {note}", flush=True)
    return run


def changed(experiment: Experiment, given: Mapping[str, str], notes: list[str]) -> Experiment:
    """An experiment with fields as a command line gives them, in words.

    Args:
      notes: what is to be said of it is added.

    Raises:
      ConfigError: if a field or a value will not do.
    """
    given = names.respelt(given, notes.append)
    classes = {
        its.path: its.chooses[given[name]]
        for name, its in experiment.fields.items()
        if its.chooses is not None and given.get(name) in its.chooses
    }
    table = names.fields_of(names.classes_of(experiment, classes))
    for name in given:
        if name not in table and (hint := _hint(name, table)):
            raise ConfigError(f"--config.{name}: unknown field; {hint}")
    values = flags.FlagValues()
    for name, its in table.items():
        if name in given:
            flags.DEFINE(_Parser(name, its), f"config.{name}", None, its.about, flag_values=values, serializer=None)
    try:
        values(["run", *(f"--config.{name}={text}" for name, text in given.items() if name in table)])
    except flags.IllegalFlagValueError as error:
        raise error.__context__ or error from None  # what the parser said
    read: dict[str, Any] = {
        name: values[f"config.{name}"].value if name in table else text for name, text in given.items()
    }
    level = {name: stage for name in STAGES if len(stage := read.get(name) or ()) == 3 and stage[1] == 0}
    read |= dict.fromkeys(level, ())
    if "claims" in given or not experiment.claims:
        return _level(experiment.change(read, notes.append), level)
    # With fewer analyses some of what the config claims is not measured.
    changed = _level(experiment.change({**read, "claims": ()}, notes.append), level)
    measured = tuple(claim for claim in experiment.claims if changed.is_measured(claim.measured))
    if left := [claim.id for claim in experiment.claims if claim not in measured]:
        notes.append(f"claims {', '.join(left)} are left out: nothing measures them with these settings")
    return changed.change({"claims": measured})


# Curricula, with what each ends at.
STAGES = {"train.active_inputs": ("task.d_input", 0), "train.active_points": ("task.n_context + 1", 1)}


def _level(experiment: Experiment, level: Mapping[str, tuple]) -> Experiment:
    """The experiment, whose curricula with an increase of 0 are none: they start where they would end.

    Raises:
      ConfigError: if one does not.
    """
    for name, stage in level.items():
        end, more = STAGES[name]
        for law in (one.law_of_training for _, one in experiment.in_turn()):
            at = (law.n_context if more else law.d_input) + more
            if stage[0] != at:
                raise ConfigError(
                    f"{name}={stage}: with an increase of 0 it never ends at {end}={at}; an increase of at "
                    f"least 1, a start at {at}, or () is accepted"
                )
    return experiment


def _hint(name: str, known: Collection[str]) -> str | None:
    """What a name of another codebase is here."""
    if said_of := foreign.said_of(name):
        return said_of
    ours = foreign.meant(name, known)
    return ours and f"did you mean {ours}?"


class _Parser(flags.ArgumentParser):
    """Reads the words of one field."""

    def __init__(self, name: str, field: names.Field):
        self._name, self._field, self.syntactic_help = name, field, said(field.hint)

    def parse(self, argument: Any) -> Any:
        """The value that a command line gives; absl asks with None and with what is parsed already, too."""
        return names.read(self._name, self._field, argument) if isinstance(argument, str) else argument

    def flag_type(self) -> str:
        return said(self._field.hint)


def help_of(argv: list[str]) -> str:
    """Every field of the config that a command line names, with its value, what it accepts and what it is."""
    try:
        path, variant, _ = _config_path(
            _joined([word for word in _with_files(argv[1:]) if word.startswith("--config=")])
        )
        experiment = load(path, variant)
    except ConfigError:
        return "Every field of a config, with what it accepts: --config=FILE[:VARIANT] --help\n"
    lines = [f"Fields of {path.name}{f':{variant}' * bool(variant)}:\n"]
    for name, its in experiment.fields.items():
        value = experiment[name] if name != "claims" else f"... ({len(experiment.claims)}; () for none)"
        lines.append(f"  --config.{name}={_shown(value)}\n      {said(its.hint)}. {its.about}".rstrip(". ") + ".")
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    return f"'{value}'" if isinstance(value, tuple) else str(value)


def _with_files(words: list[str]) -> list[str]:
    """The words, with those of the files that `--flagfile` names in its place, as absl reads them.

    Raises:
      ConfigError: if there is no such file.
    """
    try:
        return flags.FlagValues().read_flags_from_files(words)
    except (flags.Error, OSError, ValueError) as error:
        why = one_line(error).rpartition("flagfile: ")[2]
        raise ConfigError(f"--flagfile: {why}; accepted: a file with one flag a line, # before comments") from error


def _logging(words: list[str]) -> list[str]:
    """Gives absl the flags of its logging, which it acts on; the words that are left.

    Raises:
      ConfigError: if absl does not accept a value.
    """
    is_its = lambda word: word.removeprefix("--").partition("=")[0].removeprefix("no") in OF_LOGGING
    values = flags.FlagValues()
    for its in {flags.FLAGS[name] for name in OF_LOGGING}:
        values[its.name] = its
    try:
        values(["run", *filter(is_its, words)])
    except (flags.Error, ValueError) as error:
        raise ConfigError(one_line(error)) from error
    return [word for word in words if not is_its(word)]


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
        raise ConfigError(f"--profile={given[-1]}: true or false is accepted")
    return bool(given) and given[-1] != "false", [word for word in words if word.partition("=")[0] != "--profile"]


def _workdir(words: list[str]) -> Path | None:
    given = [word.partition("=")[2] for word in words if word.partition("=")[0] == "--workdir"]
    if given and not given[-1]:
        raise ConfigError("--workdir is empty; give a directory: --workdir=DIR")
    return _local(given[-1], "--workdir") if given else None


def _local(path: str, name: str) -> Path:
    try:
        return local(path, name)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _joined(words: list[str]) -> list[str]:
    """Every flag as one word `--FLAG=VALUE`, so that neither order nor spelling matters afterwards."""
    joined, words = [], list(words)
    while words:
        word = words.pop(0)
        if not re.match(r"--?\w", word):
            raise ConfigError(f"stray argument {word!r}: settings are given as --config.FIELD=VALUE")
        word = "--" + word.lstrip("-")
        # A value may start with one dash (-5), a flag given with two is the next flag. A lone flag may be a bool.
        if "=" not in word and words and not re.match(r"--\w|-[a-z]", words[0]) and not word.startswith("--noconfig."):
            word += "=" + words.pop(0)
        joined.append(word)
    return joined


def _config_path(words: list[str]) -> tuple[Path, str, list[str]]:
    """The config file and variant named on the command line, and the words that are left."""
    given = [word.partition("=")[2] for word in words if word.partition("=")[0] == "--config"]
    shipped = sorted(path.stem for path in CONFIGS.glob("*.py") if not path.stem.startswith("_"))
    if not given or not given[-1]:
        raise ConfigError(f"--config is missing: --config=FILE[:VARIANT], a file, or one of {', '.join(shipped)}")
    file, colon, variant = given[-1].partition(":")
    if colon and not variant:
        raise ConfigError(f"--config={given[-1]}: the variant after the colon is empty; leave the colon out for none")
    path = CONFIGS / f"{file}.py" if file in shipped else _local(file, "--config")
    try:
        found = path.is_file()
    except (OSError, ValueError):  # a name no file can have
        found = False
    if not found and path.stem in shipped:
        raise ConfigError(f"--config={file}: no such file in {Path.cwd()}; did you mean {path.stem}, which ships?")
    if not found:
        raise ConfigError(f"--config={file}: no such file; {nearest(path.stem, shipped)}, or a file of your own")
    return path, variant, [word for word in words if word.partition("=")[0] != "--config"]


def load(path: Path, variant: str = "", given: Collection[str] = (), notes: list[str] | None = None) -> Experiment:
    """The experiment that a config file gives, which is executed once; one of another codebase is read (`foreign`).

    Args:
      given: fields that a command line gives, for which a config of another codebase needs no value.
      notes: what is to be said of it is added.

    Raises:
      ConfigError: if it is no config file, or has no such variant.
    """
    notes = [] if notes is None else notes
    if path.suffix in (".yaml", ".yml"):
        return _of_theirs(path, variant, foreign.of_yaml(path), given, notes)
    module = types.ModuleType(f"icl_gd_config_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where annotations of the classes it may define are looked up
    sys.path.insert(0, str(path.parent.absolute()))  # as of a script, for what lies beside it
    try:
        exec(compile(path.read_text(), str(path), "exec"), vars(module))  # unlike an import, leaves no __pycache__
        settings = getattr(module, "config", None)  # that of von Oswald et al. is no function's
        if not hasattr(module, "get_config") and foreign.is_mapping(settings):
            return _of_theirs(path, variant, foreign.flat(settings), given, notes)
        get_config = module.get_config
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        missing = isinstance(error, AttributeError) and "get_config" in str(error)
        why = "" if missing else f": {one_line(error)}"
        raise ConfigError(
            f"--config={path} is not a config file (it needs get_config() or get_config(variant)){why}"
        ) from error
    finally:
        sys.path.remove(str(path.parent.absolute()))
    variants = getattr(module, "VARIANTS", None)
    if variant and variants is not None and variant not in variants:
        raise ConfigError(f"--config={path}:{variant}: unknown variant {variant!r}; {nearest(variant, variants)}")
    try:
        alone = not inspect.signature(get_config).parameters
        experiment = get_config() if alone else get_config(variant)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"--config={path}{f':{variant}' * bool(variant)}: {one_line(error)}") from error
    if foreign.is_mapping(experiment):
        return _of_theirs(path, variant if alone else "", foreign.flat(experiment), given, notes)
    if alone and variant:
        raise ConfigError(f"--config={path}:{variant}: its get_config takes no variant; --config={path} is accepted")
    if not isinstance(experiment, Experiment):
        raise ConfigError(
            f"--config={path}: get_config gives a {type(experiment).__name__}, it must give an Experiment"
        )
    return experiment


def _of_theirs(
    path: Path, variant: str, settings: foreign.Theirs, given: Collection[str], notes: list[str]
) -> Experiment:
    """A config of another codebase as the one that ships which it changes; its variant smoke is as small as that one's.

    Raises:
      ConfigError: if there is nothing here that is the same.
    """
    if variant not in ("", "smoke"):
        raise ConfigError(f"--config={path}:{variant}: unknown variant {variant!r}; {nearest(variant, ['smoke'])}")
    read = foreign.read(settings, f"--config={path}", given)
    notes += read.notes
    base, values = load(CONFIGS / f"{read.base}.py", variant), dict(read.values)
    for name in SMALL if variant else ():
        if name in values and not (name == "model.n_layers" and isinstance(values.get("model.attention"), tuple)):
            values[name] = min(values[name], base[name])
    words = {name: str(value) for name, value in values.items()}
    try:
        bare = changed(base, {**words, "analyses": "()", "claims": "()"}, notes)
    except ConfigError as error:
        raise ConfigError(f"--config={path}: {error}") from error
    fit = tuple(analysis.name for analysis in base.analyses if _is_fit(analysis, bare))
    if left := [name for name in base.asked if name not in fit]:
        notes.append(f"analyses {', '.join(left)} are left out: they cannot be asked of these settings")
    return bare.change({"analyses": fit})


def _is_fit(analysis: Any, experiment: Experiment) -> bool:
    try:
        analysis.check(experiment)
    except Unfit:
        return False
    return True


def _overrides(words: list[str], experiment: Experiment) -> tuple[dict[str, str], list[str]]:
    """Fields given on the command line, as words; the last one counts; and the words that are left.

    Raises:
      ConfigError: at a flag that there is not, with the nearest one.
    """
    given: dict[str, str] = {}
    left = []
    known = experiment.fields
    for word in words:
        flag, equals, value = word.removeprefix("--").partition("=")
        if not flag.startswith(("config.", "noconfig.")):
            if flag != "workdir":
                if said_of := foreign.said_of(flag):
                    raise ConfigError(f"--{flag}: unknown flag; {said_of}")
                alike = [name for name in known if flag.split(".")[-1] == name.split(".")[-1]]
                near = difflib.get_close_matches(flag, alike, 1, 0.0) or [foreign.meant(flag, known)]
                hint = f"did you mean --config.{near[0]}?" if near[0] else nearest(f"--{flag}", OWN)
                raise ConfigError(f"--{flag}: unknown flag; {hint}")
            left.append(word)
            continue
        name = flag.removeprefix("no").removeprefix("config.")
        if not equals:
            if name in known and not isinstance(experiment[name], bool):
                raise ConfigError(f"--{flag} needs a value: --config.{name}=VALUE")
            value = "false" if flag.startswith("no") else "true"
        given[name] = value
    return given, left
