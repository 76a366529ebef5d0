"""Runs generated invalid command lines. Each must exit with code 2 and a one-line error, and create no files.

    python tests/faults/bad_input.py [--count N] [--json]

The error must name the field, the value and the accepted values. Rules generate the cases from the fields of every
config's experiment and their accepted values (`experiment.fields`). So a new field is covered automatically. Every case
calls the command's `main` in this process. One in fifteen also runs as a new process. Every case must end within five
seconds.
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
SECONDS, ONE_IN = 5.0, 15  # time limit of a case; one case in so many also runs as a process
NOT_NUMBERS = ("abc", "ten", "true", "0x", "1.2.3", "-", "3 4")
NOT_TUPLES = ("(1,", "(1 2)", "((1,2)", "(,)", "(a,b")
ALONE = ("--config.analyses=()", "--config.claims=()")  # so that no analysis or claim is refused first


class Case(NamedTuple):
    """An invalid command line, and the texts that its error must contain."""

    kind: str
    words: tuple[str, ...]
    mentions: tuple[str, ...]


class Bad(NamedTuple):
    """A value that a field does not accept, and the text by which the error describes the accepted values."""

    kind: str
    value: Any
    says: str


class Base(NamedTuple):
    """A valid command line (the flag of a config) and its experiment. A rule adds arguments that make it invalid."""

    flag: str
    experiment: Experiment
    elsewhere: Mapping[str, tuple[Field, str]]  # fields of other experiments only, and the error for each


# --- values that a field accepts or refuses ---


def words_of(hint: Any) -> list[str]:
    return [word for rule in rules(hint) if isinstance(rule, OneOf) for word in rule.words]


def good(hint: Any) -> list[Any]:
    """Some values that an annotation accepts."""
    return [value for value in (*words_of(hint), True, 1, 2, 0.25, 0.5) if accepts(hint, value)]


def item_of(hint: Any) -> tuple[Any, int] | None:
    """If the field accepts tuples: the annotation of an item, and the length (0: any length). Otherwise None."""
    for kind in kinds(hint):
        if get_origin(kind) is tuple and get_args(kind):
            items = get_args(kind)
            return (Annotated[items[0], *rules(hint)] if rules(hint) else items[0]), 0 if ... in items else len(items)
    return None


def bad_values(hint: Any, rng: random.Random) -> list[Bad]:
    """Values that an annotation does not accept; the field takes one value, not a tuple."""
    accepted_kinds, words = kinds(hint), words_of(hint)
    number = float if float in accepted_kinds else int if int in accepted_kinds else None
    bad = [Bad("of a wrong type", "None", "must be")] if type(None) not in accepted_kinds else []
    if number is not None:
        bad += [Bad("of a wrong type", value, "number") for value in NOT_NUMBERS]
        steps, more = rng.choice([1, 2, 10, 1000]), rng.randrange(5)
        for rule in rules(hint):
            match rule:
                case Ge(low):
                    bad.append(Bad("out of range", number(low - steps), f"at least {low:.10g}"))
                case Gt(low):
                    bad += [Bad("out of range", number(value), f"above {low:.10g}") for value in (low, low - steps)]
                case Le(high):
                    bad.append(Bad("out of range", number(2 * high + more), f"at most {high:.10g}"))
                case Lt(high):
                    bad += [Bad("out of range", number(high + by), f"below {high:.10g}") for by in (0, more)]
    if number is int:
        bad += [Bad("of a wrong type", value, "whole number") for value in ("1.5", "1e-3", "nan", "inf")]
    if number is float:
        bad += [Bad("not finite", value, "must be a finite number") for value in (math.nan, math.inf, -math.inf)]
    if bool in accepted_kinds:
        bad += [Bad("of a wrong type", value, "True or False") for value in ("maybe", "2", "-1", "on", "nope", "1.0")]
    if words:
        word = rng.choice(words)
        slip = misspelt(word, rng)
        bad += [Bad("a misspelt word", slip, word)] * (slip not in words) + [Bad("of a wrong type", "3", "one of")]
    return bad


def one_of(bad: list[Bad], rng: random.Random) -> Bad:
    """A random value of a random kind; every kind is equally likely."""
    kind = rng.choice(sorted({one.kind for one in bad}))
    return rng.choice([one for one in bad if one.kind == kind])


def misspelt(word: str, rng: random.Random) -> str:
    """A typing error: one letter omitted, doubled, replaced, or exchanged with the next."""
    if len(word) < 3:
        return word + rng.choice("aeioubdgkz")
    while True:
        i = rng.randrange(1, len(word) - 1)
        before, letter, after = word[:i], word[i], word[i + 1 :]
        slips = (before + after, before + letter + word[i:], before + after[0] + letter + after[1:])
        slip = rng.choice([*slips, before + rng.choice("aeioubdgkz") + after])
        if slip != word:
            return slip


def in_tuple(value: Any, rng: random.Random) -> str:
    """The text of a value inside a tuple, as a number or as a string."""
    finite = isinstance(value, int | float) and math.isfinite(value)
    return repr(value) if finite and rng.random() < 0.5 else repr(str(value))


# --- rules: each makes a command line invalid in one way ---


def one_value(base: Base, rng: random.Random) -> Iterator[Case]:
    name, field = rng.choice(list(base.experiment.fields.items()))
    if takes_one_value(field) and (bad := bad_values(field.hint, rng)):
        kind, value, says = one_of(bad, rng)
        yield Case(kind, (f"--config.{name}={value}",), (f"{name}={value}", says))


def tuples(base: Base, rng: random.Random) -> Iterator[Case]:
    fields = base.experiment.fields
    every = {name: item_of(field.hint) for name, field in fields.items() if name != "analyses"}
    name, (item, length) = rng.choice([(name, accepted) for name, accepted in every.items() if accepted is not None])
    text = rng.choice([text for text in NOT_TUPLES if "a" not in text or not words_of(item)])
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


def sweeps(base: Base, rng: random.Random) -> Iterator[Case]:
    experiment = base.experiment
    name = rng.choice([name for name in experiment.sweepable if good(experiment.fields[name].hint)])
    field = experiment.fields[name]
    bad = bad_values(field.hint, rng) + [Bad("", "None", "must be")] * (type(None) in kinds(field.hint))
    value, says = one_of(bad, rng)[1:]
    texts = [repr(value) for value in rng.sample(good(field.hint), 1)]
    texts.insert(rng.randrange(2), "None" if value == "None" else in_tuple(value, rng))
    yield Case("a bad value in a sweep", (f"--config.{name}=({','.join(texts)})",), (f"{name}={value}", says))
    twice = (rng.choice(good(field.hint)),) * rng.randrange(2, 4)
    yield Case("a value twice in a sweep", (f"--config.{name}={twice}",), (f"{name}={twice}", "once"))
    yield Case("a sweep over nothing", (f"--config.{name}=()",), (f"{name}=()", "at least one value"))


def no_sweep(base: Base, rng: random.Random) -> Iterator[Case]:
    fields = base.experiment.fields.items()
    name, field = rng.choice([(name, field) for name, field in fields if name not in base.experiment.sweepable])
    if takes_one_value(field) and good(field.hint):
        values = tuple(rng.choices(good(field.hint), k=rng.randrange(2, 5)))
        says = (f"{name}={values}", "takes one value", "train.learning_rate")
        yield Case("a sweep over a field that takes none", (f"--config.{name}={values}",), says)


def misspelt_field(base: Base, rng: random.Random) -> Iterator[Case]:
    fields = base.experiment.fields
    field = rng.choice(list(fields))
    section, _, leaf = field.rpartition(".")
    wrong = f"{section}.{misspelt(leaf, rng)}".lstrip(".")
    twin = any(other != field and (other.startswith(field) or field.startswith(other)) for other in fields)
    # A typing error in one of two similar names can be closer to the other name.
    if wrong not in fields and wrong not in base.elsewhere and len(leaf) > 4 and not twin:
        yield Case("a misspelt field", (f"--config.{wrong}=1",), (wrong, f"did you mean {field}?"))


def unknown_field(base: Base, rng: random.Random) -> Iterator[Case]:
    wrong = "".join(rng.choices("qxzjvwk", k=rng.randrange(3, 9)))
    yield Case("an unknown field", (f"--config.{wrong}={rng.randrange(9)}",), (wrong, "accepted: ", "seeds"))


def field_of_another(base: Base, rng: random.Random) -> Iterator[Case]:
    name = rng.choice(list(base.elsewhere))
    field, says = base.elsewhere[name]
    value = rng.choice(good(field.hint) or ["()"])
    yield Case("a field of another class", (f"--config.{name}={value}",), (name, says))
    chosen = {name: field for name, field in base.experiment.fields.items() if field.chooses is not None}
    name = rng.choice(list(chosen))
    others = {word for one in known(name) for word in one.chooses or {}} - set(chosen[name].chooses or {})
    if others:
        word = rng.choice(sorted(others))
        yield Case("another class", (f"--config.{name}={word}",), (f"{name}={word}", "one of"))


def analyses(base: Base, rng: random.Random) -> Iterator[Case]:
    """Invalid analyses. They have their own rule, because the annotation of `analyses` accepts any word."""
    word, used = rng.choice(questions.shipped()), base.experiment.analysis_names
    if (wrong := misspelt(word, rng)) not in questions.shipped():
        given = rng.choice([wrong, f"('{wrong}',)", ",".join([*used[:1], wrong])])
        yield Case("a misspelt analysis", (f"--config.analyses={given}",), (f"analyses={wrong}", word))
    try:
        questions.find(word).check(base.experiment)
    except questions.Unfit as unfit:
        mention = unfit.field if base.experiment.sweep else f"{unfit.field}={unfit.value}"
        yield Case(
            "an analysis of another model", (f"--config.analyses={word}", ALONE[1]), (mention, f"analyses={word}")
        )
    if used:
        twice = f"--config.analyses={used[0]},{used[0]}"
        yield Case("an analysis twice", (twice, ALONE[1]), (f"analyses={used[0]}", "once"))


def flags(base: Base, rng: random.Random) -> Iterator[Case]:
    field = rng.choice(list(base.experiment.fields))
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


def no_value(base: Base, rng: random.Random) -> Iterator[Case]:
    name, field = rng.choice(list(base.experiment.fields.items()))
    if bool not in kinds(field.hint):
        flag = rng.choice(["config", "noconfig"])
        yield Case("a flag without value", (f"--{flag}.{name}",), (f"--{flag}.{name}", "needs a value"))


def section(base: Base, rng: random.Random) -> Iterator[Case]:
    name = rng.choice(SECTIONS)
    yield Case(
        "a section in place of a field", (f"--config.{name}={rng.randrange(99)}",), (f"--config.{name}", "did you mean")
    )


def too_large(base: Base, rng: random.Random) -> Iterator[Case]:
    experiment = base.experiment
    # Sizes that must agree with other fields: the error would be about these fields instead.
    fits_others = {
        "task.d_output": experiment.model.layout == "interleaved",
        "task.d_input": experiment.get("task.eigenvalues") not in (None, ()),
        "model.n_layers": not isinstance(experiment["model.attention"], str),
        "model.n_heads": experiment.model.name == "gpt2",
        "eval.n_context": not experiment.reference.on_prefixes,
    }
    bounded = [
        name for name, field in experiment.fields.items() if any(isinstance(rule, Le) for rule in rules(field.hint))
    ]
    name = rng.choice(
        [name for name in SIZES if name in experiment.fields and not fits_others.get(name) and name not in bounded]
    )
    value = rng.randrange(100, 1000) * 10**9 if name != "seeds" else rng.randrange(2**30, 2**31)
    yield Case("too large for memory", (f"--config.{name}={value}", *ALONE), (f"{name}={value}", "GiB", "lower "))


def contradiction(base: Base, rng: random.Random) -> Iterator[Case]:
    experiment = base.experiment
    number = rng.randrange(51, 90)  # exceeds every size in the configs, except numbers of prompts
    possible: dict[str, tuple[str, ...]] = {
        f"--config.seed={2**31 - number},--config.seeds={2**31 + 2 * number}": ("seeds=", "2^32"),
        f"--config.model.attention={('linear',) * number}": (
            "model.attention=",
            f"n_layers={experiment['model.n_layers']}",
        ),
        f"--config.train.active_inputs={(number, 1, 10)}": (f"train.active_inputs={(number, 1, 10)}", "()"),
    }
    if experiment["model.beta"] is None:
        possible[f"--config.model.beta=0.{number}"] = (f"model.beta=0.{number}".rstrip("0"), "both")
    if "task.corrupted_labels" in experiment.fields and not experiment.sweep:
        possible[f"--config.task.corrupted_labels={number}"] = (f"task.corrupted_labels={number}", "n_context=")
    if experiment.get("task.eigenvalues") == ():
        possible[f"--config.task.rotation_seed={number}"] = (f"task.rotation_seed={number}", "task.eigenvalues")
        possible[f"--config.task.eigenvalues={(1.0,) * number}"] = ("task.eigenvalues", "task.d_input=")
    if experiment.get("task.eigenvalues"):
        possible[f"--config.task.d_input={number}"] = ("task.eigenvalues", f"task.d_input={number}")
    if "task.function_pool" in experiment.fields:
        possible[f"--config.task.pool=4,--config.task.function_pool={number}"] = (
            f"function_pool={number}",
            "one of the two",
        )
    if "task.non_zeros" in experiment.fields:
        possible[f"--config.task.non_zeros={number}"] = (f"task.non_zeros={number}", "at most")
    if "eval.suite" in experiment.fields:
        word = rng.choice(words_of(experiment.fields["eval.suite"].hint))
        possible[f"--config.eval.suite=('{word}', '{word}')"] = (f"eval.suite={word}", "once")
    words, says = rng.choice(list(possible.items()))
    yield Case("a contradiction", tuple(f"--{word}" for word in words.removeprefix("--").split(",--")), says)


RULES: tuple[Callable[[Base, random.Random], Iterator[Case]], ...] = (
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
def all_bases() -> tuple[Base, ...]:
    """Every config and its smoke variant."""
    loaded = []
    for path in CONFIGS:
        for variant in ("", "smoke"):
            flag = rf"--config={path}{f':{variant}' * bool(variant)}"
            loaded.append((flag, load(path, variant)))
    every = {name: field for _, experiment in loaded for name, field in experiment.fields.items()}
    return tuple(Base(flag, experiment, elsewhere_of(experiment, every)) for flag, experiment in loaded)


def elsewhere_of(experiment: Experiment, every: Mapping[str, Field]) -> dict[str, tuple[Field, str]]:
    """Fields of other experiments, and the error for each: that it is unknown, or the class that has it."""
    not_ours = "not a field of this experiment"  # for fields of other tasks; all tasks are known
    elsewhere = {
        name: (field, not_ours if name.startswith("task.") else "unknown field")
        for name, field in every.items()
        if name not in experiment.fields
    }
    for name, chooser in experiment.fields.items():
        for word, chosen in (chooser.chooses or {}).items():
            for other, field in fields_of(classes_of(experiment, {chooser.path: chosen})).items():
                has_class = " of this experiment, but" in elsewhere.get(other, ("", ""))[1]
                if other not in experiment.fields and not has_class:
                    elsewhere[other] = field, f"{not_ours}, but of {name}={word}"
    return elsewhere


@cache
def known(name: str) -> tuple[Field, ...]:
    """The field of this name, from every experiment that has it."""
    return tuple(base.experiment.fields[name] for base in all_bases() if name in base.experiment.fields)


def cases(count: int) -> list[Case]:
    """Generates `count` distinct cases, over all rules, configs and smoke variants."""
    rng, generated = random.Random(0), {}
    while len(generated) < count:
        for rule in RULES:
            base = rng.choice(all_bases())
            for case in rule(base, rng):
                words = [base.flag, *case.words]
                rng.shuffle(words)
                generated[tuple(words)] = case._replace(words=tuple(words))
        case = names_of_configs(rng.choice(CONFIGS), rng)
        generated[case.words] = case
    return list(generated.values())[:count]


def answer(case: Case, process: bool) -> tuple[int, str, str, float]:
    """Runs a command line, in this process or as a new process. Returns exit code, stdout, stderr and seconds."""
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
    for path in os.listdir():  # written by a case that was wrongly accepted
        shutil.rmtree(path)
    kind = f"as a process, within {SECONDS:.0f} s" if process else case.kind
    return Record(kind, " ".join(case.words), not wrong, f"{'; '.join(wrong)}: {err.strip()}" if wrong else err.strip())


def run(count: int, directory: Path) -> list[Record]:
    """Runs `count` distinct invalid command lines in this process, and some of them again as processes."""
    command._execute = lambda request: 0  # a case that is wrongly accepted fails instead of training
    before, generated = os.getcwd(), cases(count)
    os.chdir(directory)
    try:
        records = [judge(case, process=False) for case in generated]
        return records + [judge(case, process=True) for case in generated[7::ONE_IN]]
    finally:
        os.chdir(before)


if __name__ == "__main__":
    sys.exit(harness.main(run, 3000))
