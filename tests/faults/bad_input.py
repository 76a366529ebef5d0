"""Generated bad command lines: exit code 2, one line with field, value and what is accepted, and nothing is created.

    python tests/faults/bad_input.py [--count N] [--json]

The cases are drawn by rules from the fields of configs and what they accept (`lab.config.fields`). All go through the
command's `main` in this process; one in fifteen is run as a process too, which must end within five seconds.
"""

import contextlib
import io
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import harness
from annotated_types import Ge, Gt, Le, Lt
from harness import ROOT, Record

from icl_gd.lab import run as command
from icl_gd.lab.command_line import KINDS, parse
from icl_gd.lab.config.agreement import ANALYSES, ONE_LAYER_ONLY
from icl_gd.lab.config.defaults import flatten
from icl_gd.lab.config.fields import ANNOTATIONS
from icl_gd.lab.config.recipe_fields import RECIPES
from icl_gd.lab.config.resources import BYTES_PER_FLOAT
from icl_gd.lab.config.sweeps import SWEPT
from icl_gd.lab.config.validation import SIZES
from icl_gd.schema import kinds, rules

CONFIGS = [f"--config={path}" for path in sorted((ROOT / "configs").glob("*.py"))]
WORDS = {
    "precision": list(BYTES_PER_FLOAT),
    "task.inputs": ["uniform", "normal"],
    "train.schedule": ["constant", "cosine"],
    "recipe": ["linear_attention"],
}
SECONDS, ONE_IN = 5.0, 15


class Case(NamedTuple):
    """A bad command line, and what its one line must mention."""

    kind: str
    words: tuple[str, ...]
    mentions: tuple[str, ...]


def misspelt(word: str, rng: random.Random) -> str:
    """One slip of the fingers: a letter left out, doubled, exchanged with the next, or another one."""
    while True:
        i = rng.randrange(1, len(word) - 1)
        before, letter, after = word[:i], word[i], word[i + 1 :]
        slips = (before + after, before + letter + word[i:], before + after[0] + letter + after[1:])
        found = rng.choice([*slips, before + rng.choice("aeioubdgkz") + after])
        if found != word:
            return found


def numbers() -> list[str]:
    """The fields that have bounds."""
    return [name for name, hint in ANNOTATIONS.items() if {int, float} & set(kinds(hint)) and rules(hint)]


def out_of_range(fields: dict[str, Any], rng: random.Random) -> Iterator[Case]:
    field = rng.choice([name for name in numbers() if type(fields[name]) in (int, float)])
    number = float if float in kinds(ANNOTATIONS[field]) else int
    below, above = rng.choice([1, 2, 10, 1000]), rng.randrange(5)
    bad = []
    for rule in rules(ANNOTATIONS[field]):
        match rule:
            case Ge(low):
                bad.append((low - below, f"at least {low}"))
            case Gt(low):
                bad += [(low - below, f"above {low}"), (low, f"above {low}")]
            case Le(high):
                bad.append((2 * high + above, "at most"))
            case Lt(high):
                bad += [(high + above, f"below {high}"), (high, f"below {high}")]
    value, hint = rng.choice(bad)
    value = number(value)
    yield Case("out of range", (f"--config.{field}={value}",), (f"{field}={value}", hint))


def not_finite(fields: dict[str, Any], rng: random.Random) -> Iterator[Case]:
    field = rng.choice([name for name in numbers() if type(fields[name]) is float])
    value = rng.choice(["nan", "inf", "-inf", "1e999"])
    yield Case("not finite", (f"--config.{field}={value}",), (f"{field}={float(value)}", "must be a finite number"))


def wrong_type(fields: dict[str, Any], rng: random.Random) -> Iterator[Case]:
    kinds: dict[type, list[str]] = {
        int: ["abc", "1.5", "1e3", "ten", "(1,2)", "true", "1,000", "0x"],
        float: ["abc", "1.2.3", "(1,2)", "1,5", "high", "--"],
        bool: ["maybe", "2", "-1", "on", "nope"],
        list: ["(1,", "(1 2)", "((1,2)"],
    }
    swept = lambda name: type(fields[name]) is list and name in SWEPT  # a tuple where the config sweeps
    field = rng.choice(
        [name for name in fields if type(fields[name]) in kinds and name != "claims" and not swept(name)]
    )
    # In place of one value, a comma makes a tuple of values, each of the right type.
    value = rng.choice([value for value in kinds[type(fields[field])] if "," not in value or fields[field] == []])
    kind = tuple if type(fields[field]) is list else type(fields[field])
    yield Case("of a wrong type", (f"--config.{field}={value}",), (f"{field}={value}", KINDS[kind]))


def misspelt_field(fields: dict[str, Any], rng: random.Random) -> Iterator[Case]:
    field = rng.choice(list(fields))
    section, _, leaf = field.rpartition(".")
    wrong = f"{section}.{misspelt(leaf, rng)}".lstrip(".")
    twin = any(other != field and (other.startswith(field) or field.startswith(other)) for other in fields)
    if wrong not in fields and len(leaf) > 4 and not twin:  # a slip in one of two twins may be nearer to the other
        yield Case("a misspelt field", (f"--config.{wrong}=1",), (wrong, f"did you mean {field}?"))


def unknown_field(fields: dict[str, Any], rng: random.Random) -> Iterator[Case]:
    wrong = "".join(rng.choices("qxzjvwk", k=rng.randrange(3, 9)))
    yield Case("an unknown field", (f"--config.{wrong}={rng.randrange(9)}",), (wrong, "accepted: ", "seeds"))


def misspelt_word(fields: dict[str, Any], rng: random.Random) -> Iterator[Case]:
    others = fields["recipe"] != "linear_attention"  # they refuse any other word than the default first
    takes = RECIPES[fields["recipe"]]
    of_recipe = {"task.name": takes.tasks, "analyses": takes.analyses or ANALYSES, "model.attention": ["linear"]}
    field = rng.choice([*(name for name in WORDS if not (others and name == "task.inputs")), *of_recipe])
    accepted = {**WORDS, **of_recipe}[field]
    word = rng.choice(accepted)
    wrong = misspelt(word, rng)
    if wrong not in accepted:
        given = f"('{wrong}',)" if field == "analyses" else wrong
        yield Case("a misspelt word", (f"--config.{field}={given}",), (field, wrong, word))


def flags(fields: dict[str, Any], rng: random.Random) -> Iterator[Case]:
    field = rng.choice(list(fields))
    wrong = misspelt("workdir", rng)
    stray = "".join(rng.choices("abcdefgh", k=rng.randrange(2, 9)))
    yield rng.choice(
        [
            Case("a bad flag", (f"--{wrong}=x",), (f"--{wrong}", "did you mean --workdir?")),
            Case("a bad flag", (f"--{field}=1",), (f"--{field}", f"did you mean --config.{field}?")),
            Case("a stray argument", (stray,), (stray, "--config.FIELD=VALUE")),
            Case("a stray argument", (f"{field}={rng.randrange(9)}",), (field, "--config.FIELD=VALUE")),
        ]
    )


def no_value(fields: dict[str, Any], rng: random.Random) -> Iterator[Case]:
    field = rng.choice([name for name, value in fields.items() if not isinstance(value, bool)])
    yield Case("a flag without value", (f"--config.{field}",), (f"--config.{field}", "needs a value"))


def section(fields: dict[str, Any], rng: random.Random) -> Iterator[Case]:
    name = rng.choice(["train", "task", "model", "eval"])
    yield Case("a section for a field", (f"--config.{name}={rng.randrange(99)}",), (f"--config.{name}", "did you mean"))


def too_large(fields: dict[str, Any], rng: random.Random) -> Iterator[Case]:
    field = rng.choice([name for name in SIZES if isinstance(fields[name], int) and name not in ("seeds",)])
    value = rng.randrange(1, 1000) * 10**9
    fixed = {"sine": ("task.d_input", "task.d_output"), "function_classes": ("task.d_output",)}
    apart = ("task.d_output",) if fields["model.layout"] == "interleaved" else ()
    each = ("model.n_layers",) if "," in fields["model.attention"] else ()  # a kind of attention for each layer
    each += ("model.n_heads",) if fields["model.style"] == "gpt2" else ()  # which share the width
    if field in (*fixed.get(fields["recipe"], ()), *apart, *each):
        return  # they are what the task is, or have to fit other sizes
    quiet = () if field in ("task.d_input", "task.d_output") else ("--config.analyses=()",)
    if field == "task.d_input" and fields["task.eigenvalues"]:
        return
    yield Case("too large for memory", (f"--config.{field}={value}", *quiet), ("GiB", f"{field}={value}"))


def contradiction(fields: dict[str, Any], rng: random.Random) -> Iterator[Case]:
    if fields["recipe"] != "linear_attention":
        return  # others have no analyses, and refuse the other fields before they can contradict each other
    analysis, number = rng.choice(ONE_LAYER_ONLY), rng.randrange(6, 40)  # more layers than any config has
    asked = f"--config.analyses=('{analysis}',)"
    linear = fields["model.attention"] == "linear" and not fields["model.layer_norm"]
    cases = [
        Case("", (f"--config.seed={2**31 - number}", f"--config.seeds={2**31 + 2 * number}"), ("seeds=", "2^32")),
        Case("", (f"--config.model.attention={','.join(['linear'] * number)}",), ("model.attention", "one per layer")),
    ]
    if linear:
        cases.append(Case("", (asked, f"--config.model.n_layers={number}"), (f"model.n_layers={number}", analysis)))
    if linear and analysis != "optimum" and fields["model.n_layers"] == 1:
        cases.append(Case("", (asked, f"--config.model.clip={number}"), (f"model.clip={number}.0", analysis)))
    if not fields["task.eigenvalues"]:
        cases.append(Case("", (f"--config.task.rotation_seed={number}",), (f"rotation_seed={number}", "eigenvalues")))
    else:
        d_input = len(fields["task.eigenvalues"]) + number
        cases.append(Case("", (f"--config.task.d_input={d_input}",), ("task.eigenvalues", f"task.d_input={d_input}")))
    if isinstance(fields["task.n_context"], list):
        cases.append(Case("", (f"--config.task.n_context=({number},{number})",), ("task.n_context", "once")))
        cases.append(Case("", (f"--config.task.n_context=(5,-{number})",), (f"task.n_context=-{number}", "at least 1")))
    yield rng.choice(cases)._replace(kind="a contradiction")


RULES: tuple[Callable[[dict[str, Any], random.Random], Iterator[Case]], ...] = (
    *(out_of_range, not_finite, wrong_type, misspelt_field, unknown_field, misspelt_word),
    *(flags, no_value, section, too_large, contradiction),
)


def names_of_configs(config: str, rng: random.Random) -> Case:
    """A config or a variant that is not there."""
    path = Path(config.removeprefix("--config="))
    if (kind := rng.random()) < 0.2:
        return Case("a config of another directory", (f"--config=a/{path.name}",), (path.name, f"did you mean {path}?"))
    if kind < 0.6:
        wrong = misspelt(path.stem, rng)
        return Case(
            "an unknown config", (f"--config=configs/{wrong}.py",), (wrong, f"did you mean configs/{path.name}?")
        )
    wrong = misspelt("smoke", rng)
    return Case("an unknown variant", (f"{config}:{wrong}",), (wrong, "did you mean smoke?"))


def cases(count: int) -> list[Case]:
    """`count` distinct cases, rule after rule, over all configs and their smoke variants."""
    rng, found = random.Random(0), {}
    fields = {config: flatten(parse(["run", config]).config) for config in CONFIGS}
    while len(found) < count:
        for rule in RULES:
            config = rng.choice(CONFIGS)
            for case in rule(fields[config], rng):
                words = [rng.choice([config, f"{config}:smoke"]), *case.words]
                rng.shuffle(words)
                if not (len(words) > 1 and words[0] == case.words[0] and case.kind == "a flag without value"):
                    found[tuple(words)] = case._replace(words=tuple(words))
        case = names_of_configs(rng.choice(CONFIGS), rng)
        found[case.words] = case
    return list(found.values())[:count]


def answer(case: Case, process: bool) -> tuple[int, str, str, float]:
    """Exit code, output, errors and seconds of a command line."""
    began = time.monotonic()
    if process:
        done = harness.process([sys.executable, "-m", "experiments.run", *case.words], cwd=os.getcwd())
        return done.returncode, done.stdout, done.stderr, time.monotonic() - began
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = command.main(["run", *case.words])
        except BaseException as error:
            code, err = -1, io.StringIO(f"Traceback: {error!r}")
    return code, out.getvalue(), err.getvalue(), time.monotonic() - began


def judge(case: Case, process: bool) -> Record:
    code, out, err, seconds = answer(case, process)
    wrong = [f"exit code {code}"] * (code != 2) + ["more than one line"] * (not harness.one_line(err) or out != "")
    wrong += [f"no mention of {word!r}" for word in case.mentions if word not in err]
    wrong += [f"created {os.listdir()}"] * bool(os.listdir()) + [f"{seconds:.1f} s"] * (seconds > SECONDS)
    kind = f"as a process, within {SECONDS:.0f} s" if process else case.kind
    return Record(kind, " ".join(case.words), not wrong, f"{'; '.join(wrong)}: {err.strip()}" if wrong else err.strip())


def run(count: int, directory: Path) -> list[Record]:
    """`count` distinct bad command lines, and some of them again as processes."""
    command._execute = lambda asked: 0  # what is wrongly accepted fails its case instead of training
    before, found = os.getcwd(), cases(count)
    os.chdir(directory)
    try:
        records = [judge(case, process=False) for case in found]
        return records + [judge(case, process=True) for case in found[7::ONE_IN]]
    finally:
        os.chdir(before)


if __name__ == "__main__":
    sys.exit(harness.main(run, 300))
