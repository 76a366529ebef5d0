"""Runs generated bad calls of identification. Each must be refused in one sentence, and leave no file behind.

    python tests/faults/bad_identify.py [--count N] [--json]

Some calls are command lines of `icl-gd identify`: they must exit with code 2 and a one-line error. The others are calls
of `icl_gd.identify` and `icl_gd.analysis.symmetries`: they must raise ValueError with a message of one line. A message
must contain what was given, what is accepted, and what to give instead. Rules generate the cases from lists: flags,
fields of all tasks, files, functions that are no Predictors, shapes, objects. Every case must end within five seconds
of processor time, so other programs on the machine do not matter. All cases run in this process. One command line in
thirty also runs as a new process.
"""

import contextlib
import io
import json
import os
import random
import re
import shutil
import sys
import tarfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np
from bad_input import bad_values, good, item_of, misspelt, one_of
from harness import ROOT, Record

import icl_gd
from icl_gd import learners, zoo
from icl_gd.analysis import symmetries
from icl_gd.lab.config import fields as config_fields
from icl_gd.lab.config.fields import takes_one_value
from icl_gd.lab.inspection.verdicts import command, tasks
from icl_gd.tasks import LinearRegression
from icl_gd.types import Prompt
from icl_gd.zoo.library import DATA

SECONDS, ONE_IN = 5.0, 30  # processor time limit of a case; one command line in so many also runs as a process
REMEDY = re.compile(
    "give |define |must be |accepted|return |did you mean|needs a value|leave it out|write |correct it|remove|"
    "pip install|accept a prompt|draw with|set |pass a|lower "
)


class Case(NamedTuple):
    """A bad call: the words of a command line or the text of a call, and texts that the error must contain."""

    kind: str
    words: tuple[str, ...]
    mentions: tuple[str, ...]
    call: Callable[[], Any] | None = None  # of Python


class Accepted(BaseException):
    """A bad call was not refused before the search for an algorithm began."""


def until_search(stage: str) -> None:
    if stage != "symmetries":
        raise Accepted(stage)


# --- files ---

D, N = 2, 4
SIZES = (f"--task.d_input={D}", f"--task.n_context={N}")
RIDGE = "    return np.linalg.solve(x.T @ x + np.eye(len(x_query)), x.T @ y).T @ x_query\n"
COUNTS = (0, 1, 2, 4, 5, 6)  # wrong numbers of arguments
SHAPES = ((0,), (2,), (3,), (1, 1), (2, 1), (1, 2), (N, 1), (N, D), (1, 1, 1))  # wrong shapes of a prediction [1]
ERRORS = (
    *("KeyError", "ValueError", "IndexError", "TypeError", "AttributeError", "ZeroDivisionError", "RuntimeError"),
    *("AssertionError", "NotImplementedError", "RecursionError", "FileNotFoundError", "MemoryError", "SystemExit"),
)
NO_NUMBERS = {  # what a function may return that is no array of real numbers, and what the error calls it
    "None": "NoneType",
    "'abc'": "str",
    "'1.5'": "str",
    "b'1'": "bytes",
    "{'y': 1.0}": "dict",
    "{1.0}": "set",
    "[[1], [1, 2]]": "list",
    "[None]": "list",
    "object()": "object",
    "np.array(['1'])": "array of",
    "np.ones(1) * 1j": "complex",
    "1j": "complex",
    "print": "function",
    "(1.0 for _ in 'a')": "generator",
}
NOT_FINITE = ("np.nan", "np.inf", "-np.inf")
NO_FUNCTIONS = {"3": "int", "'abc'": "str", "None": "NoneType", "np.zeros(3)": "ndarray", "{}": "dict", "np": "module"}
SOMETIMES = {  # predictions for some prompts only, which are found during the examination
    "y[0] if x[0, 0] < 1 else np.nan * y[0]": "return finite numbers",
    "y[0] if x[0, 0] < 1 else np.inf": "return finite numbers",
    "y[0] if x[0, 0] < 1 else y": "return y_hat [",
    "y[0] if x[0, 0] < 1 else None": "return y_hat [",
}
BROKEN: dict[str, tuple[bytes, str]] = {  # files that define no function f, and what the error says
    "syntax.py": (b"def f(:\n", "SyntaxError"),
    "indent.py": (b"  x = 1\n", "IndentationError"),
    "null.py": (b"\0", "cannot be imported"),
    "encoding.py": (b"x = '\xff'\n", "SyntaxError"),
    "divides.py": (b"1 / 0\n", "ZeroDivisionError"),
    "asserts.py": (b"assert False, 'first\\nsecond'\n", "AssertionError"),
    "exits.py": (b"raise SystemExit(0)\n", "SystemExit"),
    "recursive.py": (b"def f(): f()\nf()\n", "RecursionError"),
    "reads.py": (b"open('missing.txt')\n", "FileNotFoundError"),
    "package.py": (b"import no_such_package\n", "pip install no_such_package"),
    "imports.py": (b"from predictors import no_such_function\n", "ImportError"),
    "nothing.py": (b"", "it defines no function"),
    "others.py": (b"def other(x, y, x_query): return y[0]\n", "accepted: other"),
}


def functions() -> dict[str, tuple[str, str, str]]:
    """The functions of predictors.py that are no Predictors: kind, source, and what the error says; by name."""
    result = {}
    for k in COUNTS:
        arguments = ", ".join("abcdef"[:k])
        kind = "a function of other arguments"
        result[f"takes_{k}"] = kind, f"def takes_{k}({arguments}):\n    return 0.0\n", "with (x, y, x_query)"
    result["by_name"] = kind, "def by_name(*, x, y, x_query):\n    return y[0]\n", "with (x, y, x_query)"
    for kind, values in (
        ("a prediction of a wrong shape", {f"np.zeros({s})": f"an array [{' '.join(map(str, s))}]" for s in SHAPES}),
        ("a prediction that is no number", NO_NUMBERS),
        ("a prediction that is not finite", {f"{each} * y[0] ** 2": "return finite numbers" for each in NOT_FINITE}),
        ("a prediction found bad later", SOMETIMES),
    ):
        for value, says in values.items():
            name = f"returns_{len(result)}"
            result[name] = kind, f"def {name}(x, y, x_query):\n    return {value}\n", says
    for error in ERRORS:
        name, raised = f"raises_{error}", f"raise {error}('first\\nsecond')"
        result[name] = "a function that raises", f"def {name}(x, y, x_query):\n    {raised}\n", f"it raises {error}"
    for value, says in NO_FUNCTIONS.items():
        name = f"value_{len(result)}"
        result[name] = "no function, or no task", f"{name} = {value}\n", f"is no function but {says}"
    return result


@cache
def damages() -> dict[str, tuple[str, str, bytes | None]]:
    """Damaged copies of a saved model: file, what the error says, and the new content (None: deleted); by directory."""
    model = DATA / "one_layer_construction"
    weights = (model / "model.safetensors").read_bytes()
    contents = json.loads((model / "config.json").read_text())
    result: dict[str, tuple[str, str, bytes | None]] = {
        "no_config": ("config.json", "config.json", None),
        "empty_config": ("config.json", "model", b""),
        "cut_config": ("config.json", "model", b'{"format": '),
        "list_config": ("config.json", "model", b"[]"),
        "empty_weights": ("model.safetensors", "model", b""),
        "text_weights": ("model.safetensors", "model", b"weights"),
        "cut_weights": ("model.safetensors", "model", weights[: len(weights) // 2]),
        "cut_header": ("model.safetensors", "model", weights[:20]),
        "empty_card": ("card.json", "card.json", b""),
        "list_card": ("card.json", "card.json", b"[]"),
        "card_without_task": ("card.json", "card.json", b"{}"),
        "card_of_another_task": ("card.json", "card.json", b'{"task": {"type": "Unknown"}}'),
    }
    for key in contents:
        result[f"without_{key}"] = "config.json", "model", json.dumps({**contents, key: None}).encode()
        missing = {name: value for name, value in contents.items() if name != key}
        result[f"lacks_{key}"] = "config.json", "model", json.dumps(missing).encode()
        result[f"wrong_{key}"] = "config.json", "model", json.dumps({**contents, key: "abc"}).encode()
    return result


def write_files(directory: Path) -> None:
    """Writes what the command lines refer to."""
    sources = [source for _, source, _ in functions().values()]
    good_one = f"def ridge(x, y, x_query):\n{RIDGE}"
    (directory / "predictors.py").write_text("\n\n".join(["import numpy as np", good_one, *sources]))
    for name, (content, _) in BROKEN.items():
        (directory / name).write_bytes(content)
    model = DATA / "one_layer_construction"
    for name, changed in {"saved": ("", "", b""), **damages()}.items():
        shutil.copytree(model, directory / name)
        file, _, content = changed
        if content is None:
            (directory / name / file).unlink()
        elif file:
            (directory / name / file).write_bytes(content)
    with tarfile.open(ROOT / "tests" / "stored" / "swept_together.tar.gz") as archive:
        archive.extractall(directory / "run", filter="data")
    shutil.copytree(directory / "run", directory / "run_without_checkpoints")
    shutil.rmtree(directory / "run_without_checkpoints" / "checkpoints")
    for name, text in {"cut": "{", "list": "[1]", "number": "3", "empty": "", "foreign": '{"a": 1}'}.items():
        shutil.copytree(directory / "run_without_checkpoints", directory / f"run_{name}")
        (directory / f"run_{name}" / "config.json").write_text(text)
    for name in ("empty", "own_page/report.html", "own_verdict"):
        (directory / name).mkdir(parents=True)
    (directory / "own_verdict" / "verdict.json").write_text('{"mine": 1}')


# --- rules for command lines ---

MODEL, RUN = "--model=one_layer_construction", "--workdir=run"
PREDICTOR = "--predictor=predictors.py:ridge"
VALUES = {
    "--seed": ("1", "2"),
    "--member": ("0", "1"),
    "--out": ("a", "b"),
    "--json": ("true", "false"),
    "--features": ("true", "false"),
}
NO_WHOLE_NUMBERS = (
    *("-1", "1.5", "1e3", "abc", "", "²", "٣", "0x1", "1 2", "1_000", "nan", "None", "+1", "1,2", "2147483648"),
    "9" * 30,
)
NO_PLACES = {  # values of --out, and what the error says
    "predictors.py": "is a file; give a directory",
    "predictors.py/x": "is a file; give a directory",
    "/proc/x": "cannot write to /proc",
    "/sys/x/y": "cannot write to /sys",
    "gs://bucket/x": "object stores",
    "s3://bucket": "object stores",
    "~no_such_user/x": "the user does not exist",
    "a" * 300: "no such path is possible",
    "a/" * 3000: "no such path is possible",
    "a\0b": "no such path is possible",
    "own_page": "report.html is there and was not written by icl-gd identify",
    "own_verdict": "verdict.json is there and was not written by icl-gd identify",
    "": "is empty; give a directory",
}


def any_source(rng: random.Random) -> str:
    return rng.choice([MODEL, RUN, PREDICTOR, "--model=saved"])


def flag_misspelt(rng: random.Random) -> Iterator[Case]:
    flag = rng.choice([flag for flag in command.FLAGS if flag != "--task.FIELD"])
    wrong = f"--{misspelt(flag[2:], rng)}"
    yield Case("a misspelt flag", (any_source(rng), f"{wrong}=1"), (f"{wrong}: unknown flag", f"did you mean {flag}?"))


def flag_of_a_field(rng: random.Random) -> Iterator[Case]:
    """The name of a field without its section, or with another section."""
    name = rng.choice(tasks.field_names())
    leaf = name.removeprefix("task.")
    wrong = rng.choice([f"--{leaf}", f"--tasks.{leaf}", f"--task-{leaf}", f"--task{leaf}"])
    says = f"{wrong}: unknown flag", "did you mean --task."
    yield Case("a field without task.", (any_source(rng), f"{wrong}=1"), says)


def flag_unknown(rng: random.Random) -> Iterator[Case]:
    wrong = "-" * rng.randrange(1, 4) + "".join(rng.choices("qxzjvwk", k=rng.randrange(1, 9)))
    yield Case("an unknown flag", (any_source(rng), f"{wrong}=1"), (f"{wrong}: unknown flag", "accepted"))
    stray = "".join(rng.choices("abcdefgh", k=rng.randrange(2, 9))) + rng.choice(["", ".py:f", ":f"])
    yield Case("a stray argument", (any_source(rng), stray), (f"stray argument '{stray}'", "--predictor="))


def flag_without_value(rng: random.Random) -> Iterator[Case]:
    flags = [flag for flag in command.FLAGS if flag not in (*command.SWITCHES, "--task.FIELD")]
    flag = rng.choice([*flags, *(f"--{name}" for name in tasks.field_names())])
    words = [(any_source(rng), flag), (flag, any_source(rng)), (flag, "--json")]
    yield Case("a flag without value", rng.choice(words), (f"{flag} needs a value: {flag}=VALUE",))


def flag_twice(rng: random.Random) -> Iterator[Case]:
    flags = {**VALUES, **{f"--{name}": ("1", "2", "3") for name in tasks.field_names()}}
    flag = rng.choice(list(flags))
    first, second = rng.sample(flags[flag], 2)
    mentions = f"{flag} is given twice, as {first} and {second}", "give it once"
    yield Case("a flag twice", (any_source(rng), f"{flag}={first}", f"{flag}={second}"), mentions)


def sources(rng: random.Random) -> Iterator[Case]:
    given = rng.sample([MODEL, RUN, PREDICTOR], rng.choice([0, 2, 3]))
    others = (f"--seed={rng.randrange(99)}",) * rng.randrange(2)
    yield Case("no source, or several", (*given, *others), ("give one of --workdir=DIR, --model=NAME_OR_DIR",))


def numbers(rng: random.Random) -> Iterator[Case]:
    value = rng.choice(NO_WHOLE_NUMBERS)
    yield Case(
        "a bad number or switch", (any_source(rng), f"--seed={value}"), (f"--seed={value}: must be a whole number",)
    )
    source, says = rng.choice([(MODEL, "must be 0"), (PREDICTOR, "must be 0"), (RUN, "must be a whole number from 0")])
    value = rng.choice([*NO_WHOLE_NUMBERS, "99"])
    yield Case("a bad number or switch", (source, f"--member={value}"), (f"--member={value}: {says}",))
    value = rng.choice(["yes", "1", "", "True", "FALSE", "on", "0", "no"])
    yield Case(
        "a bad number or switch", (any_source(rng), f"--json={value}"), (f"--json={value}: must be true or false",)
    )


def outputs(rng: random.Random) -> Iterator[Case]:
    text, says = rng.choice(list(NO_PLACES.items()))
    more = (f"--seed={rng.randrange(99)}",) * rng.randrange(2)
    yield Case("a bad --out", (any_source(rng), f"--out={text}", *more), ("--out", says))


def models(rng: random.Random) -> Iterator[Case]:
    name = rng.choice(zoo.names())
    wrong = misspelt(name, rng)
    if wrong not in zoo.names():
        source = rng.choice(["model", "workdir"])
        says = (f"{wrong}: there is no such directory", "did you mean")
        yield Case("a misspelt model", (f"--{source}={wrong}",), says)
    places = {
        "--model=": "--model is empty",
        "--workdir=": "--workdir is empty",
        "--model=empty": "there is no model.safetensors",
        "--workdir=empty": "holds no checkpoints",
        "--model=run": "a run as --workdir=run",
        "--workdir=saved": "give it as --model=saved",
        "--workdir=run_without_checkpoints": "holds no checkpoints",
        "--model=predictors.py": "there is no such directory",
        "--workdir=predictors.py": "there is no such directory",
        **{f"--workdir=run_{name}": "give" for name in ("cut", "list", "number", "empty", "foreign")},
        **{f"--{source}=gs://bucket/x": "object stores" for source in ("model", "workdir")},
        **{f"--{source}=~no_such_user": "the user does not exist" for source in ("model", "workdir")},
        **{f"--{source}={'a' * 300}": "no such path is possible" for source in ("model", "workdir")},
    }
    word, says = rng.choice(list(places.items()))
    yield Case("a bad --model or --workdir", (word,), (says,))
    name, (_, says, _) = rng.choice(list(damages().items()))
    yield Case("a damaged model", (f"--model={name}",), (name, says))


def predictors(rng: random.Random) -> Iterator[Case]:
    name, (kind, _, says) = rng.choice(list(functions().items()))
    where = rng.choice(["predictors.py", "predictors", "./predictors.py"])
    inputs = f"--task.inputs={rng.choice(['normal', 'laplace'])}"  # inputs above 1, too
    yield Case(kind, (f"--predictor={where}:{name}", *SIZES, inputs), (f"{where}:{name}", says))
    file, (_, says) = rng.choice(list(BROKEN.items()))
    where = rng.choice([file, f"./{file}", file.removesuffix(".py")])
    yield Case("a broken file", (f"--predictor={where}:f", *SIZES), (f"--predictor={where}:f", says))


def names_of_functions(rng: random.Random) -> Iterator[Case]:
    wrong = misspelt("predictors", rng)
    nonsense = "".join(rng.choices("qxzjvwk", k=5))
    texts = {
        "ridge": "must be a file or module and a function",
        "": "must be a file or module and a function",
        ":": "must be a file or module and a function",
        "predictors.py": "must be a file or module and a function",
        "predictors.py:": "must be a file or module and a function",
        ":ridge": "must be a file or module and a function",
        f"{wrong}.py:ridge": f"there is no file {wrong}.py; did you mean predictors.py?",
        f"{nonsense}/a.py:ridge": f"there is no Python file in {nonsense}",
        "empty/:ridge": "there is no file empty/",
        f"{nonsense}:ridge": f"there is no module {nonsense}; give",
        f"json.{nonsense}:ridge": f"there is no module json.{nonsense}; give",
        f"predictors.py:{misspelt('ridge', rng)}": "did you mean ridge?",
        "predictors.py:ridge:x": "is no name of a module; give",
        f"{nonsense} x:ridge": "is no name of a module; give",
        "..:ridge": "is no name of a module; give",
        ".predictors:ridge": "is no name of a module; give",
        "gs://bucket/a.py:ridge": "object stores",
        "~no_such_user/a.py:ridge": "the user does not exist",
        f"{'a' * 300}.py:ridge": "no such path is possible",
    }
    text, says = rng.choice(list(texts.items()))
    yield Case("a bad --predictor", (f"--predictor={text}", *SIZES), ("--predictor=", says))


# --- rules for fields of the task ---


@cache
def known_fields() -> dict[tuple[str, ...], dict[str, config_fields.Field]]:
    """The fields of the task of a function with each task.name, and of models of the zoo; by the words before them."""
    result: dict[tuple[str, ...], dict[str, config_fields.Field]] = {
        (PREDICTOR, f"--task.name={word}"): experiment.fields for word, experiment in tasks._bases().items()
    }
    for name in ("one_layer_construction", "softmax_heads_one", "token_copying", "garg_linear", "sine"):
        classes = config_fields.classes_of(tasks._bases()["linear"], {("task",): type(zoo.task(name))})
        result[f"--model={name}",] = config_fields.fields_of(classes)
    return {words: {name: field for name, field in every.items() if is_given(name)} for words, every in result.items()}


def is_given(name: str) -> bool:
    return name.startswith("task.") and name not in (*tasks.OF_TRAINING, "task.name")


def field_value(rng: random.Random) -> Iterator[Case]:
    words, known = rng.choice(list(known_fields().items()))
    name, field = rng.choice(list(known.items()))
    item = item_of(field.hint)
    if bad := bad_values(item[0] if item else field.hint, rng):
        _, value, says = one_of(bad, rng)
        if item:  # the error describes the tuple
            value, says = f"({value!r},)", "must be a tuple"
        yield Case("a bad value of a field", (*words, f"--{name}={value}"), (f"{name}=", says))
    if takes_one_value(field) and len(values := good(field.hint)) > 1 and words[0] == PREDICTOR:
        first, second = rng.sample(values, 2)
        mentions = f"{name}={first},{second}", "give one value"
        yield Case("a sweep over a field", (*words, f"--{name}={first},{second}"), mentions)


def field_name(rng: random.Random) -> Iterator[Case]:
    words, known = rng.choice(list(known_fields().items()))
    name = rng.choice(list(known))
    leaf = name.removeprefix("task.")
    wrong = f"task.{misspelt(leaf, rng)}"
    twin = any(other != name and (other.startswith(name) or name.startswith(other)) for other in known)
    if wrong not in known and len(leaf) > 4 and not twin:
        yield Case("a misspelt field", (*words, f"--{wrong}=1"), (f"--{wrong}: ", f"did you mean {name}?"))
    if others := [other for other in tasks.field_names() if is_given(other) and other not in known]:
        other = rng.choice(others)
        yield Case("a field of another task", (*words, f"--{other}=1"), (f"--{other}: ", "field of "))
    pool = rng.choice(tasks.OF_TRAINING)
    word = "linear" if pool == "task.pool" else "sparse"
    chosen = (PREDICTOR, f"--task.name={word}", f"--{pool}={rng.randrange(1, 99)}")
    yield Case("a pool of prompts", chosen, (f"--{pool}: ", "leave it out"))


def field_combination(rng: random.Random) -> Iterator[Case]:
    number = rng.randrange(21, 300)
    wrong = misspelt(rng.choice(list(tasks._bases())), rng)
    combinations: dict[tuple[str, ...], tuple[str, ...]] = {
        (f"task.corrupted_labels={number}",): (f"task.corrupted_labels={number}", "at most n_context=10"),
        ("task.name=sparse", f"task.non_zeros={number}"): (f"task.non_zeros={number}", "at most d_input=20"),
        (f"task.eigenvalues={(1.0,) * number}",): ("task.eigenvalues", "task.d_input"),
        (f"task.rotation_seed={number}",): (f"task.rotation_seed={number}", "task.eigenvalues"),
        ("task.name=quadratic", "task.noise=laplace"): ("task.noise=laplace", "task.noise_std"),
        ("task.name=signs", f"task.noise_std={number}"): (f"task.noise_std={number}", "without noise"),
        ("task.name=affine", "task.n_context=0"): ("task.n_context=0", "at least one example"),
        (f"task.name={wrong}",): (f"task.name={wrong}", "accepted: linear"),
    }
    fields, says = rng.choice(list(combinations.items()))
    yield Case("fields that contradict each other", (PREDICTOR, *(f"--{field}" for field in fields)), says)
    of_models = {
        (MODEL, f"--task.d_input={number}"): (f"task.d_input={number}", "give --task.d_input=10"),
        (MODEL, f"--task.d_output={number}"): (f"task.d_output={number}", "give --task.d_output=1"),
        (MODEL, f"--task.corrupted_labels={number}"): (f"task.corrupted_labels={number}", "at most n_context=10"),
        (RUN, f"--task.d_input={number}"): (f"task.d_input={number}", "give --task.d_input="),
        (RUN, f"--task.d_output={number}"): (f"task.d_output={number}", "give --task.d_output="),
        ("--model=garg_linear", f"--task.n_context={number + 100}"): ("positions", "give --task.n_context="),
        ("--model=garg_linear", "--task.n_context=0"): ("task.n_context=0", "at least one example"),
    }
    words, says = rng.choice(list(of_models.items()))
    yield Case("a task that does not fit the model", words, says)
    word, name = rng.choice(["linear", "quadratic"]), rng.choice(["task.d_input", "task.n_context"])
    chosen = (PREDICTOR, f"--task.name={word}", f"--{name}={rng.randrange(10**6, 10**7)}")
    yield Case("a task too large for memory", chosen, (name.removeprefix("task."), "numbers", "smaller sizes"))


# --- rules for calls of Python ---


def identified(predictor: Any, task: Any, **more: Any) -> Any:
    return icl_gd.identify(predictor, task, **{"progress": until_search, **more})


def measured(predictor: Any, task: Any, key: Any = None, prompts: Any = 256) -> Any:
    return symmetries(predictor, task, jax.random.key(0) if key is None else key, prompts)


CALLS = {"identify": identified, "symmetries": measured}
SMALL = ((3, 1, 5), (2, 2, 4), (4, 1, 3))  # d_input, d_output, n_context
OBJECTS: dict[str, Any] = {
    "None": None,
    "False": False,
    "()": (),
    "[]": [],
    "{}": {},
    "set()": set(),
    "b'abc'": b"abc",
    "range(3)": range(3),
    "np": np,
    "np.zeros(3)": np.zeros(3),
    "jnp.zeros((2, 2))": jnp.zeros((2, 2)),
    "jax.random.key(0)": jax.random.key(0),
    "[learners.ols]": [learners.ols],
}


def any_task(rng: random.Random) -> LinearRegression:
    d, m, n = rng.choice(SMALL)
    return LinearRegression(d_input=d, d_output=m, n_context=n, inputs="normal")


def any_object(rng: random.Random) -> tuple[str, Any]:
    value = rng.choice([rng.randrange(100), rng.random(), "".join(rng.choices("abcdef", k=3))])
    return rng.choice([*OBJECTS.items(), (repr(value), value)])


def python(kind: str, rng: random.Random, predictor: Any, task: Any, text: str, *mentions: str) -> Case:
    """A call of one of the two functions."""
    name = rng.choice(list(CALLS))
    return Case(kind, (f"{name}({text}, {sizes_of(task)})",), mentions, partial(CALLS[name], predictor, task))


def sizes_of(task: Any) -> str:
    """The sizes of a task, as text."""
    return " ".join(f"{name}={getattr(task, name, None)}" for name in ("d_input", "d_output", "n_context"))


def of_arguments(names: str, value: str = "0.0") -> Callable[..., Any]:
    return eval(f"lambda {', '.join(names)}: {value}")


def objects(rng: random.Random) -> Iterator[Case]:
    """Values of a wrong type in place of functions and tasks."""
    text, value = any_object(rng)
    task = any_task(rng)
    says = "must be a function of (x, y, x_query)"
    yield python("no function, or no task", rng, value, task, f"predictor={text}", "predictor=", says)
    text, value = any_object(rng)
    text, value = rng.choice([(text, value), ("LinearRegression", LinearRegression), ("ols", learners.ols)])
    says = "give an object with d_input, d_output and sample(key) -> Prompt"
    yield python("no function, or no task", rng, learners.ols, value, f"task={text}", "task is ", says)
    text, value = any_object(rng)
    name = rng.choice(["progress", "layerwise"])
    if name == "progress" or value is not None:
        call = partial(identified, learners.ols, task, **{name: value})
        says = "must be a function of"
        yield Case("no function, or no task", (f"identify({name}={text}, {sizes_of(task)})",), (f"{name}=", says), call)
    names = "abcdef"[: rng.choice(COUNTS)]
    text, says = f"of {len(names)} arguments", "cannot be called with (x, y, x_query)"
    yield python("a function of other arguments", rng, of_arguments(names), task, text, says, "give a function of")
    name, taken = rng.choice([("layerwise", "(x, y, x_query)"), ("progress", "(stage)")])
    names = "abcdef"[: rng.choice((0, 2, 4, 5))]
    call = partial(identified, learners.ols, task, **{name: of_arguments(names)})
    says = (f"{name} cannot be called with {taken}", "give a function of")
    yield Case("a function of other arguments", (f"identify({name} of {len(names)}, {sizes_of(task)})",), says, call)


def returned_shapes(rng: random.Random) -> Iterator[Case]:
    task = any_task(rng)
    m = task.d_output
    shape = tuple(rng.choices(range(5), k=rng.randrange(4)))
    if rng.random() < 0.3:
        shape = (*shape[:2], m)  # the prediction after every layer, for example
    if shape == (m,) or (shape == () and m == 1):
        return

    def traced(x: Any, y: Any, x_query: Any) -> Any:
        return jnp.zeros(shape) + x_query[0]

    def untraced(x: Any, y: Any, x_query: Any) -> Any:
        return np.zeros(shape) + float(x_query[0])

    function = rng.choice([traced, untraced])
    text = f"{function.__name__}, returns {shape}"
    says = f"returns an array of shape {shape}", f"m={m}"
    yield python("a prediction of a wrong shape", rng, function, task, text, *says)


def returned_values(rng: random.Random) -> Iterator[Case]:
    task = any_task(rng)
    value, says = rng.choice(list(NO_NUMBERS.items()))
    function = eval(f"lambda x, y, x_query: {value}", {"np": np})
    yield python("a prediction that is no number", rng, function, task, f"returns {value}", says, "return y_hat [m]")
    number, limit, module = rng.choice(NOT_FINITE), rng.choice([-9, -1, 0, 1]), rng.choice(["np", "jnp"])
    source = f"lambda x, y, x_query: {module}.where(x[0, 0] > {limit}, {number}, 0.0) + y[0]"
    function = eval(source, {"np": np, "jnp": jnp})
    text = f"{module}, returns {number} for inputs above {limit}"
    yield python("a prediction that is not finite", rng, function, task, text, "returns", "return finite numbers")


@dataclass(frozen=True)
class Changed:
    """A task with one part of every prompt replaced: an array of another shape, or of other values."""

    task: LinearRegression
    part: str
    shape: tuple[int, ...] | None = None
    value: float | str | complex | None = None

    @property
    def d_input(self) -> int:
        return self.task.d_input

    @property
    def d_output(self) -> int:
        return self.task.d_output

    def sample(self, key: Any) -> Any:
        prompt = self.task.sample(key)
        array = getattr(prompt, self.part)
        if isinstance(self.value, str):
            return prompt._replace(**{self.part: self.value})
        filled = array if self.value is None else jnp.full_like(array, self.value, dtype=jnp.asarray(self.value).dtype)
        return prompt._replace(**{self.part: filled if self.shape is None else jnp.zeros(self.shape)})


@dataclass(frozen=True)
class Sampler:
    """A task with any values in place of its members."""

    sample: Any
    d_input: Any = 3
    d_output: Any = 1


def other_shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes with one axis less or more, and with one longer or shorter axis."""
    result = [shape[1:], shape[:-1], (*shape, 1), (1, *shape)]
    for axis, size in enumerate(shape):
        result += [(*shape[:axis], changed, *shape[axis + 1 :]) for changed in (0, size - 1, size + 1)]
    return list(dict.fromkeys(result))


def prompts_of_a_task(rng: random.Random) -> Iterator[Case]:
    task, part = any_task(rng), rng.choice(["x", "y", "x_query"])
    n, d, m = task.n_context, task.d_input, task.d_output
    wanted = f"x [n {d}], y [n {m}] and x_query [{d}]"
    shape = rng.choice(other_shapes({"x": (n, d), "y": (n, m), "x_query": (d,)}[part]))
    text = f"task draws {part} {shape}"
    says = f"{part} [{' '.join(map(str, shape))}]", wanted
    yield python("prompts of a wrong shape", rng, learners.ols, Changed(task, part, shape), text, *says)
    value = rng.choice([float("nan"), float("inf"), -float("inf")])
    text, says = f"task draws {part} {value}", (f"returns {value} in {part}", "return finite numbers")
    yield python(
        "prompts that are not finite, or all zero", rng, learners.ols, Changed(task, part, value=value), text, *says
    )
    value, says = rng.choice([("abc", f"{part} str"), (1j, "of complex64")])
    text = f"task draws {part} {value!r}"
    yield python("prompts that are no numbers", rng, learners.ols, Changed(task, part, value=value), text, says, wanted)
    text, says = "task draws y 0", ("all prompts are 0", "give another task")
    yield python(
        "prompts that are not finite, or all zero", rng, learners.ols, Changed(task, "y", value=0.0), text, *says
    )


def draw_with_numpy(key: Any) -> Prompt:
    x = np.random.default_rng(int(jax.random.bits(key))).normal(size=(5, 3))
    return Prompt(jnp.asarray(x), jnp.ones((5, 1)), jnp.ones(3), jnp.ones(1), jnp.ones((1, 3)))


def tasks_of_a_user(rng: random.Random) -> Iterator[Case]:
    text, value = any_object(rng)
    value = rng.choice([value, (jnp.ones((5, 3)), jnp.ones((5, 1)))])
    samplers = {
        f"returns {text}": (Sampler(lambda key: value), "return a Prompt with x [n 3]"),
        "draws with NumPy": (Sampler(draw_with_numpy), "draw with jax.random"),
        f"sample={text}": (Sampler(OBJECTS.get(text, 3)), "sample"),
    }
    for k in (0, 2, 3):
        function = of_arguments("abc"[:k], "None")
        samplers[f"sample of {k} arguments"] = Sampler(function), "cannot be called with (key)"
    text, (task, says) = rng.choice(list(samplers.items()))
    yield python("a task that draws no prompts", rng, learners.ols, task, f"task {text}", "task", says)
    name = rng.choice(["d_input", "d_output"])
    value = rng.choice([None, "3", 0, -rng.randrange(1, 9), rng.random(), True, (3,), jnp.asarray(3)])
    task = Sampler(LinearRegression(d_input=3).sample, **{name: value})
    says = f"task.{name}=", "a whole number of at least 1"
    yield python("a bad size of a task", rng, learners.ols, task, f"{name}={value}", *says)
    task = any_task(rng)
    right, wrong = getattr(task, name), rng.choice([5, 6, 7])
    sizes = {"d_input": task.d_input, "d_output": task.d_output, name: wrong}
    says = "task.sample(key) returns x [", f"as in d_input={sizes['d_input']} and d_output={sizes['d_output']}"
    text = f"{name}={wrong}, but draws {right}"
    yield python("a bad size of a task", rng, learners.ols, Sampler(task.sample, **sizes), text, *says)
    sizes = {"d_input": 3, "d_output": 1, "n_context": 5, rng.choice(["d_input", "d_output", "n_context"]): 10**6}
    large = LinearRegression(sizes["d_input"], sizes["d_output"], sizes["n_context"] + rng.randrange(10**5))
    says = "numbers", "give a task with smaller sizes, or fewer prompts"
    yield python("a task too large for memory", rng, learners.ols, large, "a large task", *says)


def layers(rng: random.Random) -> Iterator[Case]:
    """Predictions after every layer that are not those of the Predictor."""
    task = any_task(rng)
    m, depth = task.d_output, rng.randrange(2, 6)
    shape = rng.choice([(m,), (0, m), (1, m), (depth, m + 1), (depth, 1, m), (m + 1,), (depth, 0)])
    number, factor = rng.choice(NOT_FINITE), rng.choice([0.0, 0.5, 0.9, 1.1, -1.0, 2.0])
    step, penalty = rng.choice([0.1, 0.5, 1.0]), rng.choice([0.5, 1.0, 2.0])
    first = learners.gradient_descent([step])
    ridge = learners.ridge(penalty)

    def after_each(last: Callable[..., Any], x: Any, y: Any, x_query: Any) -> Any:
        y_hat = last(x, y, x_query)
        return jnp.stack([0 * y_hat, *[y_hat / 2] * (depth - 2), y_hat])

    def scaled(x: Any, y: Any, x_query: Any) -> Any:
        return factor * ridge(x, y, x_query)

    def some_bad(x: Any, y: Any, x_query: Any) -> Any:
        return after_each(ridge, x, y, x_query).at[0].add(jnp.where(x[0, 0] > 0, eval(number), 0.0))

    others = "give the layers of this predictor"
    wrong: dict[str, tuple[Any, str]] = {
        f"shape {shape}": (lambda x, y, x_query: jnp.zeros(shape), f"layerwise returns an array of shape {shape}"),
        f"{number} in {depth} layers": (some_bad, "return finite numbers"),
        f"{factor} times the predictor in {depth} layers": (partial(after_each, scaled), others),
        f"{depth} layers of a step {step}": (partial(after_each, first), others),
    }
    text, (layerwise, says) = rng.choice(list(wrong.items()))
    call = partial(identified, ridge, task, layerwise=layerwise)
    words = (f"identify(ridge {penalty}, layerwise={text}, {sizes_of(task)})",)
    yield Case("wrong layers", words, ("layerwise", says), call)


def settings(rng: random.Random) -> Iterator[Case]:
    """Values of the seed, the ceiling, the number of prompts, and the key."""
    task = any_task(rng)
    text, value = any_object(rng)
    wrong = {
        "seed": [-rng.randrange(1, 99), rng.random(), 2**31 + rng.randrange(99), float("nan"), True],
        "ceiling": [0, 1, -rng.random(), 1 + rng.random(), float("nan"), float("inf"), True],
    }
    name = rng.choice(list(wrong))
    if rng.random() < 0.7:
        value = rng.choice(wrong[name])
        text = repr(value)
    says = {"seed": "a whole number of at least 0", "ceiling": "above 0 and below 1"}[name]
    is_right = type(value) is {"seed": int, "ceiling": float}[name] and 0 <= value < {"seed": 2**31, "ceiling": 1}[name]
    if not is_right:
        call = partial(identified, learners.ols, task, **{name: value})
        yield Case(
            "a bad seed, ceiling, key or number of prompts",
            (f"identify({name}={text}, {sizes_of(task)})",),
            (f"{name}=", says),
            call,
        )
    value = rng.choice([0, -rng.randrange(1, 99), rng.random(), "abc", (), float("nan"), True])
    call = partial(measured, learners.ols, task, prompts=value)
    text = f"symmetries(prompts={value!r}, {sizes_of(task)})"
    yield Case(
        "a bad seed, ceiling, key or number of prompts", (text,), ("prompts=", "a whole number of at least 1"), call
    )
    value = rng.randrange(10**8, 10**12)
    call = partial(measured, learners.ols, task, prompts=value)
    text = f"symmetries(prompts={value}, {sizes_of(task)})"
    yield Case("a bad seed, ceiling, key or number of prompts", (text,), (f"{value} prompts", "fewer prompts"), call)
    text, value = any_object(rng)
    text, value = rng.choice([(text, value), ("two keys", jax.random.split(jax.random.key(0)))])
    if value is not None and text != "jax.random.key(0)":
        call = partial(measured, learners.ols, task, key=value)
        text = f"symmetries(key={text}, {sizes_of(task)})"
        yield Case(
            "a bad seed, ceiling, key or number of prompts",
            (text,),
            ("key=", "one random key, such as jax.random.key(0)"),
            call,
        )


RULES: tuple[Callable[[random.Random], Iterator[Case]], ...] = (
    *(flag_misspelt, flag_of_a_field, flag_unknown, flag_without_value, flag_twice, sources, numbers, outputs, models),
    *(predictors, predictors, names_of_functions, field_value, field_value, field_name, field_combination),
    *(objects, returned_shapes, returned_values, prompts_of_a_task, tasks_of_a_user, layers, settings),
)


# --- running the cases ---


def cases(count: int) -> list[Case]:
    """Generates `count` distinct cases, over all rules."""
    rng, generated = random.Random(0), {}
    while len(generated) < count:
        for rule in RULES:
            for case in rule(rng):
                generated.setdefault(case.words, case)
    return list(generated.values())[:count]


def called(call: Callable[[], Any]) -> int:
    """Calls a function like a command: prints the message of a ValueError, and returns an exit code."""
    try:
        call()
    except ValueError as error:
        print("error:", error, file=sys.stderr)
        return 2
    return 0


def processor_time() -> float:
    """Seconds of processor time of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


def answer(case: Case, process: bool) -> tuple[int, str, str, float]:
    """Runs a case, in this process or as a new process. Returns exit code, stdout, stderr and seconds."""
    began = processor_time()
    if process:
        code = "from icl_gd.lab.cli import main; main()"
        options = {"cwd": os.getcwd(), "env": {"PYTHONDONTWRITEBYTECODE": ""}}
        done = harness.process([sys.executable, "-c", code, "identify", *case.words], **options)
        return done.returncode, done.stdout, done.stderr, processor_time() - began
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("always")
        try:
            code = command.main(case.words) if case.call is None else called(case.call)
        except BaseException as error:
            code = -1
            print(f"Traceback: {error!r}", file=err)
    return code, out.getvalue(), err.getvalue(), processor_time() - began


def snapshot() -> dict[str, tuple[int, int]]:
    """Size and time of every file in the current directory."""
    every = [path for path in Path().rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in every}


def judge(case: Case, process: bool = False) -> Record:
    before = snapshot()
    code, out, err, seconds = answer(case, process)
    said = err
    if case.kind.endswith("later"):  # the progress until then is printed, too
        said = re.sub(r"\A(.+: .+ \(\d+ s\)\n)+", "", err)
    wrong = [f"exit code {code}"] * (code != 2) + ["more than one line"] * (not harness.one_line(said) or out != "")
    wrong += [f"no mention of {word!r}" for word in case.mentions if word not in said]
    wrong += ["no remedy"] * (REMEDY.search(said) is None) + [f"{seconds:.1f} s"] * (seconds > SECONDS)
    changed = snapshot().items() ^ before.items()
    wrong += [f"wrote {sorted({path for path, _ in changed})}"] * bool(changed)
    kind = f"as a process, within {SECONDS:.0f} s" if process else case.kind
    text = " ".join(case.words) if case.call is None else case.words[0]
    return Record(kind, text, not wrong, f"{'; '.join(wrong)}: {said.strip()}" if wrong else said.strip())


def short(predictor: Any, task: Any, *, seed: int, progress: Callable[[str], Any]) -> Any:
    """As `identify`, until the search for an algorithm begins."""

    def report(stage: str) -> None:
        progress(stage)
        until_search(stage)

    return icl_gd.identify(predictor, task, seed=seed, progress=report)


def run(count: int, directory: Path) -> list[Record]:
    """Runs `count` distinct bad calls in this process, and some of the command lines again as processes."""
    before, bytecode = os.getcwd(), sys.dont_write_bytecode
    write_files(directory)
    os.chdir(directory)
    command.identify, sys.dont_write_bytecode = short, False
    try:
        generated = cases(count)
        lines = [case for case in generated if case.call is None and "\0" not in "".join(case.words)]
        return [judge(case) for case in generated] + [judge(case, process=True) for case in lines[7::ONE_IN]]
    finally:
        os.chdir(before)
        command.identify, sys.dont_write_bytecode = icl_gd.identify, bytecode


if __name__ == "__main__":
    sys.exit(harness.main(run, 700))
