"""Names the learning algorithm that a model, the members of a run, or any function of a prompt computes.

    icl-gd identify (--workdir=DIR | --model=NAME_OR_DIR | --predictor=MODULE:FUNCTION | --predictor=FILE.py:FUNCTION)
                    [--task.FIELD=VALUE ...] [--member=N] [--features] [--seed=N] [--out=DIR] [--json]

Give one of:

    --workdir=DIR          the workdir of a run, a population in it or a checkpoint; every member is examined
    --model=NAME_OR_DIR    a model of `icl-gd zoo`, or a directory written by `Model.save`
    --predictor=FILE.py:FUNCTION
    --predictor=MODULE:FUNCTION
                           a function (x [n d], y [n m], x_query [d]) -> y_hat [m] of one prompt, in JAX or NumPy

The answer is an algorithm such as gradient descent, GD++, ridge regression or k nearest neighbours, with its
parameters, or "none". It is printed with everything that is not excluded, the share of the predictions that it does not
explain, the violations of symmetries, and the evidence. Progress is printed to the standard error.

    --task.FIELD=VALUE     a field of the task from which prompts are drawn, as in a config: task.name, task.d_input,
                           task.d_output, task.n_context, task.inputs, task.noise_std, ... Default: the task of the run
                           or of the zoo's card; for another saved model, linear regression with normal inputs and as
                           many examples as inputs; for a function, the task of the config one_layer
    --member=N             examines one member. Default: all
    --features             examines the layers of a model with an embedding: their inputs are the features that the
                           embedding makes of x, and their labels what it makes of y
    --seed=N               determines the prompts. Default: 0
    --out=DIR              also writes verdict.json and report.html, a self-contained page that works offline
    --json                 prints one JSON object and no text: the verdict, or {"verdicts": [...]} of several members

A verdict takes 2 to 30 seconds on two cores, and minutes for a slow function or many inputs. Examples:

    icl-gd identify --model=one_layer_0
    icl-gd identify --workdir=runs/one_layer --member=3 --out=runs/one_layer/identify
    icl-gd identify --predictor=mine.py:predict --task.d_input=5 --task.n_context=20 --task.inputs=normal --json

Exit codes: 0 there is a verdict, which may be "none"; 1 an error occurred; 2 bad input, nothing was computed;
130 stopped by Ctrl-C. After 1, 2 and 130 nothing is written.
"""

import contextlib
import difflib
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icl_gd.analysis.calls import Refusal
from icl_gd.identification import Verdict, identify
from icl_gd.identification.fingerprint import Fingerprint, fingerprint
from icl_gd.lab.config.errors import ConfigError, nearest, one_line
from icl_gd.lab.inspection.ends import exit_code
from icl_gd.lab.inspection.verdicts.output import check_output, write
from icl_gd.lab.inspection.verdicts.subject import SOURCES, Examined, ExaminedMember, find_precision, load_examined
from icl_gd.lab.inspection.verdicts.tasks import field_names
from icl_gd.lab.inspection.verdicts.text import text_of
from icl_gd.lab.lifecycle import settings
from icl_gd.lab.lifecycle.devices import check_device
from icl_gd.lab.reporting.results import plain
from icl_gd.paths import local

SWITCHES = ("--features", "--json")
FLAGS = (*(f"--{source}" for source in SOURCES), "--task.FIELD", "--member", "--seed", "--out", *SWITCHES)
LAST_SEED = 2**31 - 1


def main(words: Sequence[str]) -> int:
    """Prints the verdicts that a command line asks for.

    Args:
      words: the words after `icl-gd identify`.

    Returns:
      The exit code.
    """
    if any(word in ("--help", "-h", "-help", "help") for word in words):
        print(__doc__)
        return 0
    return exit_code(lambda: _answer(*_parsed(words)))


def _parsed(words: Sequence[str]) -> tuple[dict[str, str], dict[str, str], bool]:
    """The flags of a command line by name, the fields of the task by name, and whether to print JSON."""
    given: dict[str, str] = {}
    fields: dict[str, str] = {}
    words = list(words)
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        if not word.startswith("-"):
            raise ConfigError(f"stray argument {word!r}; {_source_hint(word)}")
        name = flag.removeprefix("--").removeprefix("config.") if "task" in flag else flag.removeprefix("--")
        if flag not in FLAGS and not name.startswith("task."):
            raise ConfigError(f"{flag}: unknown flag; {_flag_hint(flag)}")
        if not equals and flag not in SWITCHES and (not words or words[0].startswith("--")):
            raise ConfigError(f"{flag} needs a value: {flag}=VALUE")
        target = fields if name.startswith("task.") else given
        text = value if equals else "true" if flag in SWITCHES else words.pop(0)
        if target.setdefault(name, text) != text:
            raise ConfigError(f"{flag} is given twice, as {target[name]} and {text}; give it once")
    return given, fields, _is_on("--json", given.pop("json", "false"))


def _source_hint(word: str) -> str:
    """How to give what a stray argument may be."""
    if ":" in word:
        return f"give a function as --predictor={word}"
    return f"give a model as --model={word}, a run as --workdir={word}, or a function as --predictor=FILE.py:FUNCTION"


def _flag_hint(flag: str) -> str:
    if flag == "--task":
        return "give one field at a time, such as --task.name=linear or --task.n_context=20"
    if flag == "--members":
        return "did you mean --member? It takes one number; without it, all members are examined"
    if near := difflib.get_close_matches(flag, [f"--{name}" for name in field_names()], 1, 0.7):
        return f"did you mean {near[0]}?"
    return nearest(flag, FLAGS)


def _is_on(flag: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise ConfigError(f"{flag}={value}: must be true or false")
    return value == "true"


def _answer(given: Mapping[str, str], fields: Mapping[str, str], as_json: bool) -> str:
    """Examines the members, and writes the files.

    Returns:
      What is printed.
    """
    sources = [source for source in SOURCES if source in given]
    if len(sources) != 1:
        many = " and ".join(f"--{source}" for source in sources)
        wrong = f"{many} are given" if sources else "nothing to identify is given"
        raise ConfigError(f"{wrong}; give one of --workdir=DIR, --model=NAME_OR_DIR and --predictor=FILE.py:FUNCTION")
    (source,) = sources
    seed = _number(given, "seed", LAST_SEED) if "seed" in given else 0
    out = _directory(given["out"]) if "out" in given else None
    if out is not None:
        check_output(out)
    precision = find_precision(source, given[source])
    check_device(precision)
    with settings.jax_settings(precision, quickly=False), contextlib.redirect_stdout(sys.stderr):
        on_features = _is_on("--features", given.get("features", "false"))
        examined = load_examined(source, given[source], fields, on_features)
        if "member" in given:
            examined = _one_member(examined, _number(given, "member", len(examined.members) - 1))
        verdicts = [_verdict(examined, member, seed) for member in examined.members]
        content = plain(_content(examined, verdicts))
        if out is not None:
            pairs = zip(examined.members, verdicts, strict=True)
            seen = [_fingerprint(examined, member, verdict, seed) for member, verdict in pairs]
            write(out, examined, verdicts, seen, content)
    if as_json:
        return json.dumps(content, allow_nan=False, ensure_ascii=False)
    written = [f"wrote {out / name}" for name in ("report.html", "verdict.json")] if out is not None else []
    return "\n".join([text_of(examined, verdicts), *written])


def _number(given: Mapping[str, str], flag: str, most: int) -> int:
    """The value of a flag, checked to be a whole number from 0."""
    text = given[flag]
    if not re.fullmatch("[0-9]{1,12}", text) or int(text) > most:
        accepted = f"must be a whole number from 0 to {most}" if most else "must be 0, because there is one member"
        raise ConfigError(f"--{flag}={text}: {accepted}")
    return int(text)


def _directory(text: str) -> Path:
    if not text:
        raise ConfigError("--out is empty; give a directory: --out=DIR")
    try:
        return local(text, "--out")
    except ValueError as error:
        raise ConfigError(one_line(error)) from error


def _one_member(examined: Examined, number: int) -> Examined:
    return examined._replace(members=(examined.members[number],))


def _verdict(examined: Examined, member: ExaminedMember, seed: int) -> Verdict:
    """The verdict on one member. Its stages are reported to the standard error."""
    report = _Progress(examined.title(member))
    try:
        return identify(member.predictor, member.task, seed=seed, progress=report)
    except Refusal as error:
        raise ConfigError(f"{examined.name}: {one_line(error)}") from error


def _fingerprint(examined: Examined, member: ExaminedMember, verdict: Verdict, seed: int) -> Fingerprint | None:
    """The fingerprint of one member; None for predictions that are zero, which have no filter."""
    if verdict.verdict == "zero":
        return None
    _Progress(examined.title(member))("fingerprint")
    return fingerprint(member.predictor, member.task, verdict, seed=seed)


class _Progress:
    """Prints the stages of one member to the standard error."""

    def __init__(self, title: str):
        self.title, self.began = title, time.perf_counter()

    def __call__(self, stage: str) -> None:
        print(f"{self.title}: {stage} ({time.perf_counter() - self.began:.0f} s)", file=sys.stderr, flush=True)


def _content(examined: Examined, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The JSON object: that of the verdict, or the list of all."""
    rows = [
        {**verdict.as_dict(), "subject": examined.name, "member": member.number, "task": examined.task_in_words}
        for member, verdict in zip(examined.members, verdicts, strict=True)
    ]
    return rows[0] if len(rows) == 1 else {"verdicts": rows}
