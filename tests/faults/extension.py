"""A run whose `train.steps` is raised equals one that was as long from the start, to the bit.

    python tests/faults/extension.py [--count N] [--json]

The first ends are random: between and at the ends of chunks, once or twice, the run finished or stopped before them.
"""

import random
import shutil
import sys
from pathlib import Path

import harness
from harness import Record, main_of_run

LAST = 40


def extended(workdir: Path, reference: Path, ends: list[int], unfinished: bool) -> Record:
    """Trains to one end after another, and then to the last."""
    said = []
    for i, end in enumerate([*ends, LAST]):
        code, text = main_of_run(workdir, f"--config.train.steps={end}")
        said += [] if code == 0 else [text]
        if i and f"extending the run from step {ends[i - 1]} to {end}\n" not in text:
            said.append(f"does not say that it is extended: {text}")
        if unfinished and end != LAST:  # as if killed before its results
            (workdir / "results.json").unlink()
            if (earlier := sorted((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name)))[1:]:
                shutil.rmtree(earlier[-1])
    said += harness.differences(workdir, reference)
    kind = "an unfinished run is extended" if unfinished else "a finished run is extended"
    return Record(kind, f"{ends} to {LAST}", not said, "; ".join(said))


def refused(workdir: Path, why: str, *words: str) -> Record:
    """An extension that cannot be to the bit, and changes nothing."""
    before = (workdir / "config.json").read_bytes()
    code, text = main_of_run(workdir, *words)
    ok = code == 2 and harness.one_line(text) and why in text and (workdir / "config.json").read_bytes() == before
    return Record("what cannot be extended is refused", " ".join(words), ok, text)


def run(count: int, directory: Path) -> list[Record]:
    """`count` extensions, and the two that are refused."""
    rng = random.Random(0)
    main_of_run(directory / "reference", f"--config.train.steps={LAST}")
    records = []
    for i in range(count):
        # An odd end first: it cuts a chunk short.
        ends = sorted(rng.sample(range(1, LAST), 1 + i % 2)) if i else [25]
        records.append(extended(directory / str(i), directory / "reference", ends, unfinished=i % 3 == 2))
    records.append(refused(directory / "reference", "not lowered", "--config.train.steps=39"))
    cosine = "--config.train.schedule=cosine"
    main_of_run(directory / "cosine", cosine, "--config.train.steps=10")
    records.append(refused(directory / "cosine", "only a constant one", cosine, "--config.train.steps=20"))
    return records


if __name__ == "__main__":
    sys.exit(harness.main(run, 10))
