"""Runs one experiment from config to report.

    python -m experiments.run --config=configs/NAME.py[:VARIANT] [--workdir=DIR] [--config.FIELD=VALUE ...]

The workdir (runs/NAME or runs/NAME-VARIANT) receives config.json, metrics.jsonl, TensorBoard events, checkpoints/,
results.json, figures/ and report.html. Running again resumes an interrupted run and redraws a finished one; a workdir
that holds a run with other settings is refused. Every config has the variant `smoke`, which takes seconds.

Exit codes: 0 done; 1 the run failed (its last good checkpoint is kept); 2 bad input, nothing was written;
130 and 143 stopped by Ctrl-C or SIGTERM, state saved.
"""

import contextlib
import importlib
import os
import signal
import sys
import traceback

from experiments.settings import BadInput, Run, parse


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit code."""
    if any(word in ("--help", "-h", "-help", "--helpfull", "-?") for word in argv[1:]):
        print(__doc__)
        return 0
    try:
        run = parse(argv)
    except BadInput as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    return _execute(run)


def _execute(run: Run) -> int:
    import jax

    from icl_gd.training import Interrupted

    jax.config.update("jax_enable_x64", run.config.precision == "float64")
    # Comparisons of trained with constructed weights drown in TF32 or bfloat16 products.
    jax.config.update("jax_default_matmul_precision", "highest")
    caught: list[int] = []
    before = {number: signal.signal(number, lambda n, frame: _note(caught, n)) for number in STOPPING}
    try:
        importlib.import_module(f"experiments.recipes.{run.config.recipe}").run(run, lambda: (caught or [None])[0])
        return 128 + caught[0] if caught else 0
    except Interrupted as stop:
        print(f"stopped at step {stop.step}, saved; the same command resumes from there", file=sys.stderr)
        return 128 + stop.signal
    except KeyboardInterrupt:
        print("stopped at once; the same command resumes from the last checkpoint", file=sys.stderr)
        return 128 + (caught or [signal.SIGINT])[0]
    except Exception as error:
        if os.environ.get("ICL_GD_TRACEBACK"):
            raise
        message, kept = " ".join(str(error).split()), "nothing was saved"
        if run.workdir.is_dir():
            kept = f"the last good checkpoint is kept in {run.workdir}"
            with contextlib.suppress(OSError):  # a full disk may be what failed
                (run.workdir / "error.log").write_text(traceback.format_exc())
        print(f"error: the run failed: {type(error).__name__}: {message}; {kept}", file=sys.stderr)
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


STOPPING = (signal.SIGTERM, signal.SIGINT)


def _note(caught: list[int], number: int) -> None:
    """Remembers a signal for the end of the chunk; a second one does not wait."""
    if caught:
        raise KeyboardInterrupt
    caught.append(number)
    print("stopping after this chunk", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
