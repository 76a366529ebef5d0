"""Generated invalid command lines: exit code 2, a one-line error (field, value, accepted values), no files created.

    python tests/faults/bad_input.py [--count N] [--json]

Rules generate the cases from the fields of every config's experiment and their accepted values (`experiment.fields`).
So a new field is covered automatically. Every case calls the command's `main` in this process. One in fifteen also runs
as a new process. Every case must end within five seconds.
"""

import contextlib
import io
import math
import os
import random
import runpy
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import harness
from annotated_types import Ge, Gt, Le, Lt
from harness import ROOT, Record

from icl_gd.lab import ConfigError, Experiment, command
from icl_gd.lab.command_line import load
from icl_gd.lab.config import questions
from icl_gd.lab.config.fields import SECTIONS, Field, classes_of, fields_of, takes_one_value
from icl_gd.lab.config.resources import SIZES
from icl_gd.schema import OneOf, accepts, kinds, rules

CONFIGS = sorted((ROOT / "configs").glob("*.py"))
SECONDS, ONE_IN = 5.0, 15
NO_WHOLE_NUMBERS = ("abc", "ten", "true", "0x", "1.2.3", "-", "3 4")
NO_TUPLES = ("(1,", "(1 2)", "((1,2)", "(,)", "(a,b")
ALONE = ("--config.analyses=()", "--config.claims=()")  # so that nothing else can be refused


class Case(NamedTuple):
    """An invalid command line, and what its error must mention."""

    kind: str
    words: tuple[str, ...]
    mentions: tuple[str, ...]


class Bad(NamedTuple):
    """A value that a field does not accept, and how the error describes the accepted values."""

    kind: str
    value: Any
    says: str


class Asked(NamedTuple):
    """A config on a command line, and its experiment."""

    flag: str
    experiment: Experiment
    elsewhere: Mapping[str, tuple[Field, str]]  # fields of other experiments, and the error for each


# --- what a field accepts, and what it does not ---


def words_of(hint: Any) -> list[str]:
    return [word for rule in rules(hint) if isinstance(rule, OneOf) for word in rule.words]


def good(hint: Any) -> list[Any]:
    """Some values that an annotation accepts."""
    return [value for value in (*words_of(hint), True, 1, 2, 0.25, 0.5) if accepts(hint, value)]


def item_of(hint: Any) -> tuple[Any, int] | None:
    """The annotation of an item, and the length of a tuple (0: any), if the field accepts tuples."""
    for kind in kinds(hint):
        if get_origin(kind) is tuple and get_args(kind):
            its = get_args(kind)
            return (Annotated[its[0], *rules(hint)] if rules(hint) else its[0]), 0 if ... in its else len(its)
    return None


def bad_values(hint: Any, rng: random.Random) -> list[Bad]:
    """Values that an annotation of one value does not accept."""
    its, words = kinds(hint), words_of(hint)
    number = float if float in its else int if int in its else None
    found = [Bad("of a wrong type", "None", "must be")] if type(None) not in its else []
    if number is not None:
        found += [Bad("of a wrong type", value, "number") for value in NO_WHOLE_NUMBERS]
        steps, more = rng.choice([1, 2, 10, 1000]), rng.randrange(5)
        for rule in rules(hint):
            match rule:
                case Ge(low):
                    found.append(Bad("out of range", number(low - steps), f"at least {low:.10g}"))
                case Gt(low):
                    found += [Bad("out of range", number(value), f"above {low:.10g}") for value in (low, low - steps)]
                case Le(high):
                    found.append(Bad("out of range", number(2 * high + more), f"at most {high:.10g}"))
                case Lt(high):
                    found += [Bad("out of range", number(high + by), f"below {high:.10g}") for by in (0, more)]
    if number is int:
        found += [Bad("of a wrong type", value, "whole number") for value in ("1.5", "1e-3", "nan", "inf")]
    if number is float:
        found += [Bad("not finite", value, "must be a finite number") for value in (math.nan, math.inf, -math.inf)]
    if bool in its:
        found += [Bad("of a wrong type", value, "True or False") for value in ("maybe", "2", "-1", "on", "nope", "1.0")]
    if words:
        word = rng.choice(words)
        slip = misspelt(word, rng)
        found += [Bad("a misspelt word", slip, word)] * (slip not in words) + [Bad("of a wrong type", "3", "one of")]
    return found


def one_of(bad: list[Bad], rng: random.Random) -> Bad:
    """A random value; every kind is equally likely."""
    kind = rng.choice(sorted({its.kind for its in bad}))
    return rng.choice([its for its in bad if its.kind == kind])


def misspelt(word: str, rng: random.Random) -> str:
    """A typing error: one letter omitted, doubled, replaced, or exchanged with the next."""
    if len(word) < 3:
        return word + rng.choice("aeioubdgkz")
    while True:
        i = rng.randrange(1, len(word) - 1)
        before, letter, after = word[:i], word[i], word[i + 1 :]
        slips = (before + after, before + letter + word[i:], before + after[0] + letter + after[1:])
        found = rng.choice([*slips, before + rng.choice("aeioubdgkz") + after])
        if found != word:
            return found


def in_tuple(value: Any, rng: random.Random) -> str:
    """The text of a value in a tuple."""
    finite = isinstance(value, int | float) and math.isfinite(value)
    return repr(value) if finite and rng.random() < 0.5 else repr(str(value))


# --- rules: what can be wrong with a command line ---


def one_value(asked: Asked, rng: random.Random) -> Iterator[Case]:
    name, its = rng.choice(list(asked.experiment.fields.items()))
    if takes_one_value(its) and (bad := bad_values(its.hint, rng)):
        kind, value, says = one_of(bad, rng)
        yield Case(kind, (f"--config.{name}={value}",), (f"{name}={value}", says))


def tuples(asked: Asked, rng: random.Random) -> Iterator[Case]:
    every = {name: item_of(its.hint) for name, its in asked.experiment.fields.items() if name != "analyses"}
    name, (item, length) = rng.choice([(name, its) for name, its in every.items() if its is not None])
    text = rng.choice([text for text in NO_TUPLES if "a" not in text or not words_of(item)])
    yield Case("no tuple", (f"--config.{name}={text}",), (f"{name}=", "a tuple"))
    if bad := bad_values(item, rng):
        kind, value, says = one_of(bad, rng)
        says = says.removeprefix("must be a finite ")
        items = [good(item)[0]] * ((length or rng.randrange(1, 4)) - 1)
        items.insert(at := rng.randrange(len(items) + 1), value)
        text = ",".join(in_tuple(one, rng) if i == at else repr(one) for i, one in enumerate(items)) + ","
        yield Case(f"{kind}, in a tuple", (f"--config.{name}=({text})",), (f"{name}={tuple(items)}", says))
    if length:
        items = (1,) * rng.choice([1, 2, length + 1])
        yield Case("of a wrong length", (f"--config.{name}={items}",), (f"{name}={items}", f"a tuple of {length}"))


def sweeps(asked: Asked, rng: random.Random) -> Iterator[Case]:
    experiment = asked.experiment
    name = rng.choice([name for name in experiment.sweepable if good(experiment.fields[name].hint)])
    its = experiment.fields[name]
    bad = bad_values(its.hint, rng) + [Bad("", "None", "must be")] * (type(None) in kinds(its.hint))
    value, says = one_of(bad, rng)[1:]
    texts = [repr(value) for value in rng.sample(good(its.hint), 1)]
    texts.insert(rng.randrange(2), "None" if value == "None" else in_tuple(value, rng))
    yield Case("a bad value in a sweep", (f"--config.{name}=({','.join(texts)})",), (f"{name}={value}", says))
    twice = (rng.choice(good(its.hint)),) * rng.randrange(2, 4)
    yield Case("a value twice in a sweep", (f"--config.{name}={twice}",), (f"{name}={twice}", "once"))
    yield Case("a sweep over nothing", (f"--config.{name}=()",), (f"{name}=()", "at least one value"))


def no_sweep(asked: Asked, rng: random.Random) -> Iterator[Case]:
    fields = asked.experiment.fields.items()
    name, its = rng.choice([(name, its) for name, its in fields if name not in asked.experiment.sweepable])
    if takes_one_value(its) and good(its.hint):
        values = tuple(rng.choices(good(its.hint), k=rng.randrange(2, 5)))
        says = (f"{name}={values}", "takes one value", "train.learning_rate")
        yield Case("a sweep over a field that takes none", (f"--config.{name}={values}",), says)


def misspelt_field(asked: Asked, rng: random.Random) -> Iterator[Case]:
    fields = asked.experiment.fields
    field = rng.choice(list(fields))
    section, _, leaf = field.rpartition(".")
    wrong = f"{section}.{misspelt(leaf, rng)}".lstrip(".")
    twin = any(other != field and (other.startswith(field) or field.startswith(other)) for other in fields)
    # A typing error in one of two similar names can be closer to the other name.
    if wrong not in fields and wrong not in asked.elsewhere and len(leaf) > 4 and not twin:
        yield Case("a misspelt field", (f"--config.{wrong}=1",), (wrong, f"did you mean {field}?"))


def unknown_field(asked: Asked, rng: random.Random) -> Iterator[Case]:
    wrong = "".join(rng.choices("qxzjvwk", k=rng.randrange(3, 9)))
    yield Case("an unknown field", (f"--config.{wrong}={rng.randrange(9)}",), (wrong, "accepted: ", "seeds"))


def field_of_another(asked: Asked, rng: random.Random) -> Iterator[Case]:
    name = rng.choice(list(asked.elsewhere))
    its, says = asked.elsewhere[name]
    value = rng.choice(good(its.hint) or ["()"])
    yield Case("a field of another class", (f"--config.{name}={value}",), (name, says))
    chosen = {name: its for name, its in asked.experiment.fields.items() if its.chooses is not None}
    name = rng.choice(list(chosen))
    others = {word for one in known(name) for word in one.chooses or {}} - set(chosen[name].chooses or {})
    if others:
        word = rng.choice(sorted(others))
        yield Case("another class", (f"--config.{name}={word}",), (f"{name}={word}", "one of"))


def analyses(asked: Asked, rng: random.Random) -> Iterator[Case]:
    """Analyses: their annotation accepts any word."""
    word, there = rng.choice(questions.shipped()), asked.experiment.asked
    if (wrong := misspelt(word, rng)) not in questions.shipped():
        given = rng.choice([wrong, f"('{wrong}',)", ",".join([*there[:1], wrong])])
        yield Case("a misspelt analysis", (f"--config.analyses={given}",), (f"analyses={wrong}", word))
    try:
        questions.find(word).check(asked.experiment)
    except questions.Unfit as unfit:
        stands = unfit.field if asked.experiment.sweep else f"{unfit.field}={unfit.value}"
        yield Case(
            "an analysis of another model", (f"--config.analyses={word}", ALONE[1]), (stands, f"analyses={word}")
        )
    if there:
        twice = f"--config.analyses={there[0]},{there[0]}"
        yield Case("an analysis twice", (twice, ALONE[1]), (f"analyses={there[0]}", "once"))


def flags(asked: Asked, rng: random.Random) -> Iterator[Case]:
    field = rng.choice(list(asked.experiment.fields))
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


def no_value(asked: Asked, rng: random.Random) -> Iterator[Case]:
    name, its = rng.choice(list(asked.experiment.fields.items()))
    if bool not in kinds(its.hint):
        flag = rng.choice(["config", "noconfig"])
        yield Case("a flag without value", (f"--{flag}.{name}",), (f"--{flag}.{name}", "needs a value"))


def section(asked: Asked, rng: random.Random) -> Iterator[Case]:
    name = rng.choice(SECTIONS)
    yield Case(
        "a section in place of a field", (f"--config.{name}={rng.randrange(99)}",), (f"--config.{name}", "did you mean")
    )


def too_large(asked: Asked, rng: random.Random) -> Iterator[Case]:
    its = asked.experiment
    fits_others = {
        "task.d_output": its.model.layout == "interleaved",
        "task.d_input": its.get("task.eigenvalues") not in (None, ()),
        "model.n_layers": not isinstance(its["model.attention"], str),
        "model.n_heads": its.model.name == "gpt2",
        "eval.n_context": not its.reference.on_prefixes,
    }
    bounded = [name for name, field in its.fields.items() if any(isinstance(rule, Le) for rule in rules(field.hint))]
    name = rng.choice(
        [name for name in SIZES if name in its.fields and not fits_others.get(name) and name not in bounded]
    )
    value = rng.randrange(100, 1000) * 10**9 if name != "seeds" else rng.randrange(2**30, 2**31)
    yield Case("too large for memory", (f"--config.{name}={value}", *ALONE), (f"{name}={value}", "GiB", "lower "))


def contradiction(asked: Asked, rng: random.Random) -> Iterator[Case]:
    its, number = (
        asked.experiment,
        rng.randrange(51, 90),
    )  # exceeds every size in the configs, except numbers of prompts
    possible: dict[str, tuple[str, ...]] = {
        f"--config.seed={2**31 - number},--config.seeds={2**31 + 2 * number}": ("seeds=", "2^32"),
        f"--config.model.attention={('linear',) * number}": ("model.attention=", f"n_layers={its['model.n_layers']}"),
        f"--config.train.active_inputs={(number, 1, 10)}": (f"train.active_inputs={(number, 1, 10)}", "()"),
    }
    if its["model.beta"] is None:
        possible[f"--config.model.beta=0.{number}"] = (f"model.beta=0.{number}".rstrip("0"), "both")
    if "task.corrupted_labels" in its.fields and not its.sweep:
        possible[f"--config.task.corrupted_labels={number}"] = (f"task.corrupted_labels={number}", "n_context=")
    if its.get("task.eigenvalues") == ():
        possible[f"--config.task.rotation_seed={number}"] = (f"task.rotation_seed={number}", "task.eigenvalues")
        possible[f"--config.task.eigenvalues={(1.0,) * number}"] = ("task.eigenvalues", "task.d_input=")
    if its.get("task.eigenvalues"):
        possible[f"--config.task.d_input={number}"] = ("task.eigenvalues", f"task.d_input={number}")
    if "task.function_pool" in its.fields:
        possible[f"--config.task.pool=4,--config.task.function_pool={number}"] = (
            f"function_pool={number}",
            "one of both",
        )
    if "task.non_zeros" in its.fields:
        possible[f"--config.task.non_zeros={number}"] = (f"task.non_zeros={number}", "at most")
    if "eval.suite" in its.fields:
        word = rng.choice(words_of(its.fields["eval.suite"].hint))
        possible[f"--config.eval.suite=('{word}', '{word}')"] = (f"eval.suite={word}", "once")
    words, says = rng.choice(list(possible.items()))
    yield Case("a contradiction", tuple(f"--{word}" for word in words.removeprefix("--").split(",--")), says)


RULES: tuple[Callable[[Asked, random.Random], Iterator[Case]], ...] = (
    *(one_value, one_value, tuples, sweeps, no_sweep, misspelt_field, unknown_field, field_of_another),
    *(analyses, flags, no_value, section, too_large, contradiction),
)


def names_of_configs(path: Path, rng: random.Random) -> Case:
    """A config or a variant that does not exist."""
    name, variants = path.stem, runpy.run_path(str(path)).get("VARIANTS", ())
    wrong = misspelt(name, rng)
    if (kind := rng.random()) < 0.2:
        elsewhere = "".join(rng.choices("abcdefgh", k=5))
        return Case(
            "a config in another directory",
            (f"--config={elsewhere}/{path.name}",),
            (f"{elsewhere}/{path.name}", f"did you mean {name}"),
        )
    if kind < 0.6:
        given = rng.choice([f"configs/{wrong}.py", f"{wrong}.py", wrong])
        return Case("an unknown config", (f"--config={given}",), (wrong, f"did you mean {name}?"))
    word = rng.choice(variants)
    wrong = misspelt(word, rng)
    given = rng.choice([path, name])
    return Case("an unknown variant", (f"--config={given}:{wrong}",), (f"'{wrong}'", f"did you mean {word}?"))


# --- running the cases ---


def is_possible(experiment: Experiment, values: Mapping[str, Any]) -> bool:
    try:
        experiment.change(values)
    except ConfigError:
        return False
    return True


@cache
def everything_asked() -> tuple[Asked, ...]:
    """Every config and its smoke variant."""
    found = []
    for path in CONFIGS:
        for variant in ("", "smoke"):
            flag = rf"--config={path}{f':{variant}' * bool(variant)}"
            found.append((flag, load(path, variant)))
    every = {name: its for _, experiment in found for name, its in experiment.fields.items()}
    return tuple(Asked(flag, its, elsewhere_of(its, every)) for flag, its in found)


def elsewhere_of(experiment: Experiment, every: Mapping[str, Field]) -> dict[str, tuple[Field, str]]:
    """Fields of other experiments, and the error for each: unknown, or of which class."""
    not_ours = "not a field of this experiment"  # but of another task; all tasks are known
    found = {
        name: (its, not_ours if name.startswith("task.") else "unknown field")
        for name, its in every.items()
        if name not in experiment.fields
    }
    for name, its in experiment.fields.items():
        for word, of in (its.chooses or {}).items():
            for other, field in fields_of(classes_of(experiment, {its.path: of})).items():
                if other not in experiment.fields and " of this experiment, but" not in found.get(other, ("", ""))[1]:
                    found[other] = field, f"{not_ours}, but of {name}={word}"
    return found


@cache
def known(name: str) -> tuple[Field, ...]:
    """A field, in all experiments that have it."""
    return tuple(asked.experiment.fields[name] for asked in everything_asked() if name in asked.experiment.fields)


def cases(count: int) -> list[Case]:
    """Generates `count` distinct cases, over all rules, configs and smoke variants."""
    rng, found = random.Random(0), {}
    while len(found) < count:
        for rule in RULES:
            asked = rng.choice(everything_asked())
            for case in rule(asked, rng):
                words = [asked.flag, *case.words]
                rng.shuffle(words)
                found[tuple(words)] = case._replace(words=tuple(words))
        case = names_of_configs(rng.choice(CONFIGS), rng)
        found[case.words] = case
    return list(found.values())[:count]


def answer(case: Case, process: bool) -> tuple[int, str, str, float]:
    """Runs a command line. Returns exit code, stdout, stderr and seconds."""
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
    for left in os.listdir():  # by a case that was wrongly accepted
        shutil.rmtree(left)
    kind = f"as a process, within {SECONDS:.0f} s" if process else case.kind
    return Record(kind, " ".join(case.words), not wrong, f"{'; '.join(wrong)}: {err.strip()}" if wrong else err.strip())


def run(count: int, directory: Path) -> list[Record]:
    """Runs `count` distinct invalid command lines, some of them again as processes."""
    command._execute = lambda asked: 0  # a case that is wrongly accepted fails instead of training
    before, found = os.getcwd(), cases(count)
    os.chdir(directory)
    try:
        records = [judge(case, process=False) for case in found]
        return records + [judge(case, process=True) for case in found[7::ONE_IN]]
    finally:
        os.chdir(before)


if __name__ == "__main__":
    sys.exit(harness.main(run, 3000))
