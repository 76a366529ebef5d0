"""Runs one experiment from config to report.

    python -m experiments.run --config=configs/NAME.py[:VARIANT] [--workdir=DIR] [--profile] [--config.FIELD=VALUE ...]

The workdir (runs/NAME or runs/NAME-VARIANT) receives config.json, metrics.jsonl, TensorBoard events, checkpoints/,
results.json, figures/ and report.html. Running again resumes an interrupted run and redraws a finished one, and goes
on with it where `train.steps` was raised; a workdir that holds a run with other settings is refused. Every config has
the variant `smoke`, which takes seconds. `--profile` prints where the seconds of the run went, stage by stage, and
writes them to profile.json.

Exit codes: 0 done; 1 the run failed (its last good checkpoint is kept); 2 bad input, nothing was written;
130 and 143 stopped by Ctrl-C or SIGTERM, state saved.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

import jax

from icl_gd.lab.command_line import help_of, parse
from icl_gd.lab.config.asked import Run
from icl_gd.lab.config.errors import ConfigError
from icl_gd.lab.lifecycle import compile_cache, costs, processes, settings
from icl_gd.lab.lifecycle.devices import check_device, check_placement, check_system
from icl_gd.lab.lifecycle.monitor import Stop, check_wandb
from icl_gd.lab.lifecycle.start import check_start
from icl_gd.lab.lifecycle.workdirs import check_workdir
from icl_gd.lab.pipeline import carry_out
from icl_gd.lab.reporting import results
from icl_gd.training import Interrupted, mesh

# What is renamed when it is complete.
UNFINISHED = ("*.json*.partial", "report.html.partial", "**/checkpoints/**/*.orbax-checkpoint-tmp*", "figures/.[0-9]*")


def main(argv: list[str], began: float | None = None) -> int:
    """Runs the command line and returns the exit code; a profile counts from `began`, or from here."""
    began = time.perf_counter() if began is None else began
    if any(word in ("--help", "-h", "-help", "--helpfull", "-?") for word in argv[1:]):
        print(__doc__)
        print(help_of(argv))
        return 0
    try:
        check_system()
        run = parse(argv)
        run.experiment.reference.check_here()
        check_wandb(run.experiment.train.wandb)
        if run.profile:
            costs.profile(since=began)
        if run.variant == "smoke":
            compile_cache.compile_quickly()
        if run.experiment.train.parallel != "none":
            mesh.use_cpu_cores()
        if run.processes is not None:
            processes.join(run.processes)
            processes.check_agreement(run)
            if mesh.is_primary():
                check_workdir(run)
        check_device(run.experiment.precision)
        check_placement(run.experiment)
        check_start(run)
        with processes.ours(run) as ours:
            return _execute(ours)
    except ConfigError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2


def _execute(run: Run) -> int:
    stop = Stop()
    with settings.set_for(run.experiment.precision, quickly=run.variant == "smoke") as cache:
        return _exit_code(run, stop, cache)


def _exit_code(run: Run, stop: Stop, cache: compile_cache.Cache) -> int:
    try:
        with stop:
            carry_out(run, stop)
        (run.workdir / "error.log").unlink(missing_ok=True)
        print(cache)
        if run.profile:
            spent = costs.spent()
            results.write_json(run.workdir / "profile.json", spent)
            print(costs.table([(stage.pop("stage"), stage) for stage in spent]))
        return 0
    except Interrupted as interrupted:
        print(cache)
        print(f"stopped at step {interrupted.step}, saved; the same command resumes from there", file=sys.stderr)
        return 128 + interrupted.signal
    except KeyboardInterrupt:
        print("stopped at once; the same command resumes from the last checkpoint, if there is one", file=sys.stderr)
        return 128 + (stop.signal or signal.SIGINT)
    except Exception as error:
        if os.environ.get("ICL_GD_TRACEBACK"):
            raise
        message, kept = " ".join(str(error).split()), "nothing was saved"
        if any(run.workdir.glob("**/checkpoints/**/state")):
            kept = f"the last good checkpoint is kept in {run.workdir}"
        _leave(run.workdir, traceback.format_exc())
        print(f"error: the run failed: {type(error).__name__}: {message}; {kept}", file=sys.stderr)
        return 1


def _leave(workdir: Path, trace: str) -> None:
    """After a failure: nothing half written, and where it failed, as far as a disk that may be full takes it."""
    for pattern in UNFINISHED:
        for path in workdir.glob(pattern):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    log = workdir / "error.log"
    try:
        log.write_text(trace)
    except OSError:
        with contextlib.suppress(OSError):
            log.unlink()


def _in_company() -> bool:
    """Whether other processes take part in this run."""
    return jax.distributed.is_initialized()


def start(argv: list[str], began: float) -> NoReturn:
    """Runs the command line as a process of its own, which began at a `time.perf_counter`, and ends it."""
    code = main(argv, began)
    if code > 128 or (code and _in_company()):
        # JAX's threads may still be at work on what was interrupted; the interpreter must not tear down under them. Nor
        # may a process that failed wait for the others, which wait for it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
