"""From the command line to a checked Run. What is wrong is said in one line, before anything is compiled or written."""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import json
import math
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from experiments.defaults import base_config

if TYPE_CHECKING:  # importing JAX takes a second, in which bad input is answered
    from icl_gd.models import TransformerConfig
    from icl_gd.tasks import LinearRegression
    from icl_gd.training import TrainSettings

CONFIGS = Path(__file__).parent.parent / "configs"
RECIPES = Path(__file__).parent / "recipes"
ONE_LAYER_ONLY = ("weights", "interpolation", "rollout", "optimum")
ANALYSES = ("alignment", "shifts", *ONE_LAYER_ONLY)
# Settings of how a run goes and is shown, which may differ between a run and its continuation.
FREE_FIELDS = ("train.log_every", "train.checkpoint_every", "claims")
# Placeholders, which may be None.
OPTIONAL = ("task.rotation_seed", "model.d_head", "model.clip")
KINDS = {
    int: "an int: a whole number is accepted, as in 100",
    float: "a float: a number is accepted, as in 0.5 or 1e-3",
    bool: "a bool: true or false is accepted",
    tuple: "a tuple: '(a, b)' is accepted, with quotes around each word",
}
FIT_FLOATS = 2**27  # at most, in the prompts that step sizes are tuned on
BYTES_PER_FLOAT = {"float32": 4, "float64": 8}


class BadInput(Exception):
    """What the user asked for cannot be run; the message is one line that names the field and what would do."""


@dataclass(frozen=True)
class Run:
    """A checked request: the resolved config and where its results go."""

    config: ConfigDict
    name: str
    variant: str | None
    workdir: Path
    overridden: tuple[str, ...]  # fields that differ from the config file's


def parse(argv: list[str]) -> Run:
    """Reads a command line.

    Raises:
      BadInput: whatever is wrong with it.
    """
    path, variant, words = _config_path(_joined(argv[1:]))
    stored, config = _load_config(path, variant), _load_config(path, variant)
    words = _check_names(words, stored, config)
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "Where results go.", flag_values=values)
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=[argv[0], *words])
        values([argv[0], *words])
    except Exception as error:  # absl and ml_collections each raise their own kinds
        raise BadInput(_wrong_type(words, stored, error)) from error
    config = values["config"].value
    name = path.stem + (f"-{variant}" if variant else "")
    workdir = Path(values["workdir"].value or f"runs/{name}")
    validate(config)
    before, after = _flatten(stored), _flatten(config)
    overridden = tuple(field for field in after if after[field] != before.get(field) and field not in FREE_FIELDS)
    _check_workdir(workdir, path.stem, variant or None, after)
    return Run(config, path.stem, variant or None, workdir, overridden)


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
    if not found:
        raise BadInput(f"--config={file}: no such file; {_nearest(f'configs/{path.stem}.py', _config_names())}")
    return path, variant, [word for word in words if word.partition("=")[0] != "--config"]


def _config_names() -> list[str]:
    return sorted(f"configs/{path.name}" for path in CONFIGS.glob("*.py") if not path.stem.startswith("_"))


def _nearest(word: str, names: Any) -> str:
    near = difflib.get_close_matches(word, list(names), 1, 0.5)
    return (f"did you mean {near[0]}? " if near else "") + f"accepted: {', '.join(names)}"


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
        raise BadInput(f"--config={path}:{variant}: unknown variant {variant!r}; {_nearest(variant, variants)}")
    try:
        config = get_config(variant)
    except (Exception, SystemExit) as error:
        raise BadInput(f"--config={path}:{variant}: {_one_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise BadInput(f"--config={path}: get_config gives a {type(config).__name__}, it must give a ConfigDict")
    if missing := [field for field in _flatten(base_config()) if field not in _flatten(config)]:
        raise BadInput(f"--config={path} lacks the fields {', '.join(missing)}; start from experiments.defaults")
    return config


def _check_names(words: list[str], stored: ConfigDict, config: ConfigDict) -> list[str]:
    """Unknown flags and fields, with the nearest name, before absl sees them; sets the optional fields given as None.

    absl's parsers know no None, so those words are taken out of what is returned.
    """
    fields, left = _flatten(stored), []
    for word in words:
        flag, equals, value = word.removeprefix("--").partition("=")
        field = flag.removeprefix("no").removeprefix("config.") if flag.startswith(("config.", "noconfig.")) else None
        if field is None and flag != "workdir":
            known = ("--config", "--workdir", "--help", "--config.FIELD")
            near = [f"--config.{name}" for name in fields if flag in (name, name.split(".")[-1])]
            raise BadInput(f"--{flag}: unknown flag; {_nearest(near[0] if near else f'--{flag}', [*known, *near])}")
        if field is None and not value:
            raise BadInput("--workdir is empty; give a directory: --workdir=DIR")
        if field is not None and field not in fields:
            raise BadInput(f"--config.{field}: unknown field; {_nearest_few(field, fields)}")
        if field is not None and not equals and not isinstance(fields[field], bool):
            raise BadInput(f"--{flag} needs a value: --config.{field}=VALUE")
        if field in OPTIONAL and value in ("None", "none"):
            config_path.set_value(field, config, None)
        else:
            left.append(word)
    return left


def _wrong_type(words: list[str], stored: ConfigDict, error: Exception) -> str:
    """What absl could not read, in the words of a user."""
    fields = _flatten(stored)
    for word in words:
        flag, _, value = word.removeprefix("--config.").partition("=")
        if isinstance(error, flags.IllegalFlagValueError) and f"{word}:" in str(error) and flag in fields:
            kind = config_path.get_type(flag, stored)
            return f"{flag}={value}: not {KINDS.get(kind, kind.__name__)}"
    return _one_line(error)


def _nearest_few(field: str, fields: Any) -> str:
    near = difflib.get_close_matches(field, list(fields), 1, 0.5)
    by_leaf = [name for name in fields if name.split(".")[-1] == field.split(".")[-1]]
    found = by_leaf or near
    return f"did you mean {found[0]}?" if found else f"accepted: {', '.join(fields)}"


def _flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """`{"task.d_input": 10, ...}`, in the form JSON gives values back."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if hasattr(value, "items"):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


BELOW_ONE = math.nextafter(1.0, 0.0)
LARGEST = 1e6  # of scales: moments of sixth order stay finite in float32
# What each field accepts: (lowest, highest, lowest is accepted). None stands for "no such bound".
NUMBERS: dict[str, tuple[float, float | None, bool]] = {
    "seeds": (1, None, True),
    "seed": (0, 2**31 - 1, True),
    "task.d_input": (1, None, True),
    "task.d_output": (1, None, True),
    "task.n_context": (1, None, True),
    "task.input_scale": (0, LARGEST, False),
    "task.weight_scale": (0, LARGEST, False),
    "task.noise_std": (0, LARGEST, True),
    "task.rotation_seed": (0, None, True),
    "task.eigenvalues": (0, LARGEST, False),
    "model.n_layers": (1, None, True),
    "model.n_heads": (1, None, True),
    "model.d_head": (1, None, True),
    "model.clip": (0, None, False),
    "model.init_scale": (0, LARGEST, False),
    "train.steps": (1, 2**31 - 1, True),
    "train.batch_size": (1, None, True),
    "train.learning_rate": (0, 1e30, False),
    "train.clip": (0, None, False),
    "train.beta1": (0, BELOW_ONE, True),
    "train.beta2": (0, BELOW_ONE, True),
    "train.weight_decay": (0, None, True),
    "train.log_every": (1, None, True),
    "train.checkpoint_every": (1, None, True),
    "eval.prompts": (1, 10**9, True),
    "eval.curve_prompts": (1, None, True),
}


SIZES = (
    *("seeds", "task.d_input", "task.d_output", "task.n_context", "model.n_layers", "model.n_heads", "model.d_head"),
    *("train.batch_size", "eval.curve_prompts"),
)
WHOLE = {
    *SIZES,
    *("seed", "task.rotation_seed", "train.steps", "train.log_every", "train.checkpoint_every", "eval.prompts"),
}


def validate(config: ConfigDict) -> None:
    """Checks every field by itself, then the fields against each other, then the memory they need.

    Raises:
      BadInput: at the first field that will not do.
    """
    fields = _flatten(config)
    for field, bounds in NUMBERS.items():
        for value in fields[field] if isinstance(fields[field], list) else [fields[field]]:
            if value is not None or field not in OPTIONAL:
                _check_number(field, value, *bounds)
    if any(not isinstance(claim, dict | ConfigDict) or "metric" not in claim for claim in config.claims):
        _reject("claims", fields["claims"], "claims are written in config files; () is accepted")
    _check_words(config, fields)
    _check_together(config)
    _check_memory(config)
    _check_words_of_the_package(fields)  # last: it imports JAX, which takes a second or more


def _check_words(config: ConfigDict, fields: dict[str, Any]) -> None:
    words = {
        "recipe": sorted(p.stem for p in RECIPES.glob("*.py") if "def run(" in p.read_text()),
        "precision": list(BYTES_PER_FLOAT),
        "task.name": ["linear"],
    }
    for field, accepted in words.items():
        _check_word(field, fields[field], accepted)
    for name in config.analyses:
        _check_word("analyses", name, ANALYSES)


def _check_words_of_the_package(fields: dict[str, Any]) -> None:
    from icl_gd.tasks import FAMILIES
    from icl_gd.training.population import SCHEDULES

    _check_word("task.inputs", fields["task.inputs"], FAMILIES)
    _check_word("train.schedule", fields["train.schedule"], SCHEDULES)


def _check_word(field: str, value: Any, accepted: Collection[str]) -> None:
    if value not in accepted:
        _reject(field, value, _nearest(str(value), accepted))


def _reject(field: str, value: Any, accepted: str) -> NoReturn:
    raise BadInput(f"{field}={value}: {accepted}")


def _check_number(field: str, value: Any, low: float, high: float | None, inclusive: bool) -> None:
    wanted = f"must be {'at least' if inclusive else 'above'} {low}" + (
        "" if high is None else " and below 1" if high == BELOW_ONE else f" and at most {high:.10g}"
    )
    if isinstance(value, bool) or not isinstance(value, int | float):
        _reject(field, value, f"not a number; {wanted}")
    if field in WHOLE and not isinstance(value, int):
        _reject(field, value, f"not a whole number; {wanted}")
    if not math.isfinite(value):
        _reject(field, value, f"not finite; {wanted}")
    if value < low or (value == low and not inclusive) or (high is not None and value > high):
        _reject(field, value, wanted)


def _check_together(config: ConfigDict) -> None:
    task, model = config.task, config.model
    layers = [word.strip() for word in model.attention.split(",")]
    if set(layers) != {"linear"} or len(layers) not in (1, model.n_layers):
        _reject("model.attention", model.attention, f"one word or one per layer ({model.n_layers}); accepted: linear")
    if isinstance(task.n_context, tuple) and not task.n_context:
        _reject("task.n_context", "()", "a sweep needs at least one value")
    if isinstance(task.n_context, tuple) and len(set(task.n_context)) < len(task.n_context):
        _reject("task.n_context", task.n_context, "every value of a sweep is accepted once")
    if task.eigenvalues and len(task.eigenvalues) != task.d_input:
        _reject(
            "task.eigenvalues", task.eigenvalues, f"has {len(task.eigenvalues)} values, task.d_input={task.d_input}"
        )
    if task.rotation_seed is not None and not task.eigenvalues:
        _reject(
            "task.rotation_seed", task.rotation_seed, "rotates a covariance: give task.eigenvalues, or leave it None"
        )
    if config.seed + config.seeds > 2**32:
        _reject("seeds", config.seeds, f"seed + seeds must stay below 2^32 (seed={config.seed})")
    needs = {
        "model.n_layers": [] if model.n_layers == 1 else [a for a in config.analyses if a in ONE_LAYER_ONLY],
        "model.n_heads": [a for a in config.analyses if a == "interpolation" and model.n_heads > 1],
        "model.clip": [] if model.clip is None else [a for a in config.analyses if a in ONE_LAYER_ONLY],
        "task.inputs": [a for a in config.analyses if a == "optimum" and task.inputs != "normal"],
    }
    for field, analyses in needs.items():
        if analyses:
            value = config.task.inputs if field == "task.inputs" else getattr(model, field.split(".")[1])
            left = tuple(a for a in config.analyses if a not in analyses)
            _reject(
                field, value, f"contradicts analyses={','.join(analyses)}; drop those, as in --config.analyses={left}"
            )


def memory_needed(config: ConfigDict) -> float:
    """Bytes of the larger of a training step and an evaluation, within a factor of about two.

    A step holds two batches (the next is drawn beside it), once if shared or run member by member, and, forward and
    backward, some six vectors or, below the last layer, second-moment matrices a layer, member and prompt. An
    evaluation holds the same without gradients, for a chunk of prompts and those of the curves.
    """
    task, model = config.task, config.model
    e, layers = task.d_input + task.d_output, model.n_layers
    n = max(task.n_context) if isinstance(task.n_context, tuple) else task.n_context
    width = e if model.d_head is None else model.d_head
    context = (n + 1) * e + e * e
    per_layer = e * e if model.clip is None else 3 * model.n_heads * (n + 1) * (n + 1 + width)
    inner = 6 * model.n_heads * (layers * per_layer if layers > 1 or model.clip is not None else e)
    at_once = config.seeds if config.train.share_batches else 1
    step = config.train.batch_size * (3 * context + at_once * inner)
    weights = config.seeds * layers * model.n_heads * 48 * e * max(e, width)
    evaluated = max(config.eval.curve_prompts, min(config.eval.prompts, 8192))
    evaluation = evaluated * (3 * context + min(config.seeds, 16) * 6 * layers * per_layer)
    fit = 3 * min(config.eval.prompts * (n + 1) * e, FIT_FLOATS)
    return BYTES_PER_FLOAT[config.precision] * float(weights + max(step, evaluation, fit))


def _check_memory(config: ConfigDict) -> None:
    needed, there = memory_needed(config), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        fields = _flatten(config)
        sizes = ", ".join(f"{field}={fields[field]}" for field in SIZES if fields[field] not in (None, 1))
        raise BadInput(
            f"these sizes need about {needed / 2**30:.3g} GiB, this machine has {there / 2**30:.3g}: lower {sizes}"
        )


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
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise BadInput(f"--workdir={workdir} is in use by another run; wait for it, or give another") from error
    finally:
        os.close(directory)
        if made:
            with contextlib.suppress(OSError):
                workdir.rmdir()


def _check_workdir(workdir: Path, name: str, variant: str | None, asked: dict[str, Any]) -> None:
    above = workdir.absolute()
    try:
        while not above.exists() and not above.is_symlink():
            above = above.parent
    except OSError as error:
        raise BadInput(f"--workdir={workdir}: {error.strerror}; give a directory that can be made") from error
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise BadInput(f"--workdir={workdir}: cannot write to {above}; give a directory that can be made and written")
    if (workdir / "results.json").exists() and not (workdir / "config.json").exists():
        raise BadInput(f"--workdir={workdir} holds results without their config.json; give another --workdir")
    try:
        found = json.loads((workdir / "config.json").read_text())
        stored = _flatten(found["config"])
        there = found.get("experiment"), found.get("variant")
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise BadInput(
            f"--workdir={workdir}: its config.json is unreadable ({_one_line(error)}); give another"
        ) from error
    if there != (None, None) and there != (name, variant):
        raise BadInput(f"--workdir={workdir} holds a run of {there[0]}:{there[1]}; give another --workdir")
    asked = _flatten(json.loads(json.dumps(asked, default=str)))
    differ = [f for f in sorted({*asked, *stored}) if asked.get(f) != stored.get(f) and not f.startswith(FREE_FIELDS)]
    if differ:
        shown = ", ".join(f"{f} (stored {stored.get(f)}, asked {asked.get(f)})" for f in differ)
        raise BadInput(f"--workdir={workdir} holds a run with other settings: {shown}; give another --workdir")


def task_of(config: ConfigDict, n_context: int | None = None) -> LinearRegression:
    """The task a config describes; `n_context` picks one value of a sweep."""
    import numpy as np

    from icl_gd.tasks import LinearRegression

    task, covariance = config.task, None
    if task.eigenvalues:
        basis = np.eye(task.d_input)
        if task.rotation_seed is not None:
            basis, _ = np.linalg.qr(np.random.default_rng(task.rotation_seed).normal(size=basis.shape))
        covariance = tuple(map(tuple, ((basis * np.asarray(task.eigenvalues)) @ basis.T).tolist()))
    return LinearRegression(
        d_input=task.d_input, d_output=task.d_output,
        n_context=task.n_context if n_context is None else n_context,
        inputs=task.inputs, input_scale=task.input_scale, covariance=covariance,
        weight_scale=task.weight_scale, noise_std=task.noise_std,
    )  # fmt: skip


def model_of(config: ConfigDict) -> TransformerConfig:
    """The Transformer a config describes; the token width follows the task."""
    from icl_gd.models import TransformerConfig

    model = config.model
    return TransformerConfig(
        d_token=config.task.d_input + config.task.d_output, n_layers=model.n_layers, n_heads=model.n_heads,
        d_head=model.d_head, shared=model.shared, clip=model.clip, init_scale=model.init_scale,
    )  # fmt: skip


def train_of(config: ConfigDict) -> TrainSettings:
    """How a config trains."""
    from icl_gd.training import TrainSettings

    names = (
        "steps",
        "batch_size",
        "learning_rate",
        "schedule",
        "clip",
        "beta1",
        "beta2",
        "weight_decay",
        "share_batches",
    )
    return TrainSettings(**{name: config.train[name] for name in names})
