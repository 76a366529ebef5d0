"""Carries out committed experiments at another base seed, and keeps whether their claims hold there too.

    python -m experiments.another_seed [--seed=5000] [--minutes=15] [NAME ...]

A claim is judged at one base seed, where it may hold by luck. So the experiments of results/NAME/results.json, all or
those that are named, are carried out again, if their committed run took at most so many minutes: one after another,
the shortest first, each by `python -m experiments.run --config.seed=SEED` in runs/another_seed/SEED/NAME. What becomes
of the claims goes to results/NAME/another_seed.json, and from there into the tables of `python -m experiments.publish`.

Called again it passes over what is written at that seed for the same claims, and goes on with a run that was
interrupted. Exit codes: 0 done; 1 an experiment failed or was refused, the others were carried out; 2 bad input,
nothing was run; 129, 130 and 143 stopped by a signal, what was trained is saved.
"""

import argparse
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from experiments import publish
from icl_gd.lab.command_line import load
from icl_gd.lab.config.errors import ConfigError, nearest, one_line
from icl_gd.lab.config.experiment import Experiment
from icl_gd.lab.reporting.results import write_json

SEED, MINUTES = 5000, 15.0
FLAGS = ("--seed", "--minutes", "--help")
FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
STOPPED = tuple(128 + number for number in FORWARDED)
OF_THE_RUN = ("git", "device", "precision", "wall_seconds", "seconds", "resumed_at")  # kept as results.json has them

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Again:
    """A committed experiment, to be carried out at another base seed.

    Attributes:
      name: of its folder in results/.
      config: as `--config` takes it.
      seconds: that the committed run took.
      stated: the claims of the config.
    """

    name: str
    config: str
    seconds: float
    stated: list[publish.Stated]


def main(argv: Sequence[str], root: Path = publish.ROOT, start: Callable[[list[str], Path], int] | None = None) -> int:
    """Runs the command line and returns the exit code.

    Args:
      start: the words of a run, and the folder it starts in, to its exit code; None starts a process.
    """
    try:
        given = _parse(argv)
        committed = publish.committed(root)
        written = publish.at_another_seed(root)
        chosen = _chosen(given.names, committed, given.minutes)
        failed: dict[str, str] = {}
        planned = _planned(chosen, given.seed, root, failed)
    except ValueError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    began = time.monotonic()
    for i, one in enumerate(planned, 1):
        place, there = f"[{i}/{len(planned)}] {one.name}", written.get(one.name)
        if changed := _changed(one.stated, list(map(publish.stated, chosen[one.name]["claims"]))):
            print(
                f"{place}: claims {', '.join(changed)} of its config are not those of its committed results; carry "
                "it out at its own seed, too"
            )
        if there is not None and there["seed"] == given.seed and _is_of(there, one.stated):
            print(f"{place}: written already", flush=True)
            continue
        spent = _shown(time.monotonic() - began)
        print(
            f"{place} at base seed {given.seed}; at its own it took {_shown(one.seconds)}; {spent} so far", flush=True
        )
        workdir = Path("runs", "another_seed", str(given.seed), one.name)
        words = [f"--config={one.config}", f"--config.seed={given.seed}", f"--workdir={workdir}"]
        code = (start or _start)(words, root)
        if code in STOPPED:
            print("stopped; the same command goes on from there", file=sys.stderr)
            return code
        if code:
            failed[one.name] = "the run was refused" if code == 2 else f"the run ended with exit code {code}"
            continue
        try:
            done = json.loads((root / workdir / "results.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            failed[one.name] = f"its results cannot be read: {one_line(error)}"
            continue
        if not _is_of(done, one.stated):
            failed[one.name] = f"{workdir} holds a finished run that judged other claims; remove it"
            continue
        path = root / "results" / one.name / publish.AGAIN
        write_json(path, _kept(done, given.seed))
        print(f"wrote {path.relative_to(root)}", flush=True)
    for name, why in failed.items():
        print(f"failed: {name}: {why}", file=sys.stderr)
    return int(bool(failed))


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as other commands do."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        usage=argparse.SUPPRESS,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--seed", default=str(SEED), help=f"the base seed, a whole number; {SEED} if left out")
    parser.add_argument(
        "--minutes", default=str(MINUTES), help=f"a committed run took at most; {MINUTES:g} if left out"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a folder of results/, as garg_linear-tiny")
    given, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        raise ConfigError(f"{unknown[0]}: {nearest(unknown[0].partition('=')[0], FLAGS)}")
    given.seed, given.minutes = _seed(given.seed), _minutes(given.minutes)
    return given


def _seed(word: str) -> int:
    if not word.isdecimal():
        raise ConfigError(f"--seed={word}: a whole number of at least 0 is accepted, as --seed={SEED}")
    return int(word)


def _minutes(word: str) -> float:
    try:
        minutes = float(word)
    except ValueError:
        minutes = math.nan
    if not minutes > 0:
        raise ConfigError(f"--minutes={word}: a number above 0 is accepted, as --minutes={MINUTES:g}")
    return minutes


def _chosen(names: Sequence[str], committed: Mapping[str, Results], minutes: float) -> dict[str, Results]:
    """The committed experiments that are carried out, the shortest first.

    Raises:
      ConfigError: if a name is not committed, or took longer.
    """
    for name in names:
        if name not in committed:
            raise ConfigError(f"{name}: no results of that name are committed; {nearest(name, committed)}")
    short = {name for name, results in committed.items() if results["wall_seconds"] <= 60 * minutes}
    for name in names:
        if name not in short:
            took = committed[name]["wall_seconds"]
            raise ConfigError(f"{name}: its committed run took {_shown(took)}; give --minutes={took // 60 + 1:.0f}")
    if (
        long := []
        if names
        else [f"{name} ({_shown(its['wall_seconds'])})" for name, its in committed.items() if name not in short]
    ):
        print(f"left out, above {minutes:g} min: {', '.join(long)}")
    chosen = short.intersection(names or committed)
    return {name: committed[name] for name in sorted(chosen, key=lambda name: (committed[name]["wall_seconds"], name))}


def _planned(chosen: Mapping[str, Results], seed: int, root: Path, failed: dict[str, str]) -> list[Again]:
    """What is carried out; of what has no config any more the reason is added to `failed`.

    Raises:
      ConfigError: if it is no base seed of one of them, or members would be those of the committed run.
    """
    planned = []
    for name, results in chosen.items():
        file, variant = f"configs/{results['experiment']}.py", results["variant"] or ""
        try:
            experiment: Experiment = load(root / file, variant)
        except ConfigError as error:
            failed[name] = one_line(error)
            continue
        try:
            experiment.change({"seed": seed})
        except ConfigError as error:
            raise ConfigError(f"--{one_line(error)}") from error
        if abs(seed - experiment.seed) < experiment.seeds:
            first, after = experiment.seed, experiment.seed + experiment.seeds
            raise ConfigError(
                f"--seed={seed}: {name} has members of seeds {first} to {after - 1} already; give one from {after} on"
            )
        stated = [publish.stated(vars(claim)) for claim in experiment.claims]
        planned.append(Again(name, file + f":{variant}" * bool(variant), results["wall_seconds"], stated))
    return planned


def _changed(ones: list[publish.Stated], others: list[publish.Stated]) -> list[str]:
    """Ids of claims that are not in both."""
    return sorted({its.id for its in {*ones} ^ {*others}})


def _is_of(results: Results, stated: list[publish.Stated]) -> bool:
    """Whether results judge these claims, and no others."""
    return not _changed(list(map(publish.stated, results["claims"])), stated)


def _kept(done: Results, seed: int) -> dict[str, Any]:
    """What is kept of a run: where and how long it ran, and its claims; notes are of the committed run."""
    judged = [
        {**publish.stated(claim)._asdict(), "value": claim["value"], "holds": claim["holds"]}
        for claim in done["claims"]
    ]
    return {"seed": seed, **{key: done[key] for key in OF_THE_RUN if key in done}, "claims": judged}


def _start(words: list[str], root: Path) -> int:
    """A run as a process of its own, which signals reach through this one alone: it saves before it ends."""
    process = subprocess.Popen([sys.executable, "-m", "experiments.run", *words], cwd=root, process_group=0)
    pass_on = lambda number, frame: process.send_signal(number)
    heard = [number for number in FORWARDED if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in heard}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def _shown(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
