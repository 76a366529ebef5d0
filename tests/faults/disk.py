"""Full disks, files in the way, unwritable directories, two writers: a run fails with a one-line error, without damage.

    python tests/faults/disk.py [--count N] [--json]

`--count` small disks fill up at random moments of a run. They are mounted in a separate mount namespace, which most
Linux systems permit for every user. Another `--count` runs have a limit on file sizes.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import harness
from harness import Record, main_of_run

WORDS = ("--config.train.steps=100", "--config.train.log_every=5", "--config.train.checkpoint_every=5")
# Removes capabilities with which root can write to files without permission.
ORDINARY = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


def ends_well(workdir: Path, reference: Path, first: subprocess.CompletedProcess[str] | None = None) -> list[str]:
    """Checks the error of a run that lacked space (`first`), repeats it with enough space, and returns all problems."""
    wrong = []
    if first is not None:
        wrong += [f"exit code {first.returncode}"] * (first.returncode not in (1, 2))
        wrong += [f"the error is not one line: {first.stderr}"] * (not harness.one_line(first.stderr))
        wrong += [f"{path} was left behind" for path in harness.leftovers(workdir)]
    again = harness.process(harness.command(workdir, *WORDS))
    return wrong + ([again.stderr] if again.returncode else harness.differences(workdir, reference))


def fills_up(disk: Path, reference: Path, rng: random.Random) -> Record:
    """Fills a disk while a run writes to it; a random number of bytes below 200 kB is left free."""
    workdir, filler, left = disk / "run", disk / "filler", rng.randrange(0, 200_000)
    with subprocess.Popen(
        harness.command(workdir, *WORDS), cwd=harness.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and not (workdir / "config.json").exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 3))
        with open(filler, "wb", buffering=0) as file:
            free = shutil.disk_usage(disk).free
            file.write(bytes(max(0, free - left)))
        stderr = process.communicate(timeout=300)[1]
    failed = process.returncode != 0
    filler.unlink()
    done = subprocess.CompletedProcess([], process.returncode, "", stderr)
    wrong = ends_well(workdir, reference, done if failed else None)
    shutil.rmtree(workdir)
    kind = "a disk fills up" if failed else "a disk fills up (the run had ended, or the space was sufficient)"
    return Record(kind, f"{left} bytes left: {stderr.strip()}", not wrong, "; ".join(wrong))


def _full_disks(count: int, directory: Path, reference: Path) -> list[Record]:
    """Runs `fills_up` in a separate mount namespace, so that no mount outlives it."""
    inside = [sys.executable, __file__, "--inside", str(count), str(directory), str(reference)]
    done = harness.process(["unshare", "--map-root-user", "--mount", *inside], timeout=None)
    if done.returncode:
        return [Record("a disk fills up", "", None, f"no disk can be mounted here: {done.stderr.strip()[-200:]}")]
    return [Record(**record) for record in json.loads(done.stdout)]


def _inside(count: int, directory: Path, reference: Path) -> list[Record]:
    disk, rng = directory / "disk", random.Random(0)
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(disk)], check=True)
    return [fills_up(disk, reference, rng) for _ in range(count)]


def _file_sizes(count: int, directory: Path, reference: Path) -> list[Record]:
    """Limits the size of files, like a quota. This needs no privileges."""
    rng, records = random.Random(0), []
    for i in range(count):
        workdir, most = directory / f"limited_{i}", int(2 ** rng.uniform(9, 15))
        first = harness.process(["prlimit", f"--fsize={most}", *harness.command(workdir, *WORDS)])
        wrong = ends_well(workdir, reference, first if first.returncode else None)
        records.append(Record("a limit on file sizes", f"{most} bytes: {first.stderr}", not wrong, "; ".join(wrong)))
    return records


def _in_the_way(directory: Path, reference: Path) -> list[Record]:
    records = []
    for name in ("checkpoints", "figures", "config.json", "metrics.jsonl", "results.json", "report.html", ""):
        workdir = directory / f"way_{name}"
        if name:
            workdir.mkdir()
        blocked = workdir / name
        blocked.mkdir() if "." in name else blocked.write_text("in the way")
        code, text = main_of_run(workdir, *WORDS)
        untouched = list(workdir.iterdir()) == [blocked] if name else workdir.read_text() == "in the way"
        ok = code == 2 and harness.one_line(text) and "--workdir=" in text and name in text and untouched
        records.append(Record("a file or directory in the way", name or "the workdir is a file", ok, text))
    return records


def _unwritable(directory: Path, reference: Path) -> list[Record]:
    records = []
    for what in ("above", "workdir", "checkpoints", "metrics.jsonl"):
        workdir = directory / f"unwritable_{what}" / "run"
        if what == "above":
            workdir.parent.mkdir()
        else:
            shutil.copytree(reference, workdir)
            (workdir / "results.json").unlink()
        path = {"above": workdir.parent, "workdir": workdir}.get(what, workdir / what)
        before = sorted(map(str, workdir.rglob("*")))
        path.chmod(0o500 if path.is_dir() else 0o400)
        done = harness.process([*ORDINARY, *harness.command(workdir, *WORDS)])
        path.chmod(0o700)
        ok = done.returncode == 2 and harness.one_line(done.stderr) and "cannot write" in done.stderr
        ok = ok and sorted(map(str, workdir.rglob("*"))) == before
        records.append(Record("an unwritable path", what, ok, done.stderr))
    return records


def _relative(directory: Path, reference: Path) -> list[Record]:
    done = harness.process(harness.command("some/where", *WORDS), cwd=directory)
    wrong = [done.stderr] if done.returncode else harness.differences(directory / "some" / "where", reference)
    return [Record("a relative workdir", "some/where", not wrong, "; ".join(wrong))]


def _two_writers(directory: Path, reference: Path) -> list[Record]:
    workdir = directory / "two"
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "cwd": harness.ROOT}
    processes = [subprocess.Popen(harness.command(workdir, *WORDS), **streams) for _ in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    codes = [process.returncode for process in processes]
    wrong = [f"exit codes {codes}: {errors}"] * (sorted(codes) != [0, 2])
    wrong += [f"no message that the workdir is in use: {errors}"] * (
        not any(harness.one_line(text) and "in use by another run" in text for text in errors)
    )
    return [
        Record(
            "two writers at once", str(codes), not wrong, "; ".join(wrong or harness.differences(workdir, reference))
        )
    ]


def run(count: int, directory: Path) -> list[Record]:
    """Runs `count` cases of full disks, `count` of limited file sizes, and each other case once."""
    reference = directory / "reference"
    code, text = main_of_run(reference, *WORDS)
    assert code == 0, text
    others = (_in_the_way, _unwritable, _relative, _two_writers)
    records = _full_disks(count, directory, reference) + _file_sizes(count, directory, reference)
    return records + [record for run_cases in others for record in run_cases(directory, reference)]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        records = _inside(int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
        print(json.dumps([record._asdict() for record in records]))
        sys.exit(0)
    sys.exit(harness.main(run, 5))
