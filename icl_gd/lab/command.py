"""Runs one experiment, from its config to its report.

    python -m experiments.run --config=configs/NAME.py[:VARIANT] [--workdir=DIR] [--profile] [--config.FIELD=VALUE ...]

The run writes config.json, metrics.jsonl, TensorBoard events, checkpoints/, results.json, figures/ and report.html to
the workdir. Default: runs/NAME or runs/NAME-VARIANT.

The same command again resumes an interrupted run, and redraws the figures and report of a finished run. With a larger
`train.steps` it continues the training of a finished run. A workdir that holds a run with other settings is refused.

Every built-in config has the variant `smoke`, which takes seconds. `--profile` prints the seconds of every stage of the
run and writes them to profile.json. `--verbose` prints all claims at the end instead of only those that fail.
`--config=NAME --help` lists all fields of a config.

Exit codes: 0 finished; 1 the run failed, its last good checkpoint is kept; 2 bad input, nothing was written;
130 and 143 stopped by Ctrl-C or SIGTERM, the state is saved.
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
from icl_gd.lab.config.errors import ConfigError
from icl_gd.lab.config.run_request import RunRequest
from icl_gd.lab.lifecycle import compile_cache, costs, processes, settings
from icl_gd.lab.lifecycle.devices import check_device, check_placement, check_system
from icl_gd.lab.lifecycle.monitor import Stop, check_wandb
from icl_gd.lab.lifecycle.start import check_start
from icl_gd.lab.lifecycle.workdirs import check_workdir
from icl_gd.lab.pipeline import carry_out
from icl_gd.lab.reporting import results
from icl_gd.training import Interrupted, mesh

# Patterns of temporary files, which are renamed when they are complete.
UNFINISHED = ("*.json*.partial", "report.html.partial", "**/checkpoints/**/*.orbax-checkpoint-tmp*", "figures/.[0-9]*")


def main(argv: list[str], began: float | None = None) -> int:
    """Runs a command line.

    Args:
      argv: the command line, including the name of the program.
      began: the reading of `time.perf_counter` at which a profile starts. Default: now.

    Returns:
      The exit code.
    """
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
        with processes.for_this_process(run) as own_run:
            return _execute(own_run)
    except ConfigError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2


def _execute(run: RunRequest) -> int:
    """Carries out a validated request, and returns the exit code."""
    stop = Stop()
    with settings.jax_settings(run.experiment.precision, quickly=run.variant == "smoke") as cache:
        return _exit_code(run, stop, cache)


def _exit_code(run: RunRequest, stop: Stop, cache: compile_cache.Cache) -> int:
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
        print(
            f"stopped at step {interrupted.step}, which is saved; run the same command again to resume there",
            file=sys.stderr,
        )
        return 128 + interrupted.signal
    except KeyboardInterrupt:
        print(
            "stopped at once; run the same command again to resume from the last checkpoint, if there is one",
            file=sys.stderr,
        )
        return 128 + (stop.signal or signal.SIGINT)
    except Exception as error:
        if os.environ.get("ICL_GD_TRACEBACK"):
            raise
        message, kept = " ".join(str(error).split()), "nothing was saved"
        if any(run.workdir.glob("**/checkpoints/**/state")):
            kept = f"the last good checkpoint is kept in {run.workdir}"
        _clean_up(run.workdir, traceback.format_exc())
        print(f"error: the run failed: {type(error).__name__}: {message}; {kept}", file=sys.stderr)
        return 1


def _clean_up(workdir: Path, trace: str) -> None:
    """After a failure, removes incomplete files and, if the disk has room, writes the traceback to error.log."""
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


def start(argv: list[str], began: float) -> NoReturn:
    """Runs a command line and ends this process with its exit code.

    Args:
      argv: the command line, including the name of the program.
      began: the reading of `time.perf_counter` at which the process began.
    """
    settings.silence()  # tasks of a failed checkpoint may outlive the run, and its settings
    code = main(argv, began)
    if code > 128 or (code and jax.distributed.is_initialized()):
        # `sys.exit` finalises the interpreter. JAX's threads may still run the interrupted computation, and then crash.
        # In a run with several processes, `sys.exit` would also wait for the others, which wait for this process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
