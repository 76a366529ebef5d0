"""Checks that runs work on this machine.

    python -m experiments.doctor

`icl_gd.lab.doctor` documents the checks.
"""

import sys

from icl_gd.lab import doctor

if __name__ == "__main__":
    sys.exit(doctor.main(sys.argv[1:]))
