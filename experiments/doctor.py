"""Says whether runs will work here.

    python -m experiments.doctor

`icl_gd.lab.doctor` says what it looks at.
"""

import sys

from icl_gd.lab import doctor

if __name__ == "__main__":
    sys.exit(doctor.main(sys.argv[1:]))
