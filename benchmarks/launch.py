"""From the command to the first chunk of `one_layer`, and to the end of the run, stage by stage.

    python benchmarks/launch.py [--json] [--write | --smoke]

Starts new processes with a compilation cache of their own: the first run finds it empty, the second one finds the
programs of the first. Takes some five minutes on two CPU cores, on which nothing else should run.
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

TARGETS = {"import icl_gd": 2.5, "first chunk, first launch": 20.0}
COMPILING = ("tracing", "lowering", "xla")


class Launch(NamedTuple):
    """What is run, and how often the package is imported."""

    settings: tuple[str, ...] = ("--config=configs/one_layer.py",)
    imports: int = 3


SMOKE = Launch(("--config=configs/one_layer.py:smoke", "--config.analyses=weights"), imports=1)


def seconds_to_import() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import icl_gd"], cwd=pages.ROOT, check=True)
    return time.perf_counter() - began


def run(settings: tuple[str, ...], workdir: Path, cache: Path) -> dict[str, Any]:
    """A run from the command to its end.

    Seconds until metrics of its first chunk are written, what it says of its compilation cache, and the cost of its
    stages.

    Raises:
      RuntimeError: if the run fails; says what it said.
    """
    command = [sys.executable, "-m", "experiments.run", *settings, f"--workdir={workdir}", "--profile"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    log, metrics = workdir.with_suffix(".log"), workdir / "metrics.jsonl"
    began = time.perf_counter()
    with (
        log.open("w") as said,
        subprocess.Popen(command, cwd=pages.ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT) as process,
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
    """Of the import the least of several rounds, and two runs."""
    imports = min(seconds_to_import() for _ in range(launch.imports))
    with tempfile.TemporaryDirectory() as directory:
        cache = Path(directory) / "cache"
        cold, warm = (run(launch.settings, Path(directory) / name, cache) for name in ("cold", "warm"))
    return {"import": imports, "cold": cold, "warm": warm}


def launches(found: dict[str, Any]) -> str:
    """Seconds to the first chunk, with their targets, as a Markdown table."""
    timed = {
        "import icl_gd": (found["import"], ""),
        "first chunk, first launch": (found["cold"]["first_chunk"], found["cold"]["cache"]),
        "first chunk, second launch": (found["warm"]["first_chunk"], found["warm"]["cache"]),
    }
    lines = ["| what | seconds | at most | holds | what the run says |", "|---|---|---|---|---|"]
    for what, (seconds, said) in timed.items():
        asked = TARGETS.get(what)
        holds = "" if asked is None else "yes" if seconds <= asked else "no"
        lines.append(f"| {what} | {seconds:.3g} | {asked or ''} | {holds} | {said} |")
    return "\n".join(lines)


def stages(found: dict[str, Any]) -> str:
    """What the stages of both runs cost, and all of them together, as a Markdown table."""
    warm = {stage["stage"]: stage["seconds"] for stage in found["warm"]["profile"]}
    rows = []
    for stage in found["cold"]["profile"]:
        compiling = sum(stage[column] for column in COMPILING)
        rows.append((stage["stage"], stage["seconds"], compiling, stage["programs"], warm[stage["stage"]]))
    rows.append(("all", *(sum(row[i] for row in rows) for i in range(1, 5))))
    lines = ["| stage | cold seconds | of it compiling | programs | warm seconds |", "|---|---|---|---|---|"]
    for name, seconds, compiling, programs, again in rows:
        lines.append(f"| {name} | {seconds:.2f} | {compiling:.2f} | {programs:.0f} | {again:.2f} |")
    return "\n".join(lines)


def main() -> None:
    options = pages.parse(pages.parser(__doc__))
    found = measure(SMOKE if options.smoke else Launch())
    pages.report(options, found, {"launch": launches(found), "profile": stages(found)})


if __name__ == "__main__":
    main()
