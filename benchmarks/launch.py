"""Times a launch of `one_layer`: the seconds to the first chunk of training, and of every stage of the run.

    python benchmarks/launch.py [--json] [--write | --smoke]

Two runs are started, each in a new process. They share a new compilation cache. It is empty for the first run (cold);
the second run (warm) reuses the programs of the first. This takes about five minutes on two CPU cores, on which nothing
else should run.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import pages  # beside this script

TARGETS = {"import icl_gd": 2.5, "first chunk, first launch": 20.0}  # seconds, at most
COMPILING = ("tracing", "lowering", "xla")  # columns of profile.json


class Launch(NamedTuple):
    """The command that is timed.

    Attributes:
      settings: arguments of the command.
      imports: number of timings of the import.
    """

    settings: tuple[str, ...] = ("--config=configs/one_layer.py",)
    imports: int = 3


SMOKE = Launch(("--config=configs/one_layer.py:smoke", "--config.analyses=weights"), imports=1)


def seconds_to_import() -> float:
    """Seconds that a new process takes to import `icl_gd`."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import icl_gd"], cwd=pages.ROOT, check=True)
    return time.perf_counter() - began


def run(settings: tuple[str, ...], workdir: Path, cache: Path) -> dict[str, Any]:
    """Runs an experiment in a new process and measures it.

    Args:
      settings: arguments of the command.
      workdir: where the run writes its results.
      cache: directory of the compilation cache.

    Returns:
      "first_chunk", the seconds until metrics of the first chunk are written; "cache", the run's message about its
      compilation cache; and "profile", the cost of every stage.

    Raises:
      RuntimeError: if the run fails; the message contains its output.
    """
    command = [sys.executable, "-m", "experiments.run", *settings, f"--workdir={workdir}", "--profile"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    log, metrics = workdir.with_suffix(".log"), workdir / "metrics.jsonl"
    began = time.perf_counter()
    with (
        log.open("w") as output,
        subprocess.Popen(command, cwd=pages.ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.02)
        first_chunk = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"the run failed with exit code {process.returncode}: {log.read_text()}")
    reused = next((line for line in log.read_text().splitlines() if "programs reused" in line), "")
    profile = json.loads((workdir / "profile.json").read_text())
    return {"first_chunk": first_chunk, "cache": reused.partition(" (")[0], "profile": profile}


def measure(launch: Launch) -> dict[str, Any]:
    """Times the import (minimum of several rounds), a cold run and a warm run."""
    imports = min(seconds_to_import() for _ in range(launch.imports))
    with tempfile.TemporaryDirectory() as directory:
        cache = Path(directory) / "cache"
        cold, warm = (run(launch.settings, Path(directory) / name, cache) for name in ("cold", "warm"))
    return {"import": imports, "cold": cold, "warm": warm}


def launches(records: dict[str, Any]) -> str:
    """A Markdown table of the seconds to the first chunk, with their targets."""
    timed = {
        "import icl_gd": (records["import"], ""),
        "first chunk, first launch": (records["cold"]["first_chunk"], records["cold"]["cache"]),
        "first chunk, second launch": (records["warm"]["first_chunk"], records["warm"]["cache"]),
    }
    lines = ["| what | seconds | target (at most) | reached | message of the run |", "|---|---|---|---|---|"]
    for what, (seconds, message) in timed.items():
        target = TARGETS.get(what)
        if target is None:
            lines.append(f"| {what} | {seconds:.3g} |  |  | {message} |")
        else:
            lines.append(f"| {what} | {seconds:.3g} | {target} | {'yes' if seconds <= target else 'no'} | {message} |")
    return "\n".join(lines)


def stages(records: dict[str, Any]) -> str:
    """A Markdown table of the cost of every stage in both runs, with totals."""
    warm = {stage["stage"]: stage["seconds"] for stage in records["warm"]["profile"]}
    rows = []
    for stage in records["cold"]["profile"]:
        compiling = sum(stage[column] for column in COMPILING)
        rows.append((stage["stage"], stage["seconds"], compiling, stage["programs"], warm[stage["stage"]]))
    rows.append(("all", *(sum(row[i] for row in rows) for i in range(1, 5))))
    lines = ["| stage | cold seconds | of which compiling | programs | warm seconds |", "|---|---|---|---|---|"]
    for name, cold_seconds, compiling, programs, warm_seconds in rows:
        lines.append(f"| {name} | {cold_seconds:.2f} | {compiling:.2f} | {programs:.0f} | {warm_seconds:.2f} |")
    return "\n".join(lines)


def main() -> None:
    options = pages.parse(pages.parser(__doc__))
    records = measure(SMOKE if options.smoke else Launch())
    pages.report(options, records, {"launch": launches(records), "profile": stages(records)})


if __name__ == "__main__":
    main()
