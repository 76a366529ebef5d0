"""SIGTERM and Ctrl-C at random moments: the run saves after the current chunk, exits with 143 or 130, and can resume.

    python tests/faults/signals.py [--count N] [--json]

The moments are: while the run starts, before its first chunk, between chunks, and after the last step. The resumed run
must equal an uninterrupted run, bit for bit.
"""

import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import harness
from harness import Record

STEPS = 8_000
WORDS = (f"--config.train.steps={STEPS}", "--config.train.log_every=200", "--config.train.checkpoint_every=100000")
MOMENTS = ("while it starts", "before the first chunk", "between chunks", "after the last step")
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def metrics(workdir: Path) -> str:
    path = workdir / "metrics.jsonl"
    return path.read_text() if path.exists() else ""


def has_reached(moment: str, workdir: Path, before: str) -> bool:
    """Whether the run has reached a moment; `before` is the content of metrics.jsonl at its start."""
    return {
        "while it starts": True,
        "before the first chunk": (workdir / "metrics.jsonl").exists(),
        "between chunks": len(metrics(workdir)) > len(before),
        "after the last step": (workdir / "checkpoints" / str(STEPS)).exists(),
    }[moment]


def stopped(workdir: Path, moment: str, number: signal.Signals, rng: random.Random) -> tuple[str, list[str]] | None:
    """Starts the run and sends it a signal. Returns its output and all problems; None if it finished first."""
    wait = rng.uniform(*{"while it starts": (0.7, 2.5), "between chunks": (0, 0.5)}.get(moment, (0, 0.2)))
    before = metrics(workdir)
    with subprocess.Popen(
        harness.command(workdir, *WORDS), cwd=harness.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and not has_reached(moment, workdir, before):
            time.sleep(0.002)
        try:
            process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        output = process.communicate(timeout=120)[1]
    if process.returncode == 0:
        return None
    wrong = [f"exit code {process.returncode}"] * (process.returncode != 128 + number)
    wrong += ["a traceback"] * ("Traceback" in output)
    if moment in ("before the first chunk", "between chunks"):
        step = re.search(r"stopped at step (\d+), which is saved", output)
        wrong += [] if step and (workdir / "checkpoints" / step[1]).is_dir() else ["nothing saved"]
        last = [json.loads(line)["step"] for line in metrics(workdir).splitlines()][-1]
        wrong += [] if step and int(step[1]) == last else [f"saved at {step and step[1]}, last chunk at {last}"]
    return " ".join(output.split()), wrong


def run(count: int, directory: Path) -> list[Record]:
    """Sends `count` signals. Every run receives one at each moment before it may finish."""
    rng, records = random.Random(0), []
    alone = harness.process(harness.command(directory / "reference", *WORDS))
    assert alone.returncode == 0, alone.stderr
    while len(records) < count:
        workdir, stops = directory / f"run_{len(records)}", []
        for i, moment in enumerate(MOMENTS[: count - len(records)]):
            number = SIGNALS[(len(records) // len(MOMENTS) + i) % 2]
            if moment == "before the first chunk" and (workdir / "metrics.jsonl").exists():
                continue
            if (result := stopped(workdir, moment, number, rng)) is not None:
                stops.append((f"{number.name} {moment}", *result))
        last = harness.process(harness.command(workdir, *WORDS))
        differ = [last.stderr] if last.returncode else harness.differences(workdir, directory / "reference")
        records += [
            Record(kind, output, not differ and not wrong, "; ".join([*wrong, *differ]))
            for kind, output, wrong in stops
        ]
    return records


if __name__ == "__main__":
    sys.exit(harness.main(run, 16))
