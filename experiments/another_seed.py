"""Repeats committed experiments at another base seed, and records whether their claims hold at that seed, too.

    python -m experiments.another_seed [--seed=5000] [--minutes=15] [NAME ...]

A claim that is tested at one base seed may hold by chance. So this command repeats the experiments of
results/NAME/results.json: the given names or, without names, all whose committed run took at most the given minutes.
They run in sequence, the shortest first, by `python -m experiments.run --config.seed=SEED` in
runs/another_seed/SEED/NAME. The tested claims are written to results/NAME/another_seed.json, which
`python -m experiments.publish` includes in its tables.

The same command again resumes an interrupted run, and skips experiments whose claims are already written for this seed.

Exit codes: 0 finished; 1 an experiment failed or was refused, and the others ran; 2 bad input, nothing ran; 129, 130
and 143 stopped by a signal, the trained state is saved.
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
# Entries of results.json, and of each of its claims, that are copied unchanged.
RUN_KEYS = ("git", "device", "precision", "wall_seconds", "seconds", "resumed_at")
CLAIM_KEYS = ("id", "statement", "relation", "target", "tolerance", "value", "holds")

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Repetition:
    """A committed experiment that is repeated at another base seed.

    Attributes:
      name: the name of its folder in results/.
      config: the value of `--config`.
      seconds: the duration of the committed run.
      claims: the keys of the claims of the config.
    """

    name: str
    config: str
    seconds: float
    claims: list[publish.ClaimKey]


def main(argv: Sequence[str], root: Path = publish.ROOT, start: Callable[[list[str], Path], int] | None = None) -> int:
    """Runs a command line.

    Args:
      argv: the command line after the name of the program.
      root: the root of the repository.
      start: runs an experiment: a function of the arguments of `experiments.run` and the directory to run in that
        returns the exit code. Default: `_start`, a new process.

    Returns:
      The exit code.
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
    for i, repetition in enumerate(planned, 1):
        prefix, earlier = f"[{i}/{len(planned)}] {repetition.name}", written.get(repetition.name)
        if changed := _changed(repetition.claims, list(map(publish.claim_key, chosen[repetition.name]["claims"]))):
            print(
                f"{prefix}: claims {', '.join(changed)} of its config differ from those of its committed results; "
                "repeat it at its own seed, too"
            )
        if earlier is not None and earlier["seed"] == given.seed and _has_claims(earlier, repetition.claims):
            print(f"{prefix}: already written for this seed", flush=True)
            continue
        spent = _duration(time.monotonic() - began)
        print(
            f"{prefix}: running at base seed {given.seed}; the committed run took {_duration(repetition.seconds)}; "
            f"{spent} spent so far",
            flush=True,
        )
        workdir = Path("runs", "another_seed", str(given.seed), repetition.name)
        words = [f"--config={repetition.config}", f"--config.seed={given.seed}", f"--workdir={workdir}"]
        code = (start or _start)(words, root)
        if code in STOPPED:
            print("stopped; run the same command again to resume", file=sys.stderr)
            return code
        if code:
            failed[repetition.name] = "the run was refused" if code == 2 else f"the run ended with exit code {code}"
            continue
        try:
            done = json.loads((root / workdir / "results.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            failed[repetition.name] = f"its results cannot be read: {one_line(error)}"
            continue
        if not _has_claims(done, repetition.claims):
            failed[repetition.name] = f"{workdir} holds a finished run that tested other claims; remove that directory"
            continue
        path = root / "results" / repetition.name / publish.AGAIN
        write_json(path, _record(done, given.seed))
        print(f"wrote {path.relative_to(root)}", flush=True)
    for name, why in failed.items():
        print(f"failed: {name}: {why}", file=sys.stderr)
    return int(bool(failed))


class _Parser(argparse.ArgumentParser):
    """Raises an error instead of printing the usage, so that bad input is reported in one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        usage=argparse.SUPPRESS,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--seed", default=str(SEED), help=f"the base seed, a whole number. Default: {SEED}.")
    parser.add_argument(
        "--minutes",
        default=str(MINUTES),
        help=f"the longest accepted duration of a committed run, in minutes. Default: {MINUTES:g}.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="a folder of results/, for example garg_linear-tiny. Default: all."
    )
    given, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        raise ConfigError(f"{unknown[0]}: unknown flag; {nearest(unknown[0].partition('=')[0], FLAGS)}")
    given.seed, given.minutes = _seed(given.seed), _minutes(given.minutes)
    return given


def _seed(word: str) -> int:
    if not word.isdecimal():
        raise ConfigError(f"--seed={word} must be a whole number of at least 0, for example --seed={SEED}")
    return int(word)


def _minutes(word: str) -> float:
    try:
        minutes = float(word)
    except ValueError:
        minutes = math.nan
    if not minutes > 0:
        raise ConfigError(f"--minutes={word} must be a number above 0, for example --minutes={MINUTES:g}")
    return minutes


def _chosen(names: Sequence[str], committed: Mapping[str, Results], minutes: float) -> dict[str, Results]:
    """The committed results of the experiments to repeat, the shortest first.

    Raises:
      ConfigError: if there are no committed results for a name, or the committed run took longer than `minutes`.
    """
    for name in names:
        if name not in committed:
            raise ConfigError(f"{name}: there are no committed results of this name; {nearest(name, committed)}")
    short = {name for name, results in committed.items() if results["wall_seconds"] <= 60 * minutes}
    for name in names:
        if name not in short:
            seconds = committed[name]["wall_seconds"]
            minutes_needed = f"--minutes={seconds // 60 + 1:.0f}"
            raise ConfigError(f"{name}: its committed run took {_duration(seconds)}; give {minutes_needed}")
    long = [name for name in committed if name not in short]
    if long and not names:
        shown = ", ".join(f"{name} ({_duration(committed[name]['wall_seconds'])})" for name in long)
        print(f"left out, above {minutes:g} min: {shown}")
    chosen = short.intersection(names or committed)
    return {name: committed[name] for name in sorted(chosen, key=lambda name: (committed[name]["wall_seconds"], name))}


def _planned(chosen: Mapping[str, Results], seed: int, root: Path, failed: dict[str, str]) -> list[Repetition]:
    """The repetitions to run. If a config can no longer be loaded, the reason is added to `failed`, by name.

    Raises:
      ConfigError: if an experiment does not accept the base seed, or would repeat seeds of its committed run.
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
                f"--seed={seed}: the committed run of {name} has the seeds {first} to {after - 1}; give a seed of at "
                f"least {after}"
            )
        claims = [publish.claim_key(vars(claim)) for claim in experiment.claims]
        config = f"{file}:{variant}" if variant else file
        planned.append(Repetition(name, config, results["wall_seconds"], claims))
    return planned


def _changed(first: list[publish.ClaimKey], second: list[publish.ClaimKey]) -> list[str]:
    """The sorted ids of the claims that are in only one of two lists."""
    return sorted({claim.id for claim in {*first} ^ {*second}})


def _has_claims(results: Results, claims: list[publish.ClaimKey]) -> bool:
    """Whether results contain exactly these claims."""
    return not _changed(list(map(publish.claim_key, results["claims"])), claims)


def _record(done: Results, seed: int) -> dict[str, Any]:
    """The content of another_seed.json: device and duration of the run, and its claims without their notes."""
    claims = [{name: claim[name] for name in CLAIM_KEYS} for claim in done["claims"]]
    return {"seed": seed, **{key: done[key] for key in RUN_KEYS if key in done}, "claims": claims}


def _start(words: list[str], root: Path) -> int:
    """Runs an experiment in a new process and returns its exit code.

    The new process has its own process group, and this process forwards signals to it. So the new process receives
    every signal once, and saves its state before it ends.
    """
    process = subprocess.Popen([sys.executable, "-m", "experiments.run", *words], cwd=root, process_group=0)

    def forward(number: int, frame: object) -> None:
        process.send_signal(number)

    handled = [number for number in FORWARDED if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, forward) for number in handled}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
