"""The command of the installed package.

    icl-gd run CONFIG[:VARIANT] [--workdir=DIR] [--config.FIELD=VALUE ...]     runs an experiment and writes its report
    icl-gd doctor                                                             checks that runs work on this machine
    icl-gd zoo [NAME]                                                         lists the models of the zoo, or one card
    icl-gd inspect MODEL_OR_WORKDIR [--output=FILE] ...                       writes a page to look into a model with
    icl-gd identify --model=NAME_OR_DIR [--out=DIR] [--json] ...              names the algorithm of a model or function
    icl-gd --version                                                          prints the version

CONFIG is a path, or the name of a built-in config. `icl-gd run --help` explains the options and outputs of a run;
`icl-gd run CONFIG --help` lists all fields of a config. Example:

    icl-gd run one_layer:smoke --config.task.n_context=5
"""

import os
import sys
import time
from importlib.metadata import version
from typing import NoReturn

from icl_gd.lab import command, doctor
from icl_gd.lab.config.errors import nearest
from icl_gd.lab.inspection import command as inspection
from icl_gd.lab.inspection.verdicts import command as identification
from icl_gd.zoo import command as zoo

WORDS = ("run", "doctor", "zoo", "inspect", "identify")
HELP = ("--help", "-h", "-help", "help")


def main() -> None:
    """Runs the command line of this process, and ends the process with its exit code."""
    began = time.perf_counter()
    word, *words = sys.argv[1:] or ["--help"]
    if word in HELP:
        print(__doc__)
        sys.exit(0)
    if word == "--version":
        print(f"icl-gd {version('icl-gd')}")
        sys.exit(0)
    if word == "doctor":
        sys.exit(doctor.main(words))
    if word == "zoo":
        sys.exit(zoo.main(words))
    if word == "inspect":
        _end(inspection.main(words))
    if word == "identify":
        _end(identification.main(words))
    if word != "run":
        print(f"error: icl-gd {word}: unknown command; {nearest(word, WORDS)}", file=sys.stderr)
        sys.exit(2)
    if words and not words[0].startswith("-"):
        words[0] = f"--config={words[0]}"
    command.start(["run", *words], began)


def _end(code: int) -> NoReturn:
    """Ends the process. If Ctrl-C stopped it, without `sys.exit`, which may crash while JAX still computes."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code > 128:
        os._exit(code)
    sys.exit(code)
