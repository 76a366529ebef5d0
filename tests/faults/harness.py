"""Functions that the fault scripts share: they make a small run, compare it with a reference, and print counts.

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
# Makes the run as small as possible: analyses take long to compile.
QUICK = ("--config.analyses=()", "--config.eval.prompts=64", "--config.eval.curve_prompts=32")


class Record(NamedTuple):
    """One case: its kind, a description, whether it passed (None: not possible here), and what was observed."""

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
    """Compares a run with an uninterrupted one, bit for bit. Returns the differences."""
    import jax
    import numpy as np

    import icl_gd

    different = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        leaves, expected_leaves = (jax.tree.leaves(icl_gd.load(path).params) for path in (workdir, reference))
    different += [f"loading warns: {warning.message}" for warning in caught]
    if [np.asarray(leaf).tobytes() for leaf in leaves] != [np.asarray(leaf).tobytes() for leaf in expected_leaves]:
        different.append("other parameters")
    results, wanted = (json.loads((path / "results.json").read_text()) for path in (workdir, reference))
    different += [
        f"other {key} in results.json" for key in ("metrics", "curves", "arrays") if results[key] != wanted[key]
    ]
    lines, expected = (_metrics(path) for path in (workdir, reference))
    keys = [key for key, _ in lines]
    different += ["metrics.jsonl has duplicates"] * (len(set(keys)) < len(keys))
    different += ["metrics.jsonl has holes"] * (not {key for key, _ in expected} <= set(keys))
    different += ["metrics.jsonl has other lines"] * (sorted(map(str, lines)) != sorted(map(str, expected)))
    different += [f"{path} was left behind" for path in leftovers(workdir)]
    return different


def _metrics(workdir: Path) -> list[tuple[tuple, float]]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [((line["step"], line["seed"], line["metric"]), line["value"]) for line in lines]


def leftovers(workdir: Path) -> list[str]:
    """Files under a workdir that are not completely written."""
    unfinished = ("*.partial", "*orbax-checkpoint-tmp*", ".*.png", ".*.pdf")
    return sorted(str(path.relative_to(workdir)) for pattern in unfinished for path in workdir.rglob(pattern))


def main_of_run(workdir: Path, *words: str) -> tuple[int, str]:
    """Executes a quick run in this process. Returns its exit code, and its stdout and stderr as one text."""
    from icl_gd.lab import command

    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = command.main(["run", CONFIG, f"--workdir={workdir}", *QUICK, *words])
    return code, out.getvalue()


def one_line(text: str) -> bool:
    """Whether a text is an error message of one line."""
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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        records = run(options.count, Path(directory))
    failed = [record for record in records if record.ok is False]
    if options.json:
        print(json.dumps([record._asdict() for record in records], indent=1))
        return int(bool(failed))
    for record in failed:
        print(f"FAILS: {record.kind}: {record.case}: {record.seen}")
    print("\n".join(table(records)))
    tried = [record for record in records if record.ok is not None]
    print(f"{len(tried) - len(failed)} of {len(tried)} pass")
    return int(bool(failed))
