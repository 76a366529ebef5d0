"""Shared by the fault scripts: a small run, its comparison with an uninterrupted run, and the printed counts.

Every script injects one kind of fault, defines `run(count, directory) -> list[Record]`, and is a command:

    python tests/faults/NAME.py [--count N] [--json]
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # use this tree, not an installed version
CONFIG = f"--config={ROOT}/configs/one_layer.py:smoke"
# The smallest run: no analysis that takes long to compile.
QUICK = ("--config.analyses=()", "--config.eval.prompts=64", "--config.eval.curve_prompts=32")


class Record(NamedTuple):
    """One case: its kind, what was done, whether it passed (None: not possible here), and what was observed."""

    kind: str
    case: str
    ok: bool | None
    seen: str


def command(workdir: Path | str, *words: str) -> list[str]:
    """The command line of a quick run."""
    return [sys.executable, "-m", "experiments.run", CONFIG, f"--workdir={workdir}", *QUICK, *words]


def process(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command with this tree as the package, and waits for it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    where = {"cwd": ROOT, "env": environment, "timeout": 300, **options}
    return subprocess.run(command, capture_output=True, text=True, **where)


def differences(workdir: Path, reference: Path) -> list[str]:
    """The differences between a run and an uninterrupted one, to the bit."""
    import jax
    import numpy as np

    import icl_gd

    found = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ours, theirs = (jax.tree.leaves(icl_gd.load(directory).params) for directory in (workdir, reference))
    found += [f"loading warns: {warning.message}" for warning in said]
    if [np.asarray(leaf).tobytes() for leaf in ours] != [np.asarray(leaf).tobytes() for leaf in theirs]:
        found.append("other parameters")
    done, wanted = (json.loads((path / "results.json").read_text()) for path in (workdir, reference))
    found += [f"other {key} in results.json" for key in ("metrics", "curves", "arrays") if done[key] != wanted[key]]
    lines, expected = (_metrics(path) for path in (workdir, reference))
    keys = [key for key, _ in lines]
    found += ["metrics.jsonl has duplicates"] * (len(set(keys)) < len(keys))
    found += ["metrics.jsonl has holes"] * (not {key for key, _ in expected} <= set(keys))
    found += ["metrics.jsonl has other lines"] * (sorted(map(str, lines)) != sorted(map(str, expected)))
    found += [f"{path} was left behind" for path in leftovers(workdir)]
    return found


def _metrics(workdir: Path) -> list[tuple[tuple, float]]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [((line["step"], line["seed"], line["metric"]), line["value"]) for line in lines]


def leftovers(workdir: Path) -> list[str]:
    """Unfinished files under a workdir."""
    unfinished = ("*.partial", "*orbax-checkpoint-tmp*", ".*.png", ".*.pdf")
    return sorted(str(path.relative_to(workdir)) for pattern in unfinished for path in workdir.rglob(pattern))


def main_of_run(workdir: Path, *words: str) -> tuple[int, str]:
    """Runs a quick run in this process. Returns its exit code and output."""
    from icl_gd.lab import command

    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = command.main(["run", CONFIG, f"--workdir={workdir}", *QUICK, *words])
    return code, out.getvalue()


def one_line(text: str) -> bool:
    """Whether a text is a one-line error."""
    return text.startswith("error: ") and text.count("\n") == 1


def table(records: Sequence[Record]) -> list[str]:
    """One line per kind: the number of cases that passed."""
    lines = []
    for kind in dict.fromkeys(record.kind for record in records):
        tried = [record.ok for record in records if record.kind == kind and record.ok is not None]
        skipped = [record.seen for record in records if record.kind == kind and record.ok is None]
        lines.append(f"{sum(tried)} of {len(tried)}  {kind}" + "".join(f"  (not tried: {why})" for why in set(skipped)))
    return lines


def main(run: Callable[[int, Path], list[Record]], count: int) -> int:
    """Runs the command line of a script. Returns the exit code: 1 if a case fails."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--count", type=int, default=count, help=f"number of cases. Default: {count}")
    parser.add_argument("--json", action="store_true", help="print every case as JSON and nothing else")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        records = run(asked.count, Path(directory))
    failed = [record for record in records if record.ok is False]
    if asked.json:
        print(json.dumps([record._asdict() for record in records], indent=1))
        return int(bool(failed))
    for record in failed:
        print(f"FAILS: {record.kind}: {record.case}: {record.seen}")
    print("\n".join(table(records)))
    tried = [record for record in records if record.ok is not None]
    print(f"{len(tried) - len(failed)} of {len(tried)} pass")
    return int(bool(failed))
