"""kill -9 at random moments: the resumed run equals an uninterrupted run, bit for bit.

    python tests/faults/kill.py [--count N] [--json]

The moments are random: anywhere in the run, during a save, and after the last step (analyses, figures, report). A run
is killed several times before it may finish.
"""

import random
import subprocess
import sys
import time
from pathlib import Path

import harness
from harness import Record

STEPS = 100
WORDS = (f"--config.train.steps={STEPS}", "--config.train.log_every=5", "--config.train.checkpoint_every=5")
KILLS = 4  # per run, before it may finish
MOMENTS = ("at any moment", "during a save", "at any moment", "after the last step")


def save_begins(workdir: Path) -> bool:
    return any((workdir / "checkpoints").glob("*orbax-checkpoint-tmp*"))


def killed(workdir: Path, moment: str, seconds: float, rng: random.Random) -> str | None:
    """Starts the run and kills it. Returns a description of the moment; None if the run finished first."""
    begun = {
        "at any moment": lambda: True,
        "during a save": lambda: save_begins(workdir),
        "after the last step": lambda: (workdir / "checkpoints" / str(STEPS)).exists(),
    }[moment]
    # A save takes tens of milliseconds. The kill is at a random point of a random save.
    wait = rng.uniform(0, {"at any moment": 0.8 * seconds, "during a save": 0.02, "after the last step": 2.0}[moment])
    skip = time.monotonic() + (rng.uniform(0, 0.6 * seconds) if moment == "during a save" else 0)
    with subprocess.Popen(
        harness.command(workdir, *WORDS), cwd=harness.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None and not (begun() and time.monotonic() >= skip):
            time.sleep(0.0005)
        try:
            process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.returncode >= 0:
        return None
    saved = sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal())
    within = "in a save" if save_begins(workdir) else f"saved steps {saved}"
    return within + (", results written" if (workdir / "results.json").exists() else "")


def run(count: int, directory: Path) -> list[Record]:
    """Kills runs `count` times, with several kills per run."""
    rng, records = random.Random(0), []
    began = time.monotonic()
    alone = harness.process(harness.command(directory / "reference", *WORDS))
    assert alone.returncode == 0, alone.stderr
    seconds = time.monotonic() - began
    while len(records) < count:
        workdir, kills = directory / f"run_{len(records)}", []
        for i in range(min(KILLS, count - len(records))):
            moment = MOMENTS[(len(records) + i) % len(MOMENTS)]
            if (seen := killed(workdir, moment, seconds, rng)) is None:
                break
            kills.append((moment, seen))
        last = harness.process(harness.command(workdir, *WORDS))
        differ = [last.stderr] if last.returncode else harness.differences(workdir, directory / "reference")
        records += [Record(f"killed {moment}", seen, not differ, "; ".join(differ)) for moment, seen in kills]
    return records


if __name__ == "__main__":
    sys.exit(harness.main(run, 20))
