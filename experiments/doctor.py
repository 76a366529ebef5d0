"""The command that says whether runs will work here: see `icl_gd.lab.doctor`.

python -m experiments.doctor
"""

import sys

from icl_gd.lab import doctor

if __name__ == "__main__":
    sys.exit(doctor.main())
