"""The command of an installed package.

    icl-gd run CONFIG[:VARIANT] [--workdir=DIR] [--config.FIELD=VALUE ...]     from an experiment to its report
    icl-gd doctor                                                             whether runs will work here

CONFIG is a file anywhere, or the name of a config that ships. `icl-gd run --help` says what a run takes and leaves, and
`icl-gd run CONFIG --help` every field of that config, as in:

    icl-gd run one_layer:smoke --config.task.n_context=5
"""

import sys
import time

from icl_gd.lab import command, doctor
from icl_gd.lab.config.errors import nearest

WORDS = ("run", "doctor")
HELP = ("--help", "-h", "-help", "help")


def main() -> None:
    """Runs the command line of this process, and ends it."""
    began = time.perf_counter()
    word, *words = sys.argv[1:] or ["--help"]
    if word in HELP:
        print(__doc__)
        sys.exit(0)
    if word == "doctor":
        sys.exit(doctor.main(words))
    if word != "run":
        print(f"error: icl-gd {word}: {nearest(word, WORDS)}", file=sys.stderr)
        sys.exit(2)
    if words and not words[0].startswith("-"):
        words[0] = f"--config={words[0]}"
    command.start(["run", *words], began)
