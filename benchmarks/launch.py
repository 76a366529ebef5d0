"""From the command to the first chunk of `one_layer`: import, first launch, second launch (compilation cache warm).

    python benchmarks/launch.py [--json] [--write]

Starts new processes with a compilation cache of their own, and stops each run once its first chunk is done.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
TARGETS = {"import icl_gd": 2.5, "first chunk, first launch": 20.0}
ROUNDS = 3


def seconds_to_import() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import icl_gd"], cwd=ROOT, check=True)
    return time.perf_counter() - began


def first_chunk(workdir: Path, cache: Path) -> tuple[float, str]:
    """Seconds until metrics of the first chunk are written, and what the run says of its compilation cache."""
    command = [sys.executable, "-m", "experiments.run", "--config=configs/one_layer.py", f"--workdir={workdir}"]
    began = time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    ) as run:  # fmt: skip
        lines = workdir / "metrics.jsonl"
        while not (lines.exists() and lines.stat().st_size):
            if run.poll() is not None:
                raise RuntimeError(f"the run ended early: {run.stdout and run.stdout.read()}")
            time.sleep(0.02)
        taken = time.perf_counter() - began
        run.send_signal(signal.SIGTERM)
        said, _ = run.communicate()
    return taken, next((line for line in said.splitlines() if "programs reused" in line), "")


def measure() -> list[dict]:
    """What was timed, with its target where there is one; of the import the least of several rounds."""
    imports = min(seconds_to_import() for _ in range(ROUNDS))
    with tempfile.TemporaryDirectory() as directory:
        cache = Path(directory) / "cache"
        launches = [first_chunk(Path(directory) / str(i), cache) for i in range(2)]
    found = {"import icl_gd": (imports, "")}
    found |= {f"first chunk, {name} launch": launch for name, launch in zip(("first", "second"), launches, strict=True)}
    return [{"what": name, "seconds": seconds, "at_most": TARGETS.get(name), "cache": said.partition(" (")[0]}
            for name, (seconds, said) in found.items()]  # fmt: skip


def table(found: list[dict]) -> str:
    lines = ["| what | seconds | at most | holds | what the run says |", "|---|---|---|---|---|"]
    for row in found:
        asked = row["at_most"]
        holds = "" if asked is None else "yes" if row["seconds"] <= asked else "no"
        lines.append(f"| {row['what']} | {row['seconds']:.3g} | {asked or ''} | {holds} | {row['cache']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    from pages import command  # beside this script

    command(__doc__, "launch", measure, table)
