"""From the command line to a checked Run. What is wrong is said in one line, before anything is compiled or written."""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from experiments import processes, sweeps
from experiments.defaults import base_config
from experiments.processes import Processes
from experiments.recipe_fields import MODIFICATIONS
from experiments.resources import disk_needed
from experiments.validation import OPTIONAL, BadInput, flatten, nearest, validate

if TYPE_CHECKING:  # importing JAX takes a second, in which bad input is answered
    from icl_gd.models import TransformerConfig
    from icl_gd.tasks import (
        ElementwiseRegression,
        FinitePrefixPool,
        FunctionRegression,
        LinearRegression,
        SineRegression,
    )
    from icl_gd.training import Curriculum, TrainSettings
    from icl_gd.training.problem import Task

CONFIGS = Path(__file__).parent.parent / "configs"
# Settings of how a run goes and is shown, which may differ between a run and its continuation.
FREE_FIELDS = ("train.log_every", "train.checkpoint_every", "train.parallel", "claims")
KINDS = {
    int: "an int: a whole number is accepted, as in 100",
    float: "a float: a number is accepted, as in 0.5 or 1e-3",
    bool: "a bool: true or false is accepted",
    tuple: "a tuple: '(a, b)' is accepted, with quotes around each word",
}


@dataclass(frozen=True)
class Run:
    """A checked request: the resolved config and where its results go."""

    config: ConfigDict
    name: str
    variant: str | None
    workdir: Path
    overridden: tuple[str, ...]  # fields that differ from the config file's
    processes: Processes | None = None  # None for a run in one process


def parse(argv: list[str]) -> Run:
    """Reads a command line.

    Raises:
      BadInput: whatever is wrong with it.
    """
    several, words = _processes(_joined(argv[1:]))
    path, variant, words = _config_path(words)
    stored, config = _load_config(path, variant), _load_config(path, variant)
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
    run = Run(config, path.stem, variant or None, workdir, overridden, several)
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


def _load_config(path: Path, variant: str) -> ConfigDict:
    module: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    try:
        exec(compile(path.read_text(), str(path), "exec"), module)  # unlike an import, it leaves no __pycache__ behind
        get_config = module["get_config"]
    except (Exception, SystemExit) as error:
        why = "" if isinstance(error, KeyError) else f": {_one_line(error)}"
        raise BadInput(f"--config={path} is not a config file (it needs get_config(variant)){why}") from error
    variants = module.get("VARIANTS")
    if variant and variants is not None and variant not in variants:
        raise BadInput(f"--config={path}:{variant}: unknown variant {variant!r}; {nearest(variant, variants)}")
    try:
        config = get_config(variant)
    except (Exception, SystemExit) as error:
        raise BadInput(f"--config={path}:{variant}: {_one_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise BadInput(f"--config={path}: get_config gives a {type(config).__name__}, it must give a ConfigDict")
    if missing := [field for field in flatten(base_config()) if field not in flatten(config)]:
        raise BadInput(f"--config={path} lacks the fields {', '.join(missing)}; start from experiments.defaults")
    return config


def _check_names(words: list[str], stored: ConfigDict, config: ConfigDict) -> list[str]:
    """Unknown flags and fields, with the nearest name, before absl sees them; sets what absl's parsers cannot read.

    Those are optional fields given as None, and numbers and words given as tuples, to sweep over: their words are taken
    out of what is returned.
    """
    base, unread = flatten(base_config()), {}
    fields, left = flatten(stored), []
    for word in words:
        flag, equals, value = word.removeprefix("--").partition("=")
        field = flag.removeprefix("no").removeprefix("config.") if flag.startswith(("config.", "noconfig.")) else None
        if field is None and flag != "workdir":
            known = ("--config", "--workdir", "--help", "--config.FIELD", *(f"--{name}" for name in processes.FLAGS))
            near = [f"--config.{name}" for name in fields if flag in (name, name.split(".")[-1])]
            raise BadInput(f"--{flag}: unknown flag; {nearest(near[0] if near else f'--{flag}', [*known, *near])}")
        if field is None and not value:
            raise BadInput("--workdir is empty; give a directory: --workdir=DIR")
        if field is not None and field not in fields:
            raise BadInput(f"--config.{field}: unknown field; {_nearest_few(field, fields)}")
        if field is not None and not equals and not isinstance(fields[field], bool):
            raise BadInput(f"--{flag} needs a value: --config.{field}=VALUE")
        several = sweeps.read_tuple(value) if field in base and not isinstance(base[field], list) else None
        if (field in OPTIONAL and value in ("None", "none")) or several is not None:
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


def _wrong_type(words: list[str], config: ConfigDict, error: Exception) -> str:
    """What absl could not read, in the words of a user."""
    fields = flatten(config)
    for word in words:
        flag, _, value = word.removeprefix("--config.").partition("=")
        if isinstance(error, flags.IllegalFlagValueError) and f"{word}:" in str(error) and flag in fields:
            kind = config_path.get_type(flag, config)
            several = "; several are swept over, as in (1, 2)" * (flag in sweeps.SWEPT)
            return f"{flag}={value}: not {KINDS.get(kind, kind.__name__)}{several}"
    return _one_line(error)


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


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Makes the workdir, and holds it against other runs; one that failed before it left anything is taken away.

    Raises:
      BadInput: if it cannot be made, or another run holds it.
    """
    made = not workdir.exists()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        directory = os.open(workdir, os.O_RDONLY)
    except OSError as error:
        raise BadInput(f"--workdir={workdir}: {error.strerror}; give a directory that can be written") from error
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput(f"--workdir={workdir} is in use by another run; wait for it, or give another") from error
        yield
    finally:
        os.close(directory)
        if made:
            with contextlib.suppress(OSError):
                workdir.rmdir()


def _check_what_is_in_the_way(workdir: Path) -> None:
    """What a run writes may be there already, as what it is, and must be writable."""
    for name in ("checkpoints", "figures", "config.json", "metrics.jsonl", "results.json", "report.html"):
        path, wanted = workdir / name, "file" if "." in name else "directory"
        if not path.exists() and not path.is_symlink():
            continue
        if not (path.is_file() if wanted == "file" else path.is_dir()):
            raise BadInput(f"--workdir={workdir}: {name} there is no {wanted}; move it, or give another")
        if not os.access(path, os.W_OK | (0 if wanted == "file" else os.X_OK)):
            raise BadInput(f"--workdir={workdir}: cannot write to {name} there; give a directory that can be written")


def check_workdir(run: Run) -> None:
    """Whether a run can go into its workdir, or on in it.

    Raises:
      BadInput: if it cannot.
    """
    workdir, name, variant, config = run.workdir, run.name, run.variant, run.config
    above = workdir.absolute()
    try:
        while not above.exists() and not above.is_symlink():
            above = above.parent
    except OSError as error:
        raise BadInput(f"--workdir={workdir}: {error.strerror}; give a directory that can be made") from error
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise BadInput(f"--workdir={workdir}: cannot write to {above}; give a directory that can be made and written")
    _check_what_is_in_the_way(workdir)
    disk = shutil.disk_usage(above)
    if disk.total and disk.free < (needed := disk_needed(config)):  # what is no disk has no total
        raise BadInput(
            f"--workdir={workdir}: {disk.free / 2**20:.3g} MiB are free there, a run needs about {needed / 2**20:.3g}; "
            "make room, or give another"
        )
    if (workdir / "results.json").exists() and not (workdir / "config.json").exists():
        raise BadInput(f"--workdir={workdir} holds results without their config.json; give another --workdir")
    try:
        found = json.loads((workdir / "config.json").read_text())
        stored = flatten(found["config"])
        there = found.get("experiment"), found.get("variant")
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise BadInput(
            f"--workdir={workdir}: its config.json is unreadable ({_one_line(error)}); give another"
        ) from error
    if there != (None, None) and there != (name, variant):
        raise BadInput(f"--workdir={workdir} holds a run of {there[0]}:{there[1]}; give another --workdir")
    asked = flatten(json.loads(json.dumps(flatten(config), default=str)))
    stored = flatten(base_config()) | stored  # what an older version did not know, it did as is the default
    differ = [f for f in sorted({*asked, *stored}) if asked.get(f) != stored.get(f) and not f.startswith(FREE_FIELDS)]
    if differ == ["train.steps"] and not (why := _no_extension(stored, asked)):
        return
    if differ:
        shown = ", ".join(f"{f} (stored {stored.get(f)}, asked {asked.get(f)})" for f in differ)
        why = f"; {why}" if differ == ["train.steps"] else ""
        raise BadInput(f"--workdir={workdir} holds a run with other settings: {shown}{why}; give another --workdir")


def _no_extension(stored: dict[str, Any], asked: dict[str, Any]) -> str | None:
    """Why a run cannot go on to other `train.steps` than it was stored with; None if it can."""
    before, after = stored.get("train.steps"), asked["train.steps"]
    if not isinstance(before, int) or not isinstance(after, int):
        return "a sweep over it cannot be changed"
    if after < before:
        return "it may be raised, to extend the run, not lowered"
    if asked["train.schedule"] != "constant":
        return f"train.schedule={asked['train.schedule']} depends on the last step, only a constant one can be extended"
    return None


def task_of(config: ConfigDict) -> LinearRegression:
    """The task a config describes."""
    import numpy as np

    from icl_gd.tasks import LinearRegression

    task, covariance = config.task, None
    if task.eigenvalues:
        basis = np.eye(task.d_input)
        if task.rotation_seed is not None:
            basis, _ = np.linalg.qr(np.random.default_rng(task.rotation_seed).normal(size=basis.shape))
        covariance = tuple(map(tuple, ((basis * np.asarray(task.eigenvalues)) @ basis.T).tolist()))
    return LinearRegression(
        d_input=task.d_input, d_output=task.d_output, n_context=task.n_context,
        inputs=task.inputs, input_scale=task.input_scale, covariance=covariance,
        weight_scale=task.weight_scale, noise_std=task.noise_std, corrupted_labels=task.corrupted_labels,
    )  # fmt: skip


def trained_on(config: ConfigDict) -> Task:
    """What a config trains on: its task, or a pool of its prompts. It is evaluated on the task."""
    from icl_gd.tasks import FinitePool

    task = task_of(config)
    return task if config.task.pool is None else FinitePool(task, config.task.pool, config.seed)


def functions_of(config: ConfigDict) -> FunctionRegression:
    """The task of a config of function classes."""
    from icl_gd.tasks import FUNCTIONS, FunctionRegression

    task = config.task
    sizes = {"sparse": {"non_zeros": task.non_zeros}, "relu_network": {"hidden": task.hidden},
             "decision_tree": {"depth": task.depth}}  # fmt: skip
    functions = FUNCTIONS[task.name](task.d_input, **sizes.get(task.name, {}))
    return FunctionRegression(
        functions, task.n_context, task.family, task.input_scale, task.weight_scale, task.noise_std
    )


def functions_trained_on(config: ConfigDict) -> FunctionRegression | FinitePrefixPool:
    """What a config of function classes trains on: its task, that of a pool of functions, or a pool of its prompts."""
    from icl_gd.tasks import FinitePrefixPool, FunctionPool

    task = functions_of(config)
    if config.task.function_pool is not None:
        return replace(task, functions=FunctionPool(task.functions, config.task.function_pool, config.seed))
    return task if config.task.pool is None else FinitePrefixPool(task, config.task.pool, config.seed)


def sine_of(config: ConfigDict) -> SineRegression:
    """The task of a config of sine waves."""
    from icl_gd.tasks import SineRegression

    return SineRegression(config.task.n_context, config.task.faithful)


def elementwise_of(config: ConfigDict) -> ElementwiseRegression:
    """The task of a config of dual models."""
    from icl_gd.tasks import ElementwiseRegression

    task = config.task
    return ElementwiseRegression(task.name, task.d_input, task.d_output, task.n_context)


def model_of(config: ConfigDict) -> TransformerConfig:
    """The Transformer a config describes; the token width follows the task."""
    from icl_gd.models import TransformerConfig, gpt2_config
    from icl_gd.tokens import LAYOUTS

    model, task = config.model, config.task
    kinds = tuple(word.strip() for word in model.attention.split(","))
    d_token = LAYOUTS[model.layout](task.d_input, task.d_output).d_token
    if model.style == "gpt2":
        sizes = (model.d_embed, model.n_layers, model.n_heads)
        of_style = gpt2_config(d_token, 2 * task.n_context + 1, *sizes, d_read_out=task.d_output)
    else:
        of_style = TransformerConfig(
            d_token, model.n_layers, model.n_heads, model.d_head, d_embed=model.d_embed, mlp_width=model.mlp_width
        )
    return replace(
        of_style, shared=model.shared, clip=model.clip, init_scale=model.init_scale,
        attention=kinds[0] if len(kinds) == 1 else kinds, layer_norm=model.layer_norm, normalised=model.normalised,
        compute=None if model.compute == "parameters" else model.compute, reads_query=model.reads_query,
        **{name: model[name] for name in MODIFICATIONS},
    )  # fmt: skip


def train_of(config: ConfigDict) -> TrainSettings:
    """How a config trains."""
    from icl_gd.training import TrainSettings

    names = ("steps", "batch_size", "learning_rate", "schedule", "clip", "beta1", "beta2", "epsilon", "weight_decay",
             "share_batches", "form")  # fmt: skip
    return TrainSettings(**{name: config.train[name] for name in names}, curriculum=_curriculum(config))


def _curriculum(config: ConfigDict) -> Curriculum | None:
    from icl_gd.training import Curriculum, Ramp

    inputs, points = config.train.active_inputs, config.train.active_points
    if not inputs and not points:
        return None
    ramp = lambda asked, end: Ramp(asked[0], end, *asked[1:]) if asked else Ramp(end, end)
    return Curriculum(ramp(inputs, config.task.d_input), ramp(points, config.task.n_context + 1))
