"""Runs one experiment, from its config to its report.

    python -m experiments.run --config=configs/NAME.py[:VARIANT] [--workdir=DIR] [--profile] [--config.FIELD=VALUE ...]

`icl_gd.lab.command` documents the options, outputs and exit codes.
"""

import os
import signal
import sys
import time

BEGAN = time.perf_counter()


def _stop_before_the_run(number: int, frame: object) -> None:
    """Ends the process immediately. Nothing is written yet, and an exception would crash half-imported extensions."""
    os.write(2, b"stopped before the run began; nothing was written\n")
    os._exit(128 + number)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop_before_the_run)
    from icl_gd.lab import command  # takes a second or two; until then, the handlers above are in place

    command.start(sys.argv, BEGAN)
