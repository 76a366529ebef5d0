"""Runs one experiment from config to report.

    python -m experiments.run --config=configs/NAME.py[:VARIANT] [--workdir=DIR] [--profile] [--config.FIELD=VALUE ...]

`icl_gd.lab.command` says what it takes and leaves.
"""

import os
import signal
import sys
import time

BEGAN = time.perf_counter()


def _stop_before_the_run(number: int, frame: object) -> None:
    """Ends the process at once: nothing is written yet, and extension modules that are being imported abort on an
    exception."""
    os.write(2, b"stopped before the run began; nothing was written\n")
    os._exit(128 + number)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop_before_the_run)
    from icl_gd.lab import command  # a second or two, in which a signal may come

    command.start(sys.argv, BEGAN)
