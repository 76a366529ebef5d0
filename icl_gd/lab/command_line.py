"""Parses a command line to a validated `RunRequest`.

An error is one line, and is raised before anything is compiled or written.
"""

import difflib
import inspect
import re
import sys
import types
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import absl.logging  # defines the logging flags
from absl import flags

import icl_gd.lab.foreign as foreign
from icl_gd.lab.config import fields as config_fields
from icl_gd.lab.config.errors import ConfigError, nearest, one_line
from icl_gd.lab.config.experiment import Experiment
from icl_gd.lab.config.questions import Unfit
from icl_gd.lab.config.resources import check_memory
from icl_gd.lab.config.run_request import Processes, RunRequest
from icl_gd.lab.lifecycle import processes
from icl_gd.lab.lifecycle.workdirs import check_workdir
from icl_gd.paths import local
from icl_gd.schema import description

PACKAGE = Path(__file__).parents[1]
SHIPPED = PACKAGE / "configs"  # the built-in configs in a wheel; in a clone, `configs` is a sibling of the package
CONFIGS = SHIPPED if SHIPPED.is_dir() else PACKAGE.parent / "configs"
FLAGS = (
    "--config",
    "--workdir",
    "--profile",
    "--verbose",
    "--help",
    "--config.FIELD",
    *(f"--{name}" for name in processes.FLAGS),
    "--flagfile",
)
OF_LOGGING = tuple(flag for flag in flags.FLAGS if flags.FLAGS.find_module_defining_flag(flag) == absl.logging.__name__)
# Fields that the smoke variant of a foreign config limits to the values of the built-in config's smoke variant.
SMALL = (
    *("model.n_layers", "train.steps", "train.batch_size", "train.warmup", "train.log_every", "train.checkpoint_every"),
    *("eval.prompts", "seeds", "reference.published_steps"),
)


def parse(argv: list[str]) -> RunRequest:
    """Parses a command line, checks the requested run, and prints notes about it.

    Args:
      argv: the command line, including the name of the program.

    Returns:
      The validated request.

    Raises:
      ConfigError: if the command line is invalid, or the run cannot start on this machine.
    """
    run_processes, words = _processes(_logging(_joined(_with_files(argv[1:]))))
    profile, words = _switch(words, "profile")
    verbose, words = _switch(words, "verbose")
    path, variant, words = _config_path(words)
    notes: list[str] = []
    base = load(path, variant, [word.partition("=")[0].removeprefix("--config.") for word in words], notes)
    given, words = _overrides(words, base)
    experiment = changed(base, given, notes)
    name = path.stem + (f"-{variant}" if variant else "")
    workdir = _workdir(words) or Path(f"runs/{name}")
    check_memory(experiment)
    before, after = base.flat(), experiment.flat()
    free = {name for name, field in experiment.fields.items() if field.is_free}
    overridden = tuple(name for name in after if after[name] != before.get(name) and name not in free)
    request = RunRequest(experiment, path.stem, variant or None, workdir, overridden, run_processes, profile, verbose)
    if run_processes is None:  # otherwise the first process checks the workdir, after the processes have connected
        check_workdir(request)
    for note in notes:
        print(f"note: {note}", flush=True)
    return request


def changed(experiment: Experiment, given: Mapping[str, str], notes: list[str]) -> Experiment:
    """Changes fields of an experiment to values given as text. Claims about unmeasured metrics are removed.

    Args:
      experiment: the experiment.
      given: text by field name, as on a command line.
      notes: messages to the user are appended to this list.

    Returns:
      The changed experiment.

    Raises:
      ConfigError: if a field does not exist or does not accept its value, or the parts are inconsistent.
    """
    given = config_fields.with_current_names(given, notes.append)
    values = _parsed(given, experiment)
    # A curriculum with an increase of 0 is accepted only if it starts at its end value. It then has no effect, like ().
    constant = {name: stage for name in STAGES if len(stage := values.get(name) or ()) == 3 and stage[1] == 0}
    values |= dict.fromkeys(constant, ())
    keeps_claims = "claims" not in given and bool(experiment.claims)
    result = experiment.change({**values, "claims": ()} if keeps_claims else values, notes.append)
    _check_constant(result, constant)
    if not keeps_claims:
        return result
    measured = tuple(claim for claim in experiment.claims if result.is_measured(claim.measured))
    if unmeasured := [claim.id for claim in experiment.claims if claim not in measured]:
        notes.append(f"claims {', '.join(unmeasured)} are left out: nothing measures them with these settings")
    return result.change({"claims": measured})


def _parsed(given: Mapping[str, str], experiment: Experiment) -> dict[str, Any]:
    """Converts the text of every field to a value. For unknown fields the text is unchanged.

    Raises:
      ConfigError: if a field does not accept its text, or if there is a hint for an unknown field.
    """
    classes = {
        field.path: field.chooses[given[name]]
        for name, field in experiment.fields.items()
        if field.chooses is not None and given.get(name) in field.chooses
    }
    table = config_fields.fields_of(config_fields.classes_of(experiment, classes))
    for name in given:
        if name not in table and (hint := _hint(name, table)):
            raise ConfigError(f"--config.{name}: unknown field; {hint}")
    values = flags.FlagValues()
    for name, field in table.items():
        if name in given:
            flags.DEFINE(_Parser(name, field), f"config.{name}", None, field.about, flag_values=values, serializer=None)
    try:
        values(["run", *(f"--config.{name}={text}" for name, text in given.items() if name in table)])
    except flags.IllegalFlagValueError as error:
        raise error.__context__ or error from None  # the error of `_Parser`
    return {name: values[f"config.{name}"].value if name in table else text for name, text in given.items()}


# The end value of each curriculum: as an expression, for messages, and as a function of the task.
STAGES: Mapping[str, tuple[str, Callable[[Any], int]]] = {
    "train.active_inputs": ("task.d_input", lambda task: task.d_input),
    "train.active_points": ("task.n_context + 1", lambda task: task.n_context + 1),
}


def _check_constant(experiment: Experiment, constant: Mapping[str, tuple]) -> None:
    """Checks that curricula with an increase of 0 start at their end value, in every population.

    Raises:
      ConfigError: if a curriculum starts at another value.
    """
    for name, stage in constant.items():
        expression, end_of = STAGES[name]
        for _, one in experiment.populations():
            end = end_of(one.train_task)
            if stage[0] != end:
                raise ConfigError(
                    f"{name}={stage}: with an increase of 0 it never ends at {expression}={end}; give an increase of "
                    f"at least 1, a start of {end}, or () for no curriculum"
                )


def _hint(name: str, known: Collection[str]) -> str | None:
    """A hint for a name from another codebase; None if no known codebase uses the name."""
    if advice := foreign.advice(name):
        return advice
    field = foreign.equivalent_field(name, known)
    return field and f"did you mean {field}?"


class _Parser(flags.ArgumentParser):
    """Parses the text of one field."""

    def __init__(self, name: str, field: config_fields.Field):
        self._name, self._field, self.syntactic_help = name, field, description(field.hint)

    def parse(self, argument: Any) -> Any:
        """Converts text to a value. absl also passes None and parsed values, which are returned unchanged."""
        return config_fields.read(self._name, self._field, argument) if isinstance(argument, str) else argument

    def flag_type(self) -> str:
        return description(self._field.hint)


def help_of(argv: list[str]) -> str:
    """The help text for the config of a command line: every field with value, accepted values and documentation.

    Args:
      argv: the command line, including the name of the program.

    Returns:
      The help text. If the command line names no config, a hint instead.
    """
    try:
        path, variant, _ = _config_path(
            _joined([word for word in _with_files(argv[1:]) if word.startswith("--config=")])
        )
        experiment = load(path, variant)
    except ConfigError:
        return "To list all fields of a config with their accepted values: --config=FILE[:VARIANT] --help\n"
    lines = [f"Fields of {_with_variant(path.name, variant)}:\n"]
    for name, field in experiment.fields.items():
        value = experiment[name] if name != "claims" else f"... ({len(experiment.claims)}; () for none)"
        lines.append(f"  --config.{name}={_shown(value)}")
        about = field.about[:1].upper() + field.about[1:]
        text = f"{description(field.hint)}. {about}".rstrip()
        lines.append(f"      {text}" if text.endswith(".") else f"      {text}.")
    return "\n".join(lines) + "\n"


def _with_variant(config: str | Path, variant: str) -> str:
    return f"{config}:{variant}" if variant else str(config)


def _shown(value: Any) -> str:
    return f"'{value}'" if isinstance(value, tuple) else str(value)


def _with_files(words: list[str]) -> list[str]:
    """Replaces every `--flagfile=FILE` by the flags in this file.

    Raises:
      ConfigError: if a file cannot be read.
    """
    try:
        return flags.FlagValues().read_flags_from_files(words)
    except (flags.Error, OSError, ValueError) as error:
        why = one_line(error).rpartition("flagfile: ")[2]
        raise ConfigError(
            f"--flagfile: {why}; give a text file with one flag per line, and # before comments"
        ) from error


def _logging(words: list[str]) -> list[str]:
    """Applies the logging flags of absl, and returns the other words.

    Raises:
      ConfigError: if absl does not accept a value.
    """
    logging_words, others = [], []
    for word in words:
        name = word.removeprefix("--").partition("=")[0].removeprefix("no")
        (logging_words if name in OF_LOGGING else others).append(word)
    values = flags.FlagValues()
    for flag in {flags.FLAGS[name] for name in OF_LOGGING}:
        values[flag.name] = flag
    try:
        values(["run", *logging_words])
    except (flags.Error, ValueError) as error:
        raise ConfigError(one_line(error)) from error
    return others


def _take(words: list[str], *flags_: str) -> tuple[dict[str, str], list[str]]:
    """Returns the values of some flags, by name, and the other words. The last value of a repeated flag counts."""
    given, others = {}, []
    for word in words:
        flag, _, value = word.removeprefix("--").partition("=")
        if flag in flags_:
            given[flag] = value
        else:
            others.append(word)
    return given, others


def _processes(words: list[str]) -> tuple[Processes | None, list[str]]:
    """Returns the processes of the run, None for a single process, and the other words."""
    given, others = _take(words, *processes.FLAGS)
    return processes.processes_of(given), others


def _switch(words: list[str], flag: str) -> tuple[bool, list[str]]:
    """Returns the value of a boolean flag, and the other words."""
    given, others = _take(words, flag)
    value = given.get(flag, "false").lower()
    if value not in ("", "true", "false"):
        raise ConfigError(f"--{flag}={value}: must be true or false")
    return value != "false", others


def _workdir(words: list[str]) -> Path | None:
    """The value of `--workdir`; None if the flag is missing."""
    given, _ = _take(words, "workdir")
    if "workdir" not in given:
        return None
    if not given["workdir"]:
        raise ConfigError("--workdir is empty; give a directory: --workdir=DIR")
    return _local(given["workdir"], "--workdir")


def _local(path: str, name: str) -> Path:
    """The path of a local file or directory. `name` is the flag, for error messages."""
    try:
        return local(path, name)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _joined(words: list[str]) -> list[str]:
    """Rewrites every flag as one word `--FLAG=VALUE`. One dash, and a space instead of `=`, are accepted, too."""
    joined, words = [], list(words)
    while words:
        word = words.pop(0)
        if not re.match(r"--?\w", word):
            raise ConfigError(f"stray argument {word!r}: give settings as --config.FIELD=VALUE")
        word = "--" + word.lstrip("-")
        # The next word is the value, unless it is a flag (-5 is a value). A boolean flag needs no value.
        if "=" not in word and words and not re.match(r"--\w|-[a-z]", words[0]) and not word.startswith("--noconfig."):
            word += "=" + words.pop(0)
        joined.append(word)
    return joined


def _config_path(words: list[str]) -> tuple[Path, str, list[str]]:
    """Returns the path of the config file, the variant, and the other words."""
    given, others = _take(words, "config")
    shipped = sorted(path.stem for path in CONFIGS.glob("*.py") if not path.stem.startswith("_"))
    if not given.get("config"):
        raise ConfigError(
            f"--config is missing: give --config=FILE[:VARIANT], where FILE is a path or one of {', '.join(shipped)}"
        )
    file, colon, variant = given["config"].partition(":")
    if colon and not variant:
        raise ConfigError(f"--config={file}:: the variant after the colon is empty; give --config={file} for none")
    path = CONFIGS / f"{file}.py" if file in shipped else _local(file, "--config")
    try:
        exists = path.is_file()
    except (OSError, ValueError):  # not a valid file name
        exists = False
    if not exists and path.stem in shipped:
        raise ConfigError(
            f"--config={file}: no such file in {Path.cwd()}; did you mean {path.stem}, which is a built-in config?"
        )
    if not exists:
        raise ConfigError(f"--config={file}: no such file; {nearest(path.stem, shipped)}, or the path of a config file")
    return path, variant, others


def load(path: Path, variant: str = "", given: Collection[str] = (), notes: list[str] | None = None) -> Experiment:
    """Executes a config file, and returns its experiment. Configs of other codebases are converted, see `foreign`.

    Args:
      path: a Python file, or a YAML file of Garg et al.
      variant: the variant of the config; empty for the config itself.
      given: names of fields that the command line sets. A foreign config needs no convertible value for these fields.
      notes: messages to the user are appended to this list. Default: they are dropped.

    Returns:
      The experiment.

    Raises:
      ConfigError: if the file is not a config, or has no such variant.
    """
    notes = [] if notes is None else notes
    if path.suffix in (".yaml", ".yml"):
        return _converted(path, variant, foreign.from_yaml(path), given, notes)
    module = types.ModuleType(f"icl_gd_config_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses in the file resolve their type hints there
    sys.path.insert(0, str(path.parent.absolute()))  # the file may import modules of its directory, like a script
    try:
        exec(compile(path.read_text(), str(path), "exec"), vars(module))  # unlike an import, leaves no __pycache__
        settings = getattr(module, "config", None)  # configs of von Oswald et al. have a variable, no function
        if not hasattr(module, "get_config") and foreign.is_mapping(settings):
            return _converted(path, variant, foreign.flat(settings), given, notes)
        get_config = module.get_config
    except ConfigError:
        raise
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--config={path} imports {error.name}, which is not installed: pip install {error.name}"
        ) from error
    except (Exception, SystemExit) as error:
        missing = isinstance(error, AttributeError) and "get_config" in str(error)
        why = "" if missing else f": {one_line(error)}"
        raise ConfigError(
            f"--config={path} is not a config file: it must define get_config() or get_config(variant){why}"
        ) from error
    finally:
        sys.path.remove(str(path.parent.absolute()))
    variants = getattr(module, "VARIANTS", None)
    if variant and variants is not None and variant not in variants:
        raise ConfigError(f"--config={path}:{variant}: unknown variant {variant!r}; {nearest(variant, variants)}")
    try:
        takes_variant = bool(inspect.signature(get_config).parameters)
        experiment = get_config(variant) if takes_variant else get_config()
    except (Exception, SystemExit) as error:
        raise ConfigError(f"--config={_with_variant(path, variant)}: {one_line(error)}") from error
    if foreign.is_mapping(experiment):
        return _converted(path, "" if takes_variant else variant, foreign.flat(experiment), given, notes)
    if variant and not takes_variant:
        raise ConfigError(f"--config={path}:{variant}: its get_config takes no variant; give --config={path}")
    if not isinstance(experiment, Experiment):
        raise ConfigError(
            f"--config={path}: get_config returns {type(experiment).__name__}; it must return an Experiment"
        )
    return experiment


def _converted(
    path: Path, variant: str, settings: foreign.Settings, given: Collection[str], notes: list[str]
) -> Experiment:
    """The experiment of a foreign config. Its smoke variant is as small as that of the underlying built-in config.

    Raises:
      ConfigError: if the config cannot be converted.
    """
    if variant not in ("", "smoke"):
        raise ConfigError(f"--config={path}:{variant}: unknown variant {variant!r}; {nearest(variant, ['smoke'])}")
    conversion = foreign.read(settings, f"--config={path}", given)
    notes += conversion.notes
    base, values = load(CONFIGS / f"{conversion.base}.py", variant), dict(conversion.values)
    for name in SMALL if variant else ():
        if name in values and not (name == "model.n_layers" and isinstance(values.get("model.attention"), tuple)):
            values[name] = min(values[name], base[name])
    words = {name: str(value) for name, value in values.items()}
    try:
        bare = changed(base, {**words, "analyses": "()", "claims": "()"}, notes)
    except ConfigError as error:
        raise ConfigError(f"--config={path}: {error}") from error
    fitting = tuple(analysis.name for analysis in base.analyses if _is_fit(analysis, bare))
    if unfit := [name for name in base.analysis_names if name not in fitting]:
        notes.append(f"analyses {', '.join(unfit)} are left out: they do not apply to these settings")
    return bare.change({"analyses": fitting})


def _is_fit(analysis: Any, experiment: Experiment) -> bool:
    try:
        analysis.check(experiment)
    except Unfit:
        return False
    return True


def _overrides(words: list[str], experiment: Experiment) -> tuple[dict[str, str], list[str]]:
    """Returns the text of every field on a command line, by name, and the other words.

    The last text of a repeated field counts.

    Raises:
      ConfigError: if a flag is unknown, or a field has no value.
    """
    given: dict[str, str] = {}
    others = []
    known = experiment.fields
    for word in words:
        flag, equals, value = word.removeprefix("--").partition("=")
        if flag == "workdir":
            others.append(word)
            continue
        if not flag.startswith(("config.", "noconfig.")):
            raise ConfigError(f"--{flag}: unknown flag; {_hint_for_flag(flag, known)}")
        name = flag.removeprefix("no").removeprefix("config.")
        if not equals:
            if name in known and not isinstance(experiment[name], bool):
                raise ConfigError(f"--{flag} needs a value: --config.{name}=VALUE")
            value = "false" if flag.startswith("no") else "true"
        given[name] = value
    return given, others


def _hint_for_flag(flag: str, known: Collection[str]) -> str:
    """A hint for an unknown flag. It may be a field without `--config.`, a name from another codebase, or misspelt."""
    if flag in known:
        return f"did you mean --config.{flag}?"
    if advice := foreign.advice(flag):
        return advice
    same_leaf = [name for name in known if flag.split(".")[-1] == name.split(".")[-1]]
    near = difflib.get_close_matches(flag, same_leaf, 1, 0.0)
    field = near[0] if near else foreign.equivalent_field(flag, known)
    return f"did you mean --config.{field}?" if field else nearest(f"--{flag}", FLAGS)
