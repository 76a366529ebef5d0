"""Runs the fault scripts of this directory with their default counts, and writes the results to docs/reliability.md.

    python tests/faults/all.py [NAME ...] [--write]

Default: all scripts; this takes about twenty minutes on two CPU cores. --write replaces the table rows of the scripts
that ran, and leaves the rest of the page unchanged.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import version

import harness
from harness import ROOT, Record

SCRIPTS = ("kill", "signals", "extension", "corruption", "disk", "divergence", "bad_input", "bad_identify")
PAGE, BEGIN, END = ROOT / "docs" / "reliability.md", "<!-- counts:begin -->\n", "<!-- counts:end -->"
HEAD = ["| script | fault | passed | cases | measured with |", "| --- | --- | --- | --- | --- |"]


def records(name: str, count: int | None = None) -> list[Record]:
    """Runs a script in a new process, and returns its records. Default: its own count."""
    options = [] if count is None else [f"--count={count}"]
    done = harness.process([sys.executable, f"tests/faults/{name}.py", "--json", *options], timeout=None)
    if not done.stdout:
        raise RuntimeError(f"tests/faults/{name}.py failed before it printed records: {done.stderr[-2000:]}")
    return [Record(**record) for record in json.loads(done.stdout)]


def rows(name: str, cases: list[Record]) -> list[str]:
    """The table rows of a script, one per kind of fault."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    where = f"jax {version('jax')}, revision {git.stdout.strip()}"
    lines = []
    for kind in dict.fromkeys(record.kind for record in cases):
        tried = [record.ok for record in cases if record.kind == kind and record.ok is not None]
        lines.append(f"| `{name}.py` | {kind} | {sum(tried)} | {len(tried)} | {where} |")
    return lines


def write(measured: dict[str, list[str]]) -> None:
    """Replaces the table rows of the scripts in `measured`."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    table, _, after = rest.partition(END)
    lines = []
    for name in SCRIPTS:
        lines += measured.get(name) or [line for line in table.splitlines() if line.startswith(f"| `{name}.py` |")]
    partial = PAGE.with_name(PAGE.name + ".partial")
    partial.write_text(before + BEGIN + "\n".join([*HEAD, *lines]) + "\n" + END + after, encoding="utf-8")
    os.replace(partial, PAGE)


def main(words: list[str]) -> int:
    """Runs the command line. Returns the exit code: 1 if a case fails, 2 for an unknown argument."""
    names = [word for word in words if word != "--write"] or list(SCRIPTS)
    if unknown := sorted({*names} - {*SCRIPTS}):
        print(f"error: unknown argument {', '.join(unknown)}; use {', '.join(SCRIPTS)} or --write", file=sys.stderr)
        return 2
    failed, measured = 0, {}
    for name in names:
        cases = records(name)
        measured[name] = rows(name, cases)
        print("\n".join(f"{name}: {line}" for line in harness.table(cases)), flush=True)
        for record in cases:
            if record.ok is False:
                failed += 1
                print(f"FAILS: {record.kind}: {record.case}: {record.seen}", flush=True)
    if "--write" in words:
        write(measured)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
