"""Raises `train.steps`: the extended run equals, bit for bit, a run that had this length from the start.

    python tests/faults/extension.py [--count N] [--json]

A run is extended once or twice. Before each extension it ends at a random step, within a chunk or at the end of one. It
is extended after it has finished, or as if it had been killed before it wrote its results.
"""

import random
import shutil
import sys
from pathlib import Path

import harness
from harness import Record, main_of_run

LAST = 40


def extended(workdir: Path, reference: Path, ends: list[int], unfinished: bool) -> Record:
    """Trains to each step of `ends`, then to LAST, and compares the result with the reference."""
    wrong = []
    for i, end in enumerate([*ends, LAST]):
        code, text = main_of_run(workdir, f"--config.train.steps={end}")
        wrong += [] if code == 0 else [text]
        if i and f"extending the run from step {ends[i - 1]} to {end}\n" not in text:
            wrong.append(f"does not report the extension: {text}")
        if unfinished and end != LAST:  # as if the run had been killed before it wrote its results
            (workdir / "results.json").unlink()
            if (earlier := sorted((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name)))[1:]:
                shutil.rmtree(earlier[-1])
    wrong += harness.differences(workdir, reference)
    kind = "an unfinished run is extended" if unfinished else "a finished run is extended"
    return Record(kind, f"{ends} to {LAST}", not wrong, "; ".join(wrong))


def refused(workdir: Path, why: str, *words: str) -> Record:
    """Requests an extension that cannot be exact. It must be refused, and must change nothing."""
    before = (workdir / "config.json").read_bytes()
    code, text = main_of_run(workdir, *words)
    ok = code == 2 and harness.one_line(text) and why in text and (workdir / "config.json").read_bytes() == before
    return Record("an impossible extension is refused", " ".join(words), ok, text)


def run(count: int, directory: Path) -> list[Record]:
    """Runs `count` extensions, and two that must be refused."""
    rng = random.Random(0)
    main_of_run(directory / "reference", f"--config.train.steps={LAST}")
    records = []
    for i in range(count):
        # The first case ends at step 25, within a chunk of ten steps.
        ends = sorted(rng.sample(range(1, LAST), 1 + i % 2)) if i else [25]
        records.append(extended(directory / str(i), directory / "reference", ends, unfinished=i % 3 == 2))
    records.append(refused(directory / "reference", "not lowered", "--config.train.steps=39"))
    cosine = "--config.train.schedule=cosine"
    main_of_run(directory / "cosine", cosine, "--config.train.steps=10")
    records.append(
        refused(directory / "cosine", "only train.schedule=constant can be extended", cosine, "--config.train.steps=20")
    )
    return records


if __name__ == "__main__":
    sys.exit(harness.main(run, 10))
